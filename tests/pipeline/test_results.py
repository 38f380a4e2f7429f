"""The results of a whole run: any outside tool gets the same numbers; nothing depends on the clock."""

import json
import re

import pytest
from tiny_run import run_tiny, tiny_settings

from crsearch.evaluate.evaluation import Evaluation
from crsearch.pipeline.measure import rungs
from crsearch.pipeline.plan import Rates, expected_sizes, plan
from crsearch.pipeline.systems import RUNGS, SYSTEMS
from crsearch.records.store import Dataset
from crsearch.runs import RunDirectory, file_digest, read_lines
from crsearch.serve.contract import Rung

METRICS = {"HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"}
MEASURED = {
    "crs", "crs-direct", "crs-cut-thought", "crs-no-thought", "crs-fused", "hybrid", "bm25", "tfidf", "popularity",
    "popularity-in-query", "popularity-in-query-brand",
}  # fmt: skip


@pytest.fixture(scope="module")
def results(tiny_run):
    return json.loads((tiny_run / "results.json").read_text())


def test_results_have_the_documented_form(results):
    assert {"data", "test_queries", "seeds", "invalid_items", "searchers", "ceiling", "final_stage", "stages"} <= set(
        results
    )
    assert results["searchers"].keys() == MEASURED
    assert [s["name"] for s in results["stages"]] == ["align", "sft0", "rl0", "sft1"]
    rows = [*results["searchers"].values(), *(s["metrics"] for s in results["stages"])]
    assert all(row.keys() == METRICS for row in rows)
    assert all(0 <= v["low"] <= v["mean"] <= v["high"] <= 1 for row in rows for v in row.values())
    assert results["ceiling"].keys() == METRICS
    assert results["seeds"] == [0]
    assert all(s["tokens"] > 0 for s in results["stages"] if s["name"] != "sft1")


def test_every_rung_of_the_ladder_is_measured_unasked(results):
    assert list(results["rungs"]) == list(RUNGS) == [f"L{n}" for n in range(7)]
    for rung, found in results["rungs"].items():
        row = results["searchers"][RUNGS[rung]]
        assert found == {"searcher": RUNGS[rung], "HR@10": row["HR@10"], "NDCG@10": row["NDCG@10"]}
    assert results["rungs"]["L1"] == results["rungs"]["L0"], "a cached thought is the same thought"


def test_rungs_that_were_not_measured_are_not_there(results):
    rows = {name: results["searchers"][name] for name in ("bm25", "crs-no-thought", "tfidf")}
    assert {rung: found["searcher"] for rung, found in rungs(rows).items()} == {"L3": "crs-no-thought", "L5": "bm25"}
    assert rungs({}) == {}


def test_the_server_names_the_rungs_that_the_results_name():
    assert list(RUNGS) == list(Rung)
    assert set(RUNGS.values()) <= SYSTEMS.keys()


def test_every_answer_is_an_item_of_the_catalogue(results, tiny_run):
    assert results["invalid_items"] == 0
    known = set(Dataset.load(tiny_run / "data").catalogue.ids)
    for file in (tiny_run / "eval").glob("*.trec"):
        if file.name != "qrels.trec":
            assert {line.split()[2] for line in file.read_text().splitlines()} <= known


def test_every_test_user_is_asked_once(results, tiny_run):
    asked = [line.split()[0] for line in (tiny_run / "eval/qrels.trec").read_text().splitlines()]
    dataset = Dataset.load(tiny_run / "data")
    assert asked == [e.context.search_id for e in dataset.examples("test", 1)]
    assert results["test_queries"] == len(asked) == results["data"]["test_users"]


