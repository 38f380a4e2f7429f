import gzip
import json
import os
import random
from dataclasses import asdict
from pathlib import Path

import pytest

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.checks import check_folder
from crsearch.records.importers.kuaisearch import RIGHT, import_kuaisearch
from crsearch.records.split import part_of

SPLIT = SplitConfig(test=0.3, valid=0.1)

Rows = dict[str, list[dict[str, object]]]


def item(number: int) -> dict[str, object]:
    names = ("女装", "皮草", "UNKNOWN") if number % 2 else ("家纺", "地毯", "圆毯")
    brand = ("其他/other", "无品牌", "金粟兰")[number % 3]
    row = {"item_id": number, "item_title": f"商品 {number}", "brand_id": 1, "brand_name": brand}
    levels = {f"category_level{n}_name": name for n, name in enumerate(names, start=1)}
    return row | {"seller_id": 1, "seller_name": "店", "category_level1_id": 1} | levels


def user(number: int) -> dict[str, object]:
    row = {"user_id": number, "gender": "F", "age_bucket": "31-40", "fre_country": "中国", "fre_province": "山东"}
    return row | {"fre_city": "UNKNOWN" if number == 1 else "青岛"}


def session(number: int, user: int, shown: list[int]) -> dict[str, object]:
    return {
        "user_id": user,
        "session_id": 1_000 * user + number,
        "impressed_item_ids": shown,
        "clicked_item_ids": shown[:2],
        "purchased_item_ids": shown[1:2] if number % 2 else [],
        "time_index": 100 * number + user,
        "query": f"查询{number}",
        "split": "train",
    }


def rank(number: int, user: int, item: int) -> dict[str, object]:
    return {
        "user_id": user,
        "session_id": 1_000 * user + number,
        "user_fan_number": number,
        "user_follow_number": 65,
        "time_index": 100 * number + user,
        "search_entrance": "mall",
        "recently_clicked_item_ids": [1, 2],
        "recently_purchased_item_ids": [],
        "query": f"查询{number}",
        "target_item_id": item,
        "target_item_price": 10.0 + number,
        "is_clicked": 0,
        "is_purchased": 0,
        "user_statistical_features": {"user_order_cnt_30d_hist": float(number), "user_gmv_30d_hist": 1.5},
        "target_item_statistical_features": {"item_order_cnt_30d_hist": 1_000.0 + user},
        "split": "train",
    }


def published(users: int = 30, sessions: int = 4, items: int = 40) -> Rows:
    """Rows in the published schema that join, unlike its samples."""
    draw = random.Random(7)
    rows: Rows = {"items": [item(i) for i in range(1, items + 1)], "users": [user(u) for u in range(1, users + 1)]}
    rows |= {"recall": [], "rank": [], "relevance": [{"query": "q", "item_title": "t", "score": 3}]}
    for u in range(1, users + 1):
        for n in range(sessions):
            shown = draw.sample(range(1, items + 1), 5)
            rows["recall"].append(session(n, u, shown))
            rows["rank"] += [rank(n, u, i) for i in shown]
    return rows


def write(folder: Path, rows: Rows) -> Path:
    for name, lines in rows.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def samples() -> Path:
    """The published samples, 200 rows of each table."""
    folder = Path(os.environ.get("CRSEARCH_SHARED", "")) / "data" / "kuaisearch-demo"
    if "CRSEARCH_SHARED" not in os.environ or not folder.is_dir():
        pytest.skip("CRSEARCH_SHARED does not hold data/kuaisearch-demo")
    return folder


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    return import_kuaisearch(write(tmp_path_factory.mktemp("logs"), published()), SPLIT)


