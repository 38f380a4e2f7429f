"""Whether thoughts pay: ``crs`` against models that answer at once, and against other thoughts than its own."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from crsearch.evaluate.evaluation import compare
from crsearch.report.cost import training_seconds
from crsearch.report.found import Found
from crsearch.report.groups import COLUMNS, group_columns, group_labels
from crsearch.report.lineage import CONTROLS, REPLACED
from crsearch.report.parts import NONE, Cell, Part, Prose, Section, Table
from crsearch.report.systems import METRICS, verdicts, where_not
from crsearch.report.thoughts import Stated, fields_of
from crsearch.report.values import count, plain, signed, with_interval
from crsearch.report.verdict import Verdict


def thought_pays(found: Found) -> Section:
    """``crs`` against the same model without thoughts, by kind of query, and with other thoughts."""
    title, measured = "Does the thought pay?", found.results.get("searchers", {})
    rest = [name for name in CONTROLS if name in measured]
    if "crs" not in measured or not rest:
        return Section("thought", title, [Prose("The run did not measure crs together with one of its controls.")])
    text = (
        "crs-direct was trained without thoughts, crs-no-thought is the model of crs asked to answer at once. "
        "The first asks whether the training spent on thoughts would be better spent on direct answers; "
        "the second asks what the trained model loses when it may not think."
    )
    parts: list[Part] = [Prose(text), _by_group(found, rest), Prose(_reading(found, rest))]
    parts += [table for table in (_by_truth(found, rest), _replaced(found)) if table is not None]
    return Section("thought", title, parts)


# -- by kind of query -------------------------------------------------------------------------------------------------
def _places(found: Found) -> list[tuple[str, str] | None]:
    """All queries, then every group as (column, label)."""
    return [None, *((column, label) for column in group_columns(found) for label in group_labels(found, column))]


def _name(place: tuple[str, str] | None) -> str:
    return "all" if place is None else f"{place[0].replace('_', ' ')}: {place[1]}"


def _by_group(found: Found, rest: list[str]) -> Table:
    rows = []
    for place in _places(found):
        values = [_metrics(found, name, place) for name in ("crs", *rest)]
        changes = [found.difference("crs", name, "NDCG@10", place) for name in rest]
        queries = found.results["test_queries"] if place is None else values[0]["queries"]
        rows.append(
            (
                Cell(_name(place)), count(queries), *(with_interval(v["NDCG@10"]) for v in values),
                *(NONE if change is None else signed(change) for change in changes),
            )
        )  # fmt: skip
    columns = "; ".join(COLUMNS.get(column, column) for column in group_columns(found))
    return Table(
        caption="NDCG@10 of all queries and by group; differences are paired, with 95 % intervals, each on its own."
        + (f" Groups: {columns}." if columns else ""),
        header=("queries", "number", "crs", *rest, *(f"crs - {name}" for name in rest)),
        rows=rows,
        marked=frozenset({0}),
    )


def _metrics(found: Found, system: str, place: tuple[str, str] | None) -> Mapping[str, Any]:
    if place is None:
        return dict(found.results["searchers"][system])
    column, label = place
    return dict(found.results["groups"][system][column][label])


def _reading(found: Found, rest: list[str]) -> str:
    """Where thinking pays and where it does not, and what it costs in time."""
    said = []
    for name in rest:
        words: dict[str, list[str]] = {}
        for place in _places(found)[1:]:
            change = found.difference("crs", name, "NDCG@10", place)
            if change is not None:
                words.setdefault(Verdict(change).word, []).append(_name(place))
        groups = "; ".join(f"{word} it in {', '.join(words[word])}" for word in sorted(words))
        if groups:
            said.append(f"Against {name}, by group and NDCG@10, crs is {groups}.")
    nowhere = where_not(found)
    head = (
        f"Where thinking does not pay, over all queries: {' '.join(nowhere)}"
        if nowhere
        else f"Over all queries crs is above {' and '.join(rest)} in {' and '.join(METRICS)}."
    )
    return " ".join([head, *said, *_time(found, rest)])


def _time(found: Found, rest: list[str]) -> list[str]:
    """What thinking takes, per query and in training."""
    queries = {name: found.milliseconds(name) for name in ("crs", *rest)}
    training = {name: training_seconds(found, name) for name in ("crs", "crs-direct")}
    return [
        *_against("A query takes crs", queries, "ms", 1),
        *_against("Training took crs", training, "CPU seconds", 0),
    ]


def _against(what: str, times: Mapping[str, float | None], unit: str, digits: int) -> list[str]:
    own = times["crs"]
    others = [f"{plain(t, digits)} of {name}" for name, t in times.items() if name != "crs" and t is not None]
    return [] if own is None or not others else [f"{what} {plain(own, digits)} {unit}, against {', '.join(others)}."]


# -- by what the thought gets right ------------------------------------------------------------------------------------
_TRUTH = ("category and brand right", "category right, brand not", "category not right")
"""Kinds of thoughts by what they state of the item that the user chose."""


def _kind_of_thought(stated: Stated, chosen: Stated) -> str:
    """A brand that the catalogue does not know for the item cannot be wrong."""
    if stated["category"] != chosen["category"]:
        return _TRUTH[2]
    brand, own = stated["brand"] or "", chosen["brand"]
    return _TRUTH[0] if own is None or own.casefold() == brand.casefold() else _TRUTH[1]


def _by_truth(found: Found, rest: list[str]) -> Table | None:
    """``crs`` and its controls on the queries where its thought is right, and where it is not."""
    measured = {name: found.evaluation(name) for name in ("crs", *rest)}
    stated = found.stated(found.thoughts("crs"))
    own = measured["crs"]
    if own is None or not own.targets.keys() <= stated.keys() or not any(s["category"] for s in stated.values()):
        return None
    kinds = {s: _kind_of_thought(stated[s], fields_of(found.item(target))) for s, target in own.targets.items()}
    parts = {
        name: replace(e, groups={"thought": tuple(kinds[s] for s in e.targets)}).by_group("thought")
        for name, e in measured.items()
        if e is not None
    }
    others = [name for name in rest if name in parts]
    seed = found.settings.seed
    rows = []
    for kind in (k for k in _TRUTH if k in parts["crs"]):
        values = [part[kind].metrics(seed=seed)["NDCG@10"] for part in parts.values()]
        changes = compare(parts["crs"][kind], [parts[name][kind] for name in others], seed=seed)
        rows.append(
            (
                Cell(kind), count(len(parts["crs"][kind])), *map(with_interval, values),
                *(signed(change.difference) for change in changes),
            )
        )  # fmt: skip
    return Table(
        caption="NDCG@10 by what the thought of crs states of the item that the user chose; the same queries in every "
        "column, differences paired. A right thought is likelier at an easy query, so read along a row.",
        header=("thought of crs", "number", *parts, *(f"crs - {name}" for name in others)),
        rows=rows,
    )


# -- other thoughts ---------------------------------------------------------------------------------------------------
def _replaced(found: Found) -> Table | None:
    """``crs`` beside itself with an empty, another query's and the best possible thought."""
    measured = found.results["searchers"]
    names = [name for name in REPLACED if name in measured]
    if not names:
        return None
    said = {metric: verdicts(found, metric) for metric in METRICS}
    rows = [(Cell("its own", "(crs)"), *(with_interval(measured["crs"][m]) for m in METRICS), NONE, NONE)]
    for name in names:
        verdict = said["NDCG@10"].get(name)
        change = (NONE, NONE) if verdict is None else (signed(verdict.difference), Cell(verdict.word))
        rows.append((Cell(REPLACED[name], f"({name})"), *(with_interval(measured[name][m]) for m in METRICS), *change))
    return Table(
        caption="crs when it ranks after another thought than its own. If ranking did not follow the thought, all rows "
        "would be equal; the analyst's row is what better thoughts could bring this model. Change: NDCG@10 of crs "
        "with its own thought minus that with the other one.",
        header=("thought", *METRICS, "change", "its own is"),
        rows=rows,
        words=frozenset({0, 4}),
        marked=frozenset({0}),
    )
