"""What the report measures of thoughts, on thoughts whose measures are known."""

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from reading import section, tables

from crsearch.records.simulator.stated import FIELDS
from crsearch.report import render
from crsearch.report.found import Found
from crsearch.report.parts import Page
from crsearch.report.thinking import thought_pays
from crsearch.report.thoughts import fields_of, measure, quality, repeated_runs
from crsearch.runs import write_json

Copy = Callable[..., Path]
WORDS = st.lists(st.sampled_from("abc"), max_size=12)


@given(WORDS)
def test_repetition_is_the_share_of_runs_seen_before(words: list[str]) -> None:
    runs = [tuple(words[i : i + 3]) for i in range(len(words) - 2)]
    again = [run in runs[:i] for i, run in enumerate(runs)]
    assert repeated_runs(words) == pytest.approx(sum(again) / len(again) if again else 0.0)


def first_items(found: Found, system: str) -> dict[str, str]:
    measured = found.evaluation(system)
    assert measured is not None
    return {answer.search_id: answer.item_ids[0] for answer in measured.lists}


def test_a_thought_that_names_the_first_item_agrees_with_it(finished: Path) -> None:
    found = Found.read(finished)
    first = first_items(found, "crs")
    named = {s: f"Item: {' '.join(v for v in fields_of(found.item(i)).values() if v)}" for s, i in first.items()}
    assert measure(found, named, first).agree == dict.fromkeys(FIELDS, 1.0)
    turned = dict(zip(first, [*list(first.values())[1:], next(iter(first.values()))], strict=True))
    assert measure(found, named, turned).agree["brand"] < 1.0
    assert measure(found, named, {}).agree == {}


def test_a_value_is_nowhere_unless_the_context_holds_it(finished: Path) -> None:
    found = Found.read(finished)
    with_history = [s for s in first_items(found, "crs") if found.dataset.context(s, 10).history]
    seen, unseen = {}, {}
    brands = sorted({item.brand for item in found.dataset.catalogue if item.brand})
    for search_id in with_history:
        context = found.dataset.context(search_id, found.settings.context.max_events)
        items = [found.item(i) for search in context.history for i in (*search.chosen, *search.skipped)]
        own = sorted({item.brand for item in items if item is not None and item.brand})
        others = [brand for brand in brands if brand not in own and brand.casefold() not in context.query.casefold()]
        if own and others:
            seen[search_id], unseen[search_id] = f"Item: {own[0]}", f"Item: {others[0]}"
    assert len(seen) > 3
    assert measure(found, seen, {}).nowhere == {"brand": 0.0}
    assert measure(found, unseen, {}).nowhere == {"brand": 1.0}


def test_quotes_of_the_template_are_looked_up_in_the_context(finished: Path) -> None:
    found = Found.read(finished)
    thoughts, first = {}, first_items(found, "crs")
    for search_id, item_id in first.items():
        history = found.dataset.context(search_id, found.settings.context.max_events).history
        chosen = [item for search in history for i in search.chosen if (item := found.item(i)) is not None]
        item = found.item(item_id)
        assert item is not None
        if chosen:
            kind = f"{' '.join(item.category)}, {item.brand}"
            thoughts[search_id] = f"intent: x; evidence: chose {chosen[0].title}; wanted item: {kind}"
    quality = measure(found, thoughts, first)
    assert len(thoughts) > 3
    assert quality.agree == {"category": 1.0, "brand": 1.0}
    assert quality.nowhere["quotes"] == 0.0
    invented = {s: t.replace("evidence: chose", "evidence: chose Nobody's") for s, t in thoughts.items()}
    assert measure(found, invented, {}).nowhere["quotes"] == 1.0


def test_length_and_repetition_are_those_of_the_words(finished: Path) -> None:
    found = Found.read(finished)
    a, b, c = list(first_items(found, "crs"))[:3]
    measured = measure(found, {a: "one two three", b: "One, two three!", c: ""}, {})
    assert measured.lengths == (0, 3, 3)
    assert measured.shared == pytest.approx(2 / 3)
    assert measured.repeated == 0.0
    assert measured.nowhere == {}


def test_teacher_and_every_thinking_stage_have_a_row(finished: Path) -> None:
    form, content = tables(render.md(Page("t", "s", [quality(Found.read(finished))])))
    assert [row[0] for row in form[1:]] == [row[0] for row in content[1:]] == ["teacher", "sft0", "rl0", "sft1"]
    assert form[1] == ["teacher", "1", "4.0", "4", "0.0 %", "0.0 %"]
    assert content[1][1:5] == ["–"] * 4  # a teacher ranks nothing
    shares = [float(cell.split()[0]) for row in content[2:] for cell in row[1:]]
    assert all(0 <= share <= 100 for share in shares)


def test_queries_with_a_right_thought_are_set_against_those_with_a_wrong_one(copied: Copy) -> None:
    folder = copied()
    found = Found.read(folder)
    measured = found.evaluation("crs")
    assert measured is not None
    thoughts, wrong = {}, next(iter(measured.targets))
    for search_id, target in measured.targets.items():
        item = found.item(target)
        assert item is not None
        thoughts[search_id] = "nothing" if search_id == wrong else f"Item: {item.category[-1]} {item.brand}"
    write_json(folder / "traces" / "thoughts" / "crs.json", thoughts)
    text = render.md(Page("t", "s", [thought_pays(Found.read(folder))]))
    rows = tables(section(text, "Does the thought pay?"))[1]
    assert [row[:2] for row in rows[1:]] == [
        ["category and brand right", str(len(thoughts) - 1)],
        ["category not right", "1"],
    ]
