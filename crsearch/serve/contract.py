"""What goes over the wire: requests as strict models, answers as frozen values that become JSON as they stand.

Source: details: this project (docs/serving.md).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, with_config
from typing_extensions import TypedDict

Mode = Literal["think", "fast", "auto"]
"""Think as much as the deadline allows, even if the thought is cut; never think; think where a whole thought fits."""

ItemId = Annotated[str, Field(min_length=1, max_length=256)]
Words = Annotated[str, Field(max_length=512)]


class Rung(StrEnum):
    """How an answer came about, best first (docs/serving.md, the ladder)."""

    FRESH = "L0"
    """A thought of this request, then beams."""
    CACHED = "L1"
    """A thought from the cache, then beams."""
    CUT = "L2"
    """A thought that was closed at its budget, then beams."""
    DIRECT = "L3"
    """Beams at once."""
    FUSED = "L4"
    """Dense and BM25, fused by reciprocal rank."""
    LEXICAL = "L5"
    """BM25."""
    POPULAR = "L6"
    """Popular items, of the query's category where it names one."""


class Strict(BaseModel):
    """A part of a request: strict about types and names."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, use_attribute_docstrings=True)


class Event(Strict):
    """An earlier search of the user."""

    query: Words
    clicked: list[ItemId] = Field(default=[], max_length=50)
    """Items chosen, in shown order; unknown ids are counted and passed over."""
    skipped: list[ItemId] = Field(default=[], max_length=50)
    """Items shown and not chosen, in shown order."""
    time: Annotated[str, Field(max_length=40)] | None = None
    """ISO 8601; without a zone it is UTC."""
    place: Words | None = None


class Filters(Strict):
    """Which items may be found; what is left out does not restrict."""

    brands: list[Words] = Field(default=[], max_length=50)
    """Any of these."""
    categories: list[Words] = Field(default=[], max_length=50)
    """Any of these names, at any level of the item's category path."""
    price_min: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    """Items without a price are left out where a bound is given."""
    price_max: float | None = Field(default=None, ge=0, allow_inf_nan=False)


NO_FILTERS = Filters()
"""Every item may be found."""


class SearchRequest(Strict):
    """One search. The context is that of ``user_id``, of ``profile`` and ``history``, or of a stranger."""

    query: Annotated[str, Field(max_length=100_000)]
    """What is searched for; 1 to ``limits.query_chars`` code points after NFC."""
    user_id: ItemId | None = None
    """A user of the run."""
    profile: dict[Annotated[str, Field(max_length=64)], Words] | None = Field(default=None, max_length=32)
    """In place of the user's stored profile."""
    history: list[Event] | None = Field(default=None, max_length=200)
    """In place of the user's stored history, oldest first; the newest that fit the token budget are read."""
    place: Words | None = None
    """None = the place of the last event."""
    time: Annotated[str, Field(max_length=40)] | None = None
    """ISO 8601; none = the time of the last event."""
    top_k: int = Field(default=10, ge=1, le=100)
    mode: Mode = "auto"
    deadline_ms: int | None = Field(default=None, ge=50, le=10_000)
    """When the answer must be there; none = ``serve.deadline_ms``."""
    filters: Filters = Field(
        default_factory=lambda: NO_FILTERS,  # a default would be copied, part by part, for every request
        json_schema_extra={"default": NO_FILTERS.model_dump()},
    )
    systems: list[Annotated[str, Field(max_length=64)]] = Field(default=[], max_length=4)
    """Other systems of the run whose lists are wanted beside, by the names of its table."""
    catalogue: Annotated[str, Field(max_length=64)] | None = None
    """Answer from this catalogue version only; 409 if it is not the one in use."""


class Judgement(Strict):
    """What a user did with an item of an answer."""

    request_id: Annotated[str, Field(min_length=1, max_length=64)]
    """Of the answer; the search itself is what the server answered."""
    item_id: ItemId
    kind: Literal["click", "skip", "buy", "good", "bad"]


class ItemRecord(Strict):
    """A product to add or replace; the item record of docs/records.md."""

    item_id: ItemId
    title: Words
    brand: Words | None = None
    category: list[Words] = Field(default=[], max_length=16)
    """Path from root to leaf."""
    price: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    sales: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    attributes: dict[Annotated[str, Field(max_length=64)], Words] = Field(default={}, max_length=64)
    description: Annotated[str, Field(max_length=10_000)] | None = None


class ItemsChange(Strict):
    """Items to add or to replace."""

    items: list[ItemRecord] = Field(min_length=1, max_length=1_000)


class ItemsRemoval(Strict):
    """Items to remove."""

    item_ids: list[ItemId] = Field(min_length=1, max_length=10_000)


