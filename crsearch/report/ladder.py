"""What an answer is worth on each rung of the ladder that a server goes down when time is short."""

from collections.abc import Mapping
from typing import Any

from crsearch.report.found import Found
from crsearch.report.parts import NONE, Cell, Prose, Section, Table
from crsearch.report.values import plain, signed, with_interval

RUNGS: Mapping[str, str] = {
    "L0": "a thought, then beams",
    "L1": "a thought from the cache, then beams",
    "L2": "a thought closed at its budget, then beams",
    "L3": "beams at once",
    "L4": "dense and lexical lists, fused",
    "L5": "lexical",
    "L6": "popular items for the query",
}
"""Rung -> how an answer comes about there, best first."""

CACHED = "L1"
"""The rung whose list is that of the first, and whose time nobody measured."""

METRICS = ("HR@10", "NDCG@10")


def ladder(found: Found) -> Section:
    """Quality and time of every rung whose system was measured."""
    title, measured = "The ladder", found.results.get("rungs", {})
    if not measured:
        text = "The run measured no rung of the ladder. crsearch evaluate on it adds what it has measured."
        return Section("ladder", title, [Prose(text)])
    return Section("ladder", title, [Prose(_reading(measured)), _table(found, measured)])


def _table(found: Found, measured: Mapping[str, Mapping[str, Any]]) -> Table:
    rows = []
    for rung in filter(measured.__contains__, RUNGS):
        system = measured[rung]["searcher"]
        milliseconds = None if rung == CACHED else found.milliseconds(system)
        rows.append(
            (
                Cell(rung), Cell(RUNGS[rung]), Cell(system), *(with_interval(measured[rung][m]) for m in METRICS),
                _lost(found, measured, system), NONE if milliseconds is None else Cell(plain(milliseconds, 2)),
            )
        )  # fmt: skip
    cut = found.settings.evaluate.cut_tokens
    return Table(
        caption=f"HR@10 and NDCG@10 of every rung with 95 % intervals, and NDCG@10 minus that of L0, paired. L2 closes "
        f"the thought after {cut} tokens (evaluate.cut_tokens). Per query: time of a batch of "
        f"{found.settings.decode.batch} queries over its queries, as in the table of costs; a server answers smaller "
        "batches and takes longer.",
        header=("rung", "answer", "system", *METRICS, "NDCG@10 - L0", "per query, ms"),
        rows=rows,
        words=frozenset({0, 1, 2}),
        notes=[(Cell(rung), f"{how}: not measured") for rung, how in RUNGS.items() if rung not in measured],
    )


def _lost(found: Found, measured: Mapping[str, Mapping[str, Any]], system: str) -> Cell:
    """How NDCG@10 changes against the first rung."""
    best = measured.get("L0", {}).get("searcher")
    if best in (None, system):
        return NONE
    difference = found.difference(system, best, "NDCG@10")
    return NONE if difference is None else signed(difference)


def _reading(measured: Mapping[str, Mapping[str, Any]]) -> str:
    """What the ladder is, and which rungs are worse than one below them."""
    there = [rung for rung in RUNGS if rung in measured]
    said = [
        "A server that is short of time answers from the next rung, and says so. L1 has the list of L0: a cached "
        "thought is the same thought."
    ]
    for place, rung in enumerate(there):
        below: dict[str, list[str]] = {}
        for metric in METRICS:
            own = measured[rung][metric]["mean"]
            better = [lower for lower in there[place + 1 :] if measured[lower][metric]["mean"] > own]
            if better:
                below.setdefault(" and ".join(better), []).append(metric)
        said += [f"The mean of {rung} is below that of {names} in {' and '.join(ms)}." for names, ms in below.items()]
    return " ".join(said)
