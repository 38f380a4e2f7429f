"""Sections on the thoughts themselves: what they state, and how well they are written."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from crsearch.encoders.words import SPLITS
from crsearch.records.simulator.stated import FIELDS, FieldName
from crsearch.records.types import Context, Item
from crsearch.report.found import Found
from crsearch.report.parts import NONE, Cell, Part, Prose, Section, Table
from crsearch.report.values import count, percent, plain

Stated = Mapping[FieldName, str | None]
"""What a thought states of the wanted item; none = it does not say."""

QUOTES = "quotes"
"""Stands for the earlier choices that a thought in the template's form quotes."""

RUN = 3
"""Words of a run that counts as repeated when it stands in a thought twice."""


# -- reading ----------------------------------------------------------------------------------------------------------
def fields_of(item: Item | None) -> dict[FieldName, str | None]:
    """The fields of an item that a thought may state; none where the catalogue does not say.

    >>> fields_of(Item(item_id="a", title="", brand="Kilumo", category=("toys", "puzzle")))
    {'category': 'puzzle', 'brand': 'Kilumo', 'price': None, 'style': None}
    """
    if item is None:
        return dict.fromkeys(FIELDS)
    category = item.category[-1] if item.category else None
    values = (category, item.brand, item.attributes.get("level"), item.attributes.get("style"))
    return dict(zip(FIELDS, values, strict=True))


def repeated_runs(words: Sequence[str], length: int = RUN) -> float:
    """Share of the runs of ``length`` words that stood earlier in the same text; 0 for a text without a run.

    >>> repeated_runs("a b c a b c".split())
    0.25
    """
    runs = [tuple(words[i : i + length]) for i in range(len(words) - length + 1)]
    return 1 - len(set(runs)) / len(runs) if runs else 0.0


def _texts(found: Found, context: Context) -> Iterable[str]:
    """Every text of a context, and those of its items that a model may know by their semantic IDs."""
    yield from (context.query, context.place or "", *context.profile.values())
    for search in context.history:
        yield from (search.query, search.place or "")
        for item in (found.item(item_id) for item_id in (*search.chosen, *search.skipped)):
            if item is not None:
                yield from (item.title, *(value for value in fields_of(item).values() if value))


# -- quality ----------------------------------------------------------------------------------------------------------
@dataclass(frozen=True, kw_only=True, slots=True)
class Quality:
    """How the thoughts of one system are written, over all its thoughts.

    Attributes:
        thoughts: how many.
        lengths: words of each, ascending.
        repeated: share of runs of three words that stand in the same thought before, mean over thoughts.
        shared: share of thoughts that stand word for word at another query too.
        agree: field -> share of the thoughts which state it that state what the first listed item has, where the
            catalogue knows that; empty without lists.
        nowhere: field, or ``quotes`` -> share of the thoughts which state it that state words found nowhere in the
            context.
    """

    thoughts: int
    lengths: tuple[int, ...]
    repeated: float
    shared: float
    agree: Mapping[FieldName, float]
    nowhere: Mapping[str, float]


def measure(found: Found, thoughts: Mapping[str, str], first: Mapping[str, str]) -> Quality:
    """The quality of some thoughts.

    Args:
        found: the run.
        thoughts: search_id -> thought; at least one.
        first: search_id -> item listed first after it; may be empty.
    """
    split = cache(SPLITS[found.settings.lexical.split])
    words = {search_id: split(thought) for search_id, thought in thoughts.items()}
    stated = found.stated(thoughts)
    times = Counter(map(tuple, words.values()))
    agree: dict[FieldName, list[bool]] = {f: [] for f in FIELDS}
    nowhere: dict[str, list[bool]] = {f: [] for f in (*FIELDS, QUOTES)}
    for search_id, own in stated.items():
        context = found.dataset.context(search_id, found.settings.context.max_events)
        known = {word for text in _texts(found, context) for word in split(text)}
        listed = fields_of(found.item(first[search_id])) if search_id in first else None
        for field, value in own.items():
            if value is not None:
                nowhere[field].append(not known.issuperset(split(value)))
                if listed is not None and (there := listed[field]) is not None:
                    agree[field].append(value.casefold() == there.casefold())
        if quoted := found.quoted(thoughts[search_id]):
            nowhere[QUOTES].append(not known.issuperset(split(quoted)))
    return Quality(
        thoughts=len(thoughts),
        lengths=tuple(sorted(map(len, words.values()))),
        repeated=sum(map(repeated_runs, words.values())) / len(words),
        shared=sum(n for n in times.values() if n > 1) / len(words),
        agree={field: sum(said) / len(said) for field, said in agree.items() if said},
        nowhere={field: sum(said) / len(said) for field, said in nowhere.items() if said},
    )