class TestRecords:
    def test_sessions_become_searches_in_time_order(self, imported):
        data, _ = imported
        searches = data.searches_of("7")
        assert [s.search_id for s in searches] == ["7000", "7001", "7002", "7003"]
        assert [(s.time, s.query, s.place) for s in searches[:2]] == [(7, "查询0", "mall"), (107, "查询1", "mall")]
        assert searches[1].bought == searches[1].shown[1:2] and len(searches[1].skipped) == 3

    def test_the_target_is_the_bought_item_of_the_last_session(self, imported):
        data, _ = imported
        last = data.searches_of("7")[-1]
        assert data.targets["7003"] == (last.bought[0], part_of("7", SPLIT))
        assert len(data.targets) == 30

    def test_words_for_none_are_absent_and_counted(self, imported):
        data, report = imported
        first, second = data.catalogue[0], data.catalogue[1]
        assert (first.brand, first.category) == (None, ("女装", "皮草"))
        assert (second.brand, second.category) == ("金粟兰", ("家纺", "地毯", "圆毯"))
        assert first.attributes == {"seller": "店"}
        assert "city" not in data.users["1"].profile and data.users["2"].profile["city"] == "青岛"
        assert report.changed["brands: a word for none made absent"] == 27
        assert report.changed["categories: a word for none made absent"] == 20

    def test_prices_are_the_latest_and_sales_those_of_training_sessions(self, imported):
        data, _ = imported
        latest: dict[str, tuple[int, str]] = {}
        for s in sorted(data.searches, key=lambda s: s.time):
            latest |= dict.fromkeys(s.shown, (s.time, s.user_id))
        assert {i.price for i in data.catalogue} == {10.0 + latest[i.item_id][0] // 100 for i in data.catalogue}
        sellers = {str(int(i.sales - 1_000)) for i in data.catalogue if i.sales is not None}
        assert sellers and all(part_of(u, SPLIT) == "train" for u in sellers)

    def test_the_profile_holds_what_was_known_at_the_example(self, tmp_path):
        rows = published(users=2)
        for row in rows["recall"]:
            if row["session_id"] in (1_002, 1_003):
                row["clicked_item_ids"], row["purchased_item_ids"] = [], []
        data, _ = import_kuaisearch(write(tmp_path, rows), SPLIT)
        assert data.users["1"].profile["fans"] == "1", "the example is session 1, the later ones are not known yet"
        assert data.users["2"].profile | {"gender": "F", "age": "31-40"} == data.users["2"].profile
        assert data.users["2"].profile["orders_30d"] == "3" and data.users["2"].profile["spent_30d"] == "1.5"

    def test_what_has_no_place_is_counted(self, imported):
        _, report = imported
        assert report.unused["relevance pairs"] == 1
        assert report.unused["recently clicked or purchased items (without their queries)"] == 1_200

    def test_the_report_is_json_and_text(self, imported):
        _, report = imported
        assert json.loads(json.dumps(asdict(report)))["read"]["recall rows"] == 120
        assert "  read: 120 recall rows" in report.summary().splitlines()

    def test_the_saved_records_pass_the_check(self, imported, tmp_path):
        imported[0].save(tmp_path)
        assert check_folder(tmp_path) == []


class TestOddRows:
    def test_choices_that_were_not_shown_repeats_and_repeated_rows_are_counted(self, tmp_path):
        rows = published(users=1, sessions=1)
        rows["recall"][0] |= {"impressed_item_ids": [1, 2, 2], "clicked_item_ids": [2, 5], "purchased_item_ids": []}
        rows["recall"].append(dict(rows["recall"][0]))
        rows["recall"].append({**rows["recall"][0], "query": "另一个", "time_index": 900})
        data, report = import_kuaisearch(write(tmp_path, rows), SPLIT)
        assert [(s.search_id, s.shown, s.clicked) for s in data.searches] == [
            ("1000", ("1", "2"), ("2",)), ("1000.2", ("1", "2"), ("2",)),
        ]  # fmt: skip
        assert report.dropped["clicks of items that were not shown"] == 3
        assert report.dropped["repeated rows of a search"] == 1
        assert report.changed["shown: repeated items left out"] == 3

    def test_without_rank_rows_prices_sales_and_places_are_absent(self, tmp_path):
        rows = published(users=2)
        del rows["rank"], rows["relevance"]
        data, _ = import_kuaisearch(write(tmp_path, rows), SPLIT)
        assert all(i.price is None and i.sales is None for i in data.catalogue)
        assert all(s.place is None for s in data.searches)

    @pytest.mark.parametrize(
        ("table", "change", "message"),
        [
            (
                "recall",
                {"time_index": "soon"},
                r"recall\.jsonl:1:time_index: 'soon' is no int; a right row: \{.user_id",
            ),
            ("items", {"item_id": None}, r"items\.jsonl:1:item_id: None is no int"),
            ("rank", {"target_item_price": True}, r"rank\.jsonl:1:target_item_price: True is no"),
            ("recall", {"query": None}, r"recall\.jsonl:1:query: None is no str"),
        ],
    )
    def test_a_row_of_another_schema_is_named(self, tmp_path, table, change, message):
        rows = published(users=2)
        rows[table][0] |= change
        with pytest.raises(DataError, match=message):
            import_kuaisearch(write(tmp_path, rows), SPLIT)

    def test_a_missing_table_is_named(self, tmp_path):
        with pytest.raises(DataError, match=r"there is no items\.jsonl"):
            import_kuaisearch(tmp_path, SPLIT)


class TestUnknownItems:
    @pytest.fixture
    def folder(self, tmp_path):
        rows = published(users=2, sessions=3)
        rows["items"] = rows["items"][1:]  # item 1 is unknown
        for row, ids in zip(rows["recall"], ([1, 2], [1, 2], [1, 2], [2, 3], [2, 3], [2, 3]), strict=True):
            row |= {"impressed_item_ids": ids, "clicked_item_ids": ids[:1], "purchased_item_ids": []}
        rows["recall"][1]["clicked_item_ids"] = [2, 1]
        return write(tmp_path, rows)

    def test_error_gives_the_count(self, folder):
        with pytest.raises(DataError, match=r"1 items \(3 mentions in searches\).*'1'"):
            import_kuaisearch(folder, SPLIT)

    def test_drop_leaves_out_mentions_and_searches_that_lose_every_choice(self, folder):
        data, report = import_kuaisearch(folder, SPLIT, unknown_items="drop")
        assert [(s.shown, s.clicked) for s in data.searches_of("1")] == [(("2",), ("2",))]
        assert report.dropped["searches whose chosen items are all outside the catalogue"] == 2
        assert report.dropped["mentions of items outside the catalogue"] == 1

    def test_text_keeps_them_and_never_makes_them_targets(self, folder):
        data, report = import_kuaisearch(folder, SPLIT, unknown_items="text")
        assert [s.clicked for s in data.searches_of("1")] == [("1",), ("2", "1"), ("1",)]
        assert not [s for s in data.searches_of("1") if s.search_id in data.targets]
        assert report.changed["mentions of items outside the catalogue kept as text"] == 3


PLACES = {
    "items": {"item_id", "item_title", "brand_name", "seller_name"}
    | {f"category_level{level}_name" for level in (1, 2, 3)},
    "users": {"user_id", "gender", "age_bucket", "fre_country", "fre_province", "fre_city"},
    "recall": {
        "user_id", "session_id", "impressed_item_ids", "clicked_item_ids", "purchased_item_ids", "time_index", "query",
    },
    "rank": {
        "user_id", "session_id", "user_fan_number", "user_follow_number", "time_index", "search_entrance",
        "target_item_id", "target_item_price", "user_statistical_features", "target_item_statistical_features",
        "user_show_cnt_30d_hist", "user_click_cnt_30d_hist", "user_order_cnt_30d_hist", "user_gmv_30d_hist",
        "item_order_cnt_30d_hist",
    },
}  # fmt: skip
"""Fields that a record has a place for."""
SUMMED = {"recently_clicked_item_ids", "recently_purchased_item_ids"}
"""Fields without a place that are counted by their items, not by their values."""


def fields_of(row):
    """Names of a row, those of maps in it too."""
    return {*row, *(name for value in row.values() if isinstance(value, dict) for name in value)}


@pytest.mark.parametrize("table", ["items", "users", "recall", "rank", "relevance"])
def test_every_published_field_has_a_place_or_is_counted(tmp_path, samples, table):
    """The 200 rows of each published sample, joined with rows of ours so that all tables are read."""
    rows = published(users=2)
    with gzip.open(samples / f"{table}.jsonl.gz", "rt", encoding="utf-8") as lines:
        real = [json.loads(line) for line in lines]
    assert len(real) == 200 and {frozenset(row) for row in real} == {frozenset(RIGHT[table])}
    write(tmp_path, rows | {table: [*rows[table], *real]})
    _, report = import_kuaisearch(tmp_path, SPLIT, unknown_items="text")
    assert report.read[f"{table} rows"] == len(rows[table]) + 200
    counted = {reason.rpartition(".")[2] for reason in report.unused if reason.startswith(f"values of {table}.")}
    if table == "relevance":
        assert report.unused["relevance pairs"] == 201 and not counted
    else:
        assert counted == fields_of(real[0]) - PLACES[table] - SUMMED
    assert all(fields_of(row) == fields_of(real[0]) for row in real)


def test_the_published_samples_import_whole_with_unknown_items_as_text(tmp_path, samples):
    data, report = import_kuaisearch(samples, SPLIT, unknown_items="text")
    assert (len(data.catalogue), len(data.users), len(data.searches)) == (200, 397, 200)
    assert sum(not s.chosen for s in data.searches) == 50
    assert not any(report.dropped.values())
    data.save(tmp_path)
    assert check_folder(tmp_path) == []
