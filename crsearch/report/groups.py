"""Metrics by kind of user, target and query: figure 3 of the paper, and what CRS gains in each group."""

from collections.abc import Mapping, Sequence
from typing import Any

from crsearch.evaluate.intervals import Interval
from crsearch.report import figures
from crsearch.report.found import Found
from crsearch.report.lineage import CONTROLS, is_crs
from crsearch.report.parts import NONE, Cell, Figure, Prose, Section, Table
from crsearch.report.systems import by_quality
from crsearch.report.values import count, signed, with_interval
from crsearch.report.verdict import Verdict

HISTORY = ("cold", "medium", "warm")

COLUMNS = {
    "history": "length of the history (cold: none, medium: 1 to 5 searches, warm: 6 or more)",
    "target": "how often the target was chosen in training (head: the items that together hold half of all choices)",
    "query_kind": "what the query says (full, bare: a word for several categories, brand: a brand only)",
    "ambiguity": "how many categories training users chose from for the query (clear: in effect fewer than 1.5; "
    "unseen: nobody chose anything)",
    "look_alikes": "other items of the target's brand and category at nearly its price (alone: none, few: 1 to 9, "
    "crowded: 10 or more)",
}
"""Groupings of the test queries -> what they are by."""

_LABELS = ("head", "tail", "full", "bare", "brand", "clear", "ambiguous", "unseen", "alone", "few", "crowded")

_ORDER = {label: i for i, label in enumerate((*HISTORY, *_LABELS))}

METRIC = "HR@10"
"""That of the paper's figure 3."""

DRAWN = len(figures.LOOKS)
"""Systems of a drawing: more could not be told apart."""


def group_columns(found: Found) -> list[str]:
    """Groupings that part the test queries, in their natural order."""
    return [column for column in _all_columns(found) if len(group_labels(found, column)) > 1]


def _all_columns(found: Found) -> list[str]:
    columns = {c for groups in found.results.get("groups", {}).values() for c in groups}
    known = list(COLUMNS)
    return sorted(columns, key=lambda c: (known.index(c) if c in known else len(known), c))


def group_labels(found: Found, column: str) -> list[str]:
    """Labels of a grouping of the test queries in their natural order."""
    labels = {label for groups in found.results.get("groups", {}).values() for label in groups.get(column, {})}
    return sorted(labels, key=lambda label: (_ORDER.get(label, len(_ORDER)), label))


def groups(found: Found) -> Section:
    """HR@10 in every group: a drawing, what CRS gains, and a table of all systems for each grouping."""
    title, measured = "Groups of queries", found.results.get("groups", {})
    columns = group_columns(found)
    if not columns:
        return Section("groups", title, [Prose("The run holds no groups of test queries."), *_alike(found)])
    gains = [_gains(found, columns)] if "crs" in measured else []
    tables = [_table(found, column) for column in columns]
    return Section("groups", title, [_drawing(found, columns), *gains, *tables, *_alike(found)])


def _alike(found: Found) -> list[Prose]:
    """Groupings that do not part the queries, in a sentence each."""
    return [
        Prose(f"All test queries are in one group ({label}) by {COLUMNS.get(column, column)}, so there is no table.")
        for column in _all_columns(found)
        if len(labels := group_labels(found, column)) == 1
        for label in labels
    ]


def _drawing(found: Found, columns: Sequence[str]) -> Figure:
    measured = found.results["groups"]
    names = _drawn(found)
    look = figures.looks(names)
    panels = []
    for column in columns:
        labels = group_labels(found, column)
        series = [
            (look[name], [_metric(measured[name].get(column, {}).get(label)) for label in labels]) for name in names
        ]
        drawing = figures.groups(f"group-{column}", f"{METRIC} by {column}", labels, series)
        panels.append((column.replace("_", " "), drawing))
    left_out = len(measured) - len(names)
    return Figure(
        caption=f"{METRIC} by group with 95 % intervals, as in figure 3 of the paper (whose groups have other limits)."
        + (f" {left_out} other systems are in the tables below." if left_out else ""),
        panels=panels,
        legend=[(name, look[name]) for name in names],
    )


def _drawn(found: Found) -> list[str]:
    """``crs``, its controls and the best rivals, as many as can be told apart."""
    names = [name for name, _ in by_quality(found) if name in found.results["groups"]]
    own = [name for name in ("crs", *CONTROLS) if name in names]
    return [*own, *(name for name in names if not is_crs(name))][:DRAWN]


def _metric(row: Mapping[str, Any] | None) -> Interval | None:
    return None if row is None else row[METRIC]


def _table(found: Found, column: str) -> Table:
    measured = found.results["groups"]
    labels = group_labels(found, column)
    names = [name for name, _ in by_quality(found) if name in measured]
    rows = [[measured[name].get(column, {}).get(label) for label in labels] for name in names]
    sizes = [max(row[i]["queries"] for row in rows if row[i]) for i in range(len(labels))]
    return Table(
        caption=f"{METRIC} by {COLUMNS.get(column, column)}; number of queries in brackets.",
        header=("system", *(f"{label} ({size:,})" for label, size in zip(labels, sizes, strict=True))),
        rows=[
            (Cell(name), *(NONE if v is None else with_interval(v[METRIC]) for v in row))
            for name, row in zip(names, rows, strict=True)
        ],
        marked=frozenset(i for i, name in enumerate(names) if name == "crs"),
        folded=len(names) > DRAWN,
    )


def _gains(found: Found, columns: Sequence[str]) -> Table:
    """``crs`` against the system that is best in the group, not counting variants of CRS."""
    measured = found.results["groups"]
    rows = []
    for column in columns:
        for label in group_labels(found, column):
            own = measured["crs"].get(column, {}).get(label)
            rivals = {
                name: its[column][label][METRIC]["mean"]
                for name, its in measured.items()
                if not is_crs(name) and label in its.get(column, {})
            }
            if own is None or not rivals:
                continue
            best = max(sorted(rivals), key=lambda name: rivals[name])
            difference = found.difference("crs", best, METRIC, (column, label))
            said = (NONE, NONE) if difference is None else (signed(difference), Cell(Verdict(difference).word))
            group = Cell(f"{column.replace('_', ' ')}: {label}")
            rows.append((group, count(own["queries"]), with_interval(own[METRIC]), Cell(best), *said))
    return Table(
        caption=f"{METRIC} of crs minus that of the other system that is best in the group; paired, with 95 % "
        "intervals, each on its own (not corrected for the number of groups).",
        header=("group", "queries", "crs", "best other", "difference", "crs is"),
        rows=rows,
        words=frozenset({0, 3, 5}),
    )
