"""What is run again when settings change, and what is refused."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest
from tiny_run import Events, run_tiny, tiny_settings

from crsearch.errors import ConfigError, DataError, RunError
from crsearch.pipeline.again import evaluate_again, evaluate_file, evaluate_records, with_searchers
from crsearch.pipeline.experiments.cold import given_arms
from crsearch.pipeline.run import run
from crsearch.pipeline.systems import FINAL, SYSTEMS
from crsearch.pipeline.workspace import folder_digest
from crsearch.records.store import Catalogue, Dataset
from crsearch.runs import RunDirectory

AFTER_RL = {
    "rl0", "sft1.select", "sft1", "eval.crs", "eval.crs-cut-thought", "eval.crs-no-thought", "eval.crs-fused",
    "eval.stage.rl0", "eval.stage.sft1",
}  # fmt: skip
CONTROL = {"direct", "eval.crs-direct"}
"""The control is trained on as many tokens as CRS: it depends on their number, not on what they said."""
EVERY_EVALUATION = {
    f"eval.{name}"
    for name in (*tiny_settings().evaluate.searchers, "stage.align", "stage.sft0", "stage.rl0", "stage.sft1")
}
AFTER_SFT0 = {"sft0", "rl0.select", "eval.stage.sft0", "direct0", *AFTER_RL, *CONTROL}


@pytest.fixture
def copy(tiny_run, tmp_path) -> Path:
    """A finished run that may be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.mark.parametrize(
    "change, again",
    [
        ("checkpoint_seconds=60", set()),
        ("evaluate.bootstrap=200", set()),
        ("evaluate.cut_tokens=4", {"eval.crs-cut-thought"}),
        ("lexical.k1=1.6", {"eval.hybrid", "eval.bm25", "eval.tfidf"}),
        ("dense.history=1", {"eval.hybrid"}),
        ('evaluate.searchers=["crs","bm25"]', set()),
        ("evaluate.max_users=15", EVERY_EVALUATION),
        ("rl.clip_high=0.3", AFTER_RL),
        ("mixture.items=2.0", AFTER_SFT0),
        ("evaluate.exclude_history=true", EVERY_EVALUATION),
        ("rl.steps=2", AFTER_RL | CONTROL),
        ("distill.max_steps=2", AFTER_SFT0),
    ],
)
def test_a_changed_setting_runs_again_exactly_what_depends_on_it(copy, change, again):
    assert set(run_tiny(copy, change, resume=True).ran) == again


def test_systems_that_read_histories_are_measured_again_on_shorter_ones(copy):
    assert set(run_tiny(copy, "context.max_events=1", resume=True).ran) >= EVERY_EVALUATION


def test_going_back_to_the_old_settings_gives_the_old_results(copy, tiny_run):
    run_tiny(copy, "rl.steps=2", resume=True)
    assert (copy / "results.json").read_bytes() != (tiny_run / "results.json").read_bytes()
    assert set(run_tiny(copy, resume=True).ran) == AFTER_RL | CONTROL
    assert (copy / "results.json").read_bytes() == (tiny_run / "results.json").read_bytes()


def test_another_model_under_the_same_path_is_another_input(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"one")
    one = folder_digest(str(tmp_path))
    assert folder_digest(str(tmp_path)) == one
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert folder_digest(str(tmp_path)) != one
    assert folder_digest(None) == []


def test_a_finished_run_resumed_does_nothing(copy):
    before = {f: f.stat().st_mtime_ns for f in copy.rglob("*.safetensors")}
    assert run_tiny(copy, resume=True).ran == []
    assert {f: f.stat().st_mtime_ns for f in copy.rglob("*.safetensors")} == before


def test_groupings_that_are_new_come_to_an_old_run_and_nothing_is_measured_again(copy, tiny_run):
    """An earlier version wrote no labels beside the evaluations, and fewer columns into them."""
    (copy / "eval" / "groups.parquet").unlink()
    before = json.loads((copy / "results.json").read_text())
    assert list(before["groups"]["crs"]) == ["ambiguity", "history", "look_alikes", "query_kind", "target"]
    assert run_tiny(copy, resume=True).ran == []
    for name in ("results.json", "eval/groups.parquet"):
        assert (copy / name).read_bytes() == (tiny_run / name).read_bytes()


def contents(folder: Path) -> dict[Path, bytes]:
    return {f: f.read_bytes() for f in folder.rglob("*") if f.is_file() and f.name != ".lock"}


@pytest.mark.parametrize(
    "change, says",
    [
        ("simulate.users=61", "made from other settings (simulate, split, seed). Go on with `crsearch run "),
        ("seed=1", "made from other settings (simulate, split, seed)"),
        ("threads=2", "was made with 1 threads, now 2: the bits would differ. Go on with --threads 1"),
    ],
)
def test_what_does_not_belong_to_the_run_is_refused_and_changes_nothing(copy, change, says):
    before = contents(copy)
    with pytest.raises(RunError, match=re.escape(says)):
        run_tiny(copy, change, resume=True)
    assert contents(copy) == before


