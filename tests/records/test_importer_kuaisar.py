import csv
from pathlib import Path

import pytest

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.kuaisar import ITEM, SHOWN, import_kuaisar
from crsearch.records.split import part_of

SPLIT = SplitConfig(test=0.3, valid=0.2)
NOON = 1_684_727_940_000
ITEMS = [(i, f"[{i}, 5]", 9, "NORMAL", "UNKNOWN", "music", "jazz" if i % 2 else "UNKNOWN", "", "") for i in range(8)]
ROWS = [
    (user, 70 + n, NOON + 1_000 * n, "[33, 9]" if n < 2 else "[4]", "USER_INPUT" if n else "UNKNOWN", item, clicks)
    for user in range(12)
    for n in range(3)
    for item, clicks in ((n, 0), (n + 1, 2), (n + 2, 0), (n + 1, 1))
]
USERS = [(user, 3, 2, "UNKNOWN" if user == 1 else "a") for user in range(11)]
HEADERS = {
    "src_inter": tuple(SHOWN),
    "item_features": tuple(ITEM),
    "user_features": ("user_id", "search_active_level", "rec_active_level", "onehot_feat1"),
    "rec_inter": ("user_id", "item_id"),
}


def write(folder: Path, rows=ROWS, items=ITEMS, users=USERS) -> Path:
    tables = {"src_inter": rows, "item_features": items, "user_features": users, "rec_inter": [(1, 2), (3, 4)]}
    for name, lines in tables.items():
        with (folder / f"{name}.csv").open("w", newline="", encoding="utf-8") as f:
            csv.writer(f).writerows([HEADERS[name], *lines])
    return folder


def test_sessions_become_searches_with_what_was_shown_and_clicked(tmp_path):
    data, report = import_kuaisar(write(tmp_path), SPLIT)
    first, second, third = data.searches_of("4")
    assert (first.search_id, first.query, first.place) == ("4-70-1", "33 9", None)
    assert (first.shown, first.clicked, first.skipped) == (("0", "1", "2"), ("1",), ("0", "2"))
    assert (second.place, third.query) == ("USER_INPUT", "4")
    assert second.time.isoformat() == "2023-05-22T03:59:01+00:00"
    assert data.targets["4-72-1"] == ("3", part_of("4", SPLIT))
    assert report.changed["shown: repeated items left out"] == 36
    assert report.unused["recommendations (they have no query)"] == 2


def test_items_and_profiles_hold_what_is_known(tmp_path):
    data, report = import_kuaisar(write(tmp_path), SPLIT)
    zero, one = data.catalogue[:2]
    assert (zero.title, zero.category, zero.attributes) == ("0 5", ("music",), {"author": "9", "type": "NORMAL"})
    assert one.category == ("music", "jazz") and (one.brand, one.price) == (None, None)
    assert data.users["2"].profile == {"search_active_level": "3", "rec_active_level": "2", "onehot_feat1": "a"}
    assert "onehot_feat1" not in data.users["1"].profile and data.users["11"].profile == {}
    assert report.changed["users without a row in user_features (empty profile)"] == 1


def test_sales_are_the_clicks_of_training_users(tmp_path):
    data, _ = import_kuaisar(write(tmp_path), SPLIT)
    train = sum(part_of(str(user), SPLIT) == "train" for user in range(12))
    assert {i.item_id: i.sales for i in data.catalogue if i.sales} == dict.fromkeys("123", float(train))


def test_two_keywords_of_a_session_are_two_searches(tmp_path):
    rows = [(0, 70, NOON, "[1]", "A", 1, 0), (0, 70, NOON, "[2]", "A", 2, 1), (0, 70, NOON + 5, "[1]", "A", 3, 1)]
    data, _ = import_kuaisar(write(tmp_path, rows), SPLIT)
    assert [(s.search_id, s.query, s.shown) for s in data.searches] == [
        ("0-70-1", "1", ("1", "3")), ("0-70-2", "2", ("2",)),
    ]  # fmt: skip


def test_items_without_features_or_caption_are_an_error_or_left_out(tmp_path):
    write(tmp_path, items=[(0, "[]", *ITEMS[0][2:]), *ITEMS[1:4]])
    with pytest.raises(DataError, match=r"2 items \(24 mentions.*--unknown-items drop"):
        import_kuaisar(tmp_path, SPLIT)
    data, report = import_kuaisar(tmp_path, SPLIT, unknown_items="drop")
    assert data.searches_of("4")[0].shown == ("1", "2") and report.dropped["items without a caption"] == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ((1, 70, NOON, "33 9", "A", 1, 0), r"src_inter\.csv:146:keyword: '33 9': a list of whole numbers"),
        ((1, 70, NOON, "[true]", "A", 1, 0), r"146:keyword: '\[true\]': a list of whole numbers"),
        ((1, 70, "noon", "[1]", "A", 1, 0), r"146:search_session_timestamp: 'noon': .*milliseconds are needed"),
        ((1, 70, NOON, "[1]", "A", 1, "yes"), r"146:click_cnt: 'yes': a number is needed"),
        ((1, 70, NOON, "[1]", "A", "", 1), r"146:item_id: '': an id is needed"),
    ],
)
def test_a_broken_row_is_named_with_a_right_row(tmp_path, row, message):
    with pytest.raises(DataError, match=message) as error:
        import_kuaisar(write(tmp_path, [*ROWS, row]), SPLIT)
    assert "a right row: {'user_id': '12'" in str(error.value)


def test_repeated_items_and_users_are_named(tmp_path):
    with pytest.raises(DataError, match=r"item_features\.csv:10:item_id: '0': .*line 2 already"):
        import_kuaisar(write(tmp_path, items=[*ITEMS, ITEMS[0]]), SPLIT)
    with pytest.raises(DataError, match=r"user_features\.csv:13:user_id: '0': .*a row already"):
        import_kuaisar(write(tmp_path, users=[*USERS, USERS[0]]), SPLIT)
