"""The one thread that touches the model: takes waiting jobs, batches those of a kind, decodes, reports.

A server has it in a process of its own (``decoding``, reached through ``apart``), the terminal in its own.

Jobs are taken by deadline. Their rung is decided when they are taken, not when they come, from what is left of the
deadline and from what batches of that size have cost so far. Jobs of one kind, one catalogue version and one beam
width are decoded together: prompts in one prefill, thoughts in step, beams of all in one step.

Source: details: this project (docs/serving.md).
"""

import asyncio
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from crsearch.decode.beam import beam_search
from crsearch.decode.store import PrefixStore
from crsearch.decode.thoughts import think_then_rank
from crsearch.decode.trie import TrieMask
from crsearch.errors import ModelError, RunError
from crsearch.records.types import Context, RankedList
from crsearch.serve.admin import pays
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import NO_FILTERS, Filters, Mode, Rung
from crsearch.serve.index import Index
from crsearch.serve.ladder import Costs, Plan, plan
from crsearch.serve.thoughts import ThoughtCache, prompt_key

IDLE_SECONDS = 1.0
"""How often an idle engine looks up."""
BROKEN_AFTER = 3
"""Failures in a row after which the model counts as broken."""
FINISHED = -1
"""What a watch is told of a thought that was closed before."""
HUNG_SECONDS = 20.0
"""A batch that takes longer is hung: it is left behind, and others go on."""
WARM_SECONDS = 60.0
"""Deadline of the first jobs."""


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
    came: float = field(default_factory=time.monotonic)
    future: "Future[Any]" = field(default_factory=Future)
    is_cancelled: bool = False
    key: str = ""
    """Of its thought in the cache; made when it is first needed."""
    on_cancel: Callable[[], None] | None = None
    """Told when it is cancelled."""

    @property
    def mask(self) -> TrieMask | None:
        """Items that may be found; none = all."""
        allowed = self.index.allowed(self.filters)
        return None if allowed is None else allowed.mask

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
        """Queue a job; False = the queue is full."""

    async def forget(self, user_id: str) -> int:
        """Drop what is kept of a user; how many things there were."""

    def revive(self) -> None:
        """Go on without the batch that does not end."""

    def wait_ms(self) -> float:
        """Expected time in the queue of a job that comes now."""

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""

    @property
    def is_broken(self) -> bool:
        """The model failed several times in a row, or is not there."""

    @property
    def is_hung(self) -> bool:
        """A batch does not end."""

    @property
    def state(self) -> State:
        """What was done so far."""


class _AllGone(Exception):
    """Everybody who waited for this batch has left."""


