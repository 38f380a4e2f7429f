"""KuaiSearch: the public logs closest to those of the paper (Kuaishou; Chinese; not anonymous).

A folder with JSON lines, plain or .gz: ``items``, ``users``, ``recall`` (one session each) and, if there, ``rank``
(one shown item each) and ``relevance``. Where each field goes:

| table | field | record |
|---|---|---|
| items | item_id, item_title, brand_name, category_level1..3_name | item_id, title, brand, category |
| items | seller_name | attributes["seller"] |
| users | gender, age_bucket, fre_country, fre_province, fre_city | profile: gender, age, country, province, city |
| recall | session_id, user_id, query, time_index | search_id, user_id, query, time (an order number) |
| recall | impressed, clicked, purchased _item_ids | shown, clicked, bought |
| rank | search_entrance | place, of the session |
| rank | target_item_price | price, the latest |
| rank | item_order_cnt_30d_hist | sales, the latest in sessions of training users |
| rank | user_fan_number, user_follow_number, user_statistical_features | profile, the latest up to the example |

Not used, and counted: ``relevance`` rows (pairs without users), ``split`` (ours is by user), numeric ids of brands,
sellers and categories, recently clicked and purchased items (they lack their queries), ``query``, ``is_clicked`` and
``is_purchased`` of ``rank`` (``recall`` has them), ``item_show_cnt_30d_hist`` and ``item_click_cnt_30d_hist``, and
any field that is not named here.

Source: arXiv 2602.11518 and its published demo files; the mapping is this project's.
"""

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.common import (
    ImportReport,
    UnknownItemsPolicy,
    assemble,
    clean,
    readable,
    refuse_leave_one_out,
    without_repeats,
)
from crsearch.records.leaks import assert_no_leaks
from crsearch.records.rows import find_table, read_rows
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Item, Search, User
from crsearch.records.values import short

NONE_NAMES = {"", "UNKNOWN", "无品牌", "其他/other", "其他/QITA", "\\N"}
"""Names by which the source says that it does not know."""

PROFILE = {
    "gender": "gender", "age_bucket": "age", "fre_country": "country", "fre_province": "province", "fre_city": "city",
}  # fmt: skip
"""Field of the users table -> key of the profile."""

_USER_FEATURES = {
    "user_show_cnt_30d_hist": "shown_30d",
    "user_click_cnt_30d_hist": "clicks_30d",
    "user_order_cnt_30d_hist": "orders_30d",
    "user_gmv_30d_hist": "spent_30d",
}

_SCHEMA: dict[str, Mapping[str, Any]] = {
    "items": {"item_id": int, "item_title": str, "brand_name": str, "seller_name": str}
    | {f"category_level{level}_name": str for level in (1, 2, 3)},
    "users": {"user_id": int} | dict.fromkeys(PROFILE, str),
    "recall": {
        "user_id": int, "session_id": int, "impressed_item_ids": list, "clicked_item_ids": list,
        "purchased_item_ids": list, "time_index": int, "query": str,
    },
    "rank": {
        "user_id": int, "session_id": int, "user_fan_number": int, "user_follow_number": int, "time_index": int,
        "search_entrance": str, "target_item_id": int, "target_item_price": int | float,
        "user_statistical_features": dict, "target_item_statistical_features": dict,
    },
    "relevance": {},
}  # fmt: skip
"""Fields that are read -> type; null is allowed in names. The others are counted as not used, see the module."""

RIGHT: dict[str, Mapping[str, Any]] = {
    "items": {
        "item_id": 3359347, "item_title": "高级静奢风貂皮大衣", "brand_id": 1, "brand_name": "金粟兰", "seller_id": 1,
        "seller_name": "皮草工厂店", "category_level1_id": 1, "category_level1_name": "女装", "category_level2_id": 1,
        "category_level2_name": "皮草", "category_level3_id": 0, "category_level3_name": "UNKNOWN",
    },
    "users": {
        "user_id": 7, "gender": "M", "age_bucket": "31-40", "fre_country": "中国", "fre_province": "辽宁",
        "fre_city": "鞍山",
    },
    "recall": {
        "user_id": 7, "session_id": 1, "impressed_item_ids": [38, 39], "clicked_item_ids": [38],
        "purchased_item_ids": [], "time_index": 384565, "query": "半身裙", "split": "train",
    },
    "rank": {
        "user_id": 7, "session_id": 1, "user_fan_number": 9, "user_follow_number": 65, "time_index": 384565,
        "search_entrance": "mall", "recently_clicked_item_ids": [1], "recently_purchased_item_ids": [],
        "query": "半身裙", "target_item_id": 38, "target_item_price": 59.9, "is_clicked": 1, "is_purchased": 0,
        "user_statistical_features": {
            "user_show_cnt_30d_hist": 4.0, "user_click_cnt_30d_hist": 1.0, "user_order_cnt_30d_hist": 0.0,
            "user_gmv_30d_hist": 0.0,
        },
        "target_item_statistical_features": {
            "item_show_cnt_30d_hist": 952.0, "item_click_cnt_30d_hist": 47.0, "item_order_cnt_30d_hist": 2.0,
        },
        "split": "train",
    },
    "relevance": {
        "query": "半身裙", "item_title": "液态棉后开衩半裙", "brand": "无品牌", "seller_name": "服装搭配",
        "attr_value": "常规,直筒", "score": 2,
    },
}  # fmt: skip
"""An example of a right row of each table, with every published field."""

