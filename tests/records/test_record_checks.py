import gzip
import json
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crsearch.config import SplitConfig
from crsearch.records.checks import check_folder, read_folder
from crsearch.records.problems import Problem
from crsearch.records.schema import TABLES, describe
from crsearch.records.split import choose_targets
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Item, Search, User

NOW = datetime(2026, 1, 1, tzinfo=UTC)

ITEMS = [{"item_id": "a", "title": "Red case", "price": 5.0}, {"item_id": "b", "title": "Blue case", "category": ["C"]}]
USERS = [{"user_id": "u", "profile": {"age": "30"}}]
SEARCHES = [
    {"search_id": "1", "user_id": "u", "time": "2025-06-01T20:11:00Z", "query": "case", "shown": ["a", "b"]},
    {"search_id": "2", "user_id": "u", "time": "2025-06-02T08:00:00+08:00", "query": "red", "clicked": ["a"]},
]


def write(folder: Path, **tables: list[dict[str, object]]) -> Path:
    rows = {"items": ITEMS, "users": USERS, "searches": SEARCHES} | tables
    for name, lines in rows.items():
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        (folder / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return folder


def found(folder: Path) -> list[tuple[str, int | None, str]]:
    return [(Path(p.file).name, p.line, p.rule) for p in check_folder(folder, now=NOW)]


def test_right_tables_have_no_problems(tmp_path):
    assert check_folder(write(tmp_path), now=NOW) == []


def test_tables_without_problems_are_read_as_records(tmp_path):
    problems, data = read_folder(write(tmp_path), now=NOW)
    assert problems == [] and data is not None
    assert [(s.search_id, s.time.isoformat(), s.chosen) for s in data.searches] == [
        ("1", "2025-06-01T20:11:00+00:00", ()), ("2", "2025-06-02T00:00:00+00:00", ("a",)),
    ]  # fmt: skip
    assert data.catalogue[1].category == ("C",) and not data.targets


def test_the_example_rows_of_the_schema_are_right_rows(tmp_path):
    rows = {name: [table.example_row()] for name, table in TABLES.items()}
    rows["items"] += [{"item_id": i, "title": "x"} for i in ("i7", "i9")]
    assert check_folder(write(tmp_path, **rows), now=NOW) == []
    assert all(field.name in describe() for table in TABLES.values() for field in table.fields)


@pytest.mark.parametrize(
    ("table", "change", "rule"),
    [
        ("items", {"title": "  "}, "empty-title"),
        ("items", {"title": 3}, "wrong-type"),
        ("items", {"title": "\ud800"}, "broken-text"),
        ("items", {"item_id": "b "}, "bad-id"),
        ("items", {"item_id": None}, "empty-item_id"),
        ("items", {"item_id": "a"}, "duplicate"),
        ("items", {"price": -5}, "bad-price"),
        ("items", {"price": 0}, "bad-price"),
        ("items", {"price": 1e308}, "bad-price"),
        ("items", {"price": "¥1,299"}, "wrong-type"),
        ("items", {"price": True}, "wrong-type"),
        ("items", {"sales": -1}, "bad-sales"),
        ("items", {"category": "C"}, "wrong-type"),
        ("items", {"category": [3]}, "wrong-type"),
        ("items", {"attributes": {"size": 3}}, "wrong-type"),
        ("items", {"titel": "x"}, "unknown-field"),
        ("searches", {"time": "2025-06-02T08:00:00"}, "naive-time"),
        ("searches", {"time": "2026-01-03T00:00:00Z"}, "future-time"),
        ("searches", {"time": "1970-01-01T00:00:00Z"}, "early-time"),
        ("searches", {"time": "yesterday"}, "wrong-type"),
        ("searches", {"time": None}, "empty-time"),
        ("searches", {"time": 7}, "mixed-times"),
        ("searches", {"query": ""}, "empty-query"),
        ("searches", {"clicked": ["x"]}, "unknown-item"),
        ("searches", {"shown": ["x"], "clicked": []}, "unknown-item"),
        ("searches", {"shown": ["b"], "clicked": ["a"]}, "not-shown"),
        ("searches", {"shown": ["b"], "clicked": [], "bought": ["a"]}, "not-shown"),
        ("searches", {"clicked": ["a", "a"]}, "repeated-item"),
        ("searches", {"user_id": "w"}, "unknown-user"),
        ("searches", {"search_id": "1"}, "duplicate"),
    ],
)
def test_a_broken_second_row_is_named_with_its_line_and_rule(tmp_path, table, change, rule):
    rows = {"items": ITEMS, "searches": SEARCHES}[table]
    with_fault = [rows[0], {**rows[1], **change}]
    folder = write(tmp_path, **{table: with_fault}) if rule != "broken-text" else write_ascii(tmp_path, with_fault)
    assert (f"{table}.jsonl", 2, rule) in found(folder)


def write_ascii(folder: Path, items: list[dict[str, object]]) -> Path:
    write(folder)
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in items))
    return folder


