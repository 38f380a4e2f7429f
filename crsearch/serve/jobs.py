"""What is asked of the model and what comes of it: jobs, outcomes, and whoever answers them. No torch is needed here.

Source: details: this project (docs/serving.md).
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from crsearch.decode.trie import TrieMask
from crsearch.records.types import Context
from crsearch.serve.contract import NO_FILTERS, Filters, Mode, Rung
from crsearch.serve.index import Index

BROKEN_AFTER = 3
"""Failures in a row after which the model counts as broken."""
HUNG_SECONDS = 20.0
"""A batch that takes longer is hung: it is left behind, and others go on."""

FORGOTTEN = "the user is forgotten"
"""Why a search that a user began before is answered without the model, which would keep something of it."""
TRIAL_SECONDS = 0.1
"""Longest that a trial lets searches pass it."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a job.

    Attributes:
        rung: ``FRESH``, ``CACHED``, ``CUT`` or ``DIRECT``; none = the model was not asked, or failed.
        why: in words.
        degraded: what stood against better.
        rows: catalogue rows, best first.
        scores: their log-probabilities.
        thought: token ids between the tags.
        timings_ms: ``queue``, ``prompt``, ``think``, ``beam``.
    """

    rung: Rung | None
    why: str
    degraded: tuple[str, ...] = ()
    rows: tuple[int, ...] = ()
    scores: tuple[float, ...] = ()
    thought: tuple[int, ...] | None = None
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass(eq=False, kw_only=True)
class Job:
    """A request to the model.

    Attributes:
        index: catalogue version.
        trunk: token ids of the context in its frame.
        mode: what the caller wants.
        width: beams.
        deadline: by the monotonic clock, in seconds.
        filters: which items may be found.
        owner: user whose context it is; "" = nobody.
        listener: called in the engine's thread with each token of the thought.
        came: when it was submitted.
        future: has the ``Outcome``, or the ``RankedList`` of a system.
        system: another system that is asked for ``width`` items of ``context``, in place of decoding; "" = none.
        context: for the system.
        is_kept: its thought is put into the cache, and looked for there.
        is_trial: nobody waits for it: it is decoded alone, when no search waits or it has waited ``TRIAL_SECONDS``.
    """

    index: Index
    trunk: Sequence[int] = ()
    mode: Mode = "auto"
    width: int = 10
    deadline: float
    filters: Filters = NO_FILTERS
    owner: str = ""
    listener: Callable[[int], None] | None = None
    system: str = ""
    context: Context | None = None
    is_kept: bool = True
    is_trial: bool = False
    came: float = field(default_factory=time.monotonic)
    future: "Future[Any]" = field(default_factory=Future)
    is_cancelled: bool = False
    key: str = ""
    """Of its thought in the cache; made when it is first needed."""
    epoch: int = 0
    """Of the cache when it was queued."""
    on_cancel: Callable[[], None] | None = None
    """Told when it is cancelled."""

    @property
    def mask(self) -> TrieMask | None:
        """Items that may be found; none = all."""
        allowed = self.index.allowed(self.filters)
        return None if allowed is None else allowed.mask

    def due(self, now: float) -> float:
        """When it should be taken; those due first are taken first. A trial is due never, then long since."""
        if not self.is_trial:
            return self.deadline
        late = self.came + TRIAL_SECONDS
        return late if now >= late else math.inf

    def cancel(self) -> None:
        """Nobody waits any more: it is not begun, or closed at the next token."""
        self.is_cancelled = True
        if self.on_cancel is not None:
            self.on_cancel()

    def give(self, value: Any) -> None:
        """Hand over the result, unless somebody did already."""
        with suppress(InvalidStateError):
            self.future.set_result(value)

    def fail(self, error: BaseException) -> None:
        """Hand over an error, unless there is a result."""
        with suppress(InvalidStateError):
            self.future.set_exception(error)


def searches_in(jobs: Iterable[Job]) -> int:
    """How many of them somebody waits for."""
    return sum(not job.is_trial for job in jobs)


@dataclass(frozen=True, kw_only=True)
class State:
    """What an engine has done so far."""

    failures: int = 0
    """Since the last success."""
    invalid: int = 0
    """Rows that were no live item; must stay 0."""
    thoughts: int = 0
    """In the cache."""
    hits: int = 0
    misses: int = 0
    """Thoughts looked for in the cache."""
    reused: int = 0
    read: int = 0
    """Tokens of prompts whose keys were held, and those that were read."""
    answer_ms: float = 0.0
    """Expected for a full batch, without thoughts."""
    is_hung: bool = False
    """A batch does not end."""


@runtime_checkable
class Decoder(Protocol):
    """What answers jobs: an ``Engine`` in this process, or one in a process of its own (``apart.Apart``)."""

    async def begin(self, index: Index, trunk: Sequence[int], width: int) -> None:
        """Start, and decode the first jobs of this context; it is warm when this returns.

        Raises:
            RunError: the model does not decode.
        """

    async def stop(self) -> None:
        """End; what waits is answered without the model."""

    async def use(self, index: Index) -> None:
        """Have a version of the catalogue ready, which jobs will name.

        Raises:
            RunError: it cannot be used.
        """

    def submit(self, job: Job) -> bool:
        """Queue a job; False = the queue is full, which it never is for a trial.

        The job's future has an ``Outcome``, or the list of a system; or, of a system or a trial, a ``ModelError`` where
        the model is away.
        """

    async def forget(self, user_id: str) -> int:
        """Drop what is kept of a user; how many things there were.

        Nothing is kept of a search under way; one that waits is answered without the model.
        """

    def revive(self) -> None:
        """Go on without the batch that does not end."""

    def wait_ms(self) -> float:
        """Expected time in the queue of a job that comes now."""

    @property
    def waiting(self) -> int:
        """Searches in the queue; trials are not counted."""

    @property
    def is_broken(self) -> bool:
        """The model failed several times in a row, or is not there."""

    @property
    def is_hung(self) -> bool:
        """A batch does not end."""

    @property
    def state(self) -> State:
        """What was done so far."""
