"""Table 3: what the loop does with R-GRPO, with GRPO, and with SFT alone.

All arms start from the same first reasoning of a run and get the same CPU time after it. Each is a run directory of
its own that takes over the start's stages, so every arm stops and resumes like any run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crsearch.config import Settings
from crsearch.evaluate.intervals import Interval
from crsearch.pipeline.again import finished
from crsearch.pipeline.experiments.lab import Arm, Lab, Shown, changed, run_arm, teachers, unseen
from crsearch.pipeline.experiments.summary import Row, compare_rows, row_metrics
from crsearch.runs import write_json

ARMS: dict[str, dict[str, Any]] = {
    "r-grpo": {"rl": {"aggregate": "rank_aware"}, "loop": {"rl": True}},
    "grpo": {"rl": {"aggregate": "first", "beam": 1}, "loop": {"rl": True}},
    "sft-only": {"loop": {"rl": False}},
}
"""Arm -> settings over those of the start."""

PROBE = 5
"""The short run that measures the cost of a GRPO step has a fifth of the steps of R-GRPO, but 2 at least."""


def loop_starts(lab: Lab) -> list[Path]:
    """Finished runs up to first reasoning, one for each teacher: where the loops of ``compare_loops`` start."""
    records = lab.shop()
    only = {"loop": {"iterations": 0, "select": "last"}, "evaluate": {"searchers": ("crs",)}}
    return [
        lab.arm(f"starts/{name}", records, lab.settings.seed, {**only, **changes}).folder
        for name, changes in teachers(lab.settings).items()
    ]


def compare_loops(
    starts: Sequence[Path], out: Path, *, seeds: int, rl_steps: int | None = None, progress: Shown = unseen
) -> dict[str, Any]:
    """Run every arm from every start with every seed, and compare them on the test users of the start.

    R-GRPO takes ``rl_steps`` steps and one SFT round. GRPO takes as many steps as cost the same CPU time (measured on
    the first seed); SFT alone takes rounds until it has used at least that time.

    Args:
        starts: finished runs, e.g. one with the ``map`` and one with the ``noisy`` analyst.
        out: folder of the arms and of ``loops.json``.
        seeds: values of ``loop.seed``, from 0.
        rl_steps: steps of R-GRPO; none = ``rl.steps`` of the start.
        progress: opens the progress of each arm.

    Returns:
        start -> ``arms``: arm -> stage -> metrics over the seeds (each query counts with its mean over the seeds) and
        CPU seconds after sft0; ``differences`` of R-GRPO with their intervals; ``comparisons``, the same with
        p-values and Holm's correction.

    Raises:
        RunError: a start is not a finished run.
    """
    found: dict[str, Any] = {}
    for start in starts:
        settings, _ = finished(start)
        loops = _Loops(settings, start, out / start.name, rl_steps or settings.rl.steps, progress)
        found[start.name] = loops.compare(seeds)
        write_json(out / "loops.json", found)
    return found


class _Loops:
    """The arms from one start.

    Args:
        settings: of the start.
        start: its folder.
        out: folder of the arms.
        steps: of R-GRPO.
        progress: opens the progress of each arm.
    """

    def __init__(self, settings: Settings, start: Path, out: Path, steps: int, progress: Shown) -> None:
        self.start, self.out, self.progress = start, out, progress
        self.steps = {"r-grpo": steps, "grpo": steps, "sft-only": 0}
        self.rounds = {"r-grpo": 1, "grpo": 1, "sft-only": 2}
        self.settings = changed(
            settings,
            {"processes": 1, "evaluate": {"searchers": ("crs",)}},  # CPU time is compared: nothing runs beside an arm
        )

    def compare(self, seeds: int) -> dict[str, Any]:
        """Run all arms, those of the first seed first."""
        arms: dict[str, list[Arm]] = {name: [] for name in ARMS}
        for seed in range(seeds):
            for name in ARMS:
                if seed == 0 and name != "r-grpo":
                    self._make_equal(name, _after_sft0(arms["r-grpo"][0]))
                arms[name].append(self._arm(f"{name}-{seed}", name, seed, self.steps[name], self.rounds[name]))
        return self._summary(arms)

    def _arm(self, folder: str, name: str, seed: int, steps: int, rounds: int) -> Arm:
        loop = {**ARMS[name].get("loop", {}), "iterations": rounds, "seed": seed, "select": "last"}
        rl = {**ARMS[name].get("rl", {}), "steps": steps or self.settings.rl.steps}
        settings = changed(self.settings, {"rl": rl, "loop": loop})
        return run_arm(settings, self.out / folder, self.progress, [self.start])

    def _make_equal(self, name: str, r_grpo: Mapping[str, float]) -> None:
        """Give an arm as many steps, or rounds, as take the CPU time of R-GRPO, from a short probe."""
        if name == "grpo":
            probe = max(2, self.steps["r-grpo"] // PROBE)
            cost = _after_sft0(self._arm("probe-grpo", name, 0, probe, 1))
            self.steps[name] = max(1, round(probe * r_grpo["rl0"] / cost["rl0"]))
        else:
            cost = _after_sft0(self._arm("probe-sft", name, 0, 0, 1))
            self.rounds[name] = max(1, round(r_grpo["total"] / cost["total"]))

    def _summary(self, arms: Mapping[str, list[Arm]]) -> dict[str, Any]:
        """Metrics of each stage over the seeds, and R-GRPO against the others."""
        rows: dict[str, Row] = {
            f"{name}.{stage}": [arm.evaluation(f"stage.{stage}") for arm in its]
            for name, its in arms.items()
            for stage in its[0].loop
        }
        last = arms["sft-only"][0].loop[-1]
        pairs = [
            ("r-grpo.rl0", "grpo.rl0"),
            ("r-grpo.sft1", "grpo.sft1"),
            ("r-grpo.rl0", f"sft-only.{last}"),
            ("r-grpo.sft1", f"sft-only.{last}"),
        ]
        comparisons = compare_rows(rows, pairs)
        differences: dict[str, dict[str, Interval]] = {}
        for c in comparisons:
            differences.setdefault(f"{c['system']} - {c['other']}", {})[c["metric"]] = c["difference"]
        return {
            "arms": {
                name: {
                    "rl_steps": self.steps[name],
                    "rounds": self.rounds[name],
                    "cpu_seconds": {stage: round(s, 1) for stage, s in _after_sft0(its[0]).items()},
                    "stages": {s: row_metrics(rows[f"{name}.{s}"], self.settings) for s in its[0].loop},
                }
                for name, its in arms.items()
            },
            "differences": differences,
            "comparisons": comparisons,
            "queries": len(rows["r-grpo.sft0"][0]),
        }


def _after_sft0(arm: Arm) -> dict[str, float]:
    """CPU seconds of the loop."""
    return arm.cpu_seconds(arm.loop[1:])