def quality(found: Found) -> Section:
    """Length, repetition, agreement with the first item, and what is stated out of nowhere."""
    title = "Quality of the thoughts"
    measured = {name: measure(found, thoughts, first) for name, thoughts, first in _all_thoughts(found)}
    if not measured:
        return Section("quality", title, [Prose("The run holds no thoughts.")])
    fields = [f for f in FIELDS if any(f in q.nowhere for q in measured.values())]
    said = [*fields, *([QUOTES] if any(QUOTES in q.nowhere for q in measured.values()) else ())]
    final = found.results.get("final_stage")
    marked = frozenset(i for i, name in enumerate(measured) if name == final)
    form = Table(
        caption="Form of the thoughts. Repeated: share of runs of three words that stood earlier in the same thought. "
        "At another query too: share of thoughts that stand word for word at another query.",
        header=("stage", "thoughts", "words, mean", "words, longest", "repeated", "at another query too"),
        rows=[
            (
                Cell(name), count(q.thoughts), Cell(plain(sum(q.lengths) / len(q.lengths), 1)), count(q.lengths[-1]),
                Cell(percent(q.repeated)), Cell(percent(q.shared)),
            )
            for name, q in measured.items()
        ],
        marked=marked,
    )  # fmt: skip
    if not said:
        return Section("quality", title, [form, Prose("The thoughts name no category or brand of the catalogue.")])
    content = Table(
        caption="Of the thoughts that state a field: agrees = the item listed first has that value; not in context = "
        "words of the value stand in no query, place or profile of the context, and in no title or field of its items.",
        header=("stage", *(f"{f}, agrees" for f in fields), *(f"{f}, not in context" for f in said)),
        rows=[
            (Cell(name), *(_share(q.agree, f) for f in fields), *(_share(q.nowhere, f) for f in said))
            for name, q in measured.items()
        ],
        marked=marked,
    )
    text = (
        "A field counts as stated where the thought names a value of the catalogue: after “wanted item:” or “Item:” if "
        "it says so, else the first category and the last of the other fields. Quotes are earlier choices that it says "
        "it goes by. Agreement asks whether the ranking follows the thought, not whether the thought is right. A value "
        "that is not in the context is not always wrong: a style may follow from season and place, a brand may be the "
        "favourite of such users; a brand named for one user alone, and a quote, should "
        "have come from somewhere."
    )
    return Section("quality", title, [Prose(text), form, content])


def _share(shares: Mapping[Any, float], field: str) -> Cell:
    return Cell(percent(shares[field])) if field in shares else NONE


def _all_thoughts(found: Found) -> Iterable[tuple[str, Mapping[str, str], Mapping[str, str]]]:
    """The teacher and every stage that thinks: name, its thoughts, the items that it lists first."""
    teacher = {row["search_id"]: row["thought"] for row in found.lines("traces", "distilled.jsonl")}
    if teacher:
        yield "teacher", teacher, {}
    for stage in found.thinking:
        system = f"stage.{stage['name']}"
        thoughts, evaluation = found.thoughts(system), found.evaluation(system)
        lists = [] if evaluation is None else evaluation.lists
        if thoughts:
            yield stage["name"], thoughts, {r.search_id: r.item_ids[0] for r in lists if r.item_ids}


# -- what thoughts state ----------------------------------------------------------------------------------------------
def statements(found: Found) -> Section:
    """How often a thought states each field of the wanted item as the context supports it, and as it is."""
    title = "What the thoughts state"
    measured: Mapping[str, Mapping[str, float]] = found.results.get("thoughts", {})
    if not measured:
        text = (
            "What the context supports is known for a simulated shop only. What the user then chose is known here too, "
            "but no one can know it from the context with certainty."
            if not found.simulated
            else "The run holds no measured thoughts."
        )
        return Section("statements", title, [Prose(text), *_of_the_chosen(found)])
    rows = [
        (
            Cell(name.removeprefix("stage.")),
            *(Cell(percent(row[f"{f}_{kind}"])) for kind in ("supported", "true") for f in FIELDS),
        )
        for name, row in measured.items()
    ]
    rows.sort(key=lambda row: _place(found, row[0].text))
    analyst = _analyst(found)
    if analyst is not None:
        shares = [*([1.0] * len(FIELDS)), *(analyst[f] for f in FIELDS)]
        rows.append((Cell("analyst"), *(Cell(percent(share)) for share in shares)))
    text = (
        "Supported: the thought states the value that the context makes most probable, as the analyst of the "
        "simulated shop has it. True: it states the value of the item that the user chose, which no one can know "
        "from the context with certainty. The analyst is privileged: it knows how the simulated shop works, though "
        "not the target; a teacher for real data has no such knowledge."
    )
    table = Table(
        caption="Share of test thoughts.",
        header=("stage", *(f"{f}, {kind}" for kind in ("supported", "true") for f in FIELDS)),
        rows=rows,
    )
    return Section("statements", title, [Prose(text), table])


def _of_the_chosen(found: Found) -> list[Part]:
    """How often the thoughts of each stage state a field of the item that the user chose, where it has the field."""
    rows = []
    for stage in found.thinking:
        system = f"stage.{stage['name']}"
        thoughts, evaluation = found.thoughts(system), found.evaluation(system)
        if not thoughts or evaluation is None:
            continue
        right: dict[FieldName, list[bool]] = {f: [] for f in FIELDS}
        for search_id, own in found.stated(thoughts).items():
            for field, value in fields_of(found.item(evaluation.targets[search_id])).items():
                if value is not None:
                    right[field].append((own[field] or "").casefold() == value.casefold())
        rows.append((stage["name"], {field: sum(own) / len(own) for field, own in right.items() if own}))
    fields = [f for f in FIELDS if any(f in shares for _, shares in rows)]
    if not fields:
        return [Prose("The run holds no measured thoughts.")]
    return [
        Table(
            caption="Share of test thoughts that state the value of the item that the user chose, where it has one.",
            header=("stage", *(f"{f}, true" for f in fields)),
            rows=[(Cell(name), *(_share(shares, f) for f in fields)) for name, shares in rows],
        )
    ]


def _place(found: Found, stage: str) -> int:
    names = [s["name"] for s in found.stages]
    return names.index(stage) if stage in names else len(names)


def _analyst(found: Found) -> dict[str, float] | None:
    """Share of test queries in which the analyst itself is right: what thoughts as supported would reach."""
    truth, measured = found.truth, found.evaluation("crs")
    if truth is None or measured is None:
        return None
    import polars as pl

    rows = truth.filter(pl.col("search_id").is_in(list(measured.targets)))
    return {f: int((rows[f"map_{f}"] == rows[f"true_{f}"]).sum()) / len(rows) for f in FIELDS} if len(rows) else None
