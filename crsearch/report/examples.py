"""Five test queries in readable form: the first by search id, whatever came out."""

from datetime import datetime

from crsearch.records.types import Context, Time
from crsearch.report.found import Found
from crsearch.report.parts import NONE, Card, Cell, Pairs, Part, Prose, Quote, Section, Table
from crsearch.report.values import count

SHOWN = 5
"""Examples, and items of each list."""


def examples(found: Found) -> Section:
    """Context, thought, list, target and what BM25 says, for the first test queries by search id."""
    title = "Examples"
    measured = found.evaluation("crs")
    if measured is None:
        return Section("examples", title, [Prose("The run holds no answers of crs.")])
    chosen = sorted(measured.targets)[:SHOWN]
    text = f"The first {len(chosen)} test queries by search id; they were not picked by what came out."
    return Section("examples", title, [Prose(text), *(_card(found, search_id) for search_id in chosen)])


def _card(found: Found, search_id: str) -> Card:
    measured = found.evaluation("crs")
    assert measured is not None
    place = list(measured.targets).index(search_id)
    target, answer = measured.targets[search_id], measured.lists[place].item_ids
    context = found.dataset.context(search_id, found.settings.context.max_events)
    parts: list[Part] = [Pairs(_facts(context, {c: labels[place] for c, labels in measured.groups.items()}))]
    if context.history:
        parts.append(_history(found, context))
    thoughts = found.json("traces", "thoughts", "crs.json") or {}
    if search_id in thoughts:
        parts.append(Quote("crs thinks", thoughts[search_id]))
    parts.append(_list(found, answer, target))
    parts.append(Pairs(_outcome(found, search_id, answer, target)))
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
    rows = [
        (
            Cell(format_time(s.time)), Cell(s.place or ""), Cell(s.query), Cell(_titles(found, s.chosen)),
            Cell(_titles(found, s.skipped)),
        )
        for s in context.history
    ]  # fmt: skip
    return Table(
        caption="Earlier searches of the user, oldest first.",
        header=("time", "place", "query", "chosen", "shown and skipped"),
        rows=rows,
        words=frozenset(range(5)),
    )


def _titles(found: Found, item_ids: tuple[str, ...]) -> str:
    return "; ".join(title(found, item_id) for item_id in item_ids) or "–"


def title(found: Found, item_id: str) -> str:
    """Title of an item; its id where the catalogue lacks it."""
    item = found.item(item_id)
    return item_id if item is None else item.title


def _list(found: Found, answer: tuple[str, ...], target: str) -> Table:
    rows = []
    for rank, item_id in enumerate(answer[:SHOWN], 1):
        item = found.item(item_id)
        price = NONE if item is None or item.price is None else Cell(f"{item.price:g}")
        mark = "← chosen" if item_id == target else ""
        rows.append((count(rank), Cell(title(found, item_id), mark), price))
    return Table(
        caption=f"The first {len(rows)} items of crs." if rows else "crs returned no items.",
        header=("rank", "item", "price"),
        rows=rows,
        words=frozenset({0, 1}),
        marked=frozenset(i for i, item_id in enumerate(answer[:SHOWN]) if item_id == target),
    )


def _outcome(found: Found, search_id: str, answer: tuple[str, ...], target: str) -> list[tuple[str, str]]:
    rank = f"rank {answer.index(target) + 1}" if target in answer else f"not among the {len(answer)} of crs"
    out = [("the user chose", f"{title(found, target)} ({rank})")]
    lexical = found.evaluation("bm25")
    if lexical is not None and search_id in lexical.targets:
        first = lexical.lists[list(lexical.targets).index(search_id)].item_ids[:1]
        out.append(("bm25 ranks first", title(found, first[0]) if first else "nothing"))
    return out