_COUNTED = {"recently_clicked_item_ids", "recently_purchased_item_ids"}
"""Fields that are counted by their items."""

_Values = Mapping[str, Any]


def import_kuaisearch(
    source: Path, split: SplitConfig, *, unknown_items: UnknownItemsPolicy = "error"
) -> tuple[Dataset, ImportReport]:
    """Records from a KuaiSearch folder; see the module for where each field goes.

    Searches with equal ``time_index`` keep the order of the file. A click or purchase of an item that the
    session did not show is left out and counted. Users without a row in ``users`` get an empty profile.

    Args:
        source: the folder.
        split: shares of the parts.
        unknown_items: what happens to items of sessions that ``items`` lacks (the published samples are
            drawn table by table and hardly join).

    Raises:
        ConfigError: leave-one-out is asked for.
        DataError: a missing table, a broken row, unknown items under ``error``.
    """
    refuse_leave_one_out(split, "kuaisearch", "its profiles and sales are of the time of one example per user")
    report = ImportReport(f"kuaisearch: {source}")
    items = _items(source, report)
    users = _users(source, report)
    rank = list(_read(source, "rank", report)) if find_table(source, "rank") else []
    searches = _searches(source, rank, report)
    for search in searches:
        users.setdefault(search.user_id, User(user_id=search.user_id))
    if find_table(source, "relevance"):
        report.unused["relevance pairs"] += sum(1 for _ in _read(source, "relevance", report))
    data = assemble(items, users, searches, split, unknown_items, report, count_sales=False)
    data = _with_rank_features(data, rank, report)
    assert_no_leaks(data, report.source)
    return data, report


def _read(source: Path, table: str, report: ImportReport) -> Iterator[_Values]:
    path = find_table(source, table)
    if path is None:
        raise DataError(f"{source}: there is no {table}.jsonl or {table}.jsonl.gz")
    schema, right = _SCHEMA[table], RIGHT[table]
    for row in readable(read_rows(path), right):
        for name, kind in schema.items():
            value = row.values.get(name)
            absent = value is None and kind is str and name != "query"
            if not absent and (isinstance(value, bool) or not isinstance(value, kind)):
                needed, example = getattr(kind, "__name__", "number"), json.dumps(right, ensure_ascii=False)
                raise DataError(f"{path}:{row.line}:{name}: {short(value)} is no {needed}; a right row: {example}")
        report.read[f"{table} rows"] += 1
        for name in row.values.keys() - schema.keys() - _COUNTED if schema else ():
            report.unused[f"values of {table}.{name}"] += 1
        yield row.values


def _named(value: str | None, report: ImportReport, what: str) -> str | None:
    """A name, or none where the source says that it does not know."""
    if value is None or value.strip() in NONE_NAMES:
        report.changed[f"{what}: a word for none made absent"] += 1
        return None
    return clean(value, report, what)


def _items(source: Path, report: ImportReport) -> list[Item]:
    items = []
    for row in _read(source, "items", report):
        title = _named(row["item_title"], report, "titles")
        if title is None:
            report.dropped["items without a title"] += 1
            continue
        levels = [_named(row[f"category_level{level}_name"], report, "categories") for level in (1, 2, 3)]
        seller = _named(row["seller_name"], report, "sellers")
        items.append(
            Item(
                item_id=str(row["item_id"]),
                title=title,
                brand=_named(row["brand_name"], report, "brands"),
                category=tuple(level for level in levels if level is not None),
                attributes={"seller": seller} if seller is not None else {},
            )
        )
    return items


