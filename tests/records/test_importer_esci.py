import csv
import json
import os
from collections import Counter
from pathlib import Path

import pytest

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.checks import check_folder
from crsearch.records.importers.esci import EXAMPLE, PRODUCT, import_esci
from crsearch.records.rows import read_rows
from crsearch.records.split import choose_targets, part_of
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Item, Search, User

SPLIT = SplitConfig(test=0.3, valid=0.2)
QUERIES = [
    {"query": "self tanner", "asins": ["B1"], "titles": ["Fake Bake"]},
    {"query": "salt &amp; sun", "asins": ["B2", "B3", "B2"]},
]


def shop(folder: Path) -> Dataset:
    """A shop that is imported already: users with purchases, sales of its training users."""
    items = Catalogue(Item(item_id=f"B{n}", title=f"thing {n}", sales=float(n), price=2.0) for n in range(5))
    searches = [Search(search_id=f"s{u}", user_id=u, time=1, query="thing", bought=("B0",)) for u in "abcdef"]
    data = Dataset(
        items, {u: User(user_id=u) for u in "abcdef"}, tuple(searches), choose_targets(searches, SPLIT, items)
    )
    data.save(folder)
    return data


def write_queries(path: Path, rows=QUERIES) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def write_published(folder: Path, examples, products) -> Path:
    for name, right, rows in (("examples", EXAMPLE, examples), ("products", PRODUCT, products)):
        with (folder / f"shopping_queries_dataset_{name}.csv").open("w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([list(right), *rows])
    return folder


EXAMPLES = [
    (f"query {q}", q, f"P{p}", "us", label) for q in range(40) for p, label in ((q, "E"), (q + 1, "S"), (q + 2, "E"))
] + [("miroir", 99, "P1", "es", "E")]
PRODUCTS = [(f"P{p}", f"Mirror &amp; {p}", "", "Large", "Acme", "red" if p % 2 else "", "us") for p in range(42)]
PRODUCTS += [("P1", "Espejo", "", "", "", "", "es"), ("P90", "", "", "", "", "", "us")]


class TestOnACatalogue:
    def test_every_right_product_is_a_test_search_of_a_user_without_history(self, tmp_path):
        shop(tmp_path / "shop")
        data, report = import_esci(write_queries(tmp_path / "q.jsonl"), SPLIT, catalogue=tmp_path / "shop")
        assert data.targets == {
            "q1-B1": ("B1", "test"), "q2-B2": ("B2", "test"), "q2-B3": ("B3", "test"),
        }  # fmt: skip
        examples = data.examples("test", 10)
        assert [e.context.query for e in examples] == ["self tanner", "salt & sun", "salt & sun"]
        assert not any(e.context.history or e.context.profile or e.context.place for e in examples)
        assert len({e.context.user_id for e in examples}) == 3
        assert report.dropped["repeated judgements"] == 1

    def test_the_catalogue_is_that_of_the_shop_with_its_sales_and_row_numbers(self, tmp_path):
        before = shop(tmp_path / "shop")
        data, _ = import_esci(write_queries(tmp_path / "q.jsonl"), SPLIT, catalogue=tmp_path / "shop")
        assert data.catalogue == before.catalogue

    def test_the_records_pass_their_own_check(self, tmp_path):
        shop(tmp_path / "shop")
        data, _ = import_esci(write_queries(tmp_path / "q.jsonl"), SPLIT, catalogue=tmp_path / "shop")
        data.save(tmp_path / "queries")
        assert check_folder(tmp_path / "queries") == []
        assert Dataset.load(tmp_path / "queries") == data

    @pytest.mark.parametrize("policy", ["drop", "text"])
    def test_products_outside_the_catalogue_are_an_error_or_left_out(self, tmp_path, policy):
        shop(tmp_path / "shop")
        file = write_queries(tmp_path / "q.jsonl", [*QUERIES, {"query": "x", "asins": ["Z"]}])
        with pytest.raises(DataError, match=r"1 judged products .*first: 'Z'.*--unknown-items drop"):
            import_esci(file, SPLIT, catalogue=tmp_path / "shop")
        data, report = import_esci(file, SPLIT, catalogue=tmp_path / "shop", unknown_items=policy)
        assert len(data.searches) == 3 and report.dropped["queries without a product in the catalogue"] == 1

    def test_a_list_without_any_product_of_the_catalogue_is_refused(self, tmp_path):
        shop(tmp_path / "shop")
        file = write_queries(tmp_path / "q.jsonl", [{"query": "x", "asins": ["Z"]}])
        with pytest.raises(DataError, match="none of its 1 judged products"):
            import_esci(file, SPLIT, catalogue=tmp_path / "shop", unknown_items="drop")

    def test_a_list_of_queries_needs_a_catalogue(self, tmp_path):
        with pytest.raises(DataError, match="pass --catalogue"):
            import_esci(write_queries(tmp_path / "q.jsonl"), SPLIT)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ({"query": " ", "asins": ["B1"]}, r"q\.jsonl:3:query: ' ': a text is needed"),
            ({"asins": ["B1"]}, r"q\.jsonl:3:query: None: a text is needed"),
            ({"query": "x", "asins": []}, r"q\.jsonl:3:asins: \[\]: a list of ids is needed"),
            ({"query": "x", "asins": "B1"}, r"q\.jsonl:3:asins: 'B1': a list of ids"),
            ({"query": "x", "asins": [7]}, r"q\.jsonl:3:asins: \[7\]: a list of ids"),
        ],
    )
    def test_a_broken_query_is_named_with_a_right_row(self, tmp_path, row, message):
        shop(tmp_path / "shop")
        with pytest.raises(DataError, match=message + ".*; a right row: {'query': 'self tanner'"):
            import_esci(write_queries(tmp_path / "q.jsonl", [*QUERIES, row]), SPLIT, catalogue=tmp_path / "shop")