def test_tokens_of_a_query_are_counted_by_what_was_asked(results, tiny_run):
    tokens = {name: Evaluation.load(tiny_run / "eval", name).mean_tokens() for name in results["searchers"]}
    assert tokens["bm25"] == {"read_tokens": None, "thought_tokens": None}
    assert tokens["crs-no-thought"]["thought_tokens"] is None and tokens["crs-no-thought"]["read_tokens"] > 20
    longest = tiny_settings().decode.think_tokens
    assert 0 <= tokens["crs"]["thought_tokens"] <= longest and tokens["crs"]["read_tokens"] > 20
    both = tokens["crs"]["read_tokens"] + tokens["crs-no-thought"]["read_tokens"]
    assert tokens["crs-fused"]["read_tokens"] == pytest.approx(both), "it reads both prompts"


def test_ir_measures_gets_the_digits_of_the_results(results, tiny_run):
    ir = pytest.importorskip("ir_measures")
    measures = {"HR@1": ir.Success @ 1, "HR@5": ir.Success @ 5, "HR@10": ir.Success @ 10}
    measures |= {"NDCG@5": ir.nDCG @ 5, "NDCG@10": ir.nDCG @ 10}
    qrels = list(ir.read_trec_qrels(str(tiny_run / "eval/qrels.trec")))
    ours = results["searchers"] | {f"stage.{s['name']}": s["metrics"] for s in results["stages"]}
    for name, row in ours.items():
        run = list(ir.read_trec_run(str(tiny_run / f"eval/{name}.trec")))
        theirs = ir.calc_aggregate(list(measures.values()), qrels, run)
        for metric, measure in measures.items():
            assert theirs[measure] == pytest.approx(row[metric]["mean"], abs=1e-12), (name, metric)


def test_nothing_in_the_results_names_the_clock(results):
    """That they do not depend on it is shown by the runs that are killed, which end with the same bytes."""
    assert not re.findall(r"latency|seconds|_ms|elapsed|started|version", json.dumps(results))


def test_the_tiny_run_trains_a_policy(tiny_run):
    """Else the tests of resuming would hold of a stage that does nothing."""
    rl = [r for r in read_lines(tiny_run / "metrics.jsonl") if r["stage"] == "rl0"]
    assert rl[-1]["policy_tokens"] > 0
    assert rl[-1]["constant_groups"] < 1


def test_the_plan_names_exactly_the_stages_of_a_run(tiny_run):
    """Else the time left would never, or not always, reach zero."""
    check_plan(tiny_settings(), list(RunDirectory.reading(tiny_run).manifest["stages"]))


def test_choosing_by_validation_measures_the_same_models(tiny_run, tmp_path):
    changes = "loop.select=valid", "evaluate.searchers=['crs']"
    out = tmp_path / "run"
    check_plan(tiny_settings(*changes), run_tiny(out, *changes).ran)
    stages = RunDirectory.reading(out).manifest["stages"]
    scores = {name: stages[f"valid.{name}"]["numbers"]["NDCG@10"] for name in ("sft0", "rl0", "sft1")}
    assert json.loads((out / "results.json").read_text())["final_stage"] == max(scores, key=scores.__getitem__)
    for name in scores:
        assert file_digest(out / f"models/{name}/model.safetensors") == file_digest(
            tiny_run / f"models/{name}/model.safetensors"
        )
    again = run_tiny(out, *changes, "evaluate.exclude_history=true", resume=True).ran
    assert {f"valid.{name}" for name in scores} <= set(again), "validation ranks what the test ranks"
    stages = RunDirectory.reading(out).manifest["stages"]
    assert {name: stages[f"valid.{name}"]["numbers"]["NDCG@10"] for name in scores} != scores


def check_plan(settings, names):
    planned = plan(settings, expected_sizes(settings))
    assert sorted(p.name for p in planned) == sorted(names)
    assert all(p.seconds(Rates()) > 0 for p in planned)


def test_the_plan_counts_the_records_of_the_user(tiny_run):
    data = Dataset.load(tiny_run / "data")
    sizes = expected_sizes(tiny_settings(f"data={tiny_run}/data"))
    assert (sizes.train, sizes.valid, sizes.test) == tuple(
        sum(part == name for part in data.parts.values()) for name in ("train", "valid", "test")
    )
    assert sizes.items == 40
