"""R-GRPO and GRPO from one start, in seconds."""

import json
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from crsearch.cli.experiments import show_loops
from crsearch.errors import ConfigError, RunError
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
    found = compare_loops([start], tmp_path / "loops", seeds=2, rounds=2, rl_steps=5)["start"]
    assert set(found["arms"]) == {"r-grpo", "grpo"}
    assert list(found["arms"]["r-grpo"]["stages"]) == ["sft0", "rl0", "sft1", "rl1", "sft2"]
    first = {arm: facts["stages"]["sft0"]["NDCG@10"] for arm, facts in found["arms"].items()}
    assert first["r-grpo"] == first["grpo"]
    models = {
        name: json.loads((tmp_path / "loops/start" / name / "manifest.json").read_text())["stages"]
        for name in ("r-grpo-0", "r-grpo-1", "grpo-0")
    }
    assert models["r-grpo-0"]["sft0"] == models["r-grpo-1"]["sft0"] == models["grpo-0"]["sft0"]
    assert models["r-grpo-0"]["rl0"]["outputs"] != models["r-grpo-1"]["rl0"]["outputs"]
    assert models["r-grpo-0"]["rl0"]["outputs"] != models["grpo-0"]["rl0"]["outputs"]
    counts = {name: _rollouts(tmp_path / f"loops/start/{name}-0") for name in ("r-grpo", "grpo")}
    assert counts["r-grpo"] == counts["grpo"] and counts["grpo"]["rl0"] > 0, "the same rollout budget"
    assert set(found["differences"]) >= {f"r-grpo.{s} - grpo.{s}" for s in ("rl0", "sft1", "rl1", "sft2")}
    rl1 = found["arms"]["grpo"]["by_seed"]["rl1"]["HR@10"]
    assert len(rl1) == 2 and np.mean(rl1) == pytest.approx(found["arms"]["grpo"]["stages"]["rl1"]["HR@10"]["mean"])
    console = Console(record=True, width=160)
    show_loops({"start": found}, console)
    printed = console.export_text()
    assert "r-grpo.rl0 - grpo.rl0" in printed and "HR@1 of r-grpo over grpo: " in printed
    assert "after rl1, seed by seed: " in printed


def _rollouts(arm: Path) -> dict[str, int]:
    """RL stage -> trajectories that were sampled for its updates."""
    return {
        stage: sum(1 for line in (arm / f"traces/rollouts/{stage}.jsonl").read_text().splitlines() if line)
        for stage in ("rl0", "rl1")
    }


def test_starts_of_one_name_are_refused_before_anything_runs(tmp_path):
    with pytest.raises(ConfigError, match="two runs are called demo"):
        compare_loops([tmp_path / "a/demo", tmp_path / "b/demo"], tmp_path / "loops", seeds=1)
    assert not list(tmp_path.iterdir())


def test_a_start_that_is_no_run_is_named(tmp_path):
    with pytest.raises(RunError, match="no such run directory"):
        compare_loops([tmp_path / "nothing"], tmp_path / "loops", seeds=1, rl_steps=5)
