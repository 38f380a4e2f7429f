"""The Complete Journey: a year of a grocery shop with households, stores, clock times and prices paid (84.51°, CC0).

A folder with the tables ``transactions`` (or ``transactions_sample``), ``products`` and, if there, ``demographics``, as
CSV, TSV, JSON lines or Parquet. Where each field goes:

| table | field | record |
|---|---|---|
| products | product_id | item_id |
| products | product_type, package_size | title: the source has no better one, so many items share theirs |
| products | department, product_category, product_type | category |
| products | manufacturer_id | brand, as ``manufacturer 69`` (numbers stand for names) |
| products | brand (National or Private) | attributes["label"] |
| products | package_size | attributes["size"] |
| transactions | sales_value, quantity | price: the median of sales_value / quantity |
| transactions | household_id, transaction_timestamp | user_id, time (Unix seconds) |
| transactions | store_id | place, as ``store 436`` |
| demographics | all but household_id | profile, under the names of the source |

Not used, and counted: ``week`` and the three discounts (``sales_value`` is what was paid after the shop's own
discount).

There are no queries. A line of a receipt gets the HEM query of its item (the words of department, product category and
product type), and the lines of a basket with the same query are **one search** with several bought items: a search per
line would see the answer, bought in the same second, in its own history; a search per basket would have no one query.
The searches of a basket stand in the order of the file.

The catalogue holds the products that anybody bought. A price is what the shop asks, known before anybody buys, so lines
of all households count for it; ``sales`` counts the purchases of training households only.

Source: the published tables of the R package completejourney; the mapping is this project's.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.common import (
    ImportReport,
    Line,
    UnknownItemsPolicy,
    assemble,
    clean,
    needed_table,
    table_lines,
)
from crsearch.records.importers.hem import hem_query
from crsearch.records.importers.tables import Column, parse_time
from crsearch.records.rows import find_table
from crsearch.records.store import Dataset
from crsearch.records.types import Item, Search, User
from crsearch.records.values import BadValue

TRANSACTION = {
    "household_id": "900", "store_id": "330", "basket_id": "31198570044", "product_id": "1095275",
    "quantity": "1.0", "sales_value": "0.5", "transaction_timestamp": "1483257206",
}  # fmt: skip
PRODUCT = {
    "product_id": "25671", "manufacturer_id": "2", "department": "GROCERY", "brand": "National",
    "product_category": "FRZN ICE", "product_type": "ICE - CRUSHED/CUBED", "package_size": "22 LB",
}  # fmt: skip
HOUSEHOLD = {"household_id": "1"}

_NONE = ("NA",)
"""How R writes a value that is not known."""

_LEVELS = ("department", "product_category", "product_type")
_UNUSED = {"week", "retail_disc", "coupon_disc", "coupon_match_disc"}


@dataclass(frozen=True, slots=True)
class _Purchase:
    """One line of a receipt."""

    household: str
    basket: str
    product: str
    store: str
    time: datetime
    unit_price: float | None
    """Paid per unit; none where nothing was paid."""


def import_completejourney(
    source: Path, split: SplitConfig, *, unknown_items: UnknownItemsPolicy = "error"
) -> tuple[Dataset, ImportReport]:
    """Records from a Complete Journey folder; see the module for where each field goes and what a search is.

    The source has repeats: people buy the same milk again, so ``evaluate.exclude_history`` stays off.

    Args:
        source: the folder.
        split: shares of the parts.
        unknown_items: what happens to purchases of products that ``products`` lacks or does not describe. No query
            can be derived for them: ``drop`` and ``text`` both leave them out.

    Raises:
        DataError: a missing table or column, a broken row, unknown items under ``error``.
    """
    report = ImportReport(f"completejourney: {source}")
    purchases = list(_purchases(needed_table(source, "transactions", "transactions_sample"), report))
    items = list(_items(needed_table(source, "products"), purchases, report))
    known = {item.item_id for item in items}
    unknown = [p for p in purchases if p.product not in known]
    if unknown and unknown_items == "error":
        raise DataError(
            f"{report.source}: {len({p.product for p in unknown}):,} products ({len(unknown):,} purchases) are not "
            f"described by products (first: {min(p.product for p in unknown)!r}): complete the table, or pass "
            "--unknown-items drop"
        )
    report.dropped["purchases of products that are not described"] += len(unknown)
    searches = _searches(purchases, {item.item_id: hem_query(item.category) for item in items}, report)
    profiles = _profiles(find_table(source, "demographics"), report)
    households = {search.user_id for search in searches}
    report.dropped["households without a purchase"] += len(profiles.keys() - households)
    report.changed["households that demographics lacks (empty profile)"] += len(households - profiles.keys())
    users = {name: User(user_id=name, profile=profiles.get(name, {})) for name in sorted(households)}
    return assemble(items, users, searches, split, unknown_items, report, count_sales=True), report


def _purchases(path: Path, report: ImportReport) -> Iterator[_Purchase]:
    now = datetime.now(UTC)
    for line in table_lines(path, TRANSACTION, _NONE):
        report.read["lines of receipts"] += 1
        report.unused["values of weeks and discounts"] += len(_UNUSED & line.values.keys())
        quantity, paid = line.number_of("quantity"), line.number_of("sales_value")
        if quantity <= 0:
            report.dropped["lines of receipts without a quantity"] += 1
            continue
        if paid <= 0:
            report.changed["lines of receipts without a payment (no price from them)"] += 1
        yield _Purchase(
            household=line.id("household_id"),
            basket=line.id("basket_id"),
            product=line.id("product_id"),
            store=line["store_id"],
            time=_time(line, now),
            unit_price=paid / quantity if paid > 0 else None,
        )


def _time(line: Line, now: datetime) -> datetime:
    name = "transaction_timestamp"
    try:
        time = parse_time(line[name], Column(name=name, format="unix"), now)
    except BadValue as e:
        raise line.broken(name, f"{e}: Unix seconds are needed") from e
    assert isinstance(time, datetime)
    return time


def _items(path: Path, purchases: Iterable[_Purchase], report: ImportReport) -> Iterator[Item]:
    """The products that were bought, in the order of the file."""
    paid: dict[str, list[float]] = defaultdict(list)
    for purchase in purchases:
        paid[purchase.product] += [] if purchase.unit_price is None else [purchase.unit_price]
    first: dict[str, int] = {}
    for line in table_lines(path, PRODUCT, _NONE):
        report.read["products"] += 1
        item_id = line.id("product_id")
        if first.setdefault(item_id, line.number) != line.number:
            raise line.broken(
                "product_id", f"the product stands in line {first[item_id]} already, keep one of the rows"
            )
        if item_id not in paid:
            report.dropped["products that nobody bought"] += 1
        elif not line["product_type"]:
            report.dropped["bought products without a product type (no title)"] += 1
        else:
            yield _item(line, paid[item_id], report)


def _item(line: Line, paid: list[float], report: ImportReport) -> Item:
    facts = {"label": line["brand"], "size": line["package_size"]}
    report.changed["items without a price"] += not paid
    return Item(
        item_id=line["product_id"],
        title=clean(f"{line['product_type']} {line['package_size']}", report, "titles"),
        brand=f"manufacturer {line['manufacturer_id']}" if line["manufacturer_id"] else None,
        category=tuple(clean(line[level], report, "categories") for level in _LEVELS if line[level]),
        price=_price(median(paid)) if paid else None,
        attributes={key: value for key, value in facts.items() if value},
    )


def _price(price: float) -> float | None:
    """Whole cents; hundredths of a cent for what costs less (petrol is sold in thousandths of a gallon).

    >>> _price(5 / 3), _price(15.03 / 7519)
    (1.67, 0.002)
    """
    return round(price, 2) or round(price, 4) or None


def _searches(purchases: Iterable[_Purchase], query_of: Mapping[str, str | None], report: ImportReport) -> list[Search]:
    """One search for each query of a basket, in the order of the file."""
    baskets: dict[tuple[str, str, str], list[_Purchase]] = {}
    places: dict[str, int] = defaultdict(int)
    for purchase in purchases:
        if purchase.product not in query_of:
            continue
        query = query_of[purchase.product]
        if query is None:
            report.dropped["purchases of products without two levels of category (no query)"] += 1
            continue
        baskets.setdefault((purchase.household, purchase.basket, query), []).append(purchase)
    searches = []
    for (household, basket, query), lines in baskets.items():
        bought = tuple(dict.fromkeys(p.product for p in lines))
        report.changed["lines of a basket with the same query joined to one search"] += len(lines) - 1
        searches.append(
            Search(
                search_id=f"{basket}-{places[basket]}",
                user_id=household,
                time=lines[0].time,
                query=query,
                place=f"store {lines[0].store}" if lines[0].store else None,
                bought=bought,
            )
        )
        places[basket] += 1
    return searches


def _profiles(path: Path | None, report: ImportReport) -> dict[str, dict[str, str]]:
    """household_id -> what demographics knows of it."""
    profiles: dict[str, dict[str, str]] = {}
    for line in table_lines(path, HOUSEHOLD, _NONE) if path else ():
        report.read["households of demographics"] += 1
        household = line.id("household_id")
        if household in profiles:
            raise line.broken("household_id", "the household has a row already, keep one of them")
        profiles[household] = {k: line[k] for k in line.values if line[k] and k != "household_id"}
    return profiles
