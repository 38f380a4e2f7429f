"""Figure 2: the metric after each half-iteration of the loop, and of a loop of SFT alone."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crsearch.config import Nested
from crsearch.pipeline.experiments.lab import Arm, Lab, facts_of
from crsearch.pipeline.experiments.summary import Rows, compare_rows, row_metrics

ITERATIONS = 3
"""Rounds of the loop, as in the figure."""

ALONE = "sft-only"


def half_iterations(lab: Lab) -> dict[str, Any]:
    """Run the loop with and without RL from the same first reasoning, seed by seed.

    SFT alone goes as many rounds, and on to as many as take the CPU time of the loop with RL on the first seed.

    Returns:
        ``arms``: ``rl+sft`` and ``sft-only``, for each ``stages`` in order with ``name``, ``metrics`` and
        ``cpu_seconds`` (all since sft0, mean over the seeds), and ``runs``; ``equal_rounds`` and ``equal_cpu``:
        stages of ``sft-only`` that the last of ``rl+sft`` is compared with; ``comparisons``; ``test_queries``;
        ``ceiling``.
    """
    records = lab.shop()
    with_rl = lab.arms("rl+sft", records, _loop(ITERATIONS, rl=True))
    rounds = _rounds_of_equal_cpu(lab, records, with_rl[0])
    alone = lab.arms(ALONE, records, _loop(max(ITERATIONS, rounds), rl=False))
    arms = {"rl+sft": with_rl, ALONE: alone}
    rows: Rows = {
        f"{name} {stage}": [arm.evaluation(f"stage.{stage}") for arm in its]
        for name, its in arms.items()
        for stage in its[0].loop
    }
    last, equal_rounds, equal_cpu = f"sft{ITERATIONS}", f"sft{ITERATIONS}", f"sft{rounds}"
    others = [f"{ALONE} {stage}" for stage in dict.fromkeys((equal_rounds, equal_cpu))]
    pairs = [(f"rl+sft {last}", other) for other in (*others, "rl+sft sft0")]
    pairs += [(other, f"{ALONE} sft0") for other in others]
    return {
        "arms": {
            name: {
                "runs": lab.relative(its),
                "stages": [
                    {
                        "name": stage,
                        "metrics": row_metrics(rows[f"{name} {stage}"], lab.settings),
                        "cpu_seconds": round(_seconds_until(stage, its), 1),
                    }
                    for stage in its[0].loop
                ],
            }
            for name, its in arms.items()
        },
        "equal_rounds": equal_rounds,
        "equal_cpu": equal_cpu,
        "comparisons": compare_rows(rows, pairs),
        **facts_of(with_rl[0]),
    }


def _rounds_of_equal_cpu(lab: Lab, records: Path, with_rl: Arm) -> int:
    """Rounds of SFT alone that take the CPU time of the loop with RL, by the cost of its first ones."""
    arm = Arm(lab.out / ALONE / "seed-0")
    first = [f"sft{i + 1}" for i in range(ITERATIONS)]
    if not arm.is_begun or first[-1] not in arm.stages:
        arm = lab.arm(f"{ALONE}/seed-0", records, 0, _loop(ITERATIONS, rl=False))
    per_round = arm.cpu_seconds(first)["total"] / ITERATIONS
    return max(1, round(with_rl.cpu_seconds(with_rl.loop[1:])["total"] / per_round))


def _loop(rounds: int, *, rl: bool) -> Nested:
    return {
        "loop": {"iterations": rounds, "rl": rl, "select": "last"},
        "evaluate": {"searchers": ("crs",)},
    }


def _seconds_until(stage: str, arms: Sequence[Arm]) -> float:
    """CPU seconds after sft0 up to and with a stage, mean over arms."""
    passed = arms[0].loop[1 : arms[0].loop.index(stage) + 1]
    each = [arm.cpu_seconds(passed)["total"] for arm in arms]
    return sum(each) / len(each)
