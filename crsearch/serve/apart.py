"""Decoding in a process of its own, seen from the event loop: jobs go out, outcomes come back.

The process is started anew when it dies or hangs. What it was working on, and what comes before it is warm again, is
answered without the model.

Source: details: this project (docs/serving.md).
"""

import asyncio
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

from crsearch.errors import ModelError, RunError
from crsearch.records.types import RankedList
from crsearch.serve.child import Child, Unpacker, packed
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import Rung
from crsearch.serve.index import Index
from crsearch.serve.jobs import BROKEN_AFTER, HUNG_SECONDS, Job, Outcome, State, searches_in

PING_SECONDS = 1.0
AGAIN_SECONDS = (0.0, 1.0, 5.0, 30.0)
"""Waits before the process is started again, when it keeps dying."""
LIVED_SECONDS = 60.0
"""A process that lived longer has not kept dying."""
AWAY = "the process that decodes has to start again"


class Apart:
    """A ``Decoder`` whose engine is in a child process.

    Args:
        run: whose model decodes.
        config: of the server.
        child: that was started already; none = one is started.
    """

    def __init__(self, run: Path, config: ServeConfig, child: Child | None = None) -> None:
        self._run, self._config = run, config
        self._child = child or Child(run, config)
        self._jobs: dict[int, Job] = {}
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = count()
        self._state = State()
        self._heard = 0.0
        self._warm: tuple[Any, ...] = ()
        self._writer: asyncio.StreamWriter | None = None
        self._life: asyncio.Task[None] | None = None
        self._is_up = self._is_over = False

    # -- Decoder ------------------------------------------------------------------------------------------------------
    async def begin(self, index: Index, trunk: Sequence[int], width: int) -> None:
        """See ``Decoder``."""
        self._warm = ("warm", index.name, list(trunk), width)
        ready: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._life = asyncio.create_task(self._live(ready))
        await ready

    async def stop(self) -> None:
        """See ``Decoder``."""
        self._is_over = True
        if self._life is None:
            await asyncio.to_thread(self._child.end)
            return
        if self._writer is not None:
            self._writer.close()
        else:
            self._life.cancel()
        with suppress(asyncio.CancelledError):
            await self._life

    def submit(self, job: Job) -> bool:
        """See ``Decoder``."""
        if not self._is_up:
            _lost(job)
            return True
        if not job.is_trial and searches_in(self._jobs.values()) >= self._config.queue + self._config.batch:
            return False
        n = next(self._numbers)
        self._jobs[n] = job
        job.on_cancel = partial(self._cancel, n)
        told = {
            "trunk": job.trunk, "mode": job.mode, "width": job.width, "deadline": job.deadline, "owner": job.owner,
            "filters": job.filters.model_dump(), "listens": job.listener is not None, "system": job.system,
            "context": job.context, "is_kept": job.is_kept, "is_trial": job.is_trial,
            "came": job.came,
        }  # fmt: skip
        self._send("job", n, job.index.name, told)
        return True

    async def use(self, index: Index) -> None:
        """See ``Decoder``; a process that is not there reads the version when it comes."""
        try:
            await self._call("use", index.name)
        except ModelError as e:
            raise RunError(str(e)) from e
        self._warm = (self._warm[0], index.name, *self._warm[2:])

    async def forget(self, user_id: str) -> int:
        """See ``Decoder``."""
        return await self._call("forget", user_id) or 0

    def revive(self) -> None:
        """See ``Decoder``; a process that does not end is killed, and another is started."""
        self._heard = time.monotonic()
        self._child.process.kill()

    def wait_ms(self) -> float:
        """See ``Decoder``."""
        return searches_in(self._jobs.values()) / self._config.batch * self._state.answer_ms

    @property
    def waiting(self) -> int:
        """See ``Decoder``."""
        return max(0, searches_in(self._jobs.values()) - self._config.batch)

    @property
    def is_broken(self) -> bool:
        """See ``Decoder``."""
        return not self._is_up or self._state.failures >= BROKEN_AFTER

    @property
    def is_hung(self) -> bool:
        """See ``Decoder``."""
        return self._is_up and (self._state.is_hung or time.monotonic() - self._heard > HUNG_SECONDS)

    @property
    def state(self) -> State:
        """See ``Decoder``; as the process told it last."""
        return self._state

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._child.process.pid

    # -- messages -----------------------------------------------------------------------------------------------------
    def _send(self, *message: Any) -> None:
        if self._writer is not None:
            self._writer.write(packed(*message))

    async def _call(self, kind: str, *rest: Any) -> Any:
        """Ask and wait; none where the process is not there."""
        if not self._is_up:
            return None
        n = next(self._numbers)
        answer = self._calls[n] = asyncio.get_running_loop().create_future()
        self._send(kind, n, *rest)
        return await answer

    def _cancel(self, n: int) -> None:
        if self._jobs.pop(n, None) is not None:
            self._send("cancel", n)

    def _got(self, kind: str, n: int, *rest: Any) -> None:
        """A message about a job or a call, which may be gone."""
        if kind == "token":
            if (job := self._jobs.get(n)) is not None and job.listener is not None:
                job.listener(rest[0])
            return
        if kind != "error":
            self._state = State(**rest[-1])
        job, call = self._jobs.pop(n, None), self._calls.pop(n, None)
        if job is not None:
            if kind == "error":
                job.fail(ModelError(rest[0]))
            else:
                job.give(_outcome(rest[0]) if kind == "outcome" else _list(rest[0]))
        if call is not None and not call.done():
            if kind == "error":
                call.set_exception(ModelError(rest[0]))
            else:
                call.set_result(rest[0])

    # -- the life of the process --------------------------------------------------------------------------------------
    async def _live(self, ready: "asyncio.Future[None]") -> None:
        """Talk with the process; start another when it has ended."""
        deaths = 0
        while True:
            began = time.monotonic()
            why = await self._talk(ready)
            await asyncio.to_thread(self._child.end)
            if not ready.done():
                ready.set_exception(RunError(why))
                return
            if self._is_over:
                return
            deaths = 0 if time.monotonic() - began > LIVED_SECONDS else deaths + 1
            await asyncio.sleep(AGAIN_SECONDS[min(deaths, len(AGAIN_SECONDS)) - 1] if deaths else 0)
            with suppress(OSError):  # no room for a process: the next turn finds the old one ended, and waits
                self._child = await asyncio.to_thread(Child, self._run, self._config)

    async def _talk(self, ready: "asyncio.Future[None]") -> str:
        """From the first message of a process to its end; why it ended."""
        unpacker, why = Unpacker(), "the process that decodes ended while it was started"
        pinging = asyncio.create_task(self._ping())
        try:
            reader, self._writer = await asyncio.open_connection(sock=self._child.socket)
            self._send(*self._warm)
            while data := await reader.read(1 << 16):
                self._heard = time.monotonic()
                for kind, *rest in unpacker.feed(data):
                    if kind == "failed":
                        why = rest[0]
                    elif kind == "ready":
                        self._state, self._is_up = State(**rest[0]), True
                        if not ready.done():
                            ready.set_result(None)
                    else:
                        self._got(kind, *rest)
        except OSError:
            pass
        finally:
            self._is_up = False
            pinging.cancel()
            if self._writer is not None:
                self._writer.close()
                self._writer = None
            self._let_go()
        return why

    async def _ping(self) -> None:
        """So that a process that hangs is told from one that has nothing to do."""
        while True:
            await asyncio.sleep(PING_SECONDS)
            await self._call("ping")

    def _let_go(self) -> None:
        """Nothing comes back any more."""
        jobs, self._jobs = list(self._jobs.values()), {}
        calls, self._calls = list(self._calls.values()), {}
        for job in jobs:
            _lost(job)
        for call in calls:
            if not call.done():
                call.set_result(None)


def _lost(job: Job) -> None:
    """The process is not there. A trial fails: that the model is away must not count against what is tried."""
    if job.system or job.is_trial:
        job.fail(ModelError(AWAY))
    else:
        job.give(Outcome(rung=None, why=AWAY, degraded=("model_error",)))


def _outcome(told: dict[str, Any]) -> Outcome:
    return Outcome(
        rung=None if told["rung"] is None else Rung(told["rung"]),
        why=told["why"],
        degraded=tuple(told["degraded"]),
        rows=tuple(told["rows"]),
        scores=tuple(told["scores"]),
        thought=None if told["thought"] is None else tuple(told["thought"]),
        timings_ms=told["timings_ms"],
    )


def _list(told: dict[str, Any]) -> RankedList:
    return RankedList(
        search_id=told["search_id"],
        item_ids=tuple(told["item_ids"]),
        scores=tuple(told["scores"]),
        thought=told["thought"],
    )