class TestPublishedFolder:
    def test_exact_matches_become_searches_and_products_the_catalogue(self, tmp_path):
        data, report = import_esci(write_published(tmp_path, EXAMPLES, PRODUCTS), SPLIT)
        assert len(data.catalogue) == 42 and len(data.searches) == 80
        first, second = data.catalogue[:2]
        assert (first.title, first.brand, first.attributes, first.description) == ("Mirror & 0", "Acme", {}, "Large")
        assert second.attributes == {"color": "red"} and second.price is None and second.sales is None
        assert report.unused["judgements S, C and I"] == 40
        assert report.unused["judgements of other locales"] == report.unused["products of other locales"] == 1
        assert report.dropped["products without a title"] == 1

    def test_both_products_of_a_query_are_on_one_side(self, tmp_path):
        data, _ = import_esci(write_published(tmp_path, EXAMPLES, PRODUCTS), SPLIT)
        assert all(data.targets[s.search_id][1] == part_of(s.search_id.split("-")[0], SPLIT) for s in data.searches)
        assert set(Counter(part for _, part in data.targets.values())) == {"train", "valid", "test"}

    @pytest.mark.parametrize(
        ("example", "message"),
        [
            (("q", 1, "P1", "us", "exact"), r"examples\.csv:3:esci_label: 'exact': one of E, S, C, I"),
            (("", 1, "P1", "us", "E"), r"examples\.csv:3:query: '': a text"),
            (("q", 1, "", "us", "E"), r"examples\.csv:3:product_id: '': an id"),
        ],
    )
    def test_a_broken_example_is_named_with_a_right_row(self, tmp_path, example, message):
        with pytest.raises(DataError, match=message + ".*a right row"):
            import_esci(write_published(tmp_path, [EXAMPLES[0], example], PRODUCTS), SPLIT)

    def test_a_repeated_product_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"products\.csv:46:product_id: 'P0': .*line 2 already"):
            import_esci(write_published(tmp_path, EXAMPLES, [*PRODUCTS, PRODUCTS[0]]), SPLIT)


def test_the_real_queries_of_beauty_find_their_products(tmp_path):
    shared = Path(os.environ.get("CRSEARCH_SHARED") or ".") / "data"
    queries = shared / "esci-queries" / "beauty_known_items.jsonl.gz"
    if not os.environ.get("CRSEARCH_SHARED") or not queries.is_file():
        pytest.skip("CRSEARCH_SHARED does not hold data/esci-queries")
    rows = (row.values for row in read_rows(shared / "amazon-beauty" / "items.jsonl.gz"))
    beauty = Dataset(Catalogue(Item(item_id=row["asin"], title=row["title"]) for row in rows), {}, (), {})
    beauty.save(tmp_path / "beauty")
    data, report = import_esci(queries, SplitConfig(), catalogue=tmp_path / "beauty")
    assert (report.read["queries"], len(data.searches), len({s.query for s in data.searches})) == (21, 23, 21)
    assert {reason: n for reason, n in report.dropped.items() if n} == {"repeated judgements": 1}
    assert data.catalogue == beauty.catalogue and len(data.examples("test", 10)) == 23
