"""ESCI: real queries of a shop with judged products, without users (Amazon, KDD Cup 2022).

Two ways to use it:

* **on a catalogue that is imported already** (``catalogue``): a small list of real queries to test a trained system
  with. Every query is a test query; nothing is trained on it, and the catalogue, its sales too, is taken as it is.
* **as a shop of its own**: the catalogue is the products of ESCI, and the queries are split by a hash of the query.

Queries come from a JSON-lines file with ``query`` and ``asins`` (the products that answer it), or from the published
folder: ``shopping_queries_dataset_examples`` and, for the second way, ``shopping_queries_dataset_products``. Where each
field goes:

| table | field | record |
|---|---|---|
| queries | query | query |
| queries | asins | clicked, one search for each |
| examples | query, query_id, product_id with esci_label E | query, search_id, clicked |
| products | product_id, product_title, product_brand | item_id, title, brand |
| products | product_color | attributes["color"] |
| products | product_bullet_point, product_description | description |

A query with two right products is **two searches**, each of a user of its own without a history (see ``judged``).
There are no users, times, places or prices. Not used, and counted: judgements S, C and I, and rows of other locales.

Source: Reddy et al., arXiv 2206.06588, and the README of its data; the mapping is this project's.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.common import (
    ImportReport,
    UnknownItemsPolicy,
    clean,
    needed_table,
    readable,
    refuse_leave_one_out,
    table_lines,
)
from crsearch.records.importers.judged import Judged, judged_dataset
from crsearch.records.rows import read_rows
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Item
from crsearch.records.values import short

QUERY = {"query": "self tanner", "asins": ["B0046VGPHQ"]}
EXAMPLE = {
    "query": "self tanner", "query_id": "17", "product_id": "B0046VGPHQ", "product_locale": "us", "esci_label": "E",
}  # fmt: skip
PRODUCT = {
    "product_id": "B0046VGPHQ", "product_title": "Fake Bake Flawless, 6-Ounce", "product_description": "A lotion.",
    "product_bullet_point": "Dries fast", "product_brand": "Fake Bake", "product_color": "bronze",
    "product_locale": "us",
}  # fmt: skip

LABELS = ("E", "S", "C", "I")
"""Exact, substitute, complement, irrelevant."""


def import_esci(
    source: Path,
    split: SplitConfig,
    *,
    unknown_items: UnknownItemsPolicy = "error",
    catalogue: Path | None = None,
    locale: str = "us",
) -> tuple[Dataset, ImportReport]:
    """Records of ESCI queries; see the module for the two ways and for where each field goes.

    Args:
        source: the published folder, or a file of queries.
        split: shares of the parts, by query; with ``catalogue`` all are test queries.
        unknown_items: what happens to judged products that the catalogue lacks. They cannot be a target: ``drop`` and
            ``text`` both leave them out.
        catalogue: folder of records whose items are searched; none = the products of ESCI.
        locale: rows of the published tables that count: us, es or jp.

    Raises:
        ConfigError: leave-one-out is asked for.
        DataError: a missing table or column, a broken row, unknown items under ``error``, no query left.
    """
    refuse_leave_one_out(split, "esci", "its queries have no users with a history")
    report = ImportReport(f"esci: {source}")
    if source.is_dir():
        judged = list(_published(needed_table(source, "shopping_queries_dataset_examples"), locale, report))
    else:
        judged = list(_listed(source, report))
    items = Catalogue(_products(source, locale, report)) if catalogue is None else Dataset.load(catalogue).catalogue
    return judged_dataset(judged, items, split if catalogue is None else None, unknown_items, report), report


def _listed(path: Path, report: ImportReport) -> Iterator[Judged]:
    """Queries of a JSON-lines file, named by their line."""
    for row in readable(read_rows(path), QUERY):
        query, asins = row.values.get("query"), row.values.get("asins")
        if not isinstance(query, str) or not query.strip():
            raise DataError(f"{path}:{row.line}:query: {short(query)}: a text is needed; a right row: {QUERY}")
        if not isinstance(asins, list) or not asins or not all(isinstance(a, str) and a.strip() for a in asins):
            raise DataError(f"{path}:{row.line}:asins: {short(asins)}: a list of ids is needed; a right row: {QUERY}")
        report.read["queries"] += 1
        text = clean(query, report, "queries")
        yield from (Judged(f"q{row.line}", text, asin.strip(), row.line) for asin in asins)


def _published(path: Path, locale: str, report: ImportReport) -> Iterator[Judged]:
    """The exact matches of the published examples."""
    for line in table_lines(path, EXAMPLE):
        report.read["judgements"] += 1
        if line["product_locale"] != locale:
            report.unused["judgements of other locales"] += 1
        elif line["esci_label"] not in LABELS:
            raise line.broken("esci_label", f"one of {', '.join(LABELS)} is needed")
        elif line["esci_label"] != "E":
            report.unused["judgements S, C and I"] += 1
        elif not line["query"]:
            raise line.broken("query", "a text is needed")
        else:
            query = clean(line["query"], report, "queries")
            yield Judged(line.id("query_id"), query, line.id("product_id"), line.number)


def _products(source: Path, locale: str, report: ImportReport) -> Iterable[Item]:
    if not source.is_dir():
        raise DataError(
            f"{source}: queries without products: pass --catalogue with the records whose items they are asked of"
        )
    first: dict[str, int] = {}
    for line in table_lines(needed_table(source, "shopping_queries_dataset_products"), PRODUCT):
        report.read["products"] += 1
        if line["product_locale"] != locale:
            report.unused["products of other locales"] += 1
            continue
        item_id = line.id("product_id")
        if first.setdefault(item_id, line.number) != line.number:
            raise line.broken(
                "product_id", f"the product stands in line {first[item_id]} already, keep one of the rows"
            )
        if not line["product_title"]:
            report.dropped["products without a title"] += 1
            continue
        color = line["product_color"]
        about = "\n".join(text for text in (line["product_bullet_point"], line["product_description"]) if text)
        yield Item(
            item_id=item_id,
            title=clean(line["product_title"], report, "titles"),
            brand=clean(line["product_brand"], report, "brands") or None,
            attributes={"color": color} if color else {},
            description=about or None,
        )
