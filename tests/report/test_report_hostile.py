"""Titles, queries and thoughts are not ours: whatever they hold is shown and does nothing."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st
from reading import Reader, tables

from crsearch.records.store import Catalogue, Dataset
from crsearch.report import render, write_report
from crsearch.report.parts import Card, Cell, Listing, Page, Pairs, Prose, Quote, Section, Table

ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=http://a.example/x onerror=alert(1)>',
    "</bdi></td></table><iframe src=//a.example>",
    "![x](http://a.example/y.png) [z](http://a.example) | `c` <b>",
    "{{ 7 * 7 }} {% raw %}",
    "a\n\n# heading\n- item\r\n> quote",
    "\u202eright to left\u2066 \x00\x1b[31m \u2028 \ufeff",
    "$x^$ &amp; \\ ~~ __ ** ```",
]


def test_hostile_records_and_thoughts_change_nothing_but_the_text(copied: Callable[..., Path]) -> None:
    folder = copied("<img src=x> $HOME")
    data = Dataset.load(folder / "data")
    items = [replace(item, title=f"{ATTACKS[i % len(ATTACKS)]} {i}") for i, item in enumerate(data.catalogue)]
    searches = tuple(replace(s, query=ATTACKS[i % len(ATTACKS)]) for i, s in enumerate(data.searches))
    truth = (folder / "data" / "truth.parquet").read_bytes()
    Dataset(Catalogue(items), data.users, searches, data.targets).save(folder / "data")
    (folder / "data" / "truth.parquet").write_bytes(truth)
    file = folder / "traces" / "thoughts" / "crs.json"
    thoughts = json.loads(file.read_text())
    file.write_text(json.dumps({s: ATTACKS[i % len(ATTACKS)] + "\ud800" for i, s in enumerate(thoughts)}))
    write_report(folder)

    read = Reader((folder / "report" / "index.html").read_text(encoding="utf-8"))
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "img", "iframe"})
    assert not any(name.startswith("on") for _, attributes in read.tags for name in attributes)
    text = "".join(read.text)
    assert "<script>alert(1)</script>" in text
    assert "crsearch: <img src=x> $HOME" in text
    assert "\u202e" not in text
    assert "\x00" not in text

    written = (folder / "report" / "report.md").read_text(encoding="utf-8")
    before_settings = written.split("\n## Settings and versions")[0]
    assert not re.search(r"(?<!\\)<|(?<!\\)!\[|(?<!\\)`|^\\?# heading", before_settings, flags=re.MULTILINE)
    for table in tables(written):
        assert len({len(row) for row in table}) == 1


TEXTS = st.text(max_size=60) | st.text(alphabet="<>[]()!|`*_#~\\&$-0.1 ,\n{}%\"'", max_size=60)


def everywhere(text: str) -> Page:
    """A page with a text in every place that a text can have."""
    table = Table(caption=text, header=(text, "n"), rows=[(Cell(text, text), Cell(text))], notes=[(Cell(text), text)])
    parts = [Prose(text), table, Pairs([(text, text)]), Quote(text, text), Listing(text, text, folded=True)]
    return Page(text, text, [Section("a", "A", [*parts, Card(text, parts)])])


@given(TEXTS.filter(bool))
def test_any_text_leaves_the_tags_of_the_page_as_they_are(text: str) -> None:
    plain, read = Reader(render.html(everywhere("x"))), Reader(render.html(everywhere(text)))
    assert [tag for tag, _ in read.tags] == [tag for tag, _ in plain.tags]


@given(TEXTS)
def test_any_text_can_be_read_back_from_a_cell(text: str) -> None:
    page = Page("t", "s", [Section("a", "A", [Table(caption="c", header=("n",), rows=[(Cell(text),)])])])
    assert "".join(Reader(render.html(page)).text).count(render.shown(text)) >= 1
    assert tables(render.md(page))[0][1:] == [[render.shown(text)]]


@given(TEXTS)
def test_shown_text_is_one_line_that_a_file_can_hold_and_stays_as_it_is(text: str) -> None:
    shown = render.shown(text)
    assert len(shown.splitlines()) <= 1
    shown.encode("utf-8")
    assert render.shown(shown) == shown


@given(TEXTS)
def test_nothing_in_markdown_is_a_command(text: str) -> None:
    left = re.sub(r"\\.", "", render.markdown(text))  # without what is escaped
    left = re.sub(r"\[-?\d+\.\d+, -?\d+\.\d+\](?![\[(:])", "", left)  # and without intervals
    assert not re.search(r"[\\`*_{}<>#|~&$!\[]", left)


@given(st.text(alphabet="`a\n", max_size=40))
def test_a_code_block_cannot_be_closed_from_within(text: str) -> None:
    fence, *inner, last = render.fenced(text).split("\n")
    assert fence == last
    assert not any(fence in line for line in inner)


def test_long_texts_are_cut() -> None:
    assert len(render.shown("a" * 5_000)) == render.LONGEST + 2
