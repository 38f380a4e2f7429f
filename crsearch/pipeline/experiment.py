"""Experiments on finished runs: what the loop does with R-GRPO, with GRPO, and with SFT alone.

All arms start from the same first reasoning of a run and get the same CPU time after it. Each is a run directory of
its own that shares the start's stages, so every arm stops and resumes like any run.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from crsearch.config import Settings
from crsearch.errors import RunError
from crsearch.evaluate.evaluation import Evaluation, metrics_over_seeds
from crsearch.evaluate.intervals import paired_difference
from crsearch.pipeline.again import finished
from crsearch.pipeline.run import run
from crsearch.runs import Progress, RunDirectory, silent, write_json

ARMS: dict[str, dict[str, Any]] = {
    "r-grpo": {"rl": {"aggregate": "rank_aware"}, "loop": {"rl": True}},
    "grpo": {"rl": {"aggregate": "first", "beam": 1}, "loop": {"rl": True}},
    "sft-only": {"loop": {"rl": False}},
}
"""Arm -> settings over those of the start."""

SHARED = ("data", "sids", "traces", "models/base", "models/align", "models/sft0")
"""What an arm takes over from the start."""

SHARED_STAGES = ("data", "sids", "distill", "base", "align", "sft0")


Shown = Callable[[Settings], AbstractContextManager[Progress]]
"""Opens the progress of one arm, given its settings."""


def unseen(_: Settings) -> AbstractContextManager[Progress]:
    """Shows nothing."""
    return nullcontext(silent)


class CpuMeter:
    """A progress that adds up the CPU seconds of each stage of this process and passes everything on."""

    def __init__(self, inner: Progress) -> None:
        self.inner = inner
        self.seconds: dict[str, float] = {}
        self._begun: dict[str, float] = {}

    def __call__(self, stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        now = time.process_time()
        begun = self._begun.setdefault(stage, now)
        self.seconds[stage] = now - begun
        self.inner(stage, done, total, numbers)


def compare_loops(
    starts: Sequence[Path], out: Path, *, seeds: int, rl_steps: int, progress: Shown = unseen
) -> dict[str, Any]:
    """Run every arm from every start with every seed, and compare them on the test users of the start.

    R-GRPO takes ``rl_steps`` steps and one SFT round. GRPO takes as many steps as cost the same CPU time (measured on
    the first seed); SFT alone takes rounds until it has used at least that time.

    Args:
        starts: finished runs, e.g. one with the ``map`` and one with the ``noisy`` analyst.
        out: folder of the arms and of ``loops.json``.
        seeds: values of ``loop.seed``, from 0.
        rl_steps: steps of R-GRPO.
        progress: opens the progress of each arm.

    Returns:
        start -> arm -> stage -> metrics over the seeds (each query counts with its mean over the seeds), CPU seconds
        after sft0, and the paired differences of R-GRPO.

    Raises:
        RunError: a start is not a finished run.
    """
    found: dict[str, Any] = {}
    for start in starts:
        settings, _ = finished(start)
        evaluations: dict[str, dict[str, list[Evaluation]]] = {}
        cpu: dict[str, dict[str, float]] = {}
        steps = {"r-grpo": rl_steps, "grpo": rl_steps}
        rounds = {"r-grpo": 1, "grpo": 1, "sft-only": 2}
        for seed in range(seeds):
            for arm, changes in ARMS.items():
                if arm == "grpo" and seed == 0:
                    steps["grpo"] = _equal_steps(settings, start, out, rl_steps, cpu["r-grpo"], progress)
                if arm == "sft-only" and seed == 0:
                    per_round = _probe_round(settings, start, out, progress)
                    rounds["sft-only"] = max(1, round(cpu["r-grpo"]["total"] / per_round))
                loop = {**changes.get("loop", {}), "iterations": rounds[arm], "seed": seed, "select": "last"}
                rl = {**changes.get("rl", {}), "steps": steps.get(arm, 0)}
                folder = out / start.name / f"{arm}-{seed}"
                cpu_here, stages = _run_arm(settings, start, folder, rl, loop, progress)
                cpu[arm] = cpu_here if seed == 0 else cpu[arm]
                for stage in stages:
                    name = f"stage.{stage}"
                    evaluations.setdefault(arm, {}).setdefault(stage, []).append(Evaluation.load(folder / "eval", name))
        found[start.name] = _summary(evaluations, cpu, steps, rounds, settings)
        write_json(out / "loops.json", found)
    return found


def _run_arm(
    settings: Settings, start: Path, folder: Path, rl: Mapping[str, Any], loop: Mapping[str, Any], progress: Shown
) -> tuple[dict[str, float], list[str]]:
    """One arm from the start's sft0: CPU seconds of its stages, and their names in order."""
    changed = settings.model_copy(
        update={
            "rl": settings.rl.model_copy(update=dict(rl)),
            "loop": settings.loop.model_copy(update=dict(loop)),
            "processes": 1,  # CPU time is measured in this process
            "evaluate": settings.evaluate.model_copy(update={"searchers": ("crs",)}),
        }
    )
    _take_over(start, folder)
    with progress(changed) as shown:
        meter = CpuMeter(shown)
        results = run(changed, folder, resume=True, progress=meter)
    stages = [s["name"] for s in results["stages"] if s["name"] != "align"]
    kept = folder / "cpu.json"
    if not kept.exists():  # a resumed arm keeps the times of its first run
        after = {n: s for n, s in meter.seconds.items() if n.split(".")[0] in stages and n != "sft0"}
        write_json(kept, {**after, "total": sum(after.values())})
    return json.loads(kept.read_text()), stages


