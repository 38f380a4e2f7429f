"""A served run: one object behind the HTTP routes, the pages, the terminal and the tests.

Every search ends in an ``Answer``: where the model cannot be asked in time, or fails, a lower rung of the ladder
answers. Nothing here waits for the model in the event loop: a server decodes in a process of its own, the terminal in a
thread; the rest of the work is a small pool's.

Source: details: this project (docs/serving.md).
"""

import asyncio
import gc
import signal
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal, TypeVar

from crsearch.errors import DataError, ModelError
from crsearch.records.types import Context, Item, RankedList
from crsearch.serve.admin import Recent, curves, rung_rows, tree_load
from crsearch.serve.answers import Facets, Health, ItemFound, Neighbour, Neighbours, Status
from crsearch.serve.config import ServeConfig
from crsearch.serve.contexts import Contexts
from crsearch.serve.contract import (
    NO_FILTERS,
    Answer,
    Found,
    Judgement,
    Persona,
    Rung,
    SearchRequest,
    SidNode,
    StreamEvent,
)
from crsearch.serve.envelope import Asked, envelope, hydrated
from crsearch.serve.feedback import FeedbackStore, UnknownRequest, feedback_file
from crsearch.serve.index import RUNG_SYSTEMS, Allowed, Index
from crsearch.serve.jobs import Decoder, Job, Outcome
from crsearch.serve.ladder import AROUND_MS, MARGIN, Measured
from crsearch.serve.lag import Lag
from crsearch.serve.loaded import Loaded
from crsearch.serve.metrics import Metrics
from crsearch.serve.neighbours import neighbour, neighbours
from crsearch.serve.present import Present
from crsearch.serve.problems import Problem
from crsearch.serve.security import log_broken
from crsearch.serve.selftest import SelfTests
from crsearch.serve.text import clean_query
from crsearch.serve.turns import Turns

Made = TypeVar("Made")

STREAM_DEADLINE_MS = 10_000
"""Of streams that name no deadline: their reader has results already."""
COMPARE_SECONDS = 10.0
"""Longest wait for a system that stands beside; it is asked when the answer is there."""
RENEW_SECONDS = 0.5
"""New items may come one after the other: so long after one, BM25 and the like are made anew for all of them."""
NEVER_MS = 1e9
"""Cost of a rung that is not warm yet."""
JUDGE = "judge items of an answer of this server, by its request_id"
BEHIND = 0.25
"""Part of the deadline that may be spent waiting for a turn of the event loop. Where it is more, and a search needs two
turns, the front itself has more to do than it can: searches beyond a batch are refused until it has caught up."""
POOL = 4
"""Threads for all that is not decoding."""