def _users(source: Path, report: ImportReport) -> dict[str, User]:
    users: dict[str, User] = {}
    for row in _read(source, "users", report):
        known = {key: _named(row[name], report, "profiles") for name, key in PROFILE.items()}
        user_id = str(row["user_id"])
        if user_id in users:
            report.dropped["repeated rows of a user (the first is kept)"] += 1
            continue
        users[user_id] = User(user_id=user_id, profile={k: v for k, v in known.items() if v is not None})
    return users


def _searches(source: Path, rank: list[_Values], report: ImportReport) -> list[Search]:
    entrances = {(row["user_id"], row["session_id"]): row["search_entrance"] for row in rank}
    searches: dict[Search, str] = {}
    used: Counter[str] = Counter()
    for row in _read(source, "recall", report):
        session = str(row["session_id"])
        shown = without_repeats(_ids(row["impressed_item_ids"]), report, "shown")
        entrance = entrances.get((row["user_id"], row["session_id"]))
        search = Search(
            search_id=session,
            user_id=str(row["user_id"]),
            time=row["time_index"],
            place=_named(entrance, report, "entrances") if entrance is not None else None,
            query=row["query"].strip(),
            shown=shown,
            clicked=_chosen(row["clicked_item_ids"], shown, report, "clicks"),
            bought=_chosen(row["purchased_item_ids"], shown, report, "purchases"),
        )
        if not search.query:
            report.dropped["searches without a query"] += 1
        elif search in searches:
            report.dropped["repeated rows of a search"] += 1
        else:
            used[session] += 1  # a session with several queries: the later ones are numbered
            searches[search] = session if used[session] == 1 else f"{session}.{used[session]}"
    return [replace(search, search_id=search_id) for search, search_id in searches.items()]


def _ids(numbers: list[Any]) -> list[str]:
    return [str(n) for n in numbers]


def _chosen(numbers: list[Any], shown: tuple[str, ...], report: ImportReport, what: str) -> tuple[str, ...]:
    ids = without_repeats(_ids(numbers), report, what)
    kept = tuple(i for i in ids if not shown or i in shown)
    report.dropped[f"{what} of items that were not shown"] += len(ids) - len(kept)
    return kept


def _with_rank_features(data: Dataset, rank: list[_Values], report: ImportReport) -> Dataset:
    """Prices, sales and user features of the rank table, each from before it can give a test away."""
    in_time = sorted(rank, key=lambda row: row["time_index"])  # stable: the later row of the file wins
    report.unused["recently clicked or purchased items (without their queries)"] += sum(
        len(row.get(f"recently_{kind}_item_ids") or ()) for row in rank for kind in ("clicked", "purchased")
    )
    price: dict[str, float] = {}
    sales: dict[str, float] = {}
    for row in in_time:
        item_id = str(row["target_item_id"])
        if row["target_item_price"] > 0:
            price[item_id] = float(row["target_item_price"])
        else:
            report.changed["prices not above 0 made absent"] += 1
        features = row["target_item_statistical_features"]
        orders = features.get("item_order_cnt_30d_hist")
        for name in features.keys() - {"item_order_cnt_30d_hist"}:
            report.unused[f"values of rank.{name}"] += 1
        if orders is not None and data.parts.get(str(row["user_id"])) == "train":
            sales[item_id] = float(orders)
    items = Catalogue(
        replace(item, price=price.get(item.item_id), sales=sales.get(item.item_id)) for item in data.catalogue
    )
    return replace(data, catalogue=items, users=_with_features(data, in_time))


def _with_features(data: Dataset, in_time: list[_Values]) -> dict[str, User]:
    """Profiles with the newest features known when the user's example came in."""
    example_time = {s.user_id: s.time for s in data.searches if s.search_id in data.targets}
    users = dict(data.users)
    for row in in_time:
        user_id = str(row["user_id"])
        until: Any = example_time.get(user_id)
        if user_id in users and until is not None and row["time_index"] <= until:
            features = {"fans": row["user_fan_number"], "follows": row["user_follow_number"]}
            known = row["user_statistical_features"]
            features |= {key: known[name] for name, key in _USER_FEATURES.items() if known.get(name) is not None}
            texts = {key: _digits(value) for key, value in features.items()}
            users[user_id] = replace(users[user_id], profile={**users[user_id].profile, **texts})
    return users


def _digits(number: int | float) -> str:
    return str(int(number)) if number == int(number) else str(number)
