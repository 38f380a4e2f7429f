"""R-GRPO, GRPO and SFT alone from one start, in seconds."""

import json

import pytest
from rich.console import Console

from crsearch.cli.experiments import show_loops
from crsearch.errors import RunError
from crsearch.pipeline.experiments.rgrpo import compare_loops
from crsearch.pipeline.run import run
from tests.tiny_run import tiny_settings


@pytest.mark.slow
def test_arms_share_their_start_and_differ_after_it(tmp_path):
    start = tmp_path / "start"
    run(
        tiny_settings('evaluate.searchers=["crs"]', "sft.samples=2", "decode.think_tokens=8", "loop.iterations=0"),
        start,
    )
    found = compare_loops([start], tmp_path / "loops", seeds=2, rl_steps=5)["start"]
    assert set(found["arms"]) == {"r-grpo", "grpo", "sft-only"}
    assert list(found["arms"]["r-grpo"]["stages"]) == ["sft0", "rl0", "sft1"]
    first = {arm: facts["stages"]["sft0"]["NDCG@10"] for arm, facts in found["arms"].items()}
    assert first["r-grpo"] == first["grpo"] == first["sft-only"]
    models = {
        name: json.loads((tmp_path / "loops/start" / name / "manifest.json").read_text())["stages"]
        for name in ("r-grpo-0", "r-grpo-1", "grpo-0")
    }
    assert models["r-grpo-0"]["sft0"] == models["r-grpo-1"]["sft0"] == models["grpo-0"]["sft0"]
    assert models["r-grpo-0"]["rl0"]["outputs"] != models["r-grpo-1"]["rl0"]["outputs"]
    assert models["r-grpo-0"]["rl0"]["outputs"] != models["grpo-0"]["rl0"]["outputs"]
    assert found["arms"]["grpo"]["rl_steps"] >= 1
    assert set(found["differences"]) >= {"r-grpo.rl0 - grpo.rl0", "r-grpo.sft1 - grpo.sft1"}
    console = Console(record=True, width=160)
    show_loops({"start": found}, console)
    printed = console.export_text()
    assert "r-grpo.rl0 - grpo.rl0" in printed and "HR@1 of r-grpo over grpo: " in printed


def test_a_start_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match="no such run directory"):
        compare_loops([tmp_path / "nothing"], tmp_path / "loops", seeds=1, rl_steps=5)
