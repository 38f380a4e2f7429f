"""A run that is killed and resumed ends as one that was left alone."""

import json
import signal
from pathlib import Path

import pytest
from crash import in_child, start
from safetensors.torch import load_file
from tiny_run import Events, Interrupt, tiny_settings

from crsearch.pipeline.run import run
from crsearch.runs import file_digest, read_lines
from crsearch.train.optim import Optimiser


def ends(out: Path) -> dict[str, object]:
    """What must not depend on crashes: the last models, the results, every logged number, every rollout."""
    return {
        "model": file_digest(out / "models/sft1/model.safetensors"),
        "control": file_digest(out / "models/direct/model.safetensors"),
        "results": (out / "results.json").read_bytes(),
        "metrics": read_lines(out / "metrics.jsonl"),
        "rollouts": (out / "traces/rollouts/rl0.jsonl").read_bytes(),
        "runs": {f.name: f.read_bytes() for f in (out / "eval").glob("*.trec")},
    }


def test_a_run_killed_at_five_random_moments_ends_as_if_it_had_not_been(tiny_run, tmp_path):
    out, log = tmp_path / "run", tmp_path / "log"
    for n, stage in enumerate(["sids", "align", "rl0", "sft1", "eval.crs"]):
        code = in_child(start, out, n > 0, stage, n, log)
        assert code == -signal.SIGPROF, f"the run was not killed in {stage}: exit code {code}"
    assert in_child(start, out, True, None, 0, log) == 0
    assert "align" not in {stage for stage, done, *_ in json.loads(log.read_text()) if done == 0}
    assert ends(out) == ends(tiny_run)
    assert not [f for f in out.rglob("*") if f.name.startswith((".tmp", ".old"))]
    assert not list((out / "checkpoints").glob("*"))


def test_a_resumed_stage_goes_on_from_its_last_checkpoint(tiny_run, begun):
    """Stopped while step 3 is reported: steps 1 and 2 are on disk and are not taken again."""
    out = begun("rl0", 3)
    assert json.loads((out / "checkpoints/rl0/state.json").read_text())["step"] == 2
    after = Events()
    run(tiny_settings(), out, resume=True, progress=after)
    assert [(done, "resumed_at" in n) for done, total, n in after.of("rl0") if total == 3] == [(2, True), (3, False)]
    assert ends(out) == ends(tiny_run)


def test_a_resume_that_forgets_the_optimiser_ends_elsewhere(tiny_run, begun, monkeypatch):
    """Negative control: equal ends are not what any resume would give."""
    out = begun("align", 3)
    monkeypatch.setattr(Optimiser, "load_tensors", lambda self, tensors: None)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_settings(), out, resume=True, progress=Interrupt("sft0", 1))
    whole, forgetful = (load_file(d / "models/align/model.safetensors") for d in (tiny_run, out))
    assert any(not whole[name].equal(forgetful[name]) for name in whole)


@pytest.fixture
def begun(tmp_path):
    """Makes a run directory in which a stage was interrupted."""

    def make(stage: str, done: int) -> Path:
        with pytest.raises(KeyboardInterrupt):
            run(tiny_settings(), tmp_path / "run", progress=Interrupt(stage, done))
        return tmp_path / "run"

    return make
