import csv
from pathlib import Path

import pytest

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.wands import LABEL, PRODUCT, QUERY, import_wands
from crsearch.records.split import part_of

SPLIT = SplitConfig(test=0.3, valid=0.2)
QUERIES = [(q, f"chair, &amp; {q}", "Chairs") for q in range(30)]
PATH, FEATURES = "Furniture / Living / Sofas", "color:red|color:blue"
PRODUCTS = [(p, f'sofa "{p}"', "Sofas", PATH if p else "", "Soft,\nwide", FEATURES, 3, 4.5, "") for p in range(32)] + [
    (99, "", "", "", "", "", "", "", "")
]
LABELS = [
    (3 * q + n, q, q + n, label) for q in range(30) for n, label in enumerate(("Exact", "Partial", "Exact"))
]  # fmt: skip


def write(folder: Path, queries=QUERIES, products=PRODUCTS, labels=LABELS) -> Path:
    tables = {"query": (QUERY, queries), "product": (PRODUCT, products), "label": (LABEL, labels)}
    for name, (right, rows) in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as f:
            csv.writer(f, delimiter="\t").writerows([list(right), *rows])
    return folder


def test_exact_products_become_searches_split_by_query(tmp_path):
    data, report = import_wands(write(tmp_path), SPLIT)
    assert len(data.searches) == 60 and len(data.catalogue) == 32
    (first,) = data.searches_of("7-7")
    assert (first.query, first.clicked, first.place) == ("chair, & 7", ("7",), None)
    assert all(part == part_of(search_id.split("-")[0], SPLIT) for search_id, (_, part) in data.targets.items())
    assert report.unused["judgements Partial and Irrelevant"] == 30 and report.unused["ratings of products"] == 64
    assert report.dropped["products without a name"] == 1


def test_products_keep_their_path_features_and_text(tmp_path):
    bare, item = import_wands(write(tmp_path), SPLIT)[0].catalogue[:2]
    assert item.title == 'sofa "1"' and item.category == ("Furniture", "Living", "Sofas")
    assert item.attributes == {"class": "Sofas", "color": "red, blue"} and item.description == "Soft,\nwide"
    assert bare.category == () and (item.price, item.sales, item.brand) == (None, None, None)


def test_judged_products_outside_the_catalogue_are_an_error_or_left_out(tmp_path):
    write(tmp_path, products=PRODUCTS[1:])
    with pytest.raises(DataError, match=r"1 judged products .*first: '0'.*--unknown-items drop"):
        import_wands(tmp_path, SPLIT)
    data, report = import_wands(tmp_path, SPLIT, unknown_items="drop")
    assert len(data.searches) == 59 and report.dropped["judged products outside the catalogue"] == 1


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"labels": [*LABELS, (9, 1, 1, "Good")]}, r"label\.csv:92:label: 'Good': one of Exact, Partial"),
        ({"labels": [*LABELS, (9, 77, 1, "Exact")]}, r"label\.csv:92:query_id: '77': a query_id of the query table"),
        ({"queries": [*QUERIES, (3, "x", "")]}, r"query\.csv:32:query_id: '3': the query has a row already"),
        ({"queries": [(0, "", "")]}, r"query\.csv:2:query: '': a text is needed"),
        (
            {"products": [PRODUCTS[0], PRODUCTS[0]]},
            r"product\.csv:4:product_id: '0': .*line 2 already",
        ),
    ],
)
def test_a_broken_row_is_named_with_a_right_row(tmp_path, tables, message):
    with pytest.raises(DataError, match=message) as error:
        import_wands(write(tmp_path, **tables), SPLIT)
    assert "a right row: {" in str(error.value)


def test_files_with_commas_are_named(tmp_path):
    write(tmp_path)
    (tmp_path / "query.csv").write_text("query_id,query,query_class\n0,chair,Chairs\n")
    with pytest.raises(DataError, match=r"query\.csv:1: the header is one cell, 'query_id,query.* stand between ','"):
        import_wands(tmp_path, SPLIT)
