"""Figure 3: systems by how much the shop knows of a user (cold, medium, warm)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crsearch.errors import RunError
from crsearch.pipeline.experiments.lab import Arm, Lab
from crsearch.pipeline.experiments.main import is_crs, systems_arms
from crsearch.pipeline.experiments.summary import COMPARED, Row, best, compare_rows, row_metrics
from crsearch.pipeline.finished import finished
from crsearch.pipeline.refuse import refuse_other_test

COLUMN = "history"
"""The grouping; see ``evaluate.groups``."""


def by_history(lab: Lab) -> dict[str, Any]:
    """Compare ``crs`` with every other system within each group of users.

    Returns:
        ``groups``: label -> ``queries``, ``searchers`` (name -> metrics), ``best_other`` (per metric, not counting
        rows of CRS); ``comparisons`` (``cold: crs`` with ``cold: bm25``; all groups are one family); ``runs``.

    Raises:
        RunError: a given run is not finished, or has no ``crs`` or no other system.
        DataError: the given runs were not tested on the same queries, or have other catalogues.
    """
    arms = given_arms(lab.runs) if lab.runs else next(iter(systems_arms(lab).values()))
    shared = [set(arm.results["searchers"]) for arm in arms]
    systems = [name for name in arms[0].results["searchers"] if all(name in own for own in shared)]
    rivals = [name for name in systems if not is_crs(name)]
    if "crs" not in systems or not rivals:
        raise RunError(
            f"{arms[0].folder}: crs and another system are needed, not {', '.join(systems)}. Measure more: "
            f"crsearch evaluate {arms[0].folder}"
        )
    parts = {name: [arm.evaluation(name).by_group(COLUMN) for arm in arms] for name in systems}
    rows: dict[str, Row] = {}
    groups: dict[str, Any] = {}
    for label in sorted(parts["crs"][0]):
        own = {name: [part[label] for part in its] for name, its in parts.items()}
        metrics = {name: row_metrics(row, lab.settings) for name, row in own.items()}
        groups[label] = {
            "queries": len(own["crs"][0]),
            "searchers": metrics,
            "best_other": {metric: best(metrics, rivals, metric) for metric in COMPARED},
        }
        rows |= {f"{label}: {name}": row for name, row in own.items()}
    pairs = [(f"{label}: crs", f"{label}: {name}") for label in groups for name in systems if name != "crs"]
    return {
        "groups": groups,
        "comparisons": compare_rows(rows, pairs),
        "runs": [str(arm.folder) for arm in arms],
        "seeds": list(range(len(arms))),
    }


def given_arms(runs: Sequence[Path]) -> list[Arm]:
    """Finished runs of the user as arms.

    Raises:
        RunError: one is not finished.
        DataError: one has other test queries or another catalogue than the first.
    """
    for run in runs:
        finished(run)
    for run in runs[1:]:
        refuse_other_test(runs[0], run)
    return [Arm(run) for run in runs]
