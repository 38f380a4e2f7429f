"""What the routes answer beside the envelope of ``contract``; the types are what ``/openapi.json`` shows.

Source: details: this project (docs/serving.md).
"""

from collections.abc import Mapping, Sequence
from typing import Literal

from pydantic import with_config
from typing_extensions import TypedDict

from crsearch.serve.contract import ANSWERED, Persona


# -- health -----------------------------------------------------------------------------------------------------------
@with_config(ANSWERED)
class Alive(TypedDict):
    """The process answers."""

    status: Literal["alive"]


@with_config(ANSWERED)
class Health(TypedDict):
    """What keeps the server from being ready, and what it serves."""

    warm: bool
    draining: bool
    model: Literal["ok", "broken", "hung"]
    catalogue: str
    """The version in use."""
    refused_catalogue: bool
    """A newer version was refused; why stands on the admin page."""


@with_config(ANSWERED)
class Readiness(Health):
    """``ready`` with 200, ``not ready`` with 503."""

    status: Literal["ready", "not ready"]


# -- looking around ---------------------------------------------------------------------------------------------------
@with_config(ANSWERED)
class ItemFound(TypedDict):
    """The record of an item that can be found."""

    id: str
    title: str
    brand: str | None
    category: tuple[str, ...]
    """Path from root to leaf."""
    price: float | None
    sales: float | None
    attributes: Mapping[str, str]
    description: str | None
    sid: tuple[str, ...]
    """The tokens of its semantic ID."""
    catalogue: str
    """The version that was looked at."""


@with_config(ANSWERED)
class Users(TypedDict):
    """Users without their histories."""

    users: Sequence[Persona]


@with_config(ANSWERED)
class Suggestions(TypedDict):
    """Queries, the likeliest first."""

    suggestions: Sequence[str]


@with_config(ANSWERED)
class Facets(TypedDict):
    """What can be filtered by: names, those of most items first."""

    brands: Sequence[str]
    categories: Sequence[str]
    price: tuple[float, float] | None
    """Least and most; none = no item has a price."""


Systems = Mapping[str, str]
"""Name -> what it is."""


@with_config(ANSWERED)
class Kept(TypedDict):
    """The judgement is written."""

    status: Literal["kept"]


# -- OpenAI's shape ---------------------------------------------------------------------------------------------------
@with_config(ANSWERED)
class ChoiceMessage(TypedDict):
    """What the model says for an item."""

    role: Literal["assistant"]
    content: str
    """The semantic ID."""
    reasoning_content: str | None
    """The thought."""


@with_config(ANSWERED)
class ChoiceItem(TypedDict):
    """The item of a choice."""

    id: str
    title: str
    score: float


@with_config(ANSWERED)
class Choice(TypedDict):
    """A ranked item."""

    index: int
    """0 = the best."""
    message: ChoiceMessage
    item: ChoiceItem
    finish_reason: Literal["stop"]


@with_config(ANSWERED)
class Usage(TypedDict):
    """Tokens that the model wrote."""

    completion_tokens: int


@with_config(ANSWERED)
class Completion(TypedDict):
    """An answer in OpenAI's shape; choices are items, best first."""

    id: str
    object: Literal["chat.completion"]
    created: int
    """Seconds since 1970."""
    model: Literal["crs"]
    choices: Sequence[Choice]
    usage: Usage
    served_by: str
    """The rung."""


# -- events of a stream -----------------------------------------------------------------------------------------------
@with_config(ANSWERED)
class Piece(TypedDict):
    """A piece of a thought as it is written."""

    text: str


# -- administration ---------------------------------------------------------------------------------------------------
@with_config(ANSWERED)
class InUse(TypedDict):
    """The catalogue version that searches read from now on."""

    catalogue: str


@with_config(ANSWERED)
class Dropped(TypedDict):
    """How many things were kept of a user."""

    dropped: int


@with_config(ANSWERED)
class Check(TypedDict):
    """A part that works or not."""

    name: str
    ok: bool
    note: str


@with_config(ANSWERED)
class Standing(TypedDict):
    """Whether searches are answered by the model."""

    ready: bool
    state: str
    """In a word."""
    uptime_s: float
    checks: Sequence[Check]


@with_config(ANSWERED)
class VersionRow(TypedDict):
    """A version of the catalogue."""

    name: str
    made: str
    """UTC, ISO 8601."""
    items: int
    added: int
    removed: int
    replaced: int
    drift: float | None
    """Quantisation error of new items over that of the run's."""
    notes: Sequence[str]
    canary: float | None
    """Share of trial searches that found live items before it was used; none = not tried."""
    canary_ms: float | None
    state: Literal["current", "kept", "refused"]


