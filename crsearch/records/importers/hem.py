"""Amazon reviews of 2014 as purchases with HEM queries: the words of the bought item's category path.

Two forms of the same source give the same records:

* a prepared folder: ``items.jsonl`` (asin, title, brand, categories), ``interactions.csv`` (user_id, asin,
  timestamp, seq_no) and, if there, ``queries_hem.jsonl`` (asin, queries);
* the public pair: ``reviews_<Category>.json`` (JSON lines) and ``meta_<Category>.json`` (Python literals).

Each file may be gzipped. Source: Van Gysel et al., CIKM 2016; Ai et al. (HEM), SIGIR 2017; McAuley et al., SIGIR
2015. Without stemming, which the published HEM files have (details: this project).
"""

import ast
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.common import ImportReport, UnknownItemsPolicy, assemble, clean, readable
from crsearch.records.importers.stopwords import INQUERY_STOPWORDS
from crsearch.records.rows import find_table, read_lines, read_rows
from crsearch.records.store import Dataset
from crsearch.records.types import Item, Search, User
from crsearch.records.values import short

REVIEW = {"reviewerID": "A1YJEY40YUW4SE", "asin": "B004756YJA", "unixReviewTime": 1318896000}
META = {"asin": "B004756YJA", "title": "Nail Lacquer", "brand": "OPI", "categories": [["Beauty", "Makeup", "Nails"]]}
QUERY = {"asin": "B004756YJA", "queries": ["beauty makeup nails"]}
INTERACTION = {"user_id": "A1YJEY40YUW4SE", "asin": "B004756YJA", "timestamp": "1318896000", "seq_no": "0"}


ANY_QUERY = "*"
"""The query of who looks for anything: it has no word, so that no searcher finds an item by it."""


@dataclass(frozen=True, slots=True)
class Purchase:
    """One review: a bought item, a proxy of a purchase."""

    user_id: str
    asin: str
    timestamp: int | float
    """Unix seconds."""
    seq: int
    """Order among the user's purchases; larger = later."""


def hem_query(path: Iterable[str]) -> str | None:
    """The query of a category path: its words without stop words, each at its last place.

    None for a path of one level, or when no word is left.

    >>> hem_query(["Beauty", "Makeup", "Nails", "Nail Polish"])
    'beauty makeup nails nail polish'
    >>> hem_query(["Beauty", "Bath & Body", "Bath"])
    'beauty body bath'
    """
    levels = list(path)
    words = [w for w in re.findall("[a-z0-9]+", " ".join(levels).lower()) if len(w) > 1 and w not in INQUERY_STOPWORDS]
    last_places = list(dict.fromkeys(reversed(words)))
    return " ".join(reversed(last_places)) if len(levels) >= 2 and words else None


def k_core(purchases: Iterable[Purchase], core: int) -> list[Purchase]:
    """The purchases left when users and items with fewer than ``core`` are removed until none is left to remove."""
    kept = list(purchases)
    while True:
        users, items = Counter(p.user_id for p in kept), Counter(p.asin for p in kept)
        again = [p for p in kept if users[p.user_id] >= core and items[p.asin] >= core]
        if len(again) == len(kept):
            return kept
        kept = again


