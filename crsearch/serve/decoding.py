"""The process that decodes: an ``Engine`` that takes its jobs from a socket (the messages: ``child``).

The front of the server has an interpreter of its own, so that neither waits for the other's lock. This process has no
front to defend and trusts its parent; it ends when the connection ends, so none is left behind.

Source: details: this project (docs/serving.md).
"""

import gc
import os
import signal
import socket
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from crsearch.errors import CrsearchError, ModelError
from crsearch.pipeline.workspace import threads
from crsearch.records.types import Context, RankedList
from crsearch.serve.child import SWITCH_SECONDS, Unpacker, packed
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import Filters
from crsearch.serve.engine import Engine
from crsearch.serve.index import Index
from crsearch.serve.jobs import Job, Outcome
from crsearch.serve.loaded import Loaded

INDEXES = 3
"""Versions of the catalogue that are kept: a request may still name the one before."""
FULL = "the queue of the model is full"
_CONTEXT = TypeAdapter(Context)


def main(files: int) -> None:
    """Decode for the parent at the other end of a socket until it closes it.

    Args:
        files: file descriptor of the socket.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # the parent finishes what is under way, then closes
        signal.signal(number, signal.SIG_IGN)
    sys.setswitchinterval(SWITCH_SECONDS)
    gc.disable()  # until it is ready: what is loaded stays
    _Host(socket.socket(fileno=files)).serve()
    os._exit(0)  # without waiting for the thread that decodes


class _Host:
    """One connection with all that is needed to serve it."""

    engine: Engine
    loaded: Loaded

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._lock = connection, threading.Lock()
        self._jobs: dict[int, Job] = {}
        self._indexes: OrderedDict[str, Index] = OrderedDict()

    def serve(self) -> None:
        """Take messages until there are no more."""
        kinds: dict[str, Callable[..., None]] = {
            "order": self._order, "warm": self._warm, "job": self._job, "cancel": self._cancel,
            "use": self._use, "forget": self._forget, "ping": self._ping,
        }  # fmt: skip
        unpacker = Unpacker()
        try:
            while data := self._connection.recv(1 << 16):
                for kind, *rest in unpacker.feed(data):
                    kinds[kind](*rest)
        except CrsearchError as e:
            with suppress(ConnectionError):  # the parent may have ended, for the same cause
                self._send("failed", str(e))
        except ConnectionError:
            pass

    def _send(self, *message: Any) -> None:
        data = packed(*message)
        with self._lock:
            self._connection.sendall(data)

    # -- what the parent asks for -------------------------------------------------------------------------------------
    def _order(self, run: str, chosen: dict[str, Any]) -> None:
        config = ServeConfig.model_validate(chosen)
        loaded = self.loaded = Loaded(Path(run))
        torch.set_num_threads(threads(loaded.settings, config.workers))
        # the parent refuses; it counts with those that wait here the batch that is decoded
        self.engine = Engine.of(config, loaded, queue=config.queue + config.batch)

    def _warm(self, version: str, trunk: list[int], width: int) -> None:
        self.engine.start()
        self.engine.warm(self._index(version), trunk, width)
        gc.collect()
        gc.freeze()  # what stays for ever is not looked through again
        gc.enable()
        self._send("ready", self.engine.state)

    def _job(self, n: int, version: str, told: dict[str, Any]) -> None:
        index = self._index(version)
        listener = partial(self._send, "token", n) if told.pop("listens") else None
        context = None if told["context"] is None else _CONTEXT.validate_python(told["context"])
        filters = Filters.model_validate(told["filters"])
        job = Job(index=index, **{**told, "context": context, "filters": filters, "listener": listener})
        self._jobs[n] = job
        job.future.add_done_callback(partial(self._tell, n))
        if not self.engine.submit(job):
            _refuse(job)

    def _tell(self, n: int, done: "Future[Any]") -> None:
        self._jobs.pop(n, None)
        error = done.exception()
        if error is not None:
            self._send("error", n, f"{type(error).__name__}: {error}")
        else:
            value = done.result()
            self._send("list" if isinstance(value, RankedList) else "outcome", n, value, self.engine.state)

    def _cancel(self, n: int) -> None:
        if job := self._jobs.pop(n, None):
            job.cancel()

    def _use(self, n: int, version: str) -> None:
        try:
            self._index(version)
        except CrsearchError as e:
            self._send("error", n, str(e))
        else:
            self._ping(n)

    def _forget(self, n: int, user_id: str) -> None:
        self._send("done", n, self.engine.drop(user_id), self.engine.state)

    def _ping(self, n: int) -> None:
        self._send("done", n, None, self.engine.state)

    # -- versions -----------------------------------------------------------------------------------------------------
    def _index(self, name: str) -> Index:
        """The index of a version; read from the disk where it is not held."""
        index = self._indexes.get(name)
        if index is None:
            before = next(reversed(self._indexes.values()), None)
            index = self._indexes[name] = self.loaded.index(self.loaded.store.load(name), before)
            index.renew(())
        self._indexes.move_to_end(name)
        while len(self._indexes) > INDEXES:
            self._indexes.popitem(last=False)
        return index


def _refuse(job: Job) -> None:
    """The queue is full: whoever waits is told at once."""
    if job.system:
        job.fail(ModelError(FULL))
    else:
        job.give(Outcome(rung=None, why=FULL, degraded=("model_busy",)))


if __name__ == "__main__":
    main(int(sys.argv[1]))
