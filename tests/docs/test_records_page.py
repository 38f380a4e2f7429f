"""docs/records.md and the blocks that scripts fill."""

import doctest

import blocks
import make_records
import pytest
from blocks import replace_block
from pages import DOCS, read

from crsearch.records.importers import IMPORTERS
from crsearch.records.schema import TABLES


def test_the_schema_in_the_page_is_that_of_the_code():
    assert read(DOCS / "records.md") == make_records.records_page(), "run: python docs/make_records.py"


def test_every_table_field_and_importer_is_named():
    page = read(DOCS / "records.md")
    for table in TABLES.values():
        part = page.split(f"### {table.name}\n", 1)[1].split("\n### ", 1)[0]
        assert all(f"| {field.name} | {field.kind} |" in part for field in table.fields)
    assert all(f"| `{name}` |" in page for name in IMPORTERS)


def test_filling_a_block_twice_is_filling_it_once():
    page = "before\n<!-- x:begin -->\n<!-- x:end -->\nafter \\1\n"
    once = replace_block(page, "x", "a \\1 line\n")
    assert once == "before\n<!-- x:begin -->\na \\1 line\n<!-- x:end -->\nafter \\1\n"
    assert replace_block(once, "x", "a \\1 line\n") == once
    assert replace_block(once, "x", "") == page


@pytest.mark.parametrize(
    "page",
    [
        "no block at all",
        "<!-- x:begin -->\n",
        "<!-- x:end -->\n<!-- x:begin -->\n",
        "<!-- x:begin -->\n<!-- x:end -->\n<!-- x:begin -->\n<!-- x:end -->\n",
    ],
)
def test_a_page_without_exactly_one_block_is_refused(page):
    with pytest.raises(ValueError, match="x:begin"):
        replace_block(page, "x", "new\n")


def test_examples_in_the_script_hold():
    assert doctest.testmod(blocks).failed == 0