def import_hem(
    source: Path,
    split: SplitConfig,
    *,
    unknown_items: UnknownItemsPolicy = "error",
    core: int = 5,
    with_queries: bool = True,
) -> tuple[Dataset, ImportReport]:
    """Records from Amazon reviews: one search per purchase, with the HEM query of the bought item.

    There are no shown items, profiles, places or prices in the records. Times are whole days, so the order
    within a user is that of ``seq_no``, or of time and file where the source is the public pair. Items stand
    in the order of their ASIN; ``sales`` counts the purchases of training users.

    Args:
        source: the folder (see the module).
        split: shares of the parts.
        unknown_items: what happens to purchases of items without metadata. They have no category, so no
            query can be derived: ``drop`` and ``text`` both leave them out.
        core: users and items with fewer reviews are removed; public pair only, 0 = keep all. The prepared
            folder is taken as it is.
        with_queries: give a purchase the query of its item; else every query is ``ANY_QUERY``, which says nothing,
            and histories alone decide, as for a sequential recommender.

    Raises:
        DataError: missing or broken files, unknown items under ``error``.
    """
    report = ImportReport(f"hem: {source}")
    if (items_file := find_table(source, "items")) and (events_file := find_table(source, "interactions")):
        metadata = {values["asin"]: values for values in _prepared_items(items_file)}
        purchases = list(_prepared_purchases(events_file))
        queries = _prepared_queries(find_table(source, "queries_hem"))
    else:
        reviews_file, meta_file = _public_pair(source)
        everything = list(_reviews(reviews_file))
        purchases = k_core(everything, core)
        report.dropped[f"reviews outside the {core}-core"] += len(everything) - len(purchases)
        metadata = _metadata(meta_file, {p.asin for p in purchases})
        queries = {}
    report.read["items"] += len(metadata)
    report.read["purchases"] += len(purchases)
    items = [_item(metadata[asin], report) for asin in sorted(metadata)]
    items = [item for item in items if item.title]
    report.dropped["items without a title"] += len(metadata) - len(items)
    query_of: dict[str, str | None] = dict.fromkeys((item.item_id for item in items), ANY_QUERY)
    if with_queries:
        query_of = {item.item_id: queries.get(item.item_id) or hem_query(item.category) for item in items}
    searches = purchase_searches(first_purchases(purchases, report), query_of, unknown_items, report)
    users = {s.user_id: User(user_id=s.user_id) for s in searches}
    return assemble(items, users, searches, split, unknown_items, report, count_sales=True), report


def purchase_searches(
    purchases: Mapping[str, list[Purchase]],
    query_of: Mapping[str, str | None],
    unknown_items: UnknownItemsPolicy,
    report: ImportReport,
) -> list[Search]:
    """One search for each purchase, with the query of its item.

    Args:
        purchases: user_id -> purchases, oldest first.
        query_of: item -> its query, none where it has none; the items of the catalogue.
        unknown_items: what happens to purchases of other items: ``drop`` and ``text`` both leave them out.
        report: where changes are counted.

    Raises:
        DataError: unknown items under ``error``.
    """
    unknown = Counter(p.asin for events in purchases.values() for p in events if p.asin not in query_of)
    if unknown and unknown_items == "error":
        raise DataError(
            f"{report.source}: {len(unknown):,} items ({unknown.total():,} purchases) have no metadata with a title "
            f"(first: {min(unknown)!r}): complete the metadata, or pass --unknown-items drop"
        )
    report.dropped["purchases of items outside the catalogue"] += unknown.total()
    searches = []
    for user_id, events in purchases.items():
        for seq, purchase in enumerate(p for p in events if p.asin in query_of):
            query = query_of[purchase.asin]
            if query is None:
                report.dropped["purchases of items without a category path of two levels (no query)"] += 1
                continue
            searches.append(
                Search(
                    search_id=f"{user_id}-{seq}",
                    user_id=user_id,
                    time=datetime.fromtimestamp(purchase.timestamp, UTC),
                    query=query,
                    bought=(purchase.asin,),
                )
            )
    return searches


def first_purchases(purchases: Iterable[Purchase], report: ImportReport) -> dict[str, list[Purchase]]:
    """Each user's purchases, oldest first, each item once (at its first purchase)."""
    by_user: dict[str, list[Purchase]] = defaultdict(list)
    for purchase in purchases:
        by_user[purchase.user_id].append(purchase)
    out = {}
    for user_id, events in sorted(by_user.items()):
        first: dict[str, Purchase] = {}
        for purchase in sorted(events, key=lambda p: (p.timestamp, p.seq)):
            first.setdefault(purchase.asin, purchase)
        report.dropped["repeated purchases of an item by a user"] += len(events) - len(first)
        out[user_id] = list(first.values())
    return out


def _item(values: Mapping[str, Any], report: ImportReport) -> Item:
    paths = values.get("categories") or [[]]
    brand = clean(values.get("brand") or "", report, "brands")
    return Item(
        item_id=values["asin"],
        title=clean(values.get("title") or "", report, "titles"),
        brand=brand or None,
        category=tuple(clean(level, report, "categories") for level in paths[0]),
    )


