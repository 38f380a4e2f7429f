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
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from crsearch.decode.beam import beam_search
from crsearch.decode.store import PrefixStore
from crsearch.decode.thoughts import think_then_rank
from crsearch.errors import ModelError, RunError
from crsearch.models.bundle import Bundle, forbidden_in_thoughts, load_for_decoding
from crsearch.pipeline.workspace import device
from crsearch.records.types import RankedList
from crsearch.serve.admin import pays
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import Mode, Rung
from crsearch.serve.index import Index
from crsearch.serve.jobs import BROKEN_AFTER, FORGOTTEN, HUNG_SECONDS, Job, Outcome, State, searches_in
from crsearch.serve.ladder import Costs, Plan, plan
from crsearch.serve.loaded import Loaded
from crsearch.serve.thoughts import ThoughtCache, prompt_key

IDLE_SECONDS = 1.0
"""How often an idle engine looks up."""
FINISHED = -1
"""What a watch is told of a thought that was closed before."""
WARM_SECONDS = 60.0
"""Deadline of the first jobs."""


class _AllGone(Exception):
    """Everybody who waited for this batch has left."""


class Engine:
    """Decodes jobs in a thread of its own.

    Args:
        bundle: the model; the same in all versions of the catalogue.
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
        bundle: Bundle,
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
        self.bundle, self.model_key, self.cache, self.store = bundle, model_key, cache, store
        self.thoughts_pay, self.cuts_pay = thoughts_pay, cuts_pay
        self.forbidden = forbidden_in_thoughts(bundle)
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
    def of(cls, config: ServeConfig, loaded: Loaded, *, queue: int | None = None) -> "Engine":
        """The engine of a served run.

        Args:
            config: of the server.
            loaded: the run.
            queue: most jobs that wait; none = that of the server.

        Raises:
            ModelError: the model is broken, or belongs to other semantic IDs.
        """
        think_tokens = loaded.settings.decode.think_tokens
        bundle = load_for_decoding(loaded.folder, loaded.space.sids)
        bundle.model.to(device(loaded.settings))
        return cls(
            bundle,
            loaded.model_key,
            ThoughtCache(config.thoughts),
            batch=config.batch,
            queue=config.queue if queue is None else queue,
            think_tokens=think_tokens if config.think_tokens is None else config.think_tokens,
            thoughts_pay=pays(loaded.results, Rung.FRESH, unknown=True),
            cuts_pay=pays(loaded.results, Rung.CUT, unknown=False),
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
        """As ``forget``; any thread."""
        with self._lock:
            mine = [job for job in self._waiting if job.owner == user_id]
            self._waiting = [job for job in self._waiting if job.owner != user_id]
        for job in mine:
            job.give(Outcome(rung=None, why=FORGOTTEN))
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
        """See ``Decoder``."""
        with self._lock:
            self._waiting = [waiting for waiting in self._waiting if not waiting.is_cancelled]
            if not job.is_trial and self.waiting >= self.queue:
                return False
            job.epoch = self.cache.epoch
            self._waiting.append(job)
            self._lock.notify()
        return True

    @property
    def waiting(self) -> int:
        """See ``Decoder``."""
        return searches_in(self._waiting)

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
            now = time.monotonic()
            waiting = sorted((j for j in self._waiting if not j.is_cancelled), key=lambda j: j.due(now))
            together = min(self.batch, max(1, len(waiting)))
            plans = {id(job): self._plan(job, together) for job in waiting}
            late = [job for job in waiting if plans[id(job)].rung is None]
            left = [job for job in waiting if plans[id(job)].rung is not None]
            jobs: list[Job] = []
            if left:
                first = _kind(left[0], plans[id(left[0])])
                jobs = [job for job in left if _kind(job, plans[id(job)]) == first][: self.batch]
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
            with torch.autocast(next(self.bundle.model.parameters()).device.type, enabled=False):
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
        if todo[0].rung is Rung.FRESH:
            return self._think(jobs, todo, queue)
        index, n = jobs[0].index, len(jobs)
        kept = [
            self.cache.get(self._key(job)) if own.rung is Rung.CACHED else None
            for job, own in zip(jobs, todo, strict=True)
        ]
        thoughts = [None if thought is None else thought.ids for thought in kept]
        prompts = [_after(index, job.trunk, thought) for job, thought in zip(jobs, thoughts, strict=True)]
        rows_BK, scores_BK = beam_search(
            self.bundle.model,
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
            self.bundle.model,
            [[*job.trunk, *index.prompts.suffix("think")] for job in jobs],
            index.trie,
            width=jobs[0].width,
            max_tokens=[own.think_tokens for own in todo],
            close_id=self.bundle.close_id,
            forbidden=self.forbidden,
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
                    self.cache.put(self._key(job), thought, job.owner, job.epoch)
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
    if job.system or job.is_trial:
        return (id(job),)
    return (own.rung is Rung.FRESH, id(job.index), job.width)


def _beside(job: Job) -> RankedList:
    """What another system finds."""
    assert job.context is not None
    index = job.index
    return index.ranked(job.system, job.context, job.width, index.allowed(job.filters))


def _after(index: Index, trunk: Sequence[int], thought: Sequence[int] | None) -> list[int]:
    """The prompt of a beam: asked at once, or after a thought that is there."""
    if thought is None:
        return [*trunk, *index.prompts.suffix("direct")]
    return [*trunk, *index.prompts.suffix("think"), *thought, index.prompts.close_id]


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
