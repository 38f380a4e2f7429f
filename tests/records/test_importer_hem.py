import csv
import gzip
import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers import IMPORTERS
from crsearch.records.importers.hem import Purchase, hem_query, import_hem, k_core
from crsearch.records.importers.stopwords import INQUERY_STOPWORDS
from crsearch.records.split import choose_targets, part_of

SPLIT = SplitConfig(test=0.3, valid=0.2)
DAY = 86_400
NAILS = ["Beauty", "Makeup", "Nails", "Nail Polish"]
CATALOGUE = [
    {"asin": "B2", "title": "Salt &amp;amp; Sun", "brand": "OPI", "categories": [NAILS, ["Clothing", "Men"]]},
    {"asin": "B1", "title": "It's a 10 &quot;Miracle&quot;", "brand": None, "categories": [["Beauty", "Hair Care"]]},
    {"asin": "B3", "title": "Soap", "brand": "Zoë &amp; Co", "categories": [["Beauty", "Bath & Body", "Bath"]]},
]
EVENTS = [(f"U{u}", asin, (10 + n // 2) * DAY, n) for u in range(12) for n, asin in enumerate(("B3", "B1", "B2"))]


def write_prepared(folder: Path, items=CATALOGUE, events=EVENTS) -> Path:
    with gzip.open(folder / "items.jsonl.gz", "wt", encoding="utf-8") as f:
        f.writelines(json.dumps(item) + "\n" for item in items)
    with gzip.open(folder / "interactions.csv.gz", "wt", newline="") as f:
        csv.writer(f).writerows([("user_id", "asin", "timestamp", "seq_no"), *events])
    return folder


def write_public(folder: Path, items=CATALOGUE, events=EVENTS) -> Path:
    with gzip.open(folder / "reviews_Beauty.json.gz", "wt", encoding="utf-8") as f:
        for user, asin, time, _ in events:
            f.write(json.dumps({"reviewerID": user, "asin": asin, "overall": 5.0, "unixReviewTime": time}) + "\n")
    with gzip.open(folder / "meta_Beauty.json.gz", "wt", encoding="utf-8") as f:
        for item in [*items, {"asin": "never bought", "title": "x"}]:
            literal = {k: v for k, v in item.items() if v is not None}
            f.write(repr({**literal, "price": 9.5, "salesRank": {"Beauty": 3}}) + "\n")
    return folder


class TestQuery:
    @pytest.mark.parametrize(
        ("path", "query"),
        [
            (["Beauty", "Makeup", "Nails", "Nail Polish"], "beauty makeup nails nail polish"),
            (["Beauty", "Tools & Accessories", "Bags & Cases"], "beauty tools accessories bags cases"),
            (["Beauty", "Fragrance", "Women's", "Essential Oils"], "beauty fragrance women essential oils"),
            (["Clothing", "Accessories", "Clothing Accessories"], "clothing accessories"),
            (["Beauty"], None),
            ([], None),
            (["The", "And", "A"], None),
        ],
    )
    def test_words_of_the_path_without_stop_words_each_at_its_last_place(self, path, query):
        assert hem_query(path) == query

    def test_the_stop_words_are_the_418_of_inquery(self):
        assert len(INQUERY_STOPWORDS) == 418 and {"the", "more", "after", "doesn't"} <= INQUERY_STOPWORDS


def test_k_core_removes_until_nothing_is_left_to_remove():
    square = [Purchase(u, i, 0, 0) for u in "uv" for i in "ab"]
    chain = [Purchase("w", "a", 0, 0), Purchase("w", "c", 0, 0), Purchase("x", "c", 0, 0)]
    assert k_core(square + chain, 2) == square, "x goes, so c, so w"
    assert k_core(square, 3) == [] and k_core(chain, 0) == chain


class TestRecords:
    def test_one_search_per_purchase_with_the_query_of_the_bought_item(self, tmp_path):
        data, report = import_hem(write_prepared(tmp_path), SPLIT)
        searches = data.searches_of("U0")
        assert [s.bought for s in searches] == [("B3",), ("B1",), ("B2",)], "seq_no decides within a day"
        assert [s.query for s in searches] == [
            "beauty body bath",
            "beauty hair care",
            "beauty makeup nails nail polish",
        ]
        assert searches[0].time.isoformat() == "1970-01-11T00:00:00+00:00"
        assert all(not s.shown and not s.clicked and s.place is None for s in data.searches)
        assert all(not user.profile for user in data.users.values())
        assert report.read["purchases"] == 36

    def test_titles_and_brands_are_unescaped_and_counted(self, tmp_path):
        data, report = import_hem(write_prepared(tmp_path), SPLIT)
        assert [(i.item_id, i.title, i.brand) for i in data.catalogue] == [
            ("B1", 'It\'s a 10 "Miracle"', None), ("B2", "Salt & Sun", "OPI"), ("B3", "Soap", "Zoë & Co"),
        ]  # fmt: skip
        assert report.changed["titles: HTML entities unescaped"] == 2
        assert all(item.price is None for item in data.catalogue)

    def test_sales_are_the_purchases_of_training_users(self, tmp_path):
        data, _ = import_hem(write_prepared(tmp_path), SPLIT)
        train = sum(part_of(f"U{u}", SPLIT) == "train" for u in range(12))
        assert 0 < train < 12 and {i.sales for i in data.catalogue} == {float(train)}

    def test_without_queries_every_purchase_stays_and_says_nothing(self, tmp_path):
        flat = [*CATALOGUE[:2], {**CATALOGUE[2], "categories": [["Beauty"]]}]
        data, report = import_hem(write_prepared(tmp_path, items=flat), SPLIT, with_queries=False)
        assert {s.query for s in data.searches} == {"*"} and len(data.searches) == 36
        assert not any(report.dropped.values())

    def test_both_forms_of_the_source_give_the_same_records(self, tmp_path):
        for name in ("prepared", "public"):
            (tmp_path / name).mkdir()
        prepared, _ = import_hem(write_prepared(tmp_path / "prepared"), SPLIT)
        public, _ = import_hem(write_public(tmp_path / "public"), SPLIT, core=3)
        assert public == prepared and public.fingerprint() == prepared.fingerprint()

    def test_the_core_filter_drops_and_counts_rare_users_and_items(self, tmp_path):
        rare = [*EVENTS, ("W", "B1", DAY, 0), ("U1", "B9", DAY, 9)]
        data, report = import_hem(write_public(tmp_path, events=rare), SPLIT, core=3)
        assert "W" not in data.users and "B9" not in data.catalogue
        assert report.dropped["reviews outside the 3-core"] == 2

    def test_a_second_review_of_an_item_is_dropped_and_counted(self, tmp_path):
        data, report = import_hem(write_prepared(tmp_path, events=[*EVENTS, ("U0", "B3", 99 * DAY, 3)]), SPLIT)
        assert len(data.searches_of("U0")) == 3
        assert report.dropped["repeated purchases of an item by a user"] == 1


class TestFaults:
    def test_items_without_metadata_are_an_error_with_the_count_or_dropped(self, tmp_path):
        write_prepared(tmp_path, items=CATALOGUE[:2])
        with pytest.raises(DataError, match=r"1 items \(12 purchases\).*'B3'.*--unknown-items drop"):
            import_hem(tmp_path, SPLIT)
        for policy in ("drop", "text"):
            data, report = import_hem(tmp_path, SPLIT, unknown_items=policy)
            assert len(data.searches) == 24
            assert report.dropped["purchases of items outside the catalogue"] == 12

    def test_purchases_without_a_query_are_dropped_and_counted(self, tmp_path):
        flat = [*CATALOGUE[:2], {**CATALOGUE[2], "categories": [["Beauty"]]}]
        data, report = import_hem(write_prepared(tmp_path, items=flat), SPLIT)
        assert len(data.searches) == 24 and "B3" in data.catalogue
        assert sum(n for reason, n in report.dropped.items() if "no query" in reason) == 12

    @pytest.mark.parametrize(
        ("file", "line", "message"),
        [
            ("meta_Beauty.json.gz", "{'asin': 'B1', 'title': __import__('os')}", r"meta_Beauty\.json\.gz:1: neither"),
            ("meta_Beauty.json.gz", "{'asin': 'B1', 'title': 3}", r"json\.gz:1:title: 3 is no str"),
            ("reviews_Beauty.json.gz", "{'reviewerID': 'x'}", r"reviews_Beauty\.json\.gz:1: not JSON"),
            ("reviews_Beauty.json.gz", '{"reviewerID": "U", "asin": "B1"}', r"gz:1:unixReviewTime: None is no int"),
            ("reviews_Beauty.json.gz", "[1]", r"gz:1: not a record"),
        ],
    )
    def test_a_broken_line_is_named_with_a_right_row(self, tmp_path, file, line, message):
        write_public(tmp_path)
        with gzip.open(tmp_path / file, "wt") as f:
            f.write(line + "\n")
        with pytest.raises(DataError, match=message) as error:
            import_hem(tmp_path, SPLIT, core=0)
        assert "a right row" in str(error.value)

    def test_a_broken_interaction_is_named(self, tmp_path):
        write_prepared(tmp_path, events=[*EVENTS, ("U0", "B1", "noon", 3)])
        with pytest.raises(DataError, match=r"interactions\.csv\.gz:38: .*a right row"):
            import_hem(tmp_path, SPLIT)

    @pytest.mark.parametrize("unit", [10**3, 10**6, 10**300], ids=["milliseconds", "microseconds", "no time at all"])
    @pytest.mark.parametrize(
        ("write", "where"),
        [
            (write_prepared, "interactions.csv.gz:2:timestamp"),
            (write_public, "reviews_Beauty.json.gz:1:unixReviewTime"),
        ],
    )
    def test_a_time_that_is_not_in_seconds_is_named_with_a_right_row(self, tmp_path, write, where, unit):
        write(tmp_path, events=[("U0", "B1", 1_318_896_000 * unit, 0)])
        with pytest.raises(DataError, match="is no time in Unix seconds; a right row") as error:
            import_hem(tmp_path, SPLIT, core=0)
        assert str(error.value).startswith(f"{tmp_path / where}: ") and str(error.value).endswith("[bad-time]")

    def test_a_folder_of_something_else_names_what_is_needed(self, tmp_path):
        (tmp_path / "log.txt").write_text("")
        with pytest.raises(DataError, match=r"reviews_<Category>\.json.*there are: log\.txt"):
            import_hem(tmp_path, SPLIT)


@pytest.fixture(scope="module")
def beauty():
    shared = os.environ.get("CRSEARCH_SHARED")
    folder = Path(shared or ".") / "data" / "amazon-beauty"
    if not shared or not folder.is_dir():
        pytest.skip("CRSEARCH_SHARED does not hold data/amazon-beauty")
    return folder, *IMPORTERS["hem"](folder, SplitConfig())


class TestRealBeauty:
    def test_counts_and_queries_are_those_of_its_readme(self, beauty):
        _, data, report = beauty
        assert (len(data.users), len(data.catalogue), len(data.searches)) == (17_908, 12_101, 158_676)
        assert not any(report.dropped.values())
        derived = {i.item_id: hem_query(i.category) for i in data.catalogue}
        assert all(s.query == derived[s.bought[0]] for s in data.searches)
        assert not any("&amp;" in i.title or "&quot;" in i.title for i in data.catalogue)

    def test_leave_one_out_tests_on_the_last_purchase_of_every_user(self, beauty):
        _, data, _ = beauty
        targets = choose_targets(data.searches, SplitConfig(mode="leave-one-out"), data.catalogue)
        assert Counter(part for _, part in targets.values()) == {"test": 17_908, "valid": 17_908, "train": 122_860}

    def test_the_public_form_of_it_gives_the_same_records(self, beauty, tmp_path):
        folder, prepared, _ = beauty
        with gzip.open(folder / "items.jsonl.gz", "rt") as f:
            items = [json.loads(line) for line in f]
        with gzip.open(folder / "interactions.csv.gz", "rt") as f:
            events = [(r["user_id"], r["asin"], int(r["timestamp"]), 0) for r in csv.DictReader(f)]
        users = set(sorted({user for user, *_ in events})[:500])
        some = [event for event in events if event[0] in users]
        bought = {asin for _, asin, *_ in some}
        public, _ = import_hem(write_public(tmp_path, items, some), SplitConfig(), core=0)
        assert public.searches == tuple(s for s in prepared.searches if s.user_id in users)
        same = [replace(i, sales=None) for i in prepared.catalogue if i.item_id in bought]
        assert [replace(i, sales=None) for i in public.catalogue] == same
