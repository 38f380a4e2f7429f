"""Table 3: what the loop does with R-GRPO, with GRPO, and with SFT alone.

All arms start from the same first reasoning of a run. R-GRPO and GRPO have the same rollout budget: as many steps of as
many contexts and trajectories. SFT alone gets the CPU time of R-GRPO. Each is a run directory of its own that takes
over the start's stages, so every arm stops and resumes like any run.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crsearch.config import Settings
from crsearch.evaluate.intervals import Interval
from crsearch.pipeline.again import finished
from crsearch.pipeline.experiments.lab import Arm, Lab, Shown, changed, run_arm, teachers, unseen
from crsearch.pipeline.experiments.summary import COMPARED, Row, compare_rows, row_metrics
from crsearch.runs import write_json

ARMS: dict[str, dict[str, Any]] = {
    "r-grpo": {"rl": {"aggregate": "rank_aware"}, "loop": {"rl": True}},
    "grpo": {"rl": {"aggregate": "first", "beam": 1}, "loop": {"rl": True}},
    "sft-only": {"loop": {"rl": False}},
}
"""Arm -> settings over those of the start."""

ROUNDS = 2
"""Rounds of RL and SFT; the paper has three."""


def loop_starts(lab: Lab) -> list[Path]:
    """Finished runs up to first reasoning, one for each teacher: where the loops of ``compare_loops`` start."""
    records = lab.shop()
    only = {"loop": {"iterations": 0, "select": "last"}, "evaluate": {"searchers": ("crs",)}}
    return [
        lab.arm(f"starts/{name}", records, lab.settings.seed, {**only, **changes}).folder
        for name, changes in teachers(lab.settings).items()
    ]


def compare_loops(
    starts: Sequence[Path],
    out: Path,
    *,
    seeds: int,
    rounds: int = ROUNDS,
    rl_steps: int | None = None,
    progress: Shown = unseen,
) -> dict[str, Any]:
    """Run every arm from every start with every seed, and compare them on the test users of the start.

    R-GRPO and GRPO go ``rounds`` rounds, each ``rl_steps`` steps of RL and one of SFT. SFT alone goes as many rounds as
    take the CPU time of R-GRPO, by the cost of the SFT rounds of its first seed.

    Args:
        starts: finished runs, e.g. one with the ``map`` and one with the ``noisy`` analyst.
        out: folder of the arms and of ``loops.json``.
        seeds: values of ``loop.seed``, from 0.
        rounds: of RL and SFT, at least 1.
        rl_steps: steps of each RL stage; none = ``rl.steps`` of the start.
        progress: opens the progress of each arm.

    Returns:
        start -> ``arms``: arm -> ``stages`` (stage -> metrics over the seeds, each query with its mean over them),
        ``by_seed`` (stage -> metric -> mean of each seed), ``rl_steps``, ``rounds`` and ``cpu_seconds`` after sft0
        (stage -> mean over the seeds); ``differences`` of R-GRPO with their intervals; ``comparisons``, the same with
        p-values and Holm's correction; ``seeds``; ``queries``.

    Raises:
        RunError: a start is not a finished run.
    """
    found: dict[str, Any] = {}
    for start in starts:
        settings, _ = finished(start)
        loops = _Loops(settings, start, out / start.name, rl_steps or settings.rl.steps, rounds, progress)
        found[start.name] = loops.compare(seeds)
        write_json(out / "loops.json", found)
    return found


class _Loops:
    """The arms from one start.

    Args:
        settings: of the start.
        start: its folder.
        out: folder of the arms.
        steps: of each RL stage.
        rounds: of RL and SFT.
        progress: opens the progress of each arm.
    """

    def __init__(self, settings: Settings, start: Path, out: Path, steps: int, rounds: int, progress: Shown) -> None:
        self.start, self.out, self.steps, self.progress = start, out, steps, progress
        self.rounds = {"r-grpo": rounds, "grpo": rounds}
        self.settings = changed(
            settings,
            {"processes": 1, "evaluate": {"searchers": ("crs",)}},  # CPU time is compared: nothing runs beside an arm
        )

    def compare(self, seeds: int) -> dict[str, Any]:
        """Run all arms, seed by seed."""
        arms: dict[str, list[Arm]] = {name: [] for name in ARMS}
        for seed in range(seeds):
            for name, its in arms.items():
                if name == "sft-only" and name not in self.rounds:
                    self.rounds[name] = _sft_rounds_of_equal_cpu(arms["r-grpo"][0])
                its.append(self._arm(name, seed))
        return self._summary(arms)

    def _arm(self, name: str, seed: int) -> Arm:
        loop = {**ARMS[name].get("loop", {}), "iterations": self.rounds[name], "seed": seed, "select": "last"}
        settings = changed(self.settings, {"rl": {**ARMS[name].get("rl", {}), "steps": self.steps}, "loop": loop})
        return run_arm(settings, self.out / f"{name}-{seed}", self.progress, [self.start])

    def _summary(self, arms: Mapping[str, list[Arm]]) -> dict[str, Any]:
        """Metrics of each stage over the seeds, and R-GRPO against the others."""
        rows: dict[str, Row] = {
            f"{name}.{stage}": [arm.evaluation(f"stage.{stage}") for arm in its]
            for name, its in arms.items()
            for stage in its[0].loop
        }
        own, alone = (arms[name][0].loop for name in ("r-grpo", "sft-only"))
        pairs = [(f"r-grpo.{stage}", f"grpo.{stage}") for stage in own[1:]]
        pairs.append((f"r-grpo.{own[-1]}", f"sft-only.{alone[-1]}"))
        comparisons = compare_rows(rows, pairs)
        differences: dict[str, dict[str, Interval]] = {}
        for c in comparisons:
            differences.setdefault(f"{c['system']} - {c['other']}", {})[c["metric"]] = c["difference"]
        return {
            "arms": {
                name: {
                    "rl_steps": self.steps if name != "sft-only" else 0,
                    "rounds": self.rounds[name],
                    "cpu_seconds": _mean_cpu_seconds(its),
                    "stages": {s: row_metrics(rows[f"{name}.{s}"], self.settings) for s in its[0].loop},
                    "by_seed": {s: _of_each_seed(rows[f"{name}.{s}"]) for s in its[0].loop},
                }
                for name, its in arms.items()
            },
            "differences": differences,
            "comparisons": comparisons,
            "seeds": list(range(len(arms["r-grpo"]))),
            "queries": len(rows["r-grpo.sft0"][0]),
        }


def _sft_rounds_of_equal_cpu(r_grpo: Arm) -> int:
    """Rounds of SFT that take the CPU time of an arm of RL and SFT."""
    rounds = [stage for stage in r_grpo.loop[1:] if stage.startswith("sft")]
    whole = r_grpo.cpu_seconds(r_grpo.loop[1:])["total"]
    return max(1, round(whole / (r_grpo.cpu_seconds(rounds)["total"] / len(rounds))))


def _mean_cpu_seconds(arms: Sequence[Arm]) -> dict[str, float]:
    """CPU seconds of each stage of the loop and of all, mean over the seeds."""
    each = [arm.cpu_seconds(arm.loop[1:]) for arm in arms]
    return {stage: round(sum(seconds[stage] for seconds in each) / len(each), 1) for stage in each[0]}


def _of_each_seed(row: Row) -> dict[str, list[float]]:
    """Metric -> its mean over the queries, seed by seed."""
    return {metric: [float(e.per_query()[metric].mean()) for e in row] for metric in COMPARED}