class SearchService:
    """Answers searches of a finished run.

    Args:
        run: folder of the run.
        config: of the server.
        writes: keep catalogue versions and feedback below ``RUN/serving``; else nothing is written.
        decoder: a process of its own; none = the model decodes in a thread of this one.

    Raises:
        RunError: no finished run.
        ModelError, SidError, DataError: its files are broken or do not belong together.
    """

    def __init__(self, run: Path, config: ServeConfig, *, writes: bool = True, decoder: Decoder | None = None) -> None:
        self.run, self.config = run, config
        loaded = self.loaded = Loaded(run)
        self.space, self.final, self.results = loaded.space, loaded.final, loaded.results
        self.tokenizer, self.model_key, self.store = loaded.tokenizer, loaded.model_key, loaded.store
        self.contexts = Contexts(self.space.dataset, loaded.settings.context.max_events)
        self.feedback = FeedbackStore(feedback_file(run)) if writes else None
        self.metrics, self.recent = Metrics(), Recent(is_open=config.log_queries)
        self.self_tests = SelfTests(config.keys)
        self.engine: Decoder = decoder or _in_a_thread(config, loaded)
        self.fallback_ms = {rung: Measured(NEVER_MS if rung is Rung.FUSED else 10.0) for rung in RUNG_SYSTEMS}
        self.present = Present(
            loaded, self.engine, self.metrics, self.contexts.forgotten, self._in_pool, self._used, writes=writes
        )
        self.is_ready = self.is_draining = self._renews = False
        self.failure: BaseException | None = None
        """Why it could not start."""
        self.announce: Callable[[BaseException | None], None] = lambda failure: None
        """Told of the end of the start."""
        self._pool = ThreadPoolExecutor(POOL, thread_name_prefix="crsearch-pool")
        self._scribe = ThreadPoolExecutor(1, thread_name_prefix="crsearch-scribe")
        """Writes what was served, behind the answers."""
        self._asking = 0
        """Requests whose context is being read, or waits to be."""
        self.turns = Turns()
        """Contexts are read and answers made one at a time, so that a refusal waits for one of them at most."""
        self.lag = Lag()
        self._flying: dict[str, asyncio.Task[Answer]] = {}
        self._kept: set[asyncio.Task[Any]] = set()
        self._watch_metrics()

    def _watch_metrics(self) -> None:
        engine = self.engine
        self.metrics.watch("queue_depth", "Searches that wait for the model", lambda: engine.waiting)
        self.metrics.watch("thoughts_cached", "Thoughts in the cache", lambda: engine.state.thoughts)
        self.metrics.watch("thought_cache_hits", "Thoughts found in the cache", lambda: engine.state.hits)
        self.metrics.watch("invalid_sids", "Answers that were no live item; must be 0", lambda: engine.state.invalid)
        self.metrics.watch("catalogue_version", "Number of the version in use", lambda: float(self.index.name[1:]))
        self.metrics.watch("catalogue_items", "Items that can be found", lambda: self.index.num_alive)
        self.metrics.watch("ready", "1 = ready", lambda: float(self.ready))
        self.metrics.watch("event_loop_lag_seconds", "How late the event loop is", lambda: self.lag.ms / 1e3)

    # -- life ---------------------------------------------------------------------------------------------------------
    async def start(self) -> None:
        """Warm up, then be ready; watch the catalogue and the engine."""
        asked = await self._in_pool(self._first)
        await asyncio.gather(
            self.engine.begin(asked.index, asked.trunk, self.config.width),
            self._in_pool(lambda: self._warm_below(Rung.LEXICAL, Rung.POPULAR)),
        )
        _freeze()
        self.is_ready = True
        self._keep(self._guard())
        self._keep(self.lag.watch())
        if self.feedback is not None:
            self._keep(self.present.try_out())
        self._keep(self._warm_behind())

    async def _warm_behind(self) -> None:
        """What nobody waits for at the start: the fused rung, and the encoder that the first new item needs."""
        await self._in_pool(lambda: self._warm_below(Rung.FUSED))
        await self._in_pool(self.store.warm)
        _freeze()

    def started(self, task: "asyncio.Task[None]") -> None:
        """Told of the end of ``start``; where that failed, ``failure`` says why and the process is asked to end."""
        self.failure = None if task.cancelled() else task.exception()
        if not task.cancelled():
            self.announce(self.failure)
        if self.failure is not None:
            signal.raise_signal(signal.SIGTERM)

    def drain(self) -> None:
        """Not ready from now on; what is under way goes on."""
        self.is_draining = True

    async def stop(self) -> None:
        """Wait for searches under way, then end."""
        self.drain()
        until = time.monotonic() + self.config.drain_seconds
        while self._flying and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for task in list(self._kept):
            task.cancel()
        await self.engine.stop()
        await self._in_pool(self._scribe.shutdown)
        if self.feedback is not None:
            await self._in_pool(self.feedback.close)
        self._pool.shutdown(wait=False, cancel_futures=True)

    @property
    def ready(self) -> bool:
        """Searches are answered by the model."""
        return self.is_ready and not self.is_draining and not self.engine.is_broken and not self.engine.is_hung

    def health(self) -> Health:
        """What keeps the server from being ready, and what it serves."""
        return {
            "warm": self.is_ready,
            "draining": self.is_draining,
            "model": "broken" if self.engine.is_broken else "hung" if self.engine.is_hung else "ok",
            "catalogue": self.index.name,
            "refused_catalogue": bool(self.present.last_error),
        }

    def _first(self) -> Asked:
        """A search of a user of the run, or of a stranger."""
        user = next(iter(self.contexts.users("", 1)), None)
        query = (user.last_query if user else "") or "a"
        return self._ask(SearchRequest(query=query, user_id=user.user_id if user else None), time.monotonic())

    def _warm_below(self, *rungs: Rung) -> None:
        """Make the systems of rungs below the model, and measure them."""
        context = Context(search_id="warm", user_id="", query="a")
        for rung in rungs:
            self.index.searcher(RUNG_SYSTEMS[rung])
            for _ in range(2):
                self.lexical(self.index, context, rung, 10, None)

    async def _guard(self) -> None:
        """Take new catalogue versions into use; go on without a batch that hangs."""
        while True:
            await asyncio.sleep(0.25)
            if self.engine.is_hung:
                self.engine.revive()
            await self.present.look()

    def _used(self, index: Index) -> None:
        """Another version of the catalogue is in use: see to it that the rungs below the model find its new items."""
        if not self._renews and index.is_stale:
            self._renews = True
            self._keep(self._renew())

    async def _renew(self) -> None:
        """Make the systems below the model anew, once for versions that follow one another quickly."""
        try:
            while self.index.is_stale:
                await asyncio.sleep(RENEW_SECONDS)
                await self._in_pool(partial(self.index.renew, RUNG_SYSTEMS.values()))
        finally:
            self._renews = False

    @property
    def index(self) -> Index:
        """All that answers in the version of the catalogue that is in use."""
        return self.present.index

    # -- searching ----------------------------------------------------------------------------------------------------
    def refuse_if_full(self) -> None:
        """Refuse a search that there is no room for.

        Raises:
            Problem: ``too_many_requests``.
        """
        if self._is_queue_full:
            raise self._busy()

    @property
    def _is_queue_full(self) -> bool:
        return self.engine.waiting + self._asking >= self.config.queue

    @property
    def is_full(self) -> bool:
        """Whether a search over HTTP is refused before its body is looked at: there is no room for it, or no time."""
        under_way, config = len(self._flying), self.config
        is_behind = under_way >= config.batch and self.turns.wait_ms > BEHIND * config.deadline_ms
        return is_behind or under_way >= config.queue + config.batch or self._is_queue_full

    def gate(self) -> None:
        """What a search over HTTP must pass before its body is looked at.

        Raises:
            Problem: ``too_many_requests``, if the server ``is_full``.
        """
        if self.is_full:
            raise self._busy()

    async def search(self, request: SearchRequest, request_id: str | None = None) -> Answer:
        """Answer a search; equal ones at the same time share the work.

        Args:
            request: what is searched for.
            request_id: of the answer; none = a new one.

        Raises:
            Problem: the request cannot be answered: no query, no such user or system, the queue is full.
        """
        key = sha256(f"{self.index.name} {request.model_dump_json()}".encode()).hexdigest()
        task = self._flying.get(key)
        joins = task is not None
        if task is None:
            task = self._flying[key] = asyncio.create_task(self._search(request))
            task.add_done_callback(lambda _: self._flying.pop(key, None))
        answer = await asyncio.shield(task)
        if joins:
            self.metrics.joined.inc()
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
        at_once = min(asked.deadline, asked.began + self.config.deadline_ms / 1e3)
        fast = replace(asked, request=request.model_copy(update={"mode": "fast"}), deadline=at_once)
        request_id = request_id or new_id()
        first = replace(await self._answer(fast), request_id=request_id)
        self._keep_shown(first, request)  # it can be clicked on while the thought is written
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
                if token == self.index.prompts.close_id:
                    continue
                ids.append(token)
                text = self.tokenizer.decode(ids)
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
                self.metrics.client_closed.inc()

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
                await self.turns.next()
                return self._ask(request, began, keeps=True)  # less than a thread that takes the lock costs the loop
            return await self._in_pool(lambda: self._ask(request, began))
        finally:
            self._asking -= 1

    def _busy(self) -> Problem:
        self.metrics.rejected.inc()
        wait = max(1, round(self.engine.wait_ms() / 1e3))
        return Problem("too_many_requests", "the server is busy", hint="try again later", retry_after=wait)

    def _remember(self, answer: Answer, asked_by: SearchRequest) -> None:
        """Count an answer, and keep what was shown."""
        self.metrics.answered(answer)
        self.recent.add(answer)
        self._keep_shown(answer, asked_by)

    def _keep_shown(self, answer: Answer, asked_by: SearchRequest) -> None:
        """Keep what was shown, so that clicks on it can be told later; lists of one request are added up."""
        feedback = self.feedback
        if feedback is not None and answer.items:
            shown = [item.id for item in answer.items]
            self._scribe.submit(
                feedback.served,
                answer.request_id,
                asked_by.user_id,
                answer.query,
                None,  # now
                asked_by.place,
                shown,
                answer.versions["catalogue"],
                answer.served_by.value,
            )

    async def judge(self, judgement: Judgement) -> None:
        """Keep what a user did with an item of an answer.

        Raises:
            Problem: no such answer is remembered, or the item was not shown in it.
        """
        if self.feedback is None:
            raise Problem("not_found", "this service keeps no feedback")
        try:
            written = self._scribe.submit(
                self.feedback.judge, judgement.request_id, judgement.item_id, judgement.kind
            )  # after the answer it is about
            await asyncio.wrap_future(written)
        except UnknownRequest as e:
            raise Problem("not_found", "no such answer is remembered", field="request_id", hint=JUDGE) from e
        except DataError as e:
            raise Problem("invalid_request", "the item was not shown in it", field="item_id", hint=JUDGE) from e

    def _ask(self, request: SearchRequest, began: float, keeps: bool = False) -> Asked:
        """Clean a request that came at ``began`` and read its context; any thread, but for one that ``keeps``.

        Args:
            request: what is searched for.
            began: when it came.
            keeps: it has nothing but the stored context of its user, which is kept; in the event loop.
        """
        index = self.index
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
        limits = self.config.limits
        clean = clean_query(request.query, limits.query_chars, limits.query_bytes)
        context = self.contexts.context(request, clean.text)
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
            deadline=began + (request.deadline_ms or self.config.deadline_ms) / 1e3,
        )

    def _job(self, asked: Asked, listener: Callable[[int], None] | None = None) -> Job:
        return Job(
            index=asked.index,
            trunk=asked.trunk,
            mode=asked.request.mode,
            width=max(self.config.width, asked.request.top_k),
            deadline=asked.deadline - self._reserve_ms() / 1e3,
            filters=asked.request.filters,
            owner=asked.context.user_id,
            listener=listener,
        )

    def _reserve_ms(self) -> float:
        """What a lexical answer takes after the model was given up."""
        return AROUND_MS + MARGIN * self.fallback_ms[Rung.LEXICAL](1)

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
            calm = self.engine.waiting < self.config.batch  # fusing takes a hundred times as long as BM25 alone
            in_time = calm and asked.left_ms > AROUND_MS + MARGIN * self.fallback_ms[Rung.FUSED](1)
            return await self._fall_back(asked, outcome, Rung.FUSED if in_time else Rung.LEXICAL)
        return await self._envelope(asked, outcome, outcome.rung)

    async def _decoded(self, job: Job) -> Outcome:
        """What the model finds, or why it was not asked.

        Raises:
            Problem: the queue is full.
        """
        left = max(0.0, job.deadline - time.monotonic())
        if self.engine.wait_ms() > 1e3 * left:  # waiting would end in a lower rung too, only later
            return Outcome(rung=None, why="the queue is longer than the deadline", degraded=("model_busy",))
        if not self.engine.submit(job):
            raise self._busy()
        try:
            return await asyncio.wait_for(asyncio.wrap_future(job.future), left + AROUND_MS / 1e3)
        except TimeoutError:
            job.cancel()
            return Outcome(rung=None, why="the model was busy until the deadline", degraded=("model_busy",))
        except asyncio.CancelledError:
            job.cancel()
            raise

    # -- below the model ----------------------------------------------------------------------------------------------
    async def _fall_back(self, asked: Asked, outcome: Outcome, rung: Rung) -> Answer:
        """The best rung below the model that finds something."""
        k = asked.request.top_k
        for below in (r for r in RUNG_SYSTEMS if r >= rung):
            found = await self._in_pool(partial(self.lexical, asked.index, asked.context, below, k, asked.allowed))
            if found.item_ids or below is Rung.POPULAR:
                return await self._envelope(asked, outcome, below, found)
        raise AssertionError("the last rung answers always")

    def lexical(self, index: Index, context: Context, rung: Rung, k: int, allowed: Allowed | None) -> RankedList:
        """The list of a rung that does not ask the model; any thread."""
        began = time.monotonic()
        found = index.ranked(index.searcher(RUNG_SYSTEMS[rung]), context, k, allowed)
        self.fallback_ms[rung].add(1, 1e3 * (time.monotonic() - began))
        return found

    async def _compared(self, asked: Asked, answer: Answer) -> Answer:
        """An answer with the lists of the systems that are wanted beside."""
        names = dict.fromkeys(asked.request.systems)
        return replace(answer, compared={name: await self._beside(asked, name) for name in names}) if names else answer

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
        if not self.engine.submit(job):
            return ()
        try:
            found = await asyncio.wait_for(asyncio.wrap_future(job.future), COMPARE_SECONDS)
        except (TimeoutError, ModelError):
            job.cancel()
            return ()
        return hydrated(asked, found.item_ids, found.scores, "", name)

    async def _envelope(self, asked: Asked, outcome: Outcome, rung: Rung, found: RankedList | None = None) -> Answer:
        await self.turns.next()
        return envelope(asked, outcome, rung, found, tokenizer=self.tokenizer, model_key=self.model_key)

    # -- looking around -----------------------------------------------------------------------------------------------
    async def users(self, prefix: str = "", limit: int = 20) -> list[Persona]:
        """Users whose id begins so."""
        return await self._in_pool(lambda: self.contexts.users(prefix, limit))

    async def persona(self, user_id: str) -> Persona | None:
        """A user with history; none = there is none."""
        return await self._in_pool(lambda: self.contexts.persona(user_id))

    async def item(self, item_id: str) -> ItemFound | None:
        """The record of an item with its semantic ID; none = not in the catalogue, or removed."""
        index = self.index
        if item_id not in index.explainer.known:
            return None
        row = index.catalogue.row(item_id)
        if not index.alive_N[row]:
            return None
        item = index.catalogue[row]
        return {
            "id": item.item_id, "title": item.title, "brand": item.brand, "category": item.category,
            "price": item.price, "sales": item.sales, "attributes": dict(item.attributes),
            "description": item.description, "sid": index.book.pieces(row), "catalogue": index.name,
        }  # fmt: skip

    async def suggest(self, prefix: str, user_id: str | None = None, limit: int = 8) -> list[str]:
        """Queries that begin so: the user's own first, then those of many training users."""
        return await self._in_pool(lambda: self._suggest(prefix, user_id, limit))

    def _suggest(self, prefix: str, user_id: str | None, limit: int) -> list[str]:
        from crsearch.searchers.popularity import query_key

        key = query_key(prefix)
        found: dict[str, str] = {}
        persona = self.contexts.persona(user_id) if user_id else None
        own = [(query_key(e.query), e.query) for e in reversed(persona.history)] if persona else []
        for candidate, query in (*own, *self.index.suggestions):
            if candidate.startswith(key):
                found.setdefault(candidate, query)
            if len(found) >= limit:
                break
        return list(found.values())

    async def sids(self, prefix: Sequence[str]) -> SidNode | None:
        """The tree of semantic IDs below a prefix; none = nothing is there."""
        return await self._in_pool(lambda: self.index.node(prefix))

    async def facets(self) -> Facets:
        """What can be filtered by."""
        return await self._in_pool(lambda: self.index.facets)

    async def systems(self) -> Mapping[str, str]:
        """Systems that can stand beside."""
        return await self._in_pool(lambda: self.index.systems)

    # -- administration -----------------------------------------------------------------------------------------------
    async def admin(self) -> Status:
        """What the admin page shows; see ``pages.PageService.admin``."""
        return await self._in_pool(self._admin)

    def _admin(self) -> Status:
        index, recent, engine, state = self.index, self.recent, self.engine, self.engine.state
        total = recent.percentiles("total")
        seen, tokens = state.hits + state.misses, state.reused + state.read
        return {
            "health": {
                "ready": self.ready,
                "state": "ready" if self.ready else "not ready",
                "uptime_s": round(time.monotonic() - recent.began, 1),
                "checks": [
                    {"name": "model", "ok": not (engine.is_broken or engine.is_hung), "note": self.health()["model"]},
                    {"name": "catalogue", "ok": not self.present.last_error, "note": self.present.last_error},
                    {"name": "invalid_sids", "ok": state.invalid == 0, "note": str(state.invalid)},
                ],
            },
            "about": {"run": self.run.name, "model": f"{self.final} {self.model_key}", "catalogue": index.name},
            "catalogue": self.present.rows(),
            "sids": tree_load(index),
            "rungs": rung_rows(self.results, recent),
            "metrics": {
                "requests": len(recent.answers),
                "per_second": round(recent.per_second(), 2),
                **total,
                "queue": engine.waiting,
                "rejected": int(self.metrics.value("rejected")),
                "thought_cache": round(state.hits / seen, 3) if seen else None,
                "prefix_cache": round(state.reused / max(1, tokens), 3) if self.config.prefix_mib else None,
                "invalid_sids": state.invalid,
                "parts": {part: recent.percentiles(part) for part in ("queue", "prompt", "think", "beam", "hydrate")},
            },
            "slow": recent.slow(),
            "self_test": self.self_tests.last,
            "curves": curves(self.run / "metrics.jsonl"),
        }

    async def runs(self) -> Neighbours:
        """Runs beside this one."""
        return {"served": self.run.resolve().name, "runs": await self._in_pool(lambda: neighbours(self.run))}

    async def beside(self, name: str) -> Neighbour | None:
        """A run beside this one; none = there is no such."""
        return await self._in_pool(lambda: neighbour(self.run, name))

    async def rollback(self, name: str | None) -> str:
        """Use another catalogue version; its name.

        Raises:
            Problem: there is no such version, or it cannot be used.
        """
        return await self.present.change(lambda: self.store.rollback(name))

    async def change_items(self, action: Literal["add", "replace"], items: Sequence[Item]) -> str:
        """Add or replace items; the name of the new version, which is in use when this returns.

        Raises:
            Problem: an item is there already, or is not; a bucket of semantic IDs is full.
        """
        change = self.store.add if action == "add" else self.store.replace
        return await self.present.change(lambda: change(items))

    async def remove_items(self, item_ids: Sequence[str]) -> str:
        """Remove items; the name of the new version, which is in use when this returns.

        Raises:
            Problem: an item is not there.
        """
        return await self.present.change(lambda: self.store.remove(item_ids))

    # -- privacy ------------------------------------------------------------------------------------------------------
    async def forget(self, user_id: str) -> int:
        """Drop what is kept in memory of a user, who is a stranger from now on; how many things there were."""
        self.contexts.forgotten.add(user_id)
        return self.index.known.forget(user_id) + await self.engine.forget(user_id)

    # -- helpers ------------------------------------------------------------------------------------------------------
    async def _in_pool(self, work: Callable[[], Made]) -> Made:
        return await asyncio.get_running_loop().run_in_executor(self._pool, work)

    def _keep(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._kept.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        """Work behind the answers is over; what broke it is told in the log."""
        self._kept.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, Exception):
            log_broken("", error)


def _in_a_thread(config: ServeConfig, loaded: Loaded) -> Decoder:
    """An engine in this process, which imports torch for it."""
    from crsearch.serve.engine import Engine

    return Engine.of(config, loaded)


def _is_short(request: SearchRequest) -> bool:
    """Whether reading its context takes little: what is stored is short, what a caller brings may not be."""
    return request.history is None and request.profile is None and request.filters == NO_FILTERS


def new_id() -> str:
    """Id of a request."""
    return uuid.uuid4().hex


def _freeze() -> None:
    """What is there stays for ever: looking through it again would stop everybody, for 50 to 80 ms in the demo."""
    gc.collect()
    gc.freeze()
