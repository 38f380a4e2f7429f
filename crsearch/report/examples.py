"""Ten test queries in readable form: the first by search id, whatever came out."""

from collections.abc import Mapping
from datetime import datetime

from crsearch.evaluate.evaluation import Evaluation
from crsearch.records.types import Context, Time
from crsearch.report.found import Found
from crsearch.report.parts import Card, Cell, Pairs, Part, Prose, Quote, Section, Table
from crsearch.report.values import count

QUERIES = 10
"""Examples."""

SHOWN = 5
"""Items of each list."""

BESIDE = ("crs", "crs-no-thought", "bm25")
"""Systems whose lists stand side by side, where they were measured."""


def examples(found: Found) -> Section:
    """Context, thought, target and the lists of crs, of its model without a thought, and of BM25."""
    title = "Examples"
    measured = found.evaluation("crs")
    if measured is None:
        return Section("examples", title, [Prose("The run holds no answers of crs.")])
    chosen = sorted(measured.targets)[:QUERIES]
    text = (
        f"The first {len(chosen)} test queries by search id; they were not picked by what came out. Each list is that "
        f"of one system, its first {SHOWN} items; the item that the user chose is marked by an arrow."
    )
    thoughts = found.thoughts("crs")
    cards = [_card(found, measured, search_id, thoughts) for search_id in chosen]
    return Section("examples", title, [Prose(text), *cards])


def _card(found: Found, measured: Evaluation, search_id: str, thoughts: Mapping[str, str]) -> Card:
    place = list(measured.targets).index(search_id)
    context = found.dataset.context(search_id, found.settings.context.max_events)
    parts: list[Part] = [Pairs(_facts(context, {c: labels[place] for c, labels in measured.groups.items()}))]
    if context.history:
        parts.append(_history(found, context))
    if search_id in thoughts:
        parts.append(Quote("crs thinks", thoughts[search_id]))
    answers = _answers(found, search_id)
    target = measured.targets[search_id]
    parts.append(_lists(found, answers, target))
    parts.append(Pairs([("the user chose", _outcome(found, answers, target))]))
    return Card(f"“{context.query}” ({search_id})", parts)


def _facts(context: Context, groups: dict[str, str]) -> list[tuple[str, str]]:
    """What is known besides the history; absent facts are left out."""
    profile = ", ".join(f"{name} {value}" for name, value in sorted(context.profile.items()))
    when = ", ".join(part for part in (format_time(context.time), context.place) if part)
    kind = ", ".join(f"{name.replace('_', ' ')}: {label}" for name, label in groups.items())
    return [pair for pair in (("user", profile), ("when and where", when), ("kind", kind)) if pair[1]]


def format_time(time: Time | None) -> str:
    """A time to the minute; an order number and no time are nothing.

    >>> from datetime import UTC
    >>> format_time(datetime(2025, 6, 1, 20, 11, tzinfo=UTC)), format_time(7)
    ('2025-06-01 20:11', '')
    """
    return f"{time:%Y-%m-%d %H:%M}" if isinstance(time, datetime) else ""


def _history(found: Found, context: Context) -> Table:
    """Earlier searches; columns of which nothing is known are left out."""
    columns = {
        "time": [format_time(s.time) for s in context.history],
        "place": [s.place or "" for s in context.history],
        "query": [s.query for s in context.history],
        "chosen": [_titles(found, s.chosen) for s in context.history],
        "shown and skipped": [_titles(found, s.skipped) for s in context.history],
    }
    known = {name: texts for name, texts in columns.items() if name == "query" or any(texts)}
    return Table(
        caption="Earlier searches of the user, oldest first.",
        header=tuple(known),
        rows=[tuple(Cell(text or "–") for text in row) for row in zip(*known.values(), strict=True)],
        words=frozenset(range(len(known))),
    )


def _titles(found: Found, item_ids: tuple[str, ...]) -> str:
    return "; ".join(title(found, item_id) for item_id in item_ids)


def title(found: Found, item_id: str) -> str:
    """Title of an item; its id where the catalogue lacks it."""
    item = found.item(item_id)
    return item_id if item is None else item.title


Answers = Mapping[str, tuple[str, ...]]
"""System -> the items that it lists for one query."""


def _answers(found: Found, search_id: str) -> Answers:
    measured = {name: found.evaluation(name) for name in BESIDE}
    return {
        name: e.lists[list(e.targets).index(search_id)].item_ids
        for name, e in measured.items()
        if e is not None and search_id in e.targets
    }


def _lists(found: Found, answers: Answers, target: str) -> Table:
    """The lists side by side."""
    longest = max(len(items[:SHOWN]) for items in answers.values())
    rows = [
        (count(rank), *(_listed(found, items[rank - 1 : rank], target) for items in answers.values()))
        for rank in range(1, longest + 1)
    ]
    return Table(
        caption=f"The first {longest} items of {', '.join(answers)}." if longest else "No system listed an item.",
        header=("rank", *answers),
        rows=rows,
        words=frozenset(range(len(answers) + 1)),
    )


def _listed(found: Found, item_ids: tuple[str, ...], target: str) -> Cell:
    """An item of a list with its price; a dash where the list has ended."""
    if not item_ids:
        return Cell("–")
    item = found.item(item_ids[0])
    price = "" if item is None or item.price is None else f"{item.price:g}"
    mark = "← chosen" if item_ids[0] == target else ""
    return Cell(title(found, item_ids[0]), " ".join(part for part in (price, mark) if part))


def _outcome(found: Found, answers: Answers, target: str) -> str:
    ranks = "; ".join(
        f"rank {items.index(target) + 1} of {name}" if target in items else f"not among the {len(items)} of {name}"
        for name, items in answers.items()
    )
    return f"{title(found, target)} ({ranks})"
