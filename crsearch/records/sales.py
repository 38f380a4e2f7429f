"""Popularity of the training users, and of nobody else."""

from collections import Counter
from dataclasses import replace

from crsearch.records.store import Catalogue, Dataset


def training_sales(data: Dataset) -> Counter[str]:
    """item_id -> how often training users bought it; clicked it, where the source has no purchases.

    Split by leave-one-out: what users bought before their first held-out choice. Items nobody chose count 0.
    """
    has_purchases = any(search.bought for search in data.searches)
    counts: Counter[str] = Counter()
    for search in data.training_searches:
        counts.update(search.bought if has_purchases else search.clicked)
    return counts


def with_training_sales(data: Dataset) -> Dataset:
    """The data set with ``sales`` of every item set to its count among training users."""
    counts = training_sales(data)
    items = Catalogue(replace(item, sales=float(counts[item.item_id])) for item in data.catalogue)
    return replace(data, catalogue=items)
