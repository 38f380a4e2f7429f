import csv
import gzip
import os
from collections import Counter
from pathlib import Path

import pytest

from crsearch.config import ContextConfig, SplitConfig
from crsearch.context.serialiser import Serialiser, parse_context
from crsearch.errors import DataError
from crsearch.records.importers import IMPORTERS
from crsearch.records.importers.completejourney import import_completejourney
from crsearch.records.split import part_of
from tests.shop import book

SPLIT = SplitConfig(test=0.3, valid=0.2)
DAY = 86_400
NOON = 1_483_272_000  # 2017-01-01 12:00 UTC
PRODUCTS = [
    ("25", "2", "GROCERY", "National", "FRZN ICE", "ICE - CRUSHED/CUBED", "22 LB"),
    ("26", "69", "GROCERY", "Private", "SOFT DRINKS", "COLA &amp; RUM", ""),
    ("27", "7", "GROCERY", "National", "SOFT DRINKS", "COLA &amp; RUM", "2 L"),
    ("28", "7", "DRUG GM", "National", "CANDY", "BARS", "NA"),
    ("29", "7", "MISCELLANEOUS", "National", "", "", ""),
]
HOUSEHOLDS = [(str(h), "45-54", "50-74K", "" if h == 1 else "Homeowner") for h in range(12) if h != 3]


def line(household, store, basket, product, quantity, paid, time):
    return (household, store, basket, product, quantity, paid, "0.1", "0.0", "0.0", "2", time)


# every household: ice; then two sorts of cola and sweets in one basket
LINES = [
    row
    for h in range(12)
    for row in (
        line(h, 436, f"b{h}", "25", "1.0", "1.99", NOON + h * DAY),
        line(h, 440, f"c{h}", "26", "2.0", "5.0", NOON + (h + 7) * DAY),
        line(h, 440, f"c{h}", "28", "3.0", "5.0", NOON + (h + 7) * DAY),
        line(h, 440, f"c{h}", "27", "1.0", "0.0", NOON + (h + 7) * DAY),
    )
]
HEADERS = {
    "transactions_sample": (
        "household_id", "store_id", "basket_id", "product_id", "quantity", "sales_value", "retail_disc", "coupon_disc",
        "coupon_match_disc", "week", "transaction_timestamp",
    ),
    "products": (
        "product_id", "manufacturer_id", "department", "brand", "product_category", "product_type", "package_size",
    ),
    "demographics": ("household_id", "age", "income", "home_ownership"),
}  # fmt: skip


def write(folder: Path, lines=LINES, products=PRODUCTS, households=HOUSEHOLDS) -> Path:
    tables = {"transactions_sample": lines, "products": products, "demographics": households}
    for name, rows in tables.items():
        with gzip.open(folder / f"{name}.csv.gz", "wt", newline="") as f:
            csv.writer(f).writerows([HEADERS[name], *rows])
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    return import_completejourney(write(tmp_path_factory.mktemp("logs")), SPLIT)


def contexts_of(data):
    return {e.context.user_id: e for part in ("train", "valid", "test") for e in data.examples(part, 10)}


