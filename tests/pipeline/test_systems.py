"""Every system of the table, on a tiny run."""

import json
import shutil

import pytest
from tiny_run import run_tiny, tiny_settings

from crsearch.errors import RunError
from crsearch.evaluate.metrics import check_bounds
from crsearch.evaluate.trec import read_run
from crsearch.pipeline.systems import BASELINES, HYBRID, SYSTEMS
from crsearch.pipeline.thoughts import replaced_thoughts
from crsearch.pipeline.workspace import Workspace
from crsearch.runs import RunDirectory, silent

FEW = (
    "baselines.genre.max_steps=2", "baselines.dsi.max_steps=2", "baselines.ltrgr.max_steps=2",
    "baselines.latent_r3.max_steps=2", "baselines.latent_r3.batch=4", "baselines.dsi.branching=4",
    "baselines.tiger.max_steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    """Results of a run with every system."""
    out = tmp_path_factory.mktemp("all") / "run"
    run_tiny(out, *FEW, f"evaluate.searchers={json.dumps(list(SYSTEMS))}")
    return out, json.loads((out / "results.json").read_text())


def test_every_system_is_measured_or_says_why_not(found):
    _, results = found
    assert {*results["searchers"], *results["not_run"]} == set(SYSTEMS)
    assert set(results["searchers"]) >= {*BASELINES, "dense", "dense-history", "crs-oracle-thought"}
    assert all("(" in reason for reason in results["not_run"].values()), "a remedy stands in brackets"
    assert results["not_run"].keys() >= {"dense-bge", "dense-qwen3"}
    assert results["invalid_items"] == 0


def test_the_hybrid_is_the_fusion_of_its_two_parts(found):
    """Oracle: their lists in the run files, of ten items each, hold every item that both have at the top."""
    out, _ = found
    dense, bm25, hybrid = (read_run(out / "eval" / f"{name}.trec") for name in (*HYBRID, "hybrid"))
    assert HYBRID == ("dense-history", "bm25")
    agreed = [s for s in hybrid if dense[s][:1] == bm25.get(s, ())[:1]]
    assert agreed, "an item that is first in both lists is first in the fused one"
    assert all(hybrid[s][0] == dense[s][0] for s in agreed)


def test_every_row_keeps_the_bounds_of_one_relevant_item(found):
    """``check_bounds`` raises where a row cannot be."""
    _, results = found
    assert len(results["searchers"]) > len(BASELINES)
    for name, row in results["searchers"].items():
        check_bounds({metric: value["mean"] for metric, value in row.items()}, name)


def test_a_baseline_is_trained_on_no_more_tokens_than_crs(found):
    out, _ = found
    stages = json.loads((out / "manifest.json").read_text())["stages"]
    whole = sum(stages[s]["numbers"]["tokens_sum"] for s in ("align", "sft0", "rl0", "sft1"))
    for name in BASELINES:
        assert 0 < stages[name]["numbers"]["tokens_sum"] <= 1.05 * whole, name


def test_thoughts_are_replaced(tiny_run, tmp_path):
    shutil.copytree(tiny_run, tmp_path / "run")
    space = Workspace(RunDirectory.reading(tmp_path / "run"), tiny_settings(), silent)
    asked = [e.context.search_id for e in space.examples("test")]
    own = {search_id: f"thought of {search_id}" for search_id in asked}
    space.path("traces", "thoughts", "crs.json").write_text(json.dumps(own))
    shuffled = replaced_thoughts(space, "shuffled")
    assert shuffled.keys() == own.keys()
    assert sorted(shuffled.values()) == sorted(own.values())
    assert not any(shuffled[s] == own[s] for s in asked)
    assert set(replaced_thoughts(space, "empty").values()) == {""}
    truth = space.truth
    known = dict(zip(truth["search_id"], truth["thought_leak"], strict=True))
    assert replaced_thoughts(space, "oracle").items() >= known.items()
    space.path("traces", "thoughts", "crs.json").unlink()
    with pytest.raises(RunError, match="measure crs before"):
        replaced_thoughts(space, "shuffled")
