"""A served run: one object behind the HTTP routes, the pages, the terminal and the tests.

It begins and ends what a server consists of and says what there is; searches are answered by ``searches``. Nothing here
waits for the model in the event loop: a server decodes in a process of its own, the terminal in a thread; the rest of
the work is a small pool's.

Source: details: this project (docs/serving.md).
"""

import asyncio
import gc
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

from crsearch.records.types import Item
from crsearch.serve.admin import Recent, curves, rung_rows, tree_load
from crsearch.serve.answers import Facets, Health, ItemFound, Neighbour, Neighbours, Status
from crsearch.serve.below import Below
from crsearch.serve.config import ServeConfig
from crsearch.serve.contexts import Contexts
from crsearch.serve.contract import (
    Answer,
    Judgement,
    Persona,
    Rung,
    SearchRequest,
    SidNode,
    StreamEvent,
)
from crsearch.serve.envelope import Asked
from crsearch.serve.feedback import FeedbackStore, feedback_file
from crsearch.serve.index import RUNG_SYSTEMS, Index
from crsearch.serve.jobs import Decoder
from crsearch.serve.lag import Lag
from crsearch.serve.loaded import Loaded
from crsearch.serve.metrics import Metrics
from crsearch.serve.neighbours import neighbour, neighbours
from crsearch.serve.present import Present
from crsearch.serve.scribe import Scribe
from crsearch.serve.searches import Searches
from crsearch.serve.security import log_broken
from crsearch.serve.selftest import SelfTests

Made = TypeVar("Made")

RENEW_SECONDS = 0.5
"""New items may come one after the other: so long after one, BM25 and the like are made anew for all of them."""
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
        self.below = Below()
        self.present = Present(
            loaded, self.engine, self.metrics, self.contexts.forgotten, self._in_pool, self._used, writes=writes
        )
        self.is_ready = self.is_draining = self._renews = False
        self.failure: BaseException | None = None
        """Why it could not start."""
        self.announce: Callable[[BaseException | None], None] = lambda failure: None
        """Told of the end of the start."""
        self._pool = ThreadPoolExecutor(POOL, thread_name_prefix="crsearch-pool")
        self._scribe = Scribe(self.feedback, self.metrics)
        self.searches = Searches(
            config, loaded, self.present, self.contexts, self.engine, self.below, self._scribe, self.metrics,
            self.recent, self._in_pool,
        )  # fmt: skip
        self.lag = Lag()
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
            self._in_pool(lambda: self.below.warm(self.index, Rung.LEXICAL, Rung.POPULAR)),
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
        await self._in_pool(lambda: self.below.warm(self.index, Rung.FUSED))
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
        while self.searches.under_way and time.monotonic() < until:
            await asyncio.sleep(0.02)
        for task in list(self._kept):
            task.cancel()
        await self.engine.stop()
        await self._in_pool(self._scribe.close)
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
        return self.searches.asked(SearchRequest(query=query, user_id=user.user_id if user else None), time.monotonic())

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
    async def search(self, request: SearchRequest, request_id: str | None = None) -> Answer:
        """Answer a search; see ``Searches.search``."""
        return await self.searches.search(request, request_id)

    def stream(self, request: SearchRequest, request_id: str | None = None) -> AsyncGenerator[StreamEvent]:
        """First results at once, then the thought as it is written, then the final list; see ``Searches.stream``."""
        return self.searches.stream(request, request_id)

    async def judge(self, judgement: Judgement) -> None:
        """Keep what a user did with an item of an answer; see ``Scribe.judge``."""
        await self._scribe.judge(judgement)

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
        """Queries that begin so: the user's own first, then those of several training users, forgotten ones aside."""
        return await self._in_pool(lambda: self._suggest(prefix, user_id, limit))

    def _suggest(self, prefix: str, user_id: str | None, limit: int) -> list[str]:
        from crsearch.searchers.popularity import query_key

        key = query_key(prefix)
        found: dict[str, str] = {}
        persona = self.contexts.persona(user_id) if user_id else None
        own = [(query_key(e.query), e.query) for e in reversed(persona.history)] if persona else []
        for candidate, query in (*own, *self.index.suggestions(self.contexts.forgotten)):
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


def _freeze() -> None:
    """What is there stays for ever: looking through it again would stop everybody, for 50 to 80 ms in the demo."""
    gc.collect()
    gc.freeze()