def test_a_run_directory_is_not_run_over_without_resume(copy):
    with pytest.raises(RunError, match=r"holds a run already\. Go on with --resume"):
        run_tiny(copy)


def test_threads_that_nobody_names_are_those_of_the_run(copy, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    assert run_tiny(copy, "threads=0", resume=True).ran == []


@pytest.mark.parametrize(
    "file, stage",
    [
        ("models/sft0/model.safetensors", "sft0"),
        ("sids/items.parquet", "sids"),
        ("eval/bm25.trec", "eval.bm25"),
        ("traces/thoughts/crs.json", "eval.crs"),
    ],
)
def test_a_damaged_file_is_named_and_can_be_made_again(copy, tiny_run, file, stage):
    data = bytearray((copy / file).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / file).write_bytes(data)
    with pytest.raises(RunError, match=f"{file}: changed since stage {stage} wrote it.*--resume --redo {stage}"):
        run_tiny(copy, resume=True)
    events = Events()
    run(tiny_settings(), copy, resume=True, redo=[stage], progress=events)
    assert events.ran == [stage]
    assert (copy / file).read_bytes() == (tiny_run / file).read_bytes()


def test_a_missing_file_is_named(copy):
    (copy / "models/align/model.safetensors").unlink()
    with pytest.raises(RunError, match=r"model\.safetensors: missing since stage align wrote it"):
        run_tiny(copy, resume=True)


def test_only_a_stage_of_the_run_can_be_done_again(copy):
    with pytest.raises(RunError, match=r"--redo sft9: no such stage .* finished are: align, base"):
        run(tiny_settings(), copy, resume=True, redo=["sft9"])


def test_a_row_that_is_added_later_is_all_that_is_measured(tmp_path):
    """And the run then has the bytes that it would have had with the row from the start."""
    few, more = (f"evaluate.searchers={json.dumps(names)}" for names in (["crs"], ["crs", "hybrid", "crs-cut-thought"]))
    run_tiny(tmp_path / "later", few)
    assert set(run_tiny(tmp_path / "later", more, resume=True).ran) == {"eval.hybrid", "eval.crs-cut-thought"}
    run_tiny(tmp_path / "once", more)
    assert (tmp_path / "later" / "results.json").read_bytes() == (tmp_path / "once" / "results.json").read_bytes()


def test_a_cut_thought_is_the_beginning_of_the_whole_one(tiny_run):
    """Token for token, and no longer than it may be; the tiny model closes hardly any thought itself."""
    whole, cut = (
        json.loads((tiny_run / "traces" / "thoughts" / f"{name}.json").read_text())
        for name in ("crs", "crs-cut-thought")
    )
    assert whole.keys() == cut.keys()
    assert all(whole[s].startswith(cut[s]) for s in whole)
    assert any(whole[s] != cut[s] for s in whole)


def test_a_cut_beyond_the_budget_cuts_nothing(copy):
    run_tiny(copy, "evaluate.cut_tokens=99", resume=True)
    rows = json.loads((copy / "results.json").read_text())["searchers"]
    assert rows["crs-cut-thought"] == rows["crs"]


def test_a_finished_run_can_be_evaluated_with_more_systems(copy, tiny_run):
    found = evaluate_again(copy, with_searchers(copy, ["popularity-in-query-brand"]))
    before = json.loads((tiny_run / "results.json").read_text())
    assert set(found["searchers"]) == {*before["searchers"], "popularity-in-query-brand"}
    assert {n: found["searchers"][n] for n in before["searchers"]} == before["searchers"]
    assert json.loads((copy / "results.json").read_text()) == found


def test_evaluating_never_trains(copy):
    """E.g. after an upgrade, when every stage is out of date."""
    settings = with_searchers(copy, ["all"])
    with RunDirectory(copy) as run:
        run.forget("direct")
    with pytest.raises(RunError, match=r"stage direct is not done.* Run it first: crsearch run .*settings\.toml --out"):
        evaluate_again(copy, settings)


@pytest.mark.parametrize("change", ["sids.codes=7", "rl.steps=2", "loop.iterations=2"])
def test_an_evaluation_that_would_have_to_train_changes_nothing(copy, change):
    before = contents(copy)
    with pytest.raises(RunError, match="is not done, or was done by another version or from other settings"):
        evaluate_again(copy, with_searchers(copy, ["bm25"], [change]))
    assert contents(copy) == before


def test_an_evaluation_keeps_the_number_of_processes_of_the_run(copy):
    file = copy / "settings.toml"
    file.write_text(file.read_text().replace("processes = 1\n", "processes = 2\n"))
    evaluate_again(copy, with_searchers(copy, ["bm25"], ["processes=3"]))
    assert "processes = 2\n" in file.read_text()


def test_all_systems_are_those_that_need_no_training(tmp_path):
    run_tiny(tmp_path, "evaluate.searchers=['crs']", "loop.iterations=0")
    settings = with_searchers(tmp_path, ["all"])
    assert settings.evaluate.searchers == tuple(n for n, s in SYSTEMS.items() if s.stage in ("", FINAL))
    assert evaluate_again(tmp_path, settings)["final_stage"] == "sft0"


def test_a_system_that_is_not_trained_is_named_with_the_command(copy):
    with pytest.raises(ConfigError, match=r"genre: not trained in .*crsearch run .*--resume --set 'evaluate.searchers"):
        with_searchers(copy, ["bm25", "genre"])


def test_a_system_of_the_settings_that_is_not_trained_yet_is_named_too(copy):
    with pytest.raises(ConfigError, match=r"genre: not trained in .*crsearch run .*--resume --set 'evaluate.searchers"):
        with_searchers(copy, ["bm25"], ['evaluate.searchers=["crs","genre"]'])


def test_an_unknown_system_is_refused_before_anything_runs(copy):
    with pytest.raises(ConfigError, match="'bm52' is not one of crs"):
        with_searchers(copy, ["bm52"])


def test_a_run_file_of_ours_gets_our_own_numbers(tiny_run):
    found = evaluate_file(tiny_run, tiny_run / "eval" / "crs.trec")
    own = json.loads((tiny_run / "results.json").read_text())
    assert found["searchers"] == {"crs": own["searchers"]["crs"]}
    assert found["invalid_items"] == 0


def with_other_items(run: Path) -> None:
    """Give a run a catalogue with another title, the same ids."""
    data = Dataset.load(run / "data")
    items = [dataclasses.replace(data.catalogue[0], title="another"), *list(data.catalogue)[1:]]
    dataclasses.replace(data, catalogue=Catalogue(items)).save(run / "data")


def test_a_run_file_of_a_run_with_other_queries_is_refused(copy, tiny_run):
    """Queries that it was not asked would count as misses: numbers, but wrong ones."""
    qrels = copy / "eval" / "qrels.trec"
    first, *rest = qrels.read_text().splitlines(keepends=True)
    for lines, says in ((rest, "'not there'"), ([first.replace(" i", " x"), *rest], "'x")):
        qrels.write_text("".join(lines))
        with pytest.raises(DataError, match=f"were tested on other queries: the target of search .* and {says}"):
            evaluate_file(tiny_run, copy / "eval" / "bm25.trec")


def test_a_run_file_of_a_run_with_another_catalogue_is_refused(copy, tiny_run):
    evaluate_file(tiny_run, copy / "eval" / "bm25.trec")
    with_other_items(copy)
    with pytest.raises(DataError, match=r"have other catalogues: row 0 is '(i\d+)' \(.*\) and '\1' \(another\)"):
        evaluate_file(tiny_run, copy / "eval" / "bm25.trec")


def test_runs_with_other_catalogues_are_not_compared(copy, tiny_run):
    assert [arm.folder for arm in given_arms([tiny_run, copy])] == [tiny_run, copy]
    with_other_items(copy)
    with pytest.raises(DataError, match="have other catalogues"):
        given_arms([tiny_run, copy])


def test_other_queries_are_asked_of_the_same_models(copy):
    """Oracle: the run's own records, given as others, have the run's own numbers; and the run keeps its results."""
    before = (copy / "results.json").read_bytes()
    settings = with_searchers(copy, ["crs-empty-thought", "bm25-tuned"])
    found = evaluate_records(copy, settings, copy / "data")
    assert found["searchers"].pop("bm25-tuned"), "a row of its own, although the searcher calls itself bm25"
    own = json.loads(before)
    assert {n: row["NDCG@10"] for n, row in found["searchers"].items()} == {
        n: row["NDCG@10"] for n, row in own["searchers"].items()
    }
    assert found["not_run"].keys() == {"crs-empty-thought"}
    assert evaluate_records(copy, settings, copy / "data", only=["bm25"])["searchers"].keys() == {"bm25"}
    assert (copy / "results.json").read_bytes() == before
    for name in ("crs.trec", "qrels.trec"):
        assert (copy / "eval" / "data" / name).read_text() == (copy / "eval" / name).read_text()


def test_records_with_another_catalogue_are_refused(copy, tmp_path):
    dataset = Dataset.load(copy / "data")
    items = [dataclasses.replace(dataset.catalogue[0], title="another"), *list(dataset.catalogue)[1:]]
    Dataset(Catalogue(items), dataset.users, dataset.searches, dataset.targets).save(tmp_path / "other")
    with pytest.raises(DataError, match="with the same items: tables with the items file"):
        evaluate_records(copy, with_searchers(copy, ["bm25"]), tmp_path / "other")
