"""The run directory: whole files, one writer, what is done and what is not."""

import errno
import json
import multiprocessing
import os
import resource
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.errors import RunError, StorageError
from crsearch.runs import (
    RunDirectory,
    atomic_directory,
    read_lines,
    split_lines,
    storage_errors,
    write_atomic,
    write_json,
)

LINE_ENDS = "\n\r\v\f\x1c\x1d\x1e\x85\u2028\u2029"
"""What ``str.splitlines`` takes for the end of a line."""


@pytest.fixture
def run(tmp_path):
    with RunDirectory(tmp_path / "run") as opened:
        opened.describe({})
        yield opened


# -- writing ----------------------------------------------------------------------------------------------------------
def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    file = tmp_path / "a" / "file.json"
    write_json(file, {"b": "中", "a": 1})
    assert file.read_text() == '{\n  "a": 1,\n  "b": "中"\n}\n'
    with pytest.raises(TypeError):
        write_json(file, object())
    assert json.loads(file.read_text())["a"] == 1
    assert os.listdir(file.parent) == ["file.json"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    folder = tmp_path / "model"
    with atomic_directory(folder) as tmp:
        (tmp / "old").write_text("old")
    with pytest.raises(ZeroDivisionError), atomic_directory(folder) as tmp:
        (tmp / "new").write_text("half")
        raise ZeroDivisionError
    assert os.listdir(folder) == ["old"]
    with atomic_directory(folder) as tmp:
        (tmp / "new").write_text("new")
    assert os.listdir(folder) == ["new"]
    assert os.listdir(tmp_path) == ["model"]


def test_a_crash_between_the_two_renames_loses_nothing(tmp_path):
    with RunDirectory(tmp_path / "run") as run:
        run.describe({})
        with atomic_directory(run.path / "checkpoints/align") as tmp:
            (tmp / "state").write_text("step 10")
        (run.path / "checkpoints/align").rename(run.path / "checkpoints/.old-align")
        (run.path / "checkpoints/.tmp-7-align").mkdir()
    with RunDirectory(tmp_path / "run") as run:
        assert (run.path / "checkpoints/align/state").read_text() == "step 10"
        assert os.listdir(run.path / "checkpoints") == ["align"]


def test_what_was_moved_aside_is_dropped_once_the_new_folder_is_there(tmp_path):
    with RunDirectory(tmp_path / "run") as run:
        run.describe({})
        (run.path / "model").mkdir()
        (run.path / ".old-model").mkdir()
        (run.path / ".old-model/file").write_text("old")
    with RunDirectory(tmp_path / "run") as run:
        assert not (run.path / ".old-model").exists()


@pytest.mark.parametrize(
    "raised",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EFBIG, "File too large"),
        RuntimeError("Error while serializing: I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_with_room_and_remedy(tmp_path, raised):
    with (
        pytest.raises(StorageError, match=r"model: no room to write .* MiB free.*free some room.*--resume"),
        storage_errors(tmp_path / "model"),
    ):
        raise raised


def test_other_errors_pass_unchanged(tmp_path):
    for error in (ValueError("x"), FileNotFoundError(errno.ENOENT, "x"), RunError("x"), KeyboardInterrupt()):
        with pytest.raises(type(error)), storage_errors(tmp_path):
            raise error


def test_a_run_directory_cannot_be_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(StorageError, match="cannot be a folder"), RunDirectory(path):
            pass


def _save_large(path: Path) -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
    try:
        write_atomic(path, b"x" * 20_000)
    except StorageError:
        os._exit(3)


def test_a_file_that_the_disk_cannot_hold_leaves_the_old_one(tmp_path):
    file = tmp_path / "file"
    write_atomic(file, b"old")
    child = multiprocessing.get_context("spawn").Process(target=_save_large, args=(file,))
    child.start()
    child.join()
    assert child.exitcode == 3
    assert file.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


# -- lock -------------------------------------------------------------------------------------------------------------
def test_a_run_in_use_is_refused_and_its_holder_named(run):
    with (
        pytest.raises(RunError, match=rf"in use by process {os.getpid()} on .*another run directory"),
        RunDirectory(run.path),
    ):
        pass


def test_the_lock_of_a_dead_process_does_not_count(tmp_path):
    (tmp_path / ".lock").write_text(f"process {os.getpid()} on here")  # alive, but it holds nothing
    with RunDirectory(tmp_path) as run:
        run.describe({})
    with RunDirectory(tmp_path):
        pass


def test_nothing_is_left_of_a_run_that_did_not_begin(tmp_path):
    with pytest.raises(ZeroDivisionError), RunDirectory(tmp_path / "run"):
        raise ZeroDivisionError
    assert os.listdir(tmp_path) == []


# -- manifest ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("text", ["{", "\udcff", "[]", '{"stages": 3}'])
def test_a_broken_manifest_is_named(tmp_path, text):
    (tmp_path / "manifest.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(RunError, match=r"manifest\.json: not "), RunDirectory(tmp_path):
        pass
    with pytest.raises(RunError, match=r"manifest\.json: not "):
        RunDirectory.reading(tmp_path)
    (tmp_path / "manifest.json").unlink()
    with RunDirectory(tmp_path):  # the refusal let go of the lock
        pass


def test_only_runs_are_read(tmp_path):
    with pytest.raises(RunError, match=r"not a run directory \(no manifest.json in it\)"):
        RunDirectory.reading(tmp_path)
    with pytest.raises(RunError, match=r"no such run directory.*crsearch demo --out"):
        RunDirectory.reading(tmp_path / "none")


def test_a_stage_is_done_only_from_the_same_inputs(run):
    write_atomic(run.path / "out", "x")
    run.complete("one", "key", [run.path / "out"], {"n": 1})
    assert run.stage("one", "key").numbers == {"n": 1}
    assert run.stage("one").outputs.keys() == {"out"}
    assert run.stage("one", "other") is None
    assert run.stage("two") is None
    run.forget("one")
    assert run.stage("one") is None


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_a_damaged_output_is_named_with_its_stage_and_the_remedy(run, how):
    (run.path / "model").mkdir()
    file = run.path / "model/weights"
    file.write_text("x")
    run.complete("one", "key", [run.path / "model"])
    file.write_text("y") if how == "changed" else file.unlink()
    with pytest.raises(RunError, match=f"model/weights: {how} since stage one wrote it.*--redo one"):
        run.stage("one", "key")


# -- lines ------------------------------------------------------------------------------------------------------------
def test_lines_of_a_stage_are_rewound_to_a_step_and_no_others(run):
    for stage, step in [("a", 1), ("a", 2), ("b", 1), ("b", 2), ("b", 3)]:
        run.log(stage, step, {"loss": step / 2})
    run.rewind("metrics.jsonl", "b", 1)
    assert [(r["stage"], r["step"]) for r in run.numbers()] == [("a", 1), ("a", 2), ("b", 1)]
    run.rewind("none.jsonl", "b", 1)
    assert not (run.path / "none.jsonl").exists()


def test_a_last_line_cut_by_a_crash_is_dropped_and_one_before_it_is_an_error(run):
    run.log("a", 1, {})
    with (run.path / "metrics.jsonl").open("a") as f:
        f.write('{"stage": "a", "st')
    assert [r["step"] for r in run.numbers()] == [1]
    with (run.path / "metrics.jsonl").open("a") as f:
        f.write('\n{"stage": "a", "step": 3}\n')
    with pytest.raises(RunError, match=r"metrics\.jsonl:2: not a JSON line"):
        read_lines(run.path / "metrics.jsonl")


@given(texts=st.lists(st.text(st.sampled_from(LINE_ENDS) | st.characters(exclude_categories=["Cs"]))))
def test_rows_of_any_text_come_back_from_json_lines(texts):
    written = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts)
    assert [json.loads(line)["text"] for line in split_lines(written)] == texts


def test_a_trace_with_line_ends_of_unicode_is_rewound_and_goes_on(run):
    rows = [{"stage": "rl0", "step": step, "query": f"red{LINE_ENDS}case {step}"} for step in range(4)]
    for row in rows[:3]:
        run.append("traces/rollouts/rl0.jsonl", row)
    run.rewind("traces/rollouts/rl0.jsonl", "rl0", 1)
    for row in rows[2:]:
        run.append("traces/rollouts/rl0.jsonl", row)
    assert read_lines(run.path / "traces/rollouts/rl0.jsonl") == rows


# -- stages of another run --------------------------------------------------------------------------------------------
@pytest.fixture
def done(tmp_path):
    """Another run that has trained a stage."""
    with RunDirectory(tmp_path / "other") as other:
        other.describe({"threads": 1})
        write_atomic(other.path / "models" / "a" / "weights", "bytes")
        other.log("a", 1, {"loss": 0.5})
        other.log("b", 1, {"loss": 0.7})
        other.complete("a", "key", [other.path / "models" / "a"], {"tokens": 3}, {"cpu_seconds": 2.0})
        yield other


def test_a_stage_done_elsewhere_comes_with_its_files_its_lines_and_its_cost(run, done):
    run.describe({"threads": 1})
    run.log("a", 1, {"loss": 0.9})
    assert run.take_over(done, "a", "key")
    assert run.stage("a", "key") == done.stage("a", "key")
    assert run.manifest["stages"]["a"]["cost"] == {"cpu_seconds": 2.0}
    assert (run.path / "models" / "a" / "weights").read_text() == "bytes"
    assert run.numbers() == [{"stage": "a", "step": 1, "loss": 0.5}]


@pytest.mark.parametrize(("key", "threads"), [("another", 1), ("key", 2)])
def test_a_stage_of_other_inputs_or_other_threads_is_not_taken(run, done, key, threads):
    run.describe({"threads": threads})
    assert not run.take_over(done, "a", key)
    assert run.stage("a") is None and not (run.path / "models").exists()


def test_a_damaged_stage_is_not_taken(run, done):
    run.describe({"threads": 1})
    (done.path / "models" / "a" / "weights").write_text("other")
    with pytest.raises(RunError, match="changed since stage a wrote it"):
        run.take_over(done, "a", "key")


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc, where nothing can be made")
def test_a_place_where_nothing_can_be_made_is_named():
    for write in (lambda: RunDirectory(Path("/proc/x")).__enter__(), lambda: write_atomic(Path("/proc/x"), "")):
        with pytest.raises(StorageError, match=r"/proc/x: cannot be a folder .*choose another place"):
            write()


def test_a_file_missing_on_the_way_is_not_blamed_on_the_place(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_directory(tmp_path / "a") as folder:
        (folder / "gone").read_text()


@pytest.mark.parametrize("text", ["", '{"data": ', "{}", "[]"])
def test_results_that_are_damaged_are_named_with_the_remedy(tmp_path, text):
    from crsearch.pipeline.finished import finished

    (tmp_path / "manifest.json").write_text('{"stages": {}}')
    (tmp_path / "settings.toml").write_text("")
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(RunError, match=r"results\.json: not the results of a run .*crsearch run .* --resume"):
        finished(tmp_path)