@pytest.mark.parametrize(
    ("line", "column"),
    [
        (b'{"item_id": "c", "title": }', 27),
        (b'{"item_id": "c"', 16),
        (b'["c"]', None),
        (b'{"item_id": "c", "title": "\xff"}', 28),
        (b'{"item_id": "c", "title": "x", "price": NaN}', None),
        (b'{"item_id": "c", "item_id": "d", "title": "x"}', None),
        (b"[" * 100_000, None),
    ],
)
def test_a_line_that_cannot_be_read_is_named_and_the_others_are_still_checked(tmp_path, line, column):
    folder = write(tmp_path)
    good = (folder / "items.jsonl").read_bytes()
    (folder / "items.jsonl").write_bytes(good + b"\n" + line + b'\r\n{"item_id": "d", "title": ""}\r\n')
    first, second = check_folder(folder, now=NOW)
    assert (first.line, first.rule, second.line, second.rule) == (4, "broken-line", 5, "empty-title")
    assert column is None or first.column == column


def test_a_byte_order_mark_and_blank_lines_are_no_fault(tmp_path):
    folder = write(tmp_path)
    (folder / "users.jsonl").write_bytes(b'\xef\xbb\xbf{"user_id": "u"}\r\n\r\n')
    assert check_folder(folder, now=NOW) == []


def test_csv_rows_are_checked_by_the_same_rules(tmp_path):
    folder = write(tmp_path)
    (folder / "items.jsonl").unlink()
    rows = ['a,"Red\ncase",5,Phones|Cases,"{""colour"": ""red""}"', "b,Blue,¥5,,", "c,x", ""]
    text = "\n".join(["item_id,title,price,category,attributes", *rows])
    (folder / "items.csv").write_text(text, encoding="utf-8-sig")
    assert found(folder) == [("items.csv", 4, "wrong-type"), ("items.csv", 5, "broken-line")]


def test_a_missing_column_is_said_once(tmp_path):
    folder = write(tmp_path)
    (folder / "items.jsonl").unlink()
    (folder / "items.csv").write_text("item_id,name\na,x\nb,y\n")
    assert found(folder) == [("items.csv", 2, "missing-column"), ("items.csv", 2, "unknown-field")]


@pytest.mark.parametrize("junk", [b"", b"junk"])
def test_a_damaged_gz_is_named(tmp_path, junk):
    folder = write(tmp_path)
    packed = gzip.compress((folder / "users.jsonl").read_bytes())
    (folder / "users.jsonl").unlink()
    (folder / "users.jsonl.gz").write_bytes(packed + junk if junk else packed[:-6])
    assert ("users.jsonl.gz", 2, "broken-file") in found(folder)


def test_an_empty_catalogue_and_missing_tables_are_problems_of_the_file(tmp_path):
    (write(tmp_path) / "users.jsonl").unlink()
    (tmp_path / "items.jsonl").write_text("")
    assert ("items.jsonl", None, "empty-catalogue") in found(tmp_path)
    assert (tmp_path.name, None, "missing-table") in found(tmp_path)