@with_config(ANSWERED)
class Versions(TypedDict):
    """Versions of the catalogue, newest first."""

    current: str
    previous: str | None
    """What a rollback goes to."""
    versions: Sequence[VersionRow]


@with_config(ANSWERED)
class Bucket(TypedDict):
    """What lies below a code of the first layer."""

    token: str
    items: int
    prefixes: int
    collisions: int
    full: int


@with_config(ANSWERED)
class TreeLoad(TypedDict):
    """Load of the tree of semantic IDs."""

    layers: int
    items: int
    prefixes: int
    """Distinct, of all layers but the last."""
    collisions: int
    """Items whose deduplication code is not 0."""
    full: int
    """Prefixes without a free deduplication code."""
    spare: int
    """Free codes in all."""
    buckets: Sequence[Bucket]
    dedup: Sequence[int]
    """Items per deduplication code."""


@with_config(ANSWERED)
class RungRow(TypedDict):
    """A rung: its quality on the run's test users, and how it did here."""

    rung: str
    system: str | None
    hr10: float | None
    ndcg10: float | None
    p50_ms: float | None
    p99_ms: float | None
    answers: int


@with_config(ANSWERED)
class Percentiles(TypedDict):
    """Of the newest answers; none = there was none."""

    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@with_config(ANSWERED)
class Figures(Percentiles):
    """Counts of this process; percentiles are of whole answers."""

    requests: int
    per_second: float
    queue: int
    rejected: int
    thought_cache: float | None
    """Share of hits."""
    prefix_cache: float | None
    """Share of context tokens that were not read again."""
    invalid_sids: int
    parts: Mapping[str, Percentiles]


@with_config(ANSWERED)
class SlowQuery(TypedDict):
    """A query with slow or empty answers."""

    query: str
    """Hashed with a secret of the process, unless queries may be logged."""
    is_hashed: bool
    times: int
    """Slow or empty answers to it."""
    empty: int
    """Of them, empty ones."""
    ms: float | None
    """Of the slowest."""
    rung: str
    """Of the newest."""
    items: int


@with_config(ANSWERED)
class Line(TypedDict):
    """A line of a curve."""

    name: str
    points: Sequence[Sequence[float]]
    """[x, y] of each."""


@with_config(ANSWERED)
class Curve(TypedDict):
    """A figure of the training run."""

    title: str
    x: str
    y: str
    lines: Sequence[Line]


@with_config(ANSWERED)
class FindingRow(TypedDict):
    """A request that was not answered as it must be."""

    id: str
    sent: str
    """In words."""
    expected: str
    got: str


@with_config(ANSWERED)
class SelfTest(TypedDict):
    """What the hostile corpus found in the server itself."""

    when: str
    """UTC, ISO 8601."""
    cases: int
    """That were sent."""
    of: int
    """That there are."""
    seconds: float
    wrong: int
    findings: Sequence[FindingRow]
    """The first of them."""


@with_config(ANSWERED)
class NeighbourRow(TypedDict):
    """A run beside the served one."""

    name: str
    stages: Sequence[str]
    """Finished ones, in order."""
    is_finished: bool
    hr10: float | None
    ndcg10: float | None


@with_config(ANSWERED)
class Neighbours(TypedDict):
    """Runs in the folder of the served one, by name."""

    served: str
    runs: Sequence[NeighbourRow]


@with_config(ANSWERED)
class SettingRow(TypedDict):
    """A setting that differs."""

    name: str
    served: str
    other: str


@with_config(ANSWERED)
class Neighbour(NeighbourRow):
    """A run beside the served one, to be looked at."""

    curves: Sequence[Curve]
    settings: Sequence[SettingRow]
    """Those that differ from the served run's."""
    command: str
    """Goes on with it."""


@with_config(ANSWERED)
class Status(TypedDict):
    """All that the admin page shows."""

    health: Standing
    about: Mapping[str, str]
    """Run, model, catalogue."""
    catalogue: Versions
    sids: TreeLoad
    rungs: Sequence[RungRow]
    metrics: Figures
    slow: Sequence[SlowQuery]
    """Newest first."""
    self_test: SelfTest | None
    """The last one of this process."""
    curves: Sequence[Curve]
