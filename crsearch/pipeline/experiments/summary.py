"""Rows over seeds, and paired comparisons of rows: what every experiment reports.

A row is a system, or a stage of one, evaluated once per training seed on the same queries. Each query counts with its
mean over the seeds.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from crsearch.config import Settings
from crsearch.errors import DataError
from crsearch.evaluate.evaluation import Evaluation, RowMetrics, metrics_over_seeds
from crsearch.evaluate.intervals import holm, paired_difference, paired_permutation
from crsearch.evaluate.metrics import PerQuery

Row = Sequence[Evaluation]
"""One evaluation per seed."""

Rows = Mapping[str, Row]

COMPARED = ("HR@1", "HR@10", "NDCG@10")
"""Metrics in which rows are compared; each has its own family of comparisons."""

SIGNIFICANT = 0.05
"""A p-value below it, corrected by Holm, counts."""


def row_metrics(row: Row, settings: Settings) -> RowMetrics:
    """Metrics of a row with intervals; refused where no set of ranks can give them."""
    return metrics_over_seeds(row, settings.evaluate.bootstrap, 0)


def group_metrics(row: Row, settings: Settings) -> dict[str, dict[str, dict[str, Any]]]:
    """Column -> label -> number of queries and metrics."""
    out: dict[str, dict[str, dict[str, Any]]] = {}
    for column in row[0].groups:
        parts = [evaluation.by_group(column) for evaluation in row]
        out[column] = {
            label: {"queries": len(part), **row_metrics([p[label] for p in parts], settings)}
            for label, part in parts[0].items()
        }
    return out


def compare_rows(rows: Rows, pairs: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """Paired differences between rows; for each metric all pairs are one family for Holm's correction.

    Args:
        rows: all on the same queries.
        pairs: (row, other) each.

    Returns:
        For each metric and pair ``system``, ``other``, ``metric``, ``difference`` (row minus other, with its
        interval), ``p``, ``p_holm``.

    Raises:
        DataError: two rows have other queries or targets.
    """
    out = []
    for metric in COMPARED:
        values = {name: _mean_per_query(rows[name], metric) for name in {n for pair in pairs for n in pair}}
        for one, other in pairs:
            if rows[one][0].targets != rows[other][0].targets:
                raise DataError(f"{one} and {other} were not tested on the same queries: give runs of one split")
        p = {pair: paired_permutation(values[pair[0]], values[pair[1]], RESAMPLES, 0) for pair in pairs}
        corrected = holm({str(i): p[pair] for i, pair in enumerate(pairs)})
        out += [
            {
                "system": one,
                "other": other,
                "metric": metric,
                "difference": dict(paired_difference(values[one], values[other], RESAMPLES, 0)),
                "p": p[one, other],
                "p_holm": corrected[str(i)],
            }
            for i, (one, other) in enumerate(pairs)
        ]
    return out


RESAMPLES = 10_000
"""Of permutation tests and of the intervals of differences."""


def _mean_per_query(row: Row, metric: str) -> PerQuery:
    """Each query's mean over the seeds, queries by search id."""
    values = [e.per_query()[metric][np.argsort(np.array(list(e.targets)))] for e in row]
    return np.mean(values, axis=0)


def best(metrics: Mapping[str, RowMetrics], names: Sequence[str], metric: str) -> str:
    """The row with the highest mean among ``names`` (the first if equal)."""
    return max(names, key=lambda name: metrics[name][metric]["mean"])