@pytest.mark.parametrize(
    ("seq", "times", "rules"),
    [([0, 1], [1, 1], []), ([1, 0], [1, 2], ["bad-order"]), ([0, 0], [1, 2], ["bad-order"])],
)
def test_seq_goes_with_the_time(tmp_path, seq, times, rules):
    rows = [{**s, "seq": n, "time": t} for s, n, t in zip(SEARCHES, seq, times, strict=True)]
    assert [rule for _, _, rule in found(write(tmp_path, searches=rows))] == rules


@pytest.mark.parametrize(
    ("split", "rule"),
    [
        ([{"search_id": "9", "target": "a", "part": "test"}], "unknown-search"),
        ([{"search_id": "2", "target": "x", "part": "test"}], "unknown-item"),
        ([{"search_id": "2", "target": "b", "part": "test"}], "target-not-chosen"),
        ([{"search_id": "2", "target": "a", "part": "tset"}], "bad-part"),
    ],
)
def test_a_split_that_does_not_fit_is_named(tmp_path, split, rule):
    assert found(write(tmp_path, split=split)) == [("split.jsonl", 1, rule)]


def test_a_user_on_both_sides_is_named_with_both_lines(tmp_path):
    searches = [{**s, "clicked": ["a"]} for s in SEARCHES]
    split = [{"search_id": s, "target": "a", "part": p} for s, p in (("1", "train"), ("2", "test"))]
    (problem,) = check_folder(write(tmp_path, searches=searches, split=split), now=NOW)
    assert (problem.line, problem.rule) == (2, "user-on-both-sides") and "train in line 1" in problem.message


def test_records_without_a_search_are_no_records(tmp_path):
    folder = write(tmp_path)
    (folder / "searches.jsonl").write_text("")
    assert found(folder) == [("searches.jsonl", None, "no-searches")]


def test_a_saved_data_set_is_clean_also_with_unknown_items_as_text(tmp_path):
    catalogue = Catalogue([Item(item_id="a", title="x")])
    searches = (Search(search_id="1", user_id="u", time=NOW, query="q", clicked=("x", "a")),)
    targets = choose_targets(searches, SplitConfig(), catalogue)
    Dataset(catalogue, {"u": User(user_id="u")}, searches, targets, unknown_items="text").save(tmp_path)
    assert check_folder(tmp_path, now=NOW) == []


def test_broken_and_newer_parquet_files_are_named(tmp_path):
    folder = write(tmp_path)
    (folder / "items.parquet").write_bytes(b"PAR1")
    pl.DataFrame({"user_id": ["u"]}).write_parquet(folder / "users.parquet", metadata={"crsearch.format": "9"})
    assert {("items.parquet", None, "broken-file"), ("users.parquet", None, "newer-format")} <= set(found(folder))


def test_naive_times_in_parquet_are_named_by_row(tmp_path):
    folder = write(tmp_path)
    rows = [{**s, "time": datetime(2025, 1, n + 1)} for n, s in enumerate(SEARCHES)]
    pl.DataFrame(rows).write_parquet(folder / "searches.parquet")
    assert found(folder) == [("searches.parquet", 1, "naive-time"), ("searches.parquet", 2, "naive-time")]


@given(content=st.binary(max_size=200))
@settings(max_examples=100)
@pytest.mark.parametrize("suffix", ["jsonl", "csv", "tsv", "jsonl.gz", "csv.gz", "parquet"])
def test_no_bytes_make_the_check_fail(tmp_path_factory, suffix, content):
    folder = write(tmp_path_factory.mktemp("set"))
    (folder / "items.jsonl").unlink()
    (folder / f"items.{suffix}").write_bytes(content)
    assert check_folder(folder, now=NOW), "random bytes are no catalogue with these items"


def test_a_problem_reads_file_line_column_message_fix_rule():
    problem = Problem(file="f.csv", line=3, column="price", rule="bad-price", message="price = -5", fix="mend it")
    assert str(problem) == "f.csv:3:price: price = -5. Mend it [bad-price]"