class TestRecords:
    def test_profile_place_time_and_price_reach_what_a_model_reads(self, imported):
        data, _ = imported
        serialiser = Serialiser(data.catalogue, book(data.catalogue), ContextConfig(token_budget=10_000))
        texts = list(serialiser.texts([contexts_of(data)["5"].context]))
        ice, context = texts[0], texts[len(data.catalogue)]
        fields = parse_context(context)
        assert fields["profile"] == {"age": "45-54", "home_ownership": "Homeowner", "income": "50-74K"}
        assert fields["now"] == {"time": "2017-01-13 12:00 Fri", "place": "store 440", "query": "drug gm candy bars"}
        assert [event["time"] for event in fields["history"]] == ["2017-01-06 12:00 Fri", "2017-01-13 12:00 Fri"]
        assert [event["place"] for event in fields["history"]] == ["store 436", "store 440"]
        assert '"price":1.99' in ice and '"title":"ICE - CRUSHED/CUBED 22 LB"' in ice

    def test_lines_of_a_basket_with_one_query_are_one_search(self, imported):
        data, report = imported
        searches = data.searches_of("5")
        assert [(s.search_id, s.query, s.bought) for s in searches] == [
            ("b5-0", "grocery frzn ice crushed cubed", ("25",)),
            ("c5-0", "grocery soft drinks cola rum", ("26", "27")),
            ("c5-1", "drug gm candy bars", ("28",)),
        ]
        assert data.targets["c5-1"] == ("28", part_of("5", SPLIT)) and len(data.targets) == 12
        assert report.changed["lines of a basket with the same query joined to one search"] == 12
        assert not any(s.shown or s.clicked for s in data.searches)

    def test_the_answer_of_a_basket_is_not_in_the_history_of_its_search(self, imported):
        data, _ = imported
        for search in data.searches:
            history = data.context(search.search_id, max_events=10).history
            assert all(set(search.bought).isdisjoint(before.bought) for before in history)

    def test_prices_are_medians_paid_per_unit_and_absent_where_nothing_was_paid(self, imported):
        data, report = imported
        assert {i.item_id: i.price for i in data.catalogue} == {"25": 1.99, "26": 2.5, "27": None, "28": 1.67}
        assert report.changed["items without a price"] == 1
        assert report.changed["lines of receipts without a payment (no price from them)"] == 12

    def test_sales_count_training_households_only(self, imported):
        data, _ = imported
        train = sum(part_of(str(h), SPLIT) == "train" for h in range(12))
        assert 0 < train < 12 and {i.sales for i in data.catalogue} == {float(train)}

    def test_items_say_maker_label_and_size_and_nothing_that_is_not_known(self, imported):
        data, report = imported
        first, second, _, last = data.catalogue
        assert (first.brand, dict(first.attributes)) == ("manufacturer 2", {"label": "National", "size": "22 LB"})
        assert (second.title, dict(second.attributes)) == ("COLA & RUM", {"label": "Private"})
        assert (last.title, dict(last.attributes)) == ("BARS", {"label": "National"}), "NA is not a size"
        assert first.category == ("GROCERY", "FRZN ICE", "ICE - CRUSHED/CUBED")
        assert report.dropped["products that nobody bought"] == 1

    def test_a_household_without_demographics_has_an_empty_profile(self, imported):
        data, report = imported
        assert data.users["3"].profile == {} and "home_ownership" not in data.users["1"].profile
        assert report.changed["households that demographics lacks (empty profile)"] == 1

    def test_lines_without_a_quantity_are_dropped_and_counted(self, tmp_path):
        data, report = import_completejourney(write(tmp_path, [*LINES, line(1, 4, "x", "25", 0, 0, NOON)]), SPLIT)
        assert len(data.searches) == 36 and report.dropped["lines of receipts without a quantity"] == 1

    def test_the_folder_may_lack_demographics(self, tmp_path):
        (write(tmp_path) / "demographics.csv.gz").unlink()
        data, _ = import_completejourney(tmp_path, SPLIT)
        assert len(data.users) == 12 and not any(user.profile for user in data.users.values())


