"""JDsearch: personalised product search of a real shop, with histories and candidates (JD.com; anonymous).

A folder with ``user_behavior_data.txt`` (one user a line) and ``product_meta_data.txt``, tab separated, each plain or
.gz. Texts are numbers of terms, joined by the byte 0x18; here they are words joined by blanks. Where each field goes:

| table | field | record |
|---|---|---|
| behavior | line | user_id |
| behavior | history_qry_list, history_wid_list, history_type_list | earlier searches: query, bought (ORD) or clicked |
| behavior | query, candidate_wid_list, candidate_label_list | the last search: shown, clicked (1, 2), bought (3) |
| product | wid, name, brand_name | item_id, title, brand |
| product | cate_name_1 .. cate_name_4 | category |
| product | shop_id | attributes["shop"] |

Behaviours with the same query one after another are **one search**: a click and the order that follows it would else be
two, the answer of the second in its history. A behaviour without a query (-1) is a search of its own with the query
``*``. The times are order numbers within a user. There are no profiles, places, clock times or prices. Not used, and
counted: gaps between behaviours (their unit is not stated), numeric ids of brands and categories.

Source: Liu et al., JDsearch, SIGIR 2023, and the README of its data; the mapping is this project's.
"""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.common import (
    ImportReport,
    Line,
    UnknownItemsPolicy,
    assemble,
    table_lines,
    without_repeats,
)
from crsearch.records.importers.hem import ANY_QUERY
from crsearch.records.store import Dataset
from crsearch.records.types import Item, Search, User

TERMS = "\x18"
"""Between the terms of a text."""
BEHAVIOR = {
    "query": f"12{TERMS}7", "candidate_wid_list": "31_32", "candidate_label_list": "0.0_3.0",
    "history_qry_list": f"12{TERMS}7_-1", "history_wid_list": "33_34", "history_type_list": "CLICK_ORD",
    "history_time_list": "0_60_5",
}  # fmt: skip
PRODUCT = {
    "wid": "31", "name": f"7{TERMS}9", "brand_name": "4", "cate_name_1": "1", "cate_name_2": "2", "cate_name_3": "3",
    "cate_name_4": "", "shop_id": "5",
}  # fmt: skip

KINDS = {"ORD", "CLICK", "CART", "FLW"}
"""Ordered, clicked, put into the cart, followed."""
LABELS = {0.0: "none", 1.0: "click", 2.0: "cart", 3.0: "purchase"}
_NO_QUERY = "-1"


def import_jdsearch(
    source: Path, split: SplitConfig, *, unknown_items: UnknownItemsPolicy = "error"
) -> tuple[Dataset, ImportReport]:
    """Records of JDsearch; see the module for where each field goes and what a search is.

    Args:
        source: the folder.
        split: mode and shares of the parts.
        unknown_items: what happens to products that the metadata lack (there are such).

    Raises:
        DataError: a missing file or column, a broken row, unknown items under ``error``.
    """
    report = ImportReport(f"jdsearch: {source}")
    items = list(_items(_file(source, "product_meta_data"), report))
    searches: list[Search] = []
    for line in table_lines(_file(source, "user_behavior_data"), BEHAVIOR, delimiter="\t"):
        report.read["users"] += 1
        searches += _searches(line, report)
    users = {search.user_id: User(user_id=search.user_id) for search in searches}
    return assemble(items, users, searches, split, unknown_items, report, count_sales=True), report


def _file(source: Path, name: str) -> Path:
    for path in (source / f"{name}.txt", source / f"{name}.txt.gz"):
        if path.is_file():
            return path
    raise DataError(f"{source}: there is no {name}.txt or {name}.txt.gz")