def _prepared_items(path: Path) -> Iterator[Mapping[str, Any]]:
    for row in readable(read_rows(path), META):
        yield _checked(path, row.line, row.values, META)


def _prepared_purchases(path: Path) -> Iterator[Purchase]:
    for row in readable(read_rows(path), INTERACTION):
        values = row.values
        try:
            purchase = Purchase(values["user_id"], values["asin"], int(values["timestamp"]), int(values["seq_no"]))
        except (KeyError, TypeError, ValueError) as e:
            raise DataError(f"{path}:{row.line}: {values} is no purchase ({e!r}); a right row: {INTERACTION}") from e
        _check_time(path, row.line, "timestamp", purchase.timestamp, INTERACTION)
        yield purchase


def _prepared_queries(path: Path | None) -> dict[str, str]:
    """asin -> query of the first category path."""
    if path is None:
        return {}
    queries: dict[str, str] = {}
    for row in readable(read_rows(path), QUERY):
        values = _checked(path, row.line, row.values, QUERY)
        if values["queries"]:
            queries[values["asin"]] = values["queries"][0]
    return queries


def _public_pair(source: Path) -> tuple[Path, Path]:
    reviews = sorted([*source.glob("reviews_*.json"), *source.glob("reviews_*.json.gz")])
    metas = sorted([*source.glob("meta_*.json"), *source.glob("meta_*.json.gz")])
    if len(reviews) != 1 or len(metas) != 1:
        there = ", ".join(sorted(p.name for p in source.iterdir())) if source.is_dir() else "no such folder"
        raise DataError(
            f"{source}: either items.jsonl and interactions.csv, or one reviews_<Category>.json and one "
            f"meta_<Category>.json are needed, each plain or .gz (there are: {there or 'no files'})"
        )
    return reviews[0], metas[0]


def _reviews(path: Path) -> Iterator[Purchase]:
    for seq, (line, text) in enumerate(readable(read_lines(path), REVIEW)):
        try:
            values = json.loads(text)
        except ValueError as e:
            raise DataError(f"{path}:{line}: not JSON ({e}); a right row: {json.dumps(REVIEW)}") from e
        _checked(path, line, values, REVIEW)
        _check_time(path, line, "unixReviewTime", values["unixReviewTime"], REVIEW)
        yield Purchase(values["reviewerID"], values["asin"], values["unixReviewTime"], seq)


def _metadata(path: Path, wanted: set[str]) -> dict[str, Mapping[str, Any]]:
    """asin -> metadata of the wanted items; other lines are skipped before the costly parsing."""
    out: dict[str, Mapping[str, Any]] = {}
    asin_in_line = re.compile(r"""['"]asin['"]\s*:\s*['"]([^'"]*)['"]""")
    for line, text in readable(read_lines(path), META):
        named = asin_in_line.search(text)
        if named and named[1] not in wanted:
            continue
        try:
            values = ast.literal_eval(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            try:
                values = json.loads(text)
            except (ValueError, RecursionError) as e:
                raise DataError(f"{path}:{line}: neither a Python literal nor JSON; a right row: {META}") from e
        out[_checked(path, line, values, META)["asin"]] = values
    return out


def _checked(path: Path, line: int, values: Any, example: Mapping[str, Any]) -> Mapping[str, Any]:
    """The values of a row, if each field of the example is there (title and brand may miss) and of its type."""
    if not isinstance(values, dict):
        raise DataError(f"{path}:{line}: not a record; a right row: {example}")
    for name, right in example.items():
        value = values.get(name)
        if value is None and name in ("title", "brand", "categories"):
            continue
        if type(value) is not type(right):
            raise DataError(
                f"{path}:{line}:{name}: {value!r} is no {type(right).__name__}; a right row: {dict(example)}"
            )
    return values


def _check_time(path: Path, line: int, name: str, seconds: int | float, right: Mapping[str, Any]) -> None:
    """Refuse what is no time in Unix seconds; milliseconds and microseconds of our days lie after the year 9999."""
    try:
        datetime.fromtimestamp(seconds, UTC)
    except (ValueError, OverflowError, OSError) as e:
        raise DataError(
            f"{path}:{line}:{name}: {short(seconds)} is no time in Unix seconds; a right row: {dict(right)} [bad-time]"
        ) from e
