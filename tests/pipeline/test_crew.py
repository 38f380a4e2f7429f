"""Several processes: the same bytes as one, and clear words when one of them dies."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tiny_run import run_tiny, tiny_arguments, tiny_settings

from crsearch.config import load_settings
from crsearch.errors import RunError
from crsearch.pipeline import workspace
from crsearch.pipeline.crew import Crew, Task
from crsearch.pipeline.workspace import Workspace, processes, threads
from crsearch.runs import RunDirectory, file_digest, silent

AHEAD = {"valid.sft0", "eval.stage.align", "eval.stage.sft0", "direct0", "direct"}
"""Stages that a worker may do."""


def result(run: Path) -> tuple[str, str]:
    """What must not depend on the number of processes."""
    return file_digest(run / "results.json"), file_digest(run / "models" / "direct" / "model.safetensors")


def test_two_processes_end_with_the_bytes_of_one(tiny_run, tmp_path):
    out = tmp_path / "two"
    events = run_tiny(out, "processes=2", "loop.select=valid")
    alone = tmp_path / "one"
    run_tiny(alone, "loop.select=valid")
    assert result(out) == result(alone)
    assert set(events.ran) >= AHEAD  # each was begun by one of the two ...
    for stage in AHEAD:
        begun = [e for e in events.of(stage) if e[0] == 0]
        assert len(begun) == 1, stage  # ... and by one alone
    logged = [(row["stage"], row["step"]) for row in RunDirectory.reading(out).numbers()]
    assert sorted(logged) == sorted((r["stage"], r["step"]) for r in RunDirectory.reading(alone).numbers())


def test_a_run_of_two_processes_killed_goes_on(tiny_run, tmp_path):
    out = tmp_path / "run"
    command = [sys.executable, "-m", "crsearch", "run", "--out", str(out), *tiny_arguments("processes=2")]
    run = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    until(lambda: (out / "eval" / "stage.align.parquet").exists() or run.poll() is not None)
    assert run.poll() is None, "ended before it could be killed"
    os.kill(run.pid, signal.SIGKILL)
    until(lambda: not group_lives(run))
    run_tiny(out, "processes=2", resume=True)
    assert result(out) == result(tiny_run)


@pytest.fixture
def space(tiny_run, tmp_path) -> Iterator[Workspace]:
    """A finished run, open for more."""
    shutil.copytree(tiny_run, tmp_path / "run")
    with RunDirectory(tmp_path / "run") as run:
        yield Workspace(run, tiny_settings(), silent)


def test_a_worker_tells_errors_as_they_are(space):
    """An error that the user can mend keeps its kind and words; another comes with the worker's traceback."""
    space.path("models", "sft0", "model.safetensors").write_bytes(b"")
    with Crew(space, {}, 2) as crew:
        with pytest.raises(RunError, match=r"sft0.*changed since stage sft0 wrote it.*--redo sft0"):
            crew.wait([taken(crew, "validate", stage="sft0")])
        with pytest.raises(RuntimeError, match=r"(?s)no such job failed in a process beside.*KeyError"):
            crew.wait([taken(crew, "no such job")])


def test_a_killed_worker_is_named_with_the_remedy(space):
    with Crew(space, {}, 2) as crew:
        task = taken(crew, "validate", stage="sft0")
        crew._workers[0].process.kill()
        with pytest.raises(RunError, match=r"validate sft0 has ended \(killed.*--resume"):
            crew.wait([task])


@pytest.mark.parametrize(
    ("cores", "changes", "expected"),
    [
        (1, (), (1, 1)),
        (2, (), (2, 1)),
        (16, (), (2, 8)),
        (2, ("threads=1",), (2, 1)),
        (2, ("threads=2",), (1, 2)),
        (16, ("processes=1",), (1, 16)),
    ],
)
def test_cores_are_shared_out(monkeypatch, cores, changes, expected):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(workspace, "cores", lambda: cores)
    settings = load_settings(None, changes, {"preset": "demo", "device": "cpu"})
    number = processes(settings)
    assert (number, threads(settings, number)) == expected


def group_lives(run: subprocess.Popen[bytes]) -> bool:
    """Whether the process, or a worker that it started, is still there."""
    run.poll()
    try:
        os.killpg(run.pid, 0)
    except ProcessLookupError:
        return False
    return True


def taken(crew: Crew, job: str, **arguments: object) -> Task:
    """A job that a worker has begun."""
    task = crew.ahead(job, **arguments)
    until(crew._waiting.empty)
    return task


def until(true: Callable[[], bool]) -> None:
    """Wait for something that is expected within two minutes."""
    deadline = time.monotonic() + 120
    while not true():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