def _searches(line: Line, report: ImportReport) -> Iterator[Search]:
    """The searches of a user, oldest first."""
    user_id, number = f"u{line.number}", 0
    behaviours = _behaviours(line)
    report.read["behaviours"] += len(behaviours)
    report.unused["gaps between behaviours"] += len(behaviours) + 1
    # behaviours without a query are not of one search: each has a key of its own
    keyed = [(query if query != _NO_QUERY else n, query, wid, kind) for n, (query, wid, kind) in enumerate(behaviours)]
    for _, group in groupby(keyed, key=lambda row: row[0]):
        rows = [(query, wid, kind) for _, query, wid, kind in group]
        query = rows[0][0]
        report.changed["behaviours without a query (query *)"] += query == _NO_QUERY
        report.changed["behaviours with the same query joined to one search"] += len(rows) - 1
        yield Search(
            search_id=f"{user_id}-{number}",
            user_id=user_id,
            time=number,
            query=ANY_QUERY if query == _NO_QUERY else _words(query),
            clicked=tuple(dict.fromkeys(wid for _, wid, kind in rows if kind != "ORD")),
            bought=tuple(dict.fromkeys(wid for _, wid, kind in rows if kind == "ORD")),
        )
        number += 1
    labels = _candidates(line)
    yield Search(
        search_id=f"{user_id}-{number}",
        user_id=user_id,
        time=number,
        query=_words(line.id("query")),
        shown=without_repeats((wid for wid, _ in labels), report, "candidates"),
        clicked=tuple(dict.fromkeys(wid for wid, label in labels if label in (1.0, 2.0))),
        bought=tuple(dict.fromkeys(wid for wid, label in labels if label == 3.0)),
    )


def _behaviours(line: Line) -> list[tuple[str, str, str]]:
    """(query, product, kind), oldest first."""
    queries, wids, kinds = (_list(line[f"history_{name}_list"]) for name in ("qry", "wid", "type"))
    gaps = _list(line["history_time_list"])
    if not len(queries) == len(wids) == len(kinds):
        raise line.broken("history_wid_list", f"{len(queries)} queries, {len(wids)} products, {len(kinds)} kinds")
    if len(gaps) != len(wids) + 1:
        raise line.broken("history_time_list", f"{len(wids) + 1} gaps are needed, the last before the query")
    if strange := set(kinds) - KINDS:
        raise line.broken("history_type_list", f"{min(strange)!r} is none of {', '.join(sorted(KINDS))}")
    if "" in (*queries, *wids):
        raise line.broken("history_wid_list" if "" in wids else "history_qry_list", "a part is empty")
    return list(zip(queries, wids, kinds, strict=True))


def _candidates(line: Line) -> list[tuple[str, float]]:
    """(product, label) in shown order."""
    wids, labels = _list(line["candidate_wid_list"]), _list(line["candidate_label_list"])
    if len(wids) != len(labels):
        raise line.broken("candidate_label_list", f"{len(labels)} labels of {len(wids)} candidates")
    try:
        numbers = [float(label) for label in labels]
    except ValueError:
        numbers = [-1.0]
    if not LABELS.keys() >= set(numbers):
        raise line.broken("candidate_label_list", "labels are 0.0 (none), 1.0 (click), 2.0 (cart) and 3.0 (purchase)")
    return list(zip(wids, numbers, strict=True))


def _items(path: Path, report: ImportReport) -> Iterator[Item]:
    first: dict[str, int] = {}
    for line in table_lines(path, PRODUCT, delimiter="\t"):
        report.read["products"] += 1
        item_id = line.id("wid")
        if first.setdefault(item_id, line.number) != line.number:
            raise line.broken("wid", f"the product stands in line {first[item_id]} already, keep one of the rows")
        if not line["name"]:
            report.dropped["products without a name"] += 1
            continue
        levels = [_words(line[f"cate_name_{level}"]) for level in (1, 2, 3, 4)]
        yield Item(
            item_id=item_id,
            title=_words(line["name"]),
            brand=_words(line["brand_name"]) or None,
            category=tuple(level for level in levels if level),
            attributes={"shop": line["shop_id"]} if line["shop_id"] else {},
        )


def _list(text: str) -> list[str]:
    return text.split("_") if text else []


def _words(text: str) -> str:
    return " ".join(text.split(TERMS))
