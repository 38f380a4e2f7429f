"""Data sets whose histories say nothing: taken away, or those of other users (negative controls).

Queries, targets, profiles and parts stay, so a model that reads contexts can be compared query by query. A history is
what a user searched before the example; only users with an example are touched.

Source: details: this project.
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

import numpy as np

from crsearch.errors import DataError
from crsearch.records.store import Dataset
from crsearch.records.types import Part, Search, Time


def without_histories(data: Dataset) -> Dataset:
    """The data set without the histories of its examples."""
    gone = {search.search_id for history in _histories(data).values() for search in history}
    return replace(data, searches=tuple(s for s in data.searches if s.search_id not in gone))


def with_shuffled_histories(data: Dataset, seed: int) -> Dataset:
    """The data set in which every user has the history of another user of the same part.

    Histories go round in a random circle of the users of a part, so each is used once and nobody keeps their own
    (unless they are alone in their part); some users may get an empty one. Their times are moved so that each history
    ends as long before its new example as it did before its old one.

    Args:
        data: the records.
        seed: of the circle.

    >>> from crsearch.records.store import Catalogue
    >>> with_shuffled_histories(Dataset(Catalogue([]), {}, (), {}), seed=0).searches
    ()
    """
    histories = _histories(data)
    asked = {user_id: search for search in data.searches for user_id in [search.user_id] if _is_example(data, search)}
    moved: dict[str, Search] = {}
    for number, part in enumerate(PARTS):
        users = sorted(user_id for user_id in asked if data.parts[user_id] == part)
        circle = [users[i] for i in np.random.default_rng([seed, number]).permutation(len(users))]
        for taker, giver in zip(circle, circle[1:] + circle[:1], strict=True):
            for search in histories[giver]:
                time = _moved(search.time, asked[giver].time, asked[taker].time)
                moved[search.search_id] = replace(search, user_id=taker, time=time)
    return replace(data, searches=tuple(moved.get(s.search_id, s) for s in data.searches))


PARTS: tuple[Part, ...] = ("train", "valid", "test")


def _moved(time: Time, old: Time, new: Time) -> Time:
    """As long before ``new`` as ``time`` is before ``old``; a data set has one kind of time."""
    if isinstance(time, datetime):
        assert isinstance(old, datetime) and isinstance(new, datetime)
        return new - (old - time)
    assert isinstance(old, int) and isinstance(new, int)
    return new - (old - time)


def _is_example(data: Dataset, search: Search) -> bool:
    return search.search_id in data.targets


def _histories(data: Dataset) -> Mapping[str, tuple[Search, ...]]:
    """user_id -> all that they searched before their example, of users who have one.

    Raises:
        DataError: the split is leave-one-out, where histories are made of examples.
    """
    if data.split_mode != "user":
        raise DataError(f"the split is {data.split_mode}: its histories are examples too; import with split by user")
    return {
        search.user_id: data.context(search.search_id, max_events=len(data.searches)).history
        for search in data.searches
        if _is_example(data, search)
    }