class TestFaults:
    @pytest.mark.parametrize("policy", ["drop", "text"])
    def test_products_without_a_description_are_an_error_or_left_out(self, tmp_path, policy):
        strange = [line(1, 4, "x", product, 1, 1, NOON) for product in ("29", "99")]
        write(tmp_path, [*LINES, *strange])
        with pytest.raises(DataError, match=r"2 products \(2 purchases\).*first: '29'.*--unknown-items drop"):
            import_completejourney(tmp_path, SPLIT)
        data, report = import_completejourney(tmp_path, SPLIT, unknown_items=policy)
        assert len(data.searches) == 36 and len(data.catalogue) == 4
        assert report.dropped["purchases of products that are not described"] == 2

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            (line(1, 4, "x", "25", "one", 1, NOON), r"csv\.gz:50:quantity: 'one': a number is needed"),
            (line(1, 4, "x", "25", 1, "nan", NOON), r"csv\.gz:50:sales_value: 'nan': a number is needed"),
            (line(1, 4, "x", "", 1, 1, NOON), r"csv\.gz:50:product_id: '': an id is needed"),
            (line(1, 4, "x", "25", 1, 1, "noon"), r"csv\.gz:50:transaction_timestamp: 'noon': .*Unix seconds"),
            (line(1, 4, "x", "25", 1, 1, 9), r"csv\.gz:50:transaction_timestamp: '9': .*before 1990"),
        ],
    )
    def test_a_broken_line_is_named_with_a_right_row(self, tmp_path, row, message):
        with pytest.raises(DataError, match=message) as error:
            import_completejourney(write(tmp_path, [*LINES, row]), SPLIT)
        assert "a right row: {'household_id': '900'" in str(error.value)

    def test_repeated_products_and_households_are_named(self, tmp_path):
        with pytest.raises(DataError, match=r"products\.csv\.gz:7:product_id: '25': .*line 2 already"):
            import_completejourney(write(tmp_path, products=[*PRODUCTS, PRODUCTS[0]]), SPLIT)
        with pytest.raises(DataError, match=r"demographics\.csv\.gz:13:household_id: '0': .*a row already"):
            import_completejourney(write(tmp_path, households=[*HOUSEHOLDS, HOUSEHOLDS[0]]), SPLIT)

    def test_a_missing_column_or_table_is_named(self, tmp_path):
        write(tmp_path)
        (tmp_path / "products.csv.gz").rename(tmp_path / "things.csv.gz")
        with pytest.raises(DataError, match=r"no table products .*there are: demographics\.csv\.gz, things"):
            import_completejourney(tmp_path, SPLIT)
        (tmp_path / "products.csv").write_text("product_id,name\n25,ice\n")
        with pytest.raises(DataError, match=r"products\.csv:2: there is no column 'manufacturer_id'.*a right row"):
            import_completejourney(tmp_path, SPLIT)


@pytest.fixture(scope="module")
def real():
    shared = os.environ.get("CRSEARCH_SHARED")
    folder = Path(shared or ".") / "data" / "completejourney"
    if not shared or not folder.is_dir():
        pytest.skip("CRSEARCH_SHARED does not hold data/completejourney")
    return IMPORTERS["completejourney"](folder, SplitConfig(), unknown_items="drop")


class TestRealSample:
    def test_its_counts_are_those_of_its_readme(self, real):
        data, report = real
        assert (report.read["lines of receipts"], report.read["products"]) == (60_641, 92_331)
        assert report.read["households of demographics"] == 652
        bought = len(data.catalogue) + report.dropped["bought products without a product type (no title)"]
        assert bought == 92_331 - report.dropped["products that nobody bought"] > 18_000
        kept = sum(len(s.bought) for s in data.searches)
        dropped = report.dropped["lines of receipts without a quantity"]
        assert kept == 60_641 - dropped - report.dropped["purchases of products that are not described"]

    def test_profile_place_time_and_price_reach_what_a_model_reads(self, real):
        data, _ = real
        serialiser = Serialiser(data.catalogue, book(data.catalogue, codes=30), ContextConfig(token_budget=10_000))
        examples = list(contexts_of(data).values())[:500]
        texts = list(serialiser.texts([e.context for e in examples]))
        items, contexts = texts[: len(data.catalogue)], texts[len(data.catalogue) :]
        fields = [parse_context(text) for text in contexts if text.startswith("{")]
        found = Counter(key for f in fields for key in (*f, *f["now"]))
        assert found["time"] == found["place"] == found["query"] == len(examples)
        assert found["profile"] == sum(bool(e.context.profile) for e in examples) > 100
        assert found["history"] > 0.9 * len(examples)
        assert sum('"price":' in text for text in items) > 0.99 * len(items)
