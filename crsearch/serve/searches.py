"""Searches under way: admitted, asked of the model, answered by the ladder.

Every search ends in an ``Answer``: where the model cannot be asked in time, or fails, a lower rung answers. Nothing
here waits for the model in the event loop.

Source: details: this project (docs/serving.md).
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from dataclasses import replace
from functools import partial
from hashlib import sha256

from crsearch.errors import ModelError
from crsearch.records.types import RankedList
from crsearch.serve.admin import Recent
from crsearch.serve.below import Below
from crsearch.serve.config import ServeConfig
from crsearch.serve.contexts import Contexts
from crsearch.serve.contract import NO_FILTERS, Answer, Found, Rung, SearchRequest, StreamEvent
from crsearch.serve.envelope import Asked, envelope, hydrated, still_there
from crsearch.serve.index import RUNG_SYSTEMS
from crsearch.serve.jobs import FORGOTTEN, Decoder, Job, Outcome
from crsearch.serve.ladder import AROUND_MS
from crsearch.serve.loaded import Loaded
from crsearch.serve.metrics import Metrics
from crsearch.serve.present import Pool, Present
from crsearch.serve.problems import Problem
from crsearch.serve.scribe import Scribe
from crsearch.serve.text import clean_query
from crsearch.serve.turns import Turns

STREAM_DEADLINE_MS = 10_000
"""Of streams that name no deadline: their reader has results already."""
COMPARE_SECONDS = 10.0
"""Longest wait for a system that stands beside; it is asked when the answer is there."""
BEHIND = 0.25
"""Part of the deadline that may be spent waiting for a turn of the event loop. Where it is more, and a search needs two
turns, the front itself has more to do than it can: searches beyond a batch are refused until it has caught up."""


class Searches:
    """Answers searches from the version of the catalogue that is in use.

    Args:
        config: of the server.
        loaded: the run.
        present: the version in use.
        contexts: of users.
        engine: the model.
        below: what answers where the model cannot.
        scribe: keeps what was shown.
        metrics: where answers and refusals are counted.
        recent: the newest answers.
        in_pool: where work is done that would block the event loop.
    """

    def __init__(
        self,
        config: ServeConfig,
        loaded: Loaded,
        present: Present,
        contexts: Contexts,
        engine: Decoder,
        below: Below,
        scribe: Scribe,
        metrics: Metrics,
        recent: Recent,
        in_pool: Pool,
    ) -> None:
        self._config, self._present, self._contexts, self._engine = config, present, contexts, engine
        self._below, self._scribe, self._metrics, self._recent = below, scribe, metrics, recent
        self._tokenizer, self._model_key, self._in_pool = loaded.tokenizer, loaded.model_key, in_pool
        self._asking = 0
        """Requests whose context is being read, or waits to be."""
        self._turns = Turns()
        """Contexts are read and answers made one at a time, so that a refusal waits for one of them at most."""
        self._flying: dict[str, asyncio.Task[Answer]] = {}

    @property
    def under_way(self) -> int:
        """Searches that are being answered; equal ones count once."""
        return len(self._flying)

    # -- room ---------------------------------------------------------------------------------------------------------
    def refuse_if_full(self) -> None:
        """Refuse a search that there is no room for.

        Raises:
            Problem: ``too_many_requests``.
        """
        if self._is_queue_full:
            raise self._busy()

    @property
    def _is_queue_full(self) -> bool:
        return self._engine.waiting + self._asking >= self._config.queue

    @property
    def is_full(self) -> bool:
        """Whether a search over HTTP is refused before its body is looked at: there is no room for it, or no time."""
        under_way, config = self.under_way, self._config
        is_behind = under_way >= config.batch and self._turns.wait_ms > BEHIND * config.deadline_ms
        return is_behind or under_way >= config.queue + config.batch or self._is_queue_full

    def gate(self) -> None:
        """What a search over HTTP must pass before its body is looked at.

        Raises:
            Problem: ``too_many_requests``, if the server ``is_full``.
        """
        if self.is_full:
            raise self._busy()

    # -- answers ------------------------------------------------------------------------------------------------------
    async def search(self, request: SearchRequest, request_id: str | None = None) -> Answer:
        """Answer a search; equal ones at the same time share the work.

        Args:
            request: what is searched for.
            request_id: of the answer; none = a new one.

        Raises:
            Problem: the request cannot be answered: no query, no such user or system, the queue is full.
        """
        key = sha256(f"{self._present.index.name} {request.model_dump_json()}".encode()).hexdigest()
        task = self._flying.get(key)
        joins = task is not None
        if task is None:
            task = self._flying[key] = asyncio.create_task(self._search(request))
            task.add_done_callback(lambda _: self._flying.pop(key, None))
        answer = await asyncio.shield(task)
        if joins:
            self._metrics.joined.inc()
        answer = replace(answer, request_id=request_id or new_id())
        self._remember(answer, asked_by=request)
        return answer

    async def _search(self, request: SearchRequest) -> Answer:
        asked = await self._admitted(request)
        return await self._compared(asked, await self._answer(asked))

    async def stream(self, request: SearchRequest, request_id: str | None = None) -> AsyncGenerator[StreamEvent]:
        """First results at once, then the thought as it is written, then the final list.

        Raises:
            Problem: as ``search``, before the first event.
        """
        slow = request.deadline_ms or STREAM_DEADLINE_MS
        asked = await self._admitted(request.model_copy(update={"deadline_ms": slow}))
        at_once = min(asked.deadline, asked.began + self._config.deadline_ms / 1e3)
        fast = replace(asked, request=request.model_copy(update={"mode": "fast"}), deadline=at_once)
        request_id = request_id or new_id()
        first = replace(await self._answer(fast), request_id=request_id)
        self._scribe.keep(first, request)  # it can be clicked on while the thought is written
        yield StreamEvent(name="first", data=first)
        if request.mode == "fast" or first.served_by in RUNG_SYSTEMS or not first.items:
            self._remember(first, asked_by=request)
            yield StreamEvent(name="final", data=await self._compared(asked, first))
            return
        loop, pieces = asyncio.get_running_loop(), asyncio.Queue[int | None]()

        def listen(token: int) -> None:
            loop.call_soon_threadsafe(pieces.put_nowait, token)

        job = self._job(replace(asked, request=request.model_copy(update={"mode": "think"})), listen)
        task = asyncio.create_task(self._answer(asked, job))
        task.add_done_callback(lambda _: pieces.put_nowait(None))
        ids: list[int] = []
        said = ""
        try:
            while (token := await pieces.get()) is not None:
                if token == asked.index.prompts.close_id:
                    continue
                ids.append(token)
                text = self._tokenizer.decode(ids)
                if not text.endswith("�"):  # half of a character
                    yield StreamEvent(name="thought", data={"text": text[len(said) :]})
                    said = text
            final = replace(await task, request_id=request_id)
            self._remember(final, asked_by=request)
            yield StreamEvent(name="final", data=await self._compared(asked, final))
        finally:
            if not task.done():
                job.cancel()
                task.cancel()
                self._metrics.client_closed.inc()

    async def _admitted(self, request: SearchRequest) -> Asked:
        """A request that there is room for; refused before any work is spent on it.

        Raises:
            Problem: as ``search``.
        """
        self.refuse_if_full()
        began = time.monotonic()
        self._asking += 1
        try:
            if _is_short(request):
                await self._turns.next()
                return self.asked(request, began, keeps=True)  # less than a thread that takes the lock costs the loop
            return await self._in_pool(lambda: self.asked(request, began))
        finally:
            self._asking -= 1

    def _busy(self) -> Problem:
        self._metrics.rejected.inc()
        wait = max(1, round(self._engine.wait_ms() / 1e3))
        return Problem("too_many_requests", "the server is busy", hint="try again later", retry_after=wait)

    def _remember(self, answer: Answer, asked_by: SearchRequest) -> None:
        """Count an answer, and keep what was shown."""
        self._metrics.answered(answer)
        self._recent.add(answer)
        self._scribe.keep(answer, asked_by)

    def asked(self, request: SearchRequest, began: float, keeps: bool = False) -> Asked:
        """Clean a request that came at ``began`` and read its context; any thread, but for one that ``keeps``.

        Args:
            request: what is searched for.
            began: when it came.
            keeps: it has nothing but the stored context of its user, which is kept; in the event loop.
        """
        index = self._present.index
        if request.catalogue is not None and request.catalogue != index.name:
            raise Problem(
                "catalogue_gone", f"the catalogue in use is {index.name}", field="catalogue",
                hint="leave catalogue out, or ask again with the one in use",
            )  # fmt: skip
        unknown = [name for name in request.systems if name not in index.systems]
        if unknown:
            raise Problem(
                "unknown_system", "this server has no such system", field="systems",
                hint=f"there are {', '.join(index.systems)}",
            )  # fmt: skip
        limits = self._config.limits
        clean = clean_query(request.query, limits.query_chars, limits.query_bytes)
        context = self._contexts.context(request, clean.text)
        user = index.known(context) if keeps and context.user_id else None
        if user is None:
            trunk = index.prompts.trunk(context)
            ids, dropped = trunk.ids, trunk.dropped
        else:
            ids, dropped = index.prompts.trunk_after(user.past, context)
        return Asked(
            request=request,
            clean=clean,
            index=index,
            context=context,
            trunk=ids,
            dropped=dropped,
            allowed=index.allowed(request.filters),
            events=None if user is None else user.events,
            began=began,
            deadline=began + (request.deadline_ms or self._config.deadline_ms) / 1e3,
        )

    def _job(self, asked: Asked, listener: Callable[[int], None] | None = None) -> Job:
        return Job(
            index=asked.index,
            trunk=asked.trunk,
            mode=asked.request.mode,
            width=max(self._config.width, asked.request.top_k),
            deadline=asked.deadline - self._below.needs_ms(Rung.LEXICAL) / 1e3,
            filters=asked.request.filters,
            owner=asked.context.user_id,
            listener=listener,
        )

    async def _answer(self, asked: Asked, job: Job | None = None) -> Answer:
        index, allowed = asked.index, asked.allowed
        if (index.num_alive if allowed is None else allowed.count) == 0:
            empty = "filters" if index.num_alive else "empty_catalogue"
            nothing = Outcome(rung=None, why="no item can be found", degraded=(empty,))
            return await self._envelope(asked, nothing, Rung.POPULAR)
        if asked.clean.is_wordless:
            return await self._fall_back(asked, Outcome(rung=None, why="the query has no word"), Rung.POPULAR)
        outcome = await self._decoded(job or self._job(asked))
        if outcome.rung is None:
            calm = self._engine.waiting < self._config.batch  # fusing takes a hundred times as long as BM25 alone
            in_time = calm and asked.left_ms > self._below.needs_ms(Rung.FUSED)
            return await self._fall_back(asked, outcome, Rung.FUSED if in_time else Rung.LEXICAL)
        return await self._envelope(asked, outcome, outcome.rung)

    async def _fall_back(self, asked: Asked, outcome: Outcome, rung: Rung) -> Answer:
        """The answer of the best rung from ``rung`` on that finds something."""
        index, context, k = asked.index, asked.context, asked.request.top_k
        falling = partial(self._below.falling, index, context, rung, k, asked.allowed)
        below, found = await self._in_pool(falling)
        return await self._envelope(asked, outcome, below, found)

    async def _decoded(self, job: Job) -> Outcome:
        """What the model finds, or why it was not asked.

        Raises:
            Problem: the queue is full.
        """
        if job.owner in self._contexts.forgotten:
            return Outcome(rung=None, why=FORGOTTEN)
        left = max(0.0, job.deadline - time.monotonic())
        if self._engine.wait_ms() > 1e3 * left:  # waiting would end in a lower rung too, only later
            return Outcome(rung=None, why="the queue is longer than the deadline", degraded=("model_busy",))
        if not self._engine.submit(job):
            raise self._busy()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.future), left + AROUND_MS / 1e3)
        except TimeoutError:
            job.cancel()
            return Outcome(rung=None, why="the model was busy until the deadline", degraded=("model_busy",))
        except asyncio.CancelledError:
            job.cancel()
            raise

    async def _compared(self, asked: Asked, answer: Answer) -> Answer:
        """An answer that is given now, with the lists of the systems that are wanted beside."""
        lists = {name: await self._beside(asked, name) for name in dict.fromkeys(asked.request.systems)}
        present = self._present.index
        compared = {name: still_there(found, present) for name, found in lists.items()}
        return replace(answer, items=still_there(answer.items, present), compared=compared)

    async def _beside(self, asked: Asked, name: str) -> tuple[Found, ...]:
        """The list of another system, for comparison; empty where it is not there in time."""
        job = Job(
            index=asked.index,
            system=name,
            context=asked.context,
            width=asked.request.top_k,
            filters=asked.request.filters,
            deadline=time.monotonic() + COMPARE_SECONDS,
        )
        if not self._engine.submit(job):
            return ()
        try:
            found = await asyncio.wait_for(asyncio.wrap_future(job.future), COMPARE_SECONDS)
        except (TimeoutError, ModelError):
            job.cancel()
            return ()
        return hydrated(asked, found.item_ids, found.scores, "", name, self._present.index)

    async def _envelope(self, asked: Asked, outcome: Outcome, rung: Rung, found: RankedList | None = None) -> Answer:
        await self._turns.next()
        return envelope(
            asked, outcome, rung, found, present=self._present.index, tokenizer=self._tokenizer,
            model_key=self._model_key,
        )  # fmt: skip


def _is_short(request: SearchRequest) -> bool:
    """Whether reading its context takes little: what is stored is short, what a caller brings may not be."""
    return request.history is None and request.profile is None and request.filters == NO_FILTERS


def new_id() -> str:
    """Id of a request."""
    return uuid.uuid4().hex
