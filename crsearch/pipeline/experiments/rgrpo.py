"""Table 3: what the loop does with R-GRPO and with GRPO.

Both start from the same first reasoning of a run and have the same rollout budget: as many steps of as many contexts
and trajectories. Each arm is a run directory of its own that takes over the start's stages, so it stops and resumes
like any run. SFT alone is compared by ``loop``.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crsearch.config import Settings
from crsearch.errors import ConfigError
from crsearch.evaluate.intervals import Interval
from crsearch.pipeline.experiments.lab import Arm, Lab, Shown, changed, run_arm, teachers, unseen
from crsearch.pipeline.experiments.summary import COMPARED, Row, compare_rows, row_metrics
from crsearch.pipeline.finished import finished
from crsearch.runs import write_json

ARMS: dict[str, dict[str, Any]] = {"r-grpo": {"aggregate": "rank_aware"}, "grpo": {"aggregate": "first", "beam": 1}}
"""Arm -> settings of its RL."""

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
    """Run both arms from every start with every seed, and compare them on the test users of the start, stage by stage.

    Args:
        starts: finished runs, e.g. one with the ``map`` and one with the ``noisy`` analyst.
        out: folder of the arms and of ``loops.json``.
        seeds: values of ``loop.seed``, from 0.
        rounds: of RL and SFT, at least 1.
        rl_steps: steps of each RL stage; none = ``rl.steps`` of the start.
        progress: opens the progress of each arm.

    Returns:
        start -> ``arms``: arm -> ``stages`` (stage -> metrics over the seeds, each query with its mean over them),
        ``by_seed`` (stage -> metric -> mean of each seed) and ``cpu_seconds`` after sft0 (stage -> mean over the
        seeds); ``differences`` of R-GRPO with their intervals; ``comparisons``, the same with p-values and Holm's
        correction; ``rl_steps``, ``rounds``, ``seeds``, ``queries``.

    Raises:
        RunError: a start is not a finished run.
        ConfigError: two starts have one name.
    """
    names = [start.name for start in starts]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(
            f"two runs are called {', '.join(twice)}, and each has a folder of its name in {out}: compare them one "
            "after the other, each with an --out of its own"
        )
    found: dict[str, Any] = {}
    for start in starts:
        settings, _ = finished(start)
        steps = rl_steps or settings.rl.steps
        own = changed(
            settings,
            {
                "processes": 1,  # CPU time is told: nothing runs beside an arm
                "evaluate": {"searchers": ("crs",)},
                "rl": {"steps": steps},
                "loop": {"iterations": rounds, "rl": True, "select": "last"},
            },
        )
        arms: dict[str, list[Arm]] = {name: [] for name in ARMS}
        for seed in range(seeds):
            for name, its in arms.items():
                each = changed(own, {"rl": ARMS[name], "loop": {"seed": seed}})
                its.append(run_arm(each, out / start.name / f"{name}-{seed}", progress, [start]))
        found[start.name] = {"rl_steps": steps, "rounds": rounds, **_summary(arms, own)}
        write_json(out / "loops.json", found)
    return found


def _summary(arms: Mapping[str, list[Arm]], settings: Settings) -> dict[str, Any]:
    """Metrics of each stage over the seeds, and R-GRPO against GRPO."""
    stages = arms["r-grpo"][0].loop
    rows: dict[str, Row] = {
        f"{name}.{stage}": [arm.evaluation(f"stage.{stage}") for arm in its]
        for name, its in arms.items()
        for stage in stages
    }
    comparisons = compare_rows(rows, [(f"r-grpo.{stage}", f"grpo.{stage}") for stage in stages[1:]])
    differences: dict[str, dict[str, Interval]] = {}
    for c in comparisons:
        differences.setdefault(f"{c['system']} - {c['other']}", {})[c["metric"]] = c["difference"]
    return {
        "arms": {
            name: {
                "cpu_seconds": _mean_cpu_seconds(its),
                "stages": {s: row_metrics(rows[f"{name}.{s}"], settings) for s in stages},
                "by_seed": {s: _of_each_seed(rows[f"{name}.{s}"]) for s in stages},
            }
            for name, its in arms.items()
        },
        "differences": differences,
        "comparisons": comparisons,
        "seeds": list(range(len(arms["r-grpo"]))),
        "queries": len(rows["r-grpo.sft0"][0]),
    }


def _mean_cpu_seconds(arms: Sequence[Arm]) -> dict[str, float]:
    """CPU seconds of each stage of the loop and of all, mean over the seeds."""
    each = [arm.cpu_seconds(arm.loop[1:]) for arm in arms]
    return {stage: round(sum(seconds[stage] for seconds in each) / len(each), 1) for stage in each[0]}


def _of_each_seed(row: Row) -> dict[str, list[float]]:
    """Metric -> its mean over the queries, seed by seed."""
    return {metric: [float(e.per_query()[metric].mean()) for e in row] for metric in COMPARED}