class Engine:
    """Decodes jobs in a thread of its own.

    Args:
        model_key: fingerprint of the model's weights, for the thought cache.
        cache: of thoughts.
        batch: most jobs decoded together.
        queue: most jobs that wait.
        think_tokens: longest thought.
        thoughts_pay: a whole thought is better than none.
        cuts_pay: a cut thought is better than none.
        store: keys of contexts that were read, so that a user's next search reads its query only; none = none is kept.
    """

    def __init__(
        self,
        model_key: str,
        cache: ThoughtCache,
        *,
        batch: int,
        queue: int,
        think_tokens: int,
        thoughts_pay: bool = True,
        cuts_pay: bool = False,
        store: PrefixStore | None = None,
    ) -> None:
        self.model_key, self.cache, self.store = model_key, cache, store
        self.thoughts_pay, self.cuts_pay = thoughts_pay, cuts_pay
        self.batch, self.queue, self.think_tokens = batch, queue, think_tokens
        self.costs = Costs()
        self.decoded: dict[int, int] = {}
        """Batch size -> batches decoded."""
        self.failures = 0
        """Failures since the last success."""
        self.invalid = 0
        """Rows that were no live item; must stay 0."""
        self._waiting: list[Job] = []
        self._lock = threading.Condition()
        self._stopped = False
        self._busy_since: float | None = None
        self._thread: threading.Thread | None = None

    @classmethod
    def of(cls, config: ServeConfig, think_tokens: int, results: Mapping[str, Any], model_key: str) -> "Engine":
        """The engine of a served run.

        Args:
            config: of the server.
            think_tokens: longest thought, where the server names none.
            results: of the run.
            model_key: fingerprint of the model's weights.
        """
        return cls(
            model_key,
            ThoughtCache(config.thoughts),
            batch=config.batch,
            queue=config.queue,
            think_tokens=think_tokens if config.think_tokens is None else config.think_tokens,
            thoughts_pay=pays(results, Rung.FRESH, unknown=True),
            cuts_pay=pays(results, Rung.CUT, unknown=False),
            store=PrefixStore(config.prefix_mib << 20) if config.prefix_mib else None,
        )

    # -- from outside -------------------------------------------------------------------------------------------------
    async def begin(self, index: Index, trunk: Sequence[int], width: int) -> None:
        """See ``Decoder``."""
        self.start()
        await asyncio.to_thread(self.warm, index, trunk, width)

    def warm(self, index: Index, trunk: Sequence[int], width: int) -> None:
        """A first thought and a first beam, alone and in a full batch: kernels are loaded, costs are measured.

        Raises:
            RunError: the model does not decode.
        """
        most = min(self.batch, self.queue)
        rounds: tuple[tuple[Mode, int], ...] = (("think", 1), ("fast", 2), ("think", most), ("fast", most))
        for mode, times in rounds:
            late = time.monotonic() + WARM_SECONDS
            jobs = [Job(index=index, trunk=trunk, mode=mode, width=width, deadline=late, is_kept=False)
                    for _ in range(times)]  # fmt: skip
            for job in jobs:
                self.submit(job)
            for job in jobs:
                job.future.result()
        if self.failures:
            raise RunError("the model does not decode; train again, or check the files")

    async def use(self, index: Index) -> None:
        """See ``Decoder``."""

    async def stop(self) -> None:
        """See ``Decoder``."""
        await asyncio.to_thread(self.halt)

    async def forget(self, user_id: str) -> int:
        """See ``Decoder``."""
        return self.drop(user_id)

    def drop(self, user_id: str) -> int:
        """Drop what is kept of a user; any thread."""
        return self.cache.forget(user_id) + (0 if self.store is None else self.store.forget(user_id))

    @property
    def state(self) -> State:
        """See ``Decoder``."""
        kept = None if self.store is None else self.store.stats
        return State(
            failures=self.failures,
            invalid=self.invalid,
            thoughts=len(self.cache),
            hits=self.cache.hits,
            misses=self.cache.misses,
            reused=0 if kept is None else kept.tokens_reused,
            read=0 if kept is None else kept.tokens_read,
            answer_ms=self.costs.answer(self.batch),
            is_hung=self.is_hung,
        )

    def start(self) -> None:
        """Begin to decode."""
        self._thread = threading.Thread(target=self._loop, name="crsearch-engine", daemon=True)
        self._thread.start()

    def halt(self) -> None:
        """End after the batch under way; what waits is answered without the model."""
        with self._lock:
            self._stopped = True
            self._lock.notify_all()
        if self._thread is not None:
            self._thread.join(timeout=5)

    def submit(self, job: Job) -> bool:
        """Queue a job; False = the queue is full. Its future has an ``Outcome``, or the list of a system."""
        with self._lock:
            if len(self._waiting) >= self.queue:
                return False
            self._waiting.append(job)
            self._lock.notify()
        return True

    @property
    def waiting(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    @property
    def is_broken(self) -> bool:
        """The model failed several times in a row."""
        return self.failures >= BROKEN_AFTER

    @property
    def is_hung(self) -> bool:
        """A batch does not end."""
        since = self._busy_since
        return since is not None and time.monotonic() - since > HUNG_SECONDS

    def revive(self) -> None:
        """Go on in a new thread, without the batch that does not end."""
        with self._lock:
            self._busy_since = None
            self.start()

    def wait_ms(self) -> float:
        """Expected time in the queue of a job that comes now."""
        return self.waiting / self.batch * self.costs.answer(self.batch)

    # -- in the thread ------------------------------------------------------------------------------------------------
    def _loop(self) -> None:
        me = threading.current_thread()
        while not self._stopped and self._thread is me:
            jobs, todo = self._take()
            if not jobs:
                continue
            self._busy_since = time.monotonic()
            try:
                self._run(jobs, todo)
            finally:
                if self._thread is me:
                    self._busy_since = None
        if self._thread is me:
            with self._lock:
                left, self._waiting = self._waiting, []
            for job in left:
                job.give(Outcome(rung=None, why="the server is stopping", degraded=("model_busy",)))

    def _take(self) -> tuple[list[Job], list[Plan]]:
        """The most urgent job and all that can be decoded with it; those that come too late are let go."""
        with self._lock:
            if not self._waiting:
                self._lock.wait(IDLE_SECONDS)
            waiting = sorted((j for j in self._waiting if not j.is_cancelled), key=lambda j: j.deadline)
            together = min(self.batch, max(1, len(waiting)))
            plans = {id(job): self._plan(job, together) for job in waiting}
            late = [job for job in waiting if plans[id(job)].rung is None]
            left = [job for job in waiting if plans[id(job)].rung is not None]
            jobs: list[Job] = []
            if left:
                first = _kind(left[0], plans[id(left[0])])
                jobs = [job for job in left if _kind(job, plans[id(job)]) == first][: self.batch]
                if left[0].system:
                    jobs = jobs[:1]
            taken = {id(job) for job in jobs}
            self._waiting = [job for job in left if id(job) not in taken]
        for job in late:
            found = plans[id(job)]
            job.give(Outcome(rung=None, why=found.why, degraded=(found.degraded or "deadline",)))
        return jobs, [plans[id(job)] for job in jobs]

    def _plan(self, job: Job, batch: int) -> Plan:
        if job.system:
            return Plan(Rung.DIRECT, 0, "")
        remaining = 1e3 * (job.deadline - time.monotonic())
        cached = job.is_kept and job.mode != "fast" and self._key(job) in self.cache
        return plan(
            job.mode,
            remaining,
            self.costs,
            batch,
            self.think_tokens,
            cached=cached,
            thoughts_pay=self.thoughts_pay,
            cuts_pay=self.cuts_pay,
        )

    def _key(self, job: Job) -> str:
        job.key = job.key or prompt_key(self.model_key, job.trunk)
        return job.key

    def _run(self, jobs: list[Job], todo: list[Plan]) -> None:
        if jobs[0].system:
            try:
                jobs[0].give(_beside(jobs[0]))
            except Exception as e:
                jobs[0].fail(e)
            return
        try:
            with torch.autocast(next(jobs[0].index.bundle.model.parameters()).device.type, enabled=False):
                outcomes = self._decode(jobs, todo)
        except _AllGone:
            return
        except Exception as e:
            if len(jobs) > 1:  # one request must not take the others down with it
                for job, own in zip(jobs, todo, strict=True):
                    self._run([job], [own])
                return
            self.failures += 1
            why = (
                "the model's answer was no number"
                if isinstance(e, ModelError)
                else f"the model failed: {type(e).__name__}"
            )
            jobs[0].give(Outcome(rung=None, why=why, degraded=("model_error",)))
            return
        self.failures = 0
        self.decoded[len(jobs)] = self.decoded.get(len(jobs), 0) + 1
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.give(outcome)

    def _decode(self, jobs: list[Job], todo: list[Plan]) -> list[Outcome]:
        begun = time.monotonic()
        queue = [1e3 * (begun - job.came) for job in jobs]
        rung = todo[0].rung
        if rung is Rung.FRESH:
            return self._think(jobs, todo, queue)
        index, n = jobs[0].index, len(jobs)
        thoughts: list[tuple[int, ...] | None] = [None] * n
        if rung is Rung.CACHED:
            kept = [self.cache.get(self._key(job)) for job in jobs]
            thoughts = [None if t is None else t.ids for t in kept]
        prompts = [_after(index, job.trunk, thought) for job, thought in zip(jobs, thoughts, strict=True)]
        rows_BK, scores_BK = beam_search(
            index.bundle.model,
            prompts,
            index.trie,
            jobs[0].width,
            mask=[job.mask for job in jobs],
            batch=n,
            store=self.store,
            owners=[job.owner or None for job in jobs],
        )
        took = 1e3 * (time.monotonic() - begun)
        # one call reads and ranks: the parts are told apart by what thinking batches measured
        share = self.costs.read(n) / max(1e-9, self.costs.answer(n))
        self.costs.read.add(n, share * took)
        self.costs.beam.add(n, (1 - share) * took)
        out = []
        for b, (job, own, thought) in enumerate(zip(jobs, todo, thoughts, strict=True)):
            rung = Rung.DIRECT if thought is None else Rung.CACHED
            timings = {"queue": queue[b], "prompt": share * took, "beam": (1 - share) * took}
            out.append(self._outcome(job, rung, own, rows_BK[b], scores_BK[b], thought, timings))
        return out

    def _think(self, jobs: list[Job], todo: list[Plan], queue: list[float]) -> list[Outcome]:
        index, n = jobs[0].index, len(jobs)
        watch = _Watch(jobs, self.costs, n)
        ranked = think_then_rank(
            index.bundle.model,
            [[*job.trunk, *index.prompts.suffix("think")] for job in jobs],
            index.trie,
            width=jobs[0].width,
            max_tokens=[own.think_tokens for own in todo],
            close_id=index.bundle.close_id,
            forbidden=index.forbidden,
            mask=[job.mask for job in jobs],
            watch=watch,
            store=self.store,
            owners=[job.owner or None for job in jobs],
        )
        timings = watch.timings(self.costs)
        out = []
        for b, (job, own) in enumerate(zip(jobs, todo, strict=True)):
            thought, closed = tuple(ranked.thoughts[b][0]), bool(ranked.closed_BG[b, 0])
            if closed:
                if job.is_kept:
                    self.cache.put(self._key(job), thought, job.owner)
                self.costs.thought.add(1, float(len(thought)))
            rung = Rung.FRESH if closed else Rung.CUT
            found = (ranked.rows_BGK[b, 0], ranked.scores_BGK[b, 0])
            out.append(self._outcome(job, rung, own, *found, thought, {"queue": queue[b], **timings}))
        return out

    def _outcome(
        self,
        job: Job,
        rung: Rung | None,
        own: Plan,
        rows_K: Tensor,
        scores_K: Tensor,
        thought: tuple[int, ...] | None,
        timings: dict[str, float],
    ) -> Outcome:
        rows = [int(row) for row in rows_K.tolist() if row >= 0]
        self.invalid += sum(not job.index.alive_N[row] for row in rows)
        cut = rung is Rung.CUT
        return Outcome(
            rung=rung,
            why="the thought was closed at its budget" if cut else own.why,
            degraded=tuple(filter(None, ("think_budget" if cut else own.degraded,))),
            rows=tuple(rows),
            scores=tuple(float(s) for s in scores_K[: len(rows)].tolist()),
            thought=thought,
            timings_ms=timings,
        )


def _kind(job: Job, own: Plan) -> tuple[object, ...]:
    """Jobs of equal kind can be decoded together. Cached thoughts and direct answers are one beam search."""
    if job.system:
        return (id(job),)
    return (own.rung is Rung.FRESH, id(job.index), job.width)


def _beside(job: Job) -> RankedList:
    """What another system finds."""
    assert job.context is not None
    index = job.index
    return index.ranked(index.searcher(job.system), job.context, job.width, index.allowed(job.filters))


def _after(index: Index, trunk: Sequence[int], thought: Sequence[int] | None) -> list[int]:
    """The prompt of a beam: asked at once, or after a thought that is there."""
    if thought is None:
        return [*trunk, *index.prompts.suffix("direct")]
    return [*trunk, *index.prompts.suffix("think"), *thought, index.bundle.close_id]


class _Watch:
    """Sees every token of a batch of thoughts: tells listeners, closes what is late or left alone, keeps the time."""

    def __init__(self, jobs: Sequence[Job], costs: Costs, batch: int) -> None:
        self.jobs, self.batch = jobs, batch
        self.begun = self.last = time.monotonic()
        self.first: float | None = None
        self.steps = 0
        self.reserve = 1e-3 * costs.beam(batch)

    def __call__(self, token_BG: Int64[Tensor, "B G"]) -> Bool[Tensor, "B G"] | None:
        """After each token; the trajectories to close now."""
        now = time.monotonic()
        if self.first is None:
            self.first = now
        self.last = now
        self.steps += 1
        if all(job.is_cancelled for job in self.jobs):
            raise _AllGone
        stop_BG = torch.zeros_like(token_BG, dtype=torch.bool)
        for b, (job, token) in enumerate(zip(self.jobs, token_BG[:, 0].tolist(), strict=True)):
            if token == FINISHED:
                continue
            if job.listener is not None and not job.is_cancelled:
                job.listener(token)
            stop_BG[b] = job.is_cancelled or now + self.reserve > job.deadline
        return stop_BG if bool(stop_BG.any()) else None

    def timings(self, costs: Costs) -> dict[str, float]:
        """Milliseconds by part, which the costs learn from."""
        end = time.monotonic()
        first = end if self.first is None else self.first
        read, think, beam = (1e3 * s for s in (first - self.begun, self.last - first, end - max(self.last, first)))
        costs.read.add(self.batch, read)
        if self.steps > 1:
            costs.step.add(self.batch, think / (self.steps - 1))
        costs.beam.add(self.batch, beam)
        return {"prompt": read, "think": think, "beam": beam}
