"""The catalogue and the data set: records in memory, Parquet on disk, examples for training and tests.

Source: details: this project (docs/records.md).
"""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, overload

from crsearch.errors import DataError
from crsearch.records.types import Context, Example, Item, Part, Search, SplitMode, Time, User

UnknownItems = Literal["error", "text"]
"""What an item id outside the catalogue is in a search: an error, or plain text without a semantic ID."""


class Catalogue(Sequence[Item]):
    """Items in a fixed order; the position of an item is its row number everywhere.

    ``"i7" in catalogue`` asks for the item id.

    Raises:
        DataError: an item id occurs twice.

    >>> catalogue = Catalogue([Item(item_id="a", title="Red case"), Item(item_id="b", title="Blue case")])
    >>> catalogue.row("b"), catalogue[1].title, "c" in catalogue
    (1, 'Blue case', False)
    """

    def __init__(self, items: Iterable[Item]) -> None:
        self._items = tuple(items)
        self._rows = {item.item_id: row for row, item in enumerate(self._items)}
        if len(self._rows) < len(self._items):
            twice, times = Counter(item.item_id for item in self._items).most_common(1)[0]
            raise DataError(
                f"item_id {twice!r} occurs {times} times among {len(self._items):,} items: keep one row per item"
            )

    def row(self, item_id: str) -> int:
        """Row number of an item.

        Raises:
            DataError: the item is not in the catalogue.
        """
        try:
            return self._rows[item_id]
        except KeyError:
            raise DataError(
                f"item_id {item_id!r} is not in the catalogue ({len(self):,} items): "
                "import the item first, or choose with --unknown-items what happens to such items"
            ) from None

    @property
    def ids(self) -> tuple[str, ...]:
        """Item ids in row order."""
        return tuple(self._rows)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[Item, ...]: ...
    def __getitem__(self, index: int | slice) -> Item | tuple[Item, ...]:
        return self._items[index]

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[Item]:
        return iter(self._items)

    def __contains__(self, item_id: object) -> bool:
        return item_id in self._rows

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Catalogue) and self._items == other._items

    __hash__ = None  # type: ignore[assignment]  # items hold mappings

    def __repr__(self) -> str:
        return f"Catalogue({len(self):,} items)"