class Rollback(Strict):
    """The catalogue version to go back to."""

    name: Annotated[str, Field(pattern=r"^v\d{6}$")] | None = None
    """None = the one that the present one was made from."""


class Nothing(Strict):
    """An order without anything to say; its body is ``{}``."""


class Forget(Strict):
    """A user to forget."""

    user_id: ItemId


# -- answers ----------------------------------------------------------------------------------------------------------
ANSWERED = ConfigDict(extra="forbid", use_attribute_docstrings=True, json_schema_serialization_defaults_required=True)
"""Of every type that is answered with: ``/openapi.json`` lists its fields, and there are all of them and no others."""


@with_config(ANSWERED)
@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """Something of the context that an item shares."""

    where: Literal["query", "clicked", "skipped", "thought", "profile"]
    words: tuple[str, ...]
    """Words that stand in both, lower case."""
    event: int | None = None
    """Place of the event in the history that was read, 0 = oldest."""
    item_id: str | None = None
    """The item of that event."""


@with_config(ANSWERED)
class Why(TypedDict, total=False):
    """What an item shares with the context, and what ranked it."""

    matched_context: tuple[Matched, ...]
    rung: str
    """Or the system that stands beside."""


@with_config(ANSWERED)
@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An item of an answer."""

    id: str
    title: str
    rank: int
    score: float
    """Log-probability of the item for rungs L0 to L3, else the score of the system that ranked."""
    sid: tuple[str, ...]
    """The tokens of its semantic ID."""
    brand: str | None = None
    price: float | None = None
    category: tuple[str, ...] = ()
    why: Why = field(default_factory=Why)


@with_config(ANSWERED)
@dataclass(frozen=True, kw_only=True, slots=True)
class Reasoning:
    """The model's note."""

    text: str
    tokens: int
    cut: bool
    """Closed at the budget, not by the model."""
    cached: bool


@with_config(ANSWERED)
@dataclass(frozen=True, kw_only=True, slots=True)
class Answer:
    """The answer envelope."""

    request_id: str
    query: str
    """After NFC and without invisible characters."""
    items: tuple[Found, ...]
    served_by: Rung
    why_rung: str
    """In words."""
    reasoning: Reasoning | None = None
    degraded: tuple[str, ...] = ()
    """``deadline``, ``queue``, ``think_budget``, ``model_error``, ``model_busy``, ``empty_catalogue``, ``filters``."""
    truncated: Mapping[str, int] = field(default_factory=dict)
    """``query_chars``, ``history_dropped``, ``unknown_items``, ``sanitized``: counts; absent = 0."""
    timings_ms: Mapping[str, float] = field(default_factory=dict)
    """``queue``, ``prompt``, ``think``, ``beam``, ``hydrate``, ``total``; absent = nothing of the kind was done."""
    versions: Mapping[str, str] = field(default_factory=dict)
    """``model``, ``catalogue``, ``sid_book``."""
    compared: Mapping[str, tuple[Found, ...]] = field(default_factory=dict)
    """System -> its list."""
    user_id: str | None = None


@with_config(ANSWERED)
@dataclass(frozen=True, kw_only=True, slots=True)
class PastEvent:
    """An event of a user's history as the page shows and edits it; the fields of ``Event`` with titles."""

    query: str
    clicked: tuple[tuple[str, str], ...] = ()
    """(item id, title) of each."""
    skipped: tuple[tuple[str, str], ...] = ()
    time: str | None = None
    place: str | None = None


@with_config(ANSWERED)
@dataclass(frozen=True, kw_only=True, slots=True)
class Persona:
    """A user whose context can be searched with."""

    user_id: str
    profile: Mapping[str, str]
    events: int
    """Searches in the stored history."""
    history: tuple[PastEvent, ...] = ()
    """The newest of them, oldest first; empty in lists of users."""
    place: str | None = None
    last_query: str = ""
    """What was searched for last, as an example."""


@with_config(ANSWERED)
@dataclass(frozen=True, kw_only=True, slots=True)
class SidNode:
    """A prefix of semantic IDs in the tree."""

    prefix: tuple[str, ...]
    items: int
    """Items below it that are not removed."""
    children: tuple[tuple[str, int], ...] = ()
    """(token, items below) of each child, most items first."""
    examples: tuple[tuple[str, str], ...] = ()
    """(item id, title) of some items below; of all at the last layer."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StreamEvent:
    """One server-sent event: ``first`` (an Answer at once), ``thought`` (``{"text": piece}``), ``final`` (an Answer),
    or ``error`` (the error shape)."""

    name: Literal["first", "thought", "final", "error"]
    data: Any
