"""Table 2: every system on the same shop, split and seeds, for the analyst that is right and the one that errs."""

from collections.abc import Mapping, Sequence
from typing import Any

from crsearch.pipeline.experiments.lab import Arm, Lab, facts_of, mean_tokens, teachers
from crsearch.pipeline.experiments.summary import COMPARED, best, compare_rows, group_metrics, row_metrics
from crsearch.pipeline.systems import SYSTEMS


def is_crs(system: str) -> bool:
    """CRS, its control or a variant of it: no rival of CRS."""
    return system.split("-")[0] == "crs"


def all_systems(lab: Lab) -> dict[str, Any]:
    """Run every system, and compare ``crs`` with each.

    The arms of the first teacher have every system. Those of the second have the rows of CRS, and its table shows the
    other systems of the first, none of which sees a thought.

    Returns:
        ``tables``: teacher -> ``searchers``, ``by_seed`` (system -> metric -> mean of each training seed), ``tokens``
        (mean number its model was trained on), ``not_run``, ``comparisons`` (of ``crs`` with each), ``best_other``
        (per metric, not counting rows of CRS), ``groups``, ``final_stages``, ``runs``, and ``shared`` (rows that are
        those of the first teacher).
        ``data`` (table 1), ``test_queries``, ``ceiling``.
    """
    arms = systems_arms(lab)
    first = next(iter(arms.values()))
    tables = {teacher: _table(lab, own, first) for teacher, own in arms.items()}
    return {"tables": tables, "data": first[0].results["data"], **facts_of(first[0])}


def systems_arms(lab: Lab) -> Mapping[str, list[Arm]]:
    """Teacher -> its arms, one per seed: both analysts of a simulated shop, else the teacher of the settings."""
    records = lab.shop()
    arms: dict[str, list[Arm]] = {}
    for name, changes in teachers(lab.settings).items():
        systems = tuple(SYSTEMS) if not arms else tuple(filter(is_crs, SYSTEMS))
        arms[name] = lab.arms(name, records, {**changes, "evaluate": {"searchers": systems}})
    return arms


def _table(lab: Lab, own: Sequence[Arm], first: Sequence[Arm]) -> dict[str, Any]:
    measured = first[0].results["searchers"]
    arms = {name: own if name in own[0].results["searchers"] else first for name in measured}
    rows = {name: [arm.evaluation(name) for arm in its] for name, its in arms.items()}
    metrics = {name: row_metrics(row, lab.settings) for name, row in rows.items()}
    rivals = [name for name in rows if not is_crs(name)]
    return {
        "searchers": metrics,
        "by_seed": {
            name: {metric: [arm.results["searchers"][name][metric]["mean"] for arm in its] for metric in COMPARED}
            for name, its in arms.items()
        },
        "tokens": {name: mean_tokens(its, name) for name, its in arms.items()},
        "not_run": first[0].results["not_run"],
        "comparisons": compare_rows(rows, [("crs", name) for name in rows if name != "crs"]),
        "best_other": {metric: best(metrics, rivals, metric) for metric in COMPARED},
        "groups": {name: group_metrics(row, lab.settings) for name, row in rows.items()},
        "final_stages": [arm.results["final_stage"] for arm in own],
        "runs": lab.relative(own),
        "shared": [name for name, its in arms.items() if its is not own],
    }
