"""Amazon reviews of 2023 as purchases with HEM queries: as ``hem``, with clock times and prices.

A folder with one ``meta_<Category>.jsonl`` and one ``<Category>.jsonl``, each plain or .gz. Where each field goes:

| table | field | record |
|---|---|---|
| meta | parent_asin, title, price | item_id, title, price |
| meta | details.Brand, else store | brand |
| meta | categories | category |
| meta | description, features | description |
| reviews | user_id, parent_asin, timestamp (milliseconds) | user_id, bought, time |

One search per review, with the HEM query of the bought item; a user's second review of an item is left out. Not used,
and counted: ``rating_number`` (it knows the test users: sales are counted from training users instead), and what a
review says.

Source: Hou et al., arXiv 2403.03952, and the page of the data; queries as in ``hem``; the mapping is this project's.
"""

import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.common import ImportReport, UnknownItemsPolicy, assemble, clean, readable
from crsearch.records.importers.hem import Purchase, first_purchases, hem_query, k_core, purchase_searches
from crsearch.records.rows import Row, read_rows
from crsearch.records.store import Dataset
from crsearch.records.types import Item, User
from crsearch.records.values import short

REVIEW = {"user_id": "AGKHLEW2SOWHNMFQIJGBECAF7INQ", "parent_asin": "B00YQ6X8EO", "timestamp": 1588687728923}
META = {
    "parent_asin": "B00YQ6X8EO", "title": "Hair Spray", "price": 9.99, "store": "Herbivore",
    "categories": ["Beauty", "Hair Care"], "details": {"Brand": "Herbivore"}, "description": [], "features": [],
}  # fmt: skip

_OPTIONAL = {
    "title": str, "store": str, "categories": list, "details": dict, "description": list, "features": list,
}  # fmt: skip
"""Fields of the metadata that may be absent or null -> type."""


def import_amazon2023(
    source: Path, split: SplitConfig, *, unknown_items: UnknownItemsPolicy = "error", core: int = 5
) -> tuple[Dataset, ImportReport]:
    """Records from Amazon reviews of 2023; see the module for where each field goes.

    Args:
        source: the folder.
        split: mode and shares of the parts.
        unknown_items: what happens to purchases of items without metadata. No query can be derived for them:
            ``drop`` and ``text`` both leave them out.
        core: users and items with fewer reviews are removed; 0 = keep all.

    Raises:
        DataError: missing or broken files, unknown items under ``error``.
    """
    report = ImportReport(f"amazon2023: {source}")
    reviews, meta = _files(source)
    everything = list(_reviews(reviews, report))
    purchases = k_core(everything, core)
    report.dropped[f"reviews outside the {core}-core"] += len(everything) - len(purchases)
    items = sorted(_items(meta, {p.asin for p in purchases}, report), key=lambda item: item.item_id)
    query_of = {item.item_id: hem_query(item.category) for item in items}
    searches = purchase_searches(first_purchases(purchases, report), query_of, unknown_items, report)
    users = {s.user_id: User(user_id=s.user_id) for s in searches}
    return assemble(items, users, searches, split, unknown_items, report, count_sales=True), report


def _files(source: Path) -> tuple[Path, Path]:
    files = sorted(p for p in source.glob("*") if p.name.endswith((".jsonl", ".jsonl.gz")))
    metas = [p for p in files if p.name.startswith("meta_")]
    reviews = [p for p in files if not p.name.startswith("meta_")]
    if len(metas) != 1 or len(reviews) != 1:
        raise DataError(
            f"{source}: one <Category>.jsonl and one meta_<Category>.jsonl are needed, each plain or .gz "
            f"(there are: {', '.join(p.name for p in files) or 'no such files'})"
        )
    return reviews[0], metas[0]


def _broken(path: Path, row: Row, name: str, rule: str, right: Mapping[str, Any]) -> DataError:
    value = short(row.values.get(name))
    return DataError(f"{path}:{row.line}:{name}: {value}: {rule}; a right row: {json.dumps(right)}")


def _reviews(path: Path, report: ImportReport) -> Iterator[Purchase]:
    for seq, row in enumerate(readable(read_rows(path), REVIEW)):
        report.read["reviews"] += 1
        for name in ("user_id", "parent_asin"):
            if not isinstance(row.values.get(name), str) or not row.values[name]:
                raise _broken(path, row, name, "an id is needed", REVIEW)
        time = row.values.get("timestamp")
        if isinstance(time, bool) or not isinstance(time, int) or not 0 < time < 1e14:
            raise _broken(path, row, "timestamp", "milliseconds are needed", REVIEW)
        yield Purchase(row.values["user_id"], row.values["parent_asin"], time / 1_000, seq)


def _items(path: Path, wanted: set[str], report: ImportReport) -> Iterator[Item]:
    """The wanted items that have a title, each at its first row."""
    seen: set[str] = set()
    for row in readable(read_rows(path), META):
        report.read["items"] += 1
        item_id = row.values.get("parent_asin")
        if not isinstance(item_id, str) or not item_id:
            raise _broken(path, row, "parent_asin", "an id is needed", META)
        if item_id not in wanted:
            report.dropped["items without a review that counts"] += 1
            continue
        if item_id in seen:
            report.dropped["repeated items (the first is kept)"] += 1
            continue
        seen.add(item_id)
        for name, kind in _OPTIONAL.items():
            if row.values.get(name) is not None and not isinstance(row.values[name], kind):
                raise _broken(path, row, name, f"a {kind.__name__} is needed", META)
        report.unused["numbers of ratings"] += "rating_number" in row.values
        if title := clean(row.values.get("title") or "", report, "titles"):
            yield _item(item_id, title, row.values, report)
        else:
            report.dropped["items without a title"] += 1


def _item(item_id: str, title: str, values: Mapping[str, Any], report: ImportReport) -> Item:
    brand = (values.get("details") or {}).get("Brand") or values.get("store") or ""
    about = [str(text) for name in ("description", "features") for text in values.get(name) or ()]
    return Item(
        item_id=item_id,
        title=title,
        brand=clean(str(brand), report, "brands") or None,
        category=tuple(clean(str(level), report, "categories") for level in values.get("categories") or ()),
        price=_price(values.get("price"), report),
        description="\n".join(about) or None,
    )


def _price(given: Any, report: ImportReport) -> float | None:
    """A price above 0, also if written as text; what is none is absent and counted.

    >>> report = ImportReport("x")
    >>> _price("$1,299.00", report), _price("from 8.99", report), _price(None, report), dict(report.changed)
    (1299.0, None, None, {'prices that are no number above 0 made absent': 1})
    """
    if given is None:
        return None
    try:
        price = float(given.strip().removeprefix("$").replace(",", "") if isinstance(given, str) else given)
    except (TypeError, ValueError):
        price = math.nan
    if 0 < price < math.inf:
        return price
    report.changed["prices that are no number above 0 made absent"] += 1
    return None
