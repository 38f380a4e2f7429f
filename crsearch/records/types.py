"""What happened in the shop, as frozen values. Everything above reads these and nothing else.

Source: details: this project (docs/records.md); CRS §3.1 for what a context holds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal, Protocol, runtime_checkable

Time = datetime | int
"""UTC time of an event, or an order number where the source has only that."""

Part = Literal["train", "valid", "test"]

SplitMode = Literal["user", "leave-one-out"]
"""A user has one example in one part, or one for each choice: the last test, the one before valid, the rest train."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Item:
    """A product of the catalogue. What the source does not know stays ``None`` or empty."""

    item_id: str
    title: str
    brand: str | None = None
    category: tuple[str, ...] = ()
    """Path from root to leaf."""
    price: float | None = None
    """In the shop's currency, above 0."""
    sales: float | None = None
    """Gross merchandise volume or a count, of the training period only."""
    attributes: Mapping[str, str] = field(default_factory=dict)
    description: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class User:
    """A user and what the shop knows about them."""

    user_id: str
    profile: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Search:
    """One query of one user with what was shown and chosen. Item ids are in shown order."""

    search_id: str
    user_id: str
    time: Time
    query: str
    place: str | None = None
    shown: tuple[str, ...] = ()
    clicked: tuple[str, ...] = ()
    bought: tuple[str, ...] = ()

    @property
    def chosen(self) -> tuple[str, ...]:
        """Clicked and bought items in order of first mention, no item twice."""
        return tuple(dict.fromkeys((*self.clicked, *self.bought)))

    @property
    def skipped(self) -> tuple[str, ...]:
        """Shown items that were not chosen, in shown order."""
        chosen = set(self.chosen)
        return tuple(i for i in self.shown if i not in chosen)

    @property
    def target(self) -> str | None:
        """The item the user wanted: the (last) bought one, else the last clicked one."""
        if self.bought:
            return self.bought[-1]
        return self.clicked[-1] if self.clicked else None


@dataclass(frozen=True, kw_only=True, slots=True)
class Context:
    """All that is known when a query arrives; what a model reads."""

    search_id: str
    user_id: str
    query: str
    time: Time | None = None
    place: str | None = None
    profile: Mapping[str, str] = field(default_factory=dict)
    history: tuple[Search, ...] = ()
    """Earlier searches, oldest first, all strictly before ``time``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A context and the item that the user went on to choose."""

    context: Context
    target: str
    part: Part


@dataclass(frozen=True, kw_only=True, slots=True)
class RankedList:
    """The answer of a searcher to one context, best first, no item twice."""

    search_id: str
    item_ids: tuple[str, ...]
    scores: tuple[float, ...]
    thought: str | None = None
    read_tokens: int | None = None
    """Length of the prompt that a language model read; none where none was asked."""
    thought_tokens: int | None = None
    """Length of the thought, its closing tag not counted; none where there is none."""


@runtime_checkable
class Searcher(Protocol):
    """Anything that answers search contexts with ranked lists."""

    name: str

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank the k best items of the catalogue for each context, best first, no item twice."""
        ...
