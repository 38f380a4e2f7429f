from pathlib import Path

import pytest

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.jdsearch import BEHAVIOR, PRODUCT, import_jdsearch
from crsearch.records.split import part_of

SPLIT = SplitConfig(test=0.3, valid=0.2)
PRODUCTS = [(str(w), f"7\x18{w}", "4" if w % 2 else "", "1", f"2\x18{w}", "", "", "5") for w in range(30, 40)]
LINE = (
    "12\x187",
    "31_32_33_31",
    "0.0_1.0_3.0_0.0",
    "12\x187_12\x187_-1_-1_8",
    "34_34_35_36_37",
    "CLICK_ORD_FLW_CART_ORD",
    "0_1_2_3_4_5",
)
SILENT = ("9", "31_32", "0.0_0.0", "", "", "", "3")


def write(folder: Path, lines=(LINE,) * 12, products=PRODUCTS) -> Path:
    for name, right, rows in (("user_behavior_data", BEHAVIOR, lines), ("product_meta_data", PRODUCT, products)):
        text = "".join("\t".join(cells) + "\n" for cells in [tuple(right), *rows])
        (folder / f"{name}.txt").write_text(text, encoding="utf-8")
    return folder


def test_behaviours_and_candidates_become_searches_in_their_order(tmp_path):
    data, report = import_jdsearch(write(tmp_path), SPLIT)
    assert [(s.time, s.query, s.clicked, s.bought) for s in data.searches_of("u2")] == [
        (0, "12 7", ("34",), ("34",)),
        (1, "*", ("35",), ()),
        (2, "*", ("36",), ()),
        (3, "8", (), ("37",)),
        (4, "12 7", ("32",), ("33",)),
    ]
    assert data.searches_of("u2")[-1].shown == ("31", "32", "33")
    assert data.targets["u2-4"] == ("33", part_of("u2", SPLIT)) and len(data.targets) == 12
    assert report.changed["behaviours with the same query joined to one search"] == 12
    assert report.changed["behaviours without a query (query *)"] == 24


def test_products_have_words_for_terms_and_nothing_that_is_not_known(tmp_path):
    first, second = import_jdsearch(write(tmp_path), SPLIT)[0].catalogue[:2]
    assert (first.title, first.brand, first.category, first.attributes) == ("7 30", None, ("1", "2 30"), {"shop": "5"})
    assert second.brand == "4" and second.price is None


def test_a_user_without_a_choice_has_no_example(tmp_path):
    data, report = import_jdsearch(write(tmp_path, [LINE, SILENT]), SPLIT)
    assert len(data.users) == 2 and len(data.targets) == 1
    assert data.searches_of("u3")[0].skipped == ("31", "32")
    assert report.changed["users without a choice in the catalogue (no example)"] == 1


def test_products_without_metadata_are_an_error_or_left_out(tmp_path):
    write(tmp_path, products=PRODUCTS[:4])
    with pytest.raises(DataError, match=r"4 items \(48 mentions.*--unknown-items drop"):
        import_jdsearch(tmp_path, SPLIT)
    data, _ = import_jdsearch(tmp_path, SPLIT, unknown_items="drop")
    assert [s.bought for s in data.searches_of("u2")] == [("33",)]


@pytest.mark.parametrize(
    ("place", "cell", "message"),
    [
        (0, "", r"txt:3:query: '': an id is needed"),
        (2, "0.0_1.0", r"txt:3:candidate_label_list: '0\.0_1\.0': 2 labels of 4 candidates"),
        (2, "0.0_1.0_9.0_0.0", r"txt:3:candidate_label_list: .*: labels are 0\.0"),
        (2, "0.0_1.0_x_0.0", r"txt:3:candidate_label_list: .*: labels are 0\.0"),
        (4, "34_34", r"txt:3:history_wid_list: '34_34': 5 queries, 2 products, 5 kinds"),
        (4, "34__35_36_37", r"txt:3:history_wid_list: '34__35_36_37': a part is empty"),
        (5, "CLICK_ORD_FLW_CART_LIKE", r"txt:3:history_type_list: .*: 'LIKE' is none of CART, CLICK, FLW, ORD"),
        (6, "0_1_2_3_4", r"txt:3:history_time_list: '0_1_2_3_4': 6 gaps are needed"),
    ],
)
def test_a_broken_line_is_named_with_a_right_row(tmp_path, place, cell, message):
    broken = (*LINE[:place], cell, *LINE[place + 1 :])
    with pytest.raises(DataError, match=message) as error:
        import_jdsearch(write(tmp_path, [LINE, broken]), SPLIT)
    assert "a right row: {'query'" in str(error.value)


def test_missing_files_and_repeated_products_are_named(tmp_path):
    with pytest.raises(DataError, match=r"there is no product_meta_data\.txt"):
        import_jdsearch(tmp_path, SPLIT)
    with pytest.raises(DataError, match=r"product_meta_data\.txt:12:wid: '30': .*line 2 already"):
        import_jdsearch(write(tmp_path, products=[*PRODUCTS, PRODUCTS[0]]), SPLIT)
