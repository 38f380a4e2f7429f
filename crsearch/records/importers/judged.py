"""Queries with judged products and no users -> records, for the sources that are so.

A search has one target here, so a query with two right products is two searches, each of a user of its own who did
nothing before: neither is in the history of the other, and the mean over searches weighs a query by its products. The
times are order numbers, which no model reads. Source: details: this project.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.importers.common import ImportReport, UnknownItemsPolicy
from crsearch.records.leaks import assert_no_leaks
from crsearch.records.split import part_of
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Search, User


@dataclass(frozen=True, slots=True)
class Judged:
    """A query and a product that answers it."""

    query_id: str
    query: str
    product: str
    order: int
    """Place in the source."""


def judged_dataset(
    given: Iterable[Judged],
    catalogue: Catalogue,
    split: SplitConfig | None,
    unknown_items: UnknownItemsPolicy,
    report: ImportReport,
) -> Dataset:
    """One search for each right product of a query; repeated judgements count once.

    Args:
        given: the right products.
        catalogue: what is searched.
        split: shares of the parts, by a hash of the query id; none = all are test queries.
        unknown_items: what happens to products that the catalogue lacks. They cannot be a target: ``drop`` and ``text``
            both leave them out.
        report: where changes are counted.

    Raises:
        DataError: unknown items under ``error``, no query left.
    """
    everything = list(given)
    first: dict[tuple[str, str], Judged] = {}
    for one in everything:
        first.setdefault((one.query_id, one.product), one)
    report.dropped["repeated judgements"] += len(everything) - len(first)
    kept = _in_catalogue(list(first.values()), catalogue, unknown_items, report)
    names = [f"{one.query_id}-{one.product}" for one in kept]
    searches = tuple(
        Search(search_id=name, user_id=name, time=one.order, query=one.query, clicked=(one.product,))
        for name, one in zip(names, kept, strict=True)
    )
    targets = {
        name: (one.product, "test" if split is None else part_of(one.query_id, split))
        for name, one in zip(names, kept, strict=True)
    }
    data = Dataset(catalogue, {name: User(user_id=name) for name in names}, searches, targets)
    assert_no_leaks(data, report.source)
    return data


def _in_catalogue(
    judged: list[Judged], catalogue: Catalogue, unknown_items: UnknownItemsPolicy, report: ImportReport
) -> list[Judged]:
    known = set(catalogue.ids)
    unknown = sorted({one.product for one in judged} - known)
    if unknown and unknown_items == "error":
        raise DataError(
            f"{report.source}: {len(unknown):,} judged products are not in the catalogue of {len(known):,} items "
            f"(first: {unknown[0]!r}): choose a catalogue that has them, or pass --unknown-items drop"
        )
    kept = [one for one in judged if one.product in known]
    report.dropped["judged products outside the catalogue"] += len(judged) - len(kept)
    lost = {one.query_id for one in judged} - {one.query_id for one in kept}
    report.dropped["queries without a product in the catalogue"] += len(lost)
    if not kept:
        raise DataError(
            f"{report.source}: none of its {len(judged):,} judged products is in the catalogue of {len(known):,} items"
        )
    return kept