@dataclass(frozen=True)
class Dataset:
    """All records of one source.

    The order of a user's events is the order of ``searches``: it is given by ``time`` and, among equal
    times, by the order in which they were handed in (a shop that records days only has many of those).
    "Before" means before in this order everywhere, so it is strict where the clock is not.

    Raises:
        DataError: a search of an unknown user, a repeated search id, times of two kinds or without a zone,
            items outside the catalogue (unless ``unknown_items`` is ``text``), a target that is not there.
    """

    catalogue: Catalogue
    users: Mapping[str, User]
    """By user id; every user of a search is here."""
    searches: tuple[Search, ...]
    """Sorted by user id, then by the user's order."""
    targets: Mapping[str, tuple[str, Part]]
    """search_id -> (target item_id, part): the searches that are examples; split by user: one per user."""
    unknown_items: UnknownItems = field(default="error", kw_only=True)
    split_mode: SplitMode = field(default="user", kw_only=True)

    def __post_init__(self) -> None:
        searches = _in_user_order(self.searches)
        object.__setattr__(self, "searches", searches)
        _check_references(self)

    @cached_property
    def _positions(self) -> dict[str, int]:
        return {search.search_id: i for i, search in enumerate(self.searches)}

    @cached_property
    def _spans(self) -> dict[str, tuple[int, int]]:
        starts: dict[str, int] = {}
        counts: Counter[str] = Counter()
        for i, search in enumerate(self.searches):
            starts.setdefault(search.user_id, i)
            counts[search.user_id] += 1
        return {user_id: (start, start + counts[user_id]) for user_id, start in starts.items()}

    def searches_of(self, user_id: str) -> tuple[Search, ...]:
        """All searches of a user, oldest first; empty for a user without any.

        Raises:
            DataError: no such user.
        """
        if user_id not in self.users:
            raise DataError(f"user_id {user_id!r} is not among the {len(self.users):,} users")
        start, stop = self._spans.get(user_id, (0, 0))
        return self.searches[start:stop]

    def context(self, search_id: str, max_events: int) -> Context:
        """What was known when a search came in: its history ends strictly before it.

        Args:
            search_id: the search.
            max_events: newest earlier searches kept; 0 = no history.

        Raises:
            DataError: no such search.
        """
        if search_id not in self._positions:
            raise DataError(f"search_id {search_id!r} is not among the {len(self.searches):,} searches")
        now = self._positions[search_id]
        search = self.searches[now]
        first = max(self._spans[search.user_id][0], now - max_events)
        return Context(
            search_id=search_id,
            user_id=search.user_id,
            query=search.query,
            time=search.time,
            place=search.place,
            profile=self.users[search.user_id].profile,
            history=self.searches[first:now],
        )

    def examples(self, part: Part, max_events: int) -> list[Example]:
        """The examples of a part by user id, then in the user's order; split by user: one per user.

        The history holds the user's earlier searches, strictly before the example, the newest
        ``max_events`` of them, oldest first; it is empty for a user's first search.
        """
        return [
            Example(context=self.context(search.search_id, max_events), target=target, part=part)
            for search in self.searches
            if search.search_id in self.targets
            for target, its_part in [self.targets[search.search_id]]
            if its_part == part
        ]

    @cached_property
    def parts(self) -> dict[str, Part]:
        """user_id -> part, of the users who have an example.

        Raises:
            DataError: the split is leave-one-out, so a user has no one part.
        """
        if self.split_mode != "user":
            raise DataError(
                f"the split is {self.split_mode}: its users are in several parts; import with split by user"
            )
        return {
            search.user_id: self.targets[search.search_id][1]
            for search in self.searches
            if search.search_id in self.targets
        }

    @cached_property
    def training_searches(self) -> tuple[Search, ...]:
        """All that may be learned from and counted, in the order of ``searches``.

        Split by user: every search of the training users. Leave-one-out: those of each user before the first that
        is held out.
        """
        if self.split_mode == "user":
            return tuple(s for s in self.searches if self.parts.get(s.user_id) == "train")
        kept: list[Search] = []
        held_out: set[str] = set()
        for search in self.searches:
            if self.targets.get(search.search_id, ("", "train"))[1] != "train":
                held_out.add(search.user_id)
            if search.user_id not in held_out:
                kept.append(search)
        return tuple(kept)

    def fingerprint(self) -> str:
        """sha256 of all records, as hex; independent of file formats and of the order of maps."""
        return self._fingerprint

    @cached_property
    def _fingerprint(self) -> str:
        digest = sha256()
        for record in _canonical_records(self):
            digest.update(json.dumps(record, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode())
            digest.update(b"\n")
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``items``, ``users``, ``searches`` and ``split`` as Parquet: all four or none.

        Raises:
            StorageError: no room or no permission; a data set that was there before is untouched.
        """
        from crsearch.records.frames import save_dataset

        save_dataset(self, folder)

    @classmethod
    def load(cls, folder: Path) -> "Dataset":
        """Read what ``save`` wrote, or the same tables written by another tool.

        Raises:
            DataError: a table is missing, unreadable, of another schema, of a newer format or of another save.
        """
        from crsearch.records.frames import load_dataset

        return cls(**load_dataset(folder))


def _utc(time: Time, search_id: str) -> Time:
    if isinstance(time, datetime):
        if time.tzinfo is None:
            raise DataError(f"search {search_id!r}: time {time.isoformat()} has no time zone: give UTC times")
        return time.astimezone(UTC)
    return time


def _in_user_order(searches: Iterable[Search]) -> tuple[Search, ...]:
    """By user id, then time, then as handed in; times in UTC."""
    out = [s if _is_utc(s.time) else replace(s, time=_utc(s.time, s.search_id)) for s in searches]
    kinds = {isinstance(s.time, datetime) for s in out}
    if len(kinds) > 1:
        raise DataError("some searches have a UTC time and some an order number: one data set has one kind of time")
    return tuple(sorted(out, key=_by_user_and_time))


def _is_utc(time: Time) -> bool:
    return isinstance(time, int) or time.tzinfo is UTC


def _by_user_and_time(search: Search) -> tuple[str, Any]:
    return search.user_id, search.time


def _check_references(data: Dataset) -> None:
    ids = Counter(s.search_id for s in data.searches)
    if len(ids) < len(data.searches):
        twice, times = ids.most_common(1)[0]
        raise DataError(f"search_id {twice!r} occurs {times} times: keep one row per search")
    strangers = sorted({s.user_id for s in data.searches} - data.users.keys())
    if strangers:
        raise DataError(
            f"{len(strangers):,} users of searches are not among the users (first: {strangers[0]!r}): "
            "add a row per user, with an empty profile where nothing is known"
        )
    if data.unknown_items == "error":
        refuse_unknown_items(data.searches, data.catalogue)
    known = set(data.catalogue.ids)
    for search_id, (target, _) in data.targets.items():
        if search_id not in ids:
            raise DataError(f"split: search_id {search_id!r} is not among the searches")
        if target not in known:
            raise DataError(f"split: target {target!r} of search {search_id!r} is not in the catalogue")


def refuse_unknown_items(
    searches: Iterable[Search], catalogue: Catalogue, places: Mapping[str, str] | None = None
) -> None:
    """Raise if searches name items that the catalogue lacks.

    Args:
        searches: all of them.
        catalogue: the items that there are.
        places: search id -> file and line, where they are known.

    Raises:
        DataError: with the number of such items and mentions, and the first of them.
    """
    known = set(catalogue.ids)
    unknown: Counter[str] = Counter()
    first: dict[str, str] = {}
    for search in searches:
        for item_id in {*search.shown, *search.clicked, *search.bought} - known:
            unknown[item_id] += 1
            first.setdefault(item_id, search.search_id)
    if unknown:
        example = min(unknown)
        where = f"{place}: " if places and (place := places.get(first[example])) else ""
        raise DataError(
            f"{where}{len(unknown):,} items ({unknown.total():,} mentions in searches) are not in the catalogue of "
            f"{len(catalogue):,} items (first: {example!r} in search {first[example]!r}): add them to the items, "
            "or pass --unknown-items drop (leave them out) or --unknown-items text (keep them without a semantic ID)"
        )


def _canonical_records(data: Dataset) -> Iterator[list[Any]]:
    yield ["format", 1, data.unknown_items, *([data.split_mode] if data.split_mode != "user" else ())]
    for i in data.catalogue:
        numbers = [None if n is None else float(n) for n in (i.price, i.sales)]
        yield ["item", i.item_id, i.title, i.brand, list(i.category), *numbers, dict(i.attributes), i.description]
    for user_id in sorted(data.users):
        yield ["user", user_id, dict(data.users[user_id].profile)]
    for s in data.searches:
        time = s.time.isoformat() if isinstance(s.time, datetime) else s.time
        yield ["search", s.search_id, s.user_id, time, s.place, s.query, *map(list, (s.shown, s.clicked, s.bought))]
    for search_id in sorted(data.targets):
        yield ["target", search_id, *data.targets[search_id]]


def seq_numbers(searches: Sequence[Search]) -> list[int]:
    """Place of each search in its user's order, from 0; searches are sorted by user.

    >>> s = [Search(search_id=str(i), user_id=u, time=i, query="q") for i, u in enumerate("aab")]
    >>> seq_numbers(s)
    [0, 1, 0]
    """
    seq = [0] if searches else []
    for before, search in pairwise(searches):
        seq.append(seq[-1] + 1 if search.user_id == before.user_id else 0)
    return seq