def _take_over(start: Path, folder: Path) -> None:
    """Copy the stages up to sft0 of a run into a new run directory."""
    if (folder / "manifest.json").exists():
        return
    for name in SHARED:
        shutil.copytree(start / name, folder / name, dirs_exist_ok=True)
    manifest = dict(RunDirectory.reading(start).manifest)
    missing = [s for s in SHARED_STAGES if s not in manifest["stages"]]
    if missing:
        raise RunError(f"{start}: stage {missing[0]} is not done: finish the run first")
    manifest["stages"] = {s: manifest["stages"][s] for s in SHARED_STAGES}
    write_json(folder / "manifest.json", manifest)


def _equal_steps(
    settings: Settings, start: Path, out: Path, rl_steps: int, r_grpo: Mapping[str, float], progress: Shown
) -> int:
    """Steps of GRPO that cost what ``rl_steps`` of R-GRPO do, from a short probe."""
    probe = max(2, rl_steps // 5)
    loop = {"rl": True, "iterations": 1, "seed": 0, "select": "last"}
    cpu, _ = _run_arm(
        settings, start, out / start.name / "probe-grpo", {**ARMS["grpo"]["rl"], "steps": probe}, loop, progress
    )
    return max(1, round(rl_steps * r_grpo["rl0"] / rl_steps / (cpu["rl0"] / probe)))


def _probe_round(settings: Settings, start: Path, out: Path, progress: Shown) -> float:
    """CPU seconds of one SFT-only round."""
    loop = {"rl": False, "iterations": 1, "seed": 0, "select": "last"}
    cpu, _ = _run_arm(settings, start, out / start.name / "probe-sft", {}, loop, progress)
    return cpu["total"]


def _summary(
    evaluations: Mapping[str, Mapping[str, list[Evaluation]]],
    cpu: Mapping[str, Mapping[str, float]],
    steps: Mapping[str, int],
    rounds: Mapping[str, int],
    settings: Settings,
) -> dict[str, Any]:
    """Metrics of each stage over the seeds, and R-GRPO against the others at its last stage."""
    arms: dict[str, Any] = {}
    for arm, stages in evaluations.items():
        arms[arm] = {
            "rl_steps": steps.get(arm, 0),
            "rounds": rounds[arm],
            "cpu_seconds": {n: round(s, 1) for n, s in cpu[arm].items()},
            "stages": {
                stage: metrics_over_seeds(seeds, settings.evaluate.bootstrap, settings.seed)
                for stage, seeds in stages.items()
            },
        }
    differences: dict[str, Any] = {}
    for other, pairs in {
        "grpo": (("rl0", "rl0"), ("sft1", "sft1")),
        "sft-only": (("rl0", _last(evaluations["sft-only"])), ("sft1", _last(evaluations["sft-only"]))),
    }.items():
        for own, theirs in pairs:
            for metric in ("HR@10", "NDCG@10"):
                a = _mean_per_query(evaluations["r-grpo"][own], metric)
                b = _mean_per_query(evaluations[other][theirs], metric)
                name = f"r-grpo.{own} - {other}.{theirs}"
                differences.setdefault(name, {})[metric] = paired_difference(
                    a, b, settings.evaluate.bootstrap, settings.seed
                )
    return {"arms": arms, "differences": differences, "queries": len(next(iter(evaluations["r-grpo"].values()))[0])}


def _last(stages: Mapping[str, object]) -> str:
    return list(stages)[-1]


def _mean_per_query(seeds: Sequence[Evaluation], metric: str) -> Any:
    """Each query's mean over the seeds; the queries are in the same order, since the start is the same."""
    return sum(e.per_query()[metric] for e in seeds) / len(seeds)
