import gzip
import json
from pathlib import Path

import pytest

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.amazon2023 import import_amazon2023
from crsearch.records.split import part_of

SPLIT = SplitConfig(test=0.3, valid=0.2)
NOON = 1_588_687_728_923
ITEMS = [
    {"parent_asin": "B2", "title": "Salt &amp; Sun", "price": "12.50", "store": "Shop",
     "categories": ["Beauty", "Spray"], "details": {"Brand": "Herbivore"},
     "description": ["Sprays."], "features": ["Soft"], "rating_number": 9},
    {"parent_asin": "B1", "title": "Soap", "price": None, "store": "Shop", "categories": ["Beauty", "Bath"],
     "details": None, "rating_number": 3},
    {"parent_asin": "B3", "title": "Oil", "price": "—", "store": None, "categories": ["Beauty", "Bath", "Oil"]},
    {"parent_asin": "never", "title": "Oil", "price": 3.0},
]  # fmt: skip
REVIEWS = [(f"U{u}", asin, NOON + 1_000 * n + 7 * u) for u in range(12) for n, asin in enumerate(("B3", "B1", "B2"))]


def write(folder: Path, items=ITEMS, reviews=REVIEWS) -> Path:
    with gzip.open(folder / "All_Beauty.jsonl.gz", "wt", encoding="utf-8") as f:
        for user, asin, time in reviews:
            row = {"rating": 5.0, "title": "x", "asin": "A", "parent_asin": asin, "user_id": user, "timestamp": time}
            f.write(json.dumps(row) + "\n")
    (folder / "meta_All_Beauty.jsonl").write_text("".join(json.dumps(item) + "\n" for item in items), encoding="utf-8")
    return folder


def test_purchases_become_searches_at_their_clock_time_with_hem_queries(tmp_path):
    data, report = import_amazon2023(write(tmp_path), SPLIT, core=3)
    searches = data.searches_of("U1")
    assert [(s.query, s.bought) for s in searches] == [
        ("beauty bath oil", ("B3",)), ("beauty bath", ("B1",)), ("beauty spray", ("B2",)),
    ]  # fmt: skip
    assert searches[0].time.isoformat(timespec="milliseconds") == "2020-05-05T14:08:48.930+00:00"
    assert (report.read["reviews"], report.read["items"]) == (36, 4)
    assert report.dropped["items without a review that counts"] == 1


def test_items_have_price_and_brand_where_they_are_known(tmp_path):
    data, report = import_amazon2023(write(tmp_path), SPLIT, core=3)
    assert [(i.item_id, i.title, i.brand, i.price) for i in data.catalogue] == [
        ("B1", "Soap", "Shop", None), ("B2", "Salt & Sun", "Herbivore", 12.5), ("B3", "Oil", None, None),
    ]  # fmt: skip
    assert data.catalogue[1].description == "Sprays.\nSoft"
    assert report.changed["prices that are no number above 0 made absent"] == 1


def test_sales_count_training_users_and_never_the_ratings_of_everybody(tmp_path):
    data, report = import_amazon2023(write(tmp_path), SPLIT, core=3)
    train = sum(part_of(f"U{u}", SPLIT) == "train" for u in range(12))
    assert {i.sales for i in data.catalogue} == {float(train)} and report.unused["numbers of ratings"] == 2


def test_the_core_filter_and_second_reviews_are_counted(tmp_path):
    more = [*REVIEWS, ("W", "B1", NOON), ("U1", "B3", NOON + 9_000)]
    data, report = import_amazon2023(write(tmp_path, reviews=more), SPLIT, core=3)
    assert "W" not in data.users and report.dropped["reviews outside the 3-core"] == 1
    assert report.dropped["repeated purchases of an item by a user"] == 1


def test_items_without_metadata_are_an_error_or_left_out(tmp_path):
    write(tmp_path, items=ITEMS[:2])
    with pytest.raises(DataError, match=r"1 items \(12 purchases\).*'B3'.*--unknown-items drop"):
        import_amazon2023(tmp_path, SPLIT, core=3)
    assert len(import_amazon2023(tmp_path, SPLIT, core=3, unknown_items="drop")[0].searches) == 24


@pytest.mark.parametrize(
    ("file", "row", "message"),
    [
        ("All_Beauty.jsonl.gz", {"user_id": "U", "timestamp": 1}, r"jsonl\.gz:1:parent_asin: None: an id is needed"),
        ("All_Beauty.jsonl.gz", {"user_id": "U", "parent_asin": "B", "timestamp": "x"}, r":1:timestamp: 'x': millisec"),
        ("meta_All_Beauty.jsonl", {"title": "x"}, r"meta_All_Beauty\.jsonl:1:parent_asin: None: an id is needed"),
        ("meta_All_Beauty.jsonl", {"parent_asin": "B1", "categories": "Beauty"}, r":1:categories: 'Beauty': a list"),
    ],
)
def test_a_broken_row_is_named_with_a_right_row(tmp_path, file, row, message):
    write(tmp_path)
    with (gzip.open if file.endswith(".gz") else open)(tmp_path / file, "wt") as f:
        f.write(json.dumps(row) + "\n")
    with pytest.raises(DataError, match=message + ".*; a right row: {"):
        import_amazon2023(tmp_path, SPLIT, core=0)


def test_a_folder_of_something_else_names_what_is_needed(tmp_path):
    (tmp_path / "a.jsonl").write_text("")
    with pytest.raises(DataError, match=r"one <Category>\.jsonl and one meta_<Category>\.jsonl.*there are: a\.jsonl"):
        import_amazon2023(tmp_path, SPLIT)
