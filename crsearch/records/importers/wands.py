"""WANDS: queries of a furniture shop with judged products (Wayfair).

A folder with ``query``, ``product`` and ``label``, tab separated although they end in .csv. Where each field goes:

| table | field | record |
|---|---|---|
| query | query_id, query | search_id, query |
| label | product_id, where label is Exact | clicked, one search for each |
| product | product_id, product_name, product_description | item_id, title, description |
| product | category hierarchy (``a / b / c``) | category |
| product | product_class, product_features (``k:v|k:v``) | attributes; values of a repeated key joined by a comma |

A query with two right products is **two searches**, each of a user of its own without a history (see ``judged``); the
parts are a hash of the query id. There are no users, times, places, brands or prices. Not used, and counted: judgements
Partial and Irrelevant, the classes of queries, and the ratings of products, which everybody gave, test users too.

Source: Chen et al., WANDS, ECIR 2022, and the README of its data; the mapping is this project's.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path

from crsearch.config import SplitConfig
from crsearch.records.importers.common import (
    ImportReport,
    UnknownItemsPolicy,
    clean,
    needed_table,
    refuse_leave_one_out,
    table_lines,
)
from crsearch.records.importers.judged import Judged, judged_dataset
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Item

QUERY = {"query_id": "0", "query": "salon chair", "query_class": "Massage Chairs"}
LABEL = {"id": "0", "query_id": "0", "product_id": "25434", "label": "Exact"}
PRODUCT = {
    "product_id": "25434", "product_name": "barber chair", "product_class": "Massage Chairs",
    "category hierarchy": "Furniture / Chairs / Salon Chairs", "product_description": "A chair.",
    "product_features": "color:black|material:leather", "rating_count": "3", "average_rating": "4.5",
    "review_count": "2",
}  # fmt: skip

LABELS = ("Exact", "Partial", "Irrelevant")
_RATINGS = ("rating_count", "average_rating", "review_count")


def import_wands(
    source: Path, split: SplitConfig, *, unknown_items: UnknownItemsPolicy = "error"
) -> tuple[Dataset, ImportReport]:
    """Records of WANDS; see the module for where each field goes.

    Args:
        source: the folder.
        split: shares of the parts, by query.
        unknown_items: what happens to judged products that ``product`` lacks: ``drop`` and ``text`` leave them out.

    Raises:
        ConfigError: leave-one-out is asked for.
        DataError: a missing table or column, a broken row, unknown items under ``error``, no query left.
    """
    refuse_leave_one_out(split, "wands", "its queries have no users with a history")
    report = ImportReport(f"wands: {source}")
    queries = _queries(needed_table(source, "query"), report)
    judged = list(_exact(needed_table(source, "label"), queries, report))
    items = Catalogue(_items(needed_table(source, "product"), report))
    return judged_dataset(judged, items, split, unknown_items, report), report


def _queries(path: Path, report: ImportReport) -> dict[str, str]:
    queries: dict[str, str] = {}
    for line in table_lines(path, QUERY, delimiter="\t"):
        report.read["queries"] += 1
        report.unused["classes of queries"] += bool(line["query_class"])
        query_id = line.id("query_id")
        if query_id in queries:
            raise line.broken("query_id", "the query has a row already, keep one of them")
        if not line["query"]:
            raise line.broken("query", "a text is needed")
        queries[query_id] = clean(line["query"], report, "queries")
    return queries


def _exact(path: Path, queries: Mapping[str, str], report: ImportReport) -> Iterator[Judged]:
    for line in table_lines(path, LABEL, delimiter="\t"):
        report.read["judgements"] += 1
        if line["label"] not in LABELS:
            raise line.broken("label", f"one of {', '.join(LABELS)} is needed")
        if line["query_id"] not in queries:
            raise line.broken("query_id", "a query_id of the query table is needed")
        if line["label"] == "Exact":
            yield Judged(line["query_id"], queries[line["query_id"]], line.id("product_id"), line.number)
        else:
            report.unused["judgements Partial and Irrelevant"] += 1


def _items(path: Path, report: ImportReport) -> Iterator[Item]:
    first: dict[str, int] = {}
    for line in table_lines(path, PRODUCT, delimiter="\t"):
        report.read["products"] += 1
        report.unused["ratings of products"] += sum(bool(line[name]) for name in _RATINGS)
        item_id = line.id("product_id")
        if first.setdefault(item_id, line.number) != line.number:
            raise line.broken(
                "product_id", f"the product stands in line {first[item_id]} already, keep one of the rows"
            )
        if not line["product_name"]:
            report.dropped["products without a name"] += 1
            continue
        levels = [level.strip() for level in line["category hierarchy"].split(" / ")]
        kind = {"class": line["product_class"]} if line["product_class"] else {}
        yield Item(
            item_id=item_id,
            title=clean(line["product_name"], report, "titles"),
            category=tuple(clean(level, report, "categories") for level in levels if level),
            attributes=kind | _features(line["product_features"]),
            description=line["product_description"] or None,
        )


def _features(text: str) -> dict[str, str]:
    """The features of a product.

    >>> _features("color : black|color:red|material:oak|x")
    {'color': 'black, red', 'material': 'oak'}
    """
    features: dict[str, str] = {}
    for part in text.split("|"):
        key, _, value = (side.strip() for side in part.partition(":"))
        if key and value:
            features[key] = f"{features[key]}, {value}" if key in features else value
    return features
