"""A server in a process of its own, and a light client that loads it: closed loops, and open loops at a fixed rate.

Open loops send at their times whatever the answers do, so that a slow server is not spared (no coordinated omission):
the latency of a request counts from when it should have been sent.
"""

import asyncio
import gc
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import orjson

from crsearch.errors import RunError

START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; status 0 = no answer."""

    status: int
    data: bytes
    ms: float
    """From when the request was due."""
    late_ms: float = 0.0
    """From when it was due until it was sent: the client's own delay, which ``ms`` holds too."""

    @property
    def body(self) -> Any:
        """The JSON of it; none = it is none. Read when asked for, since a client under load has other work."""
        try:
            return orjson.loads(self.data)
        except ValueError:
            return None

    @property
    def rung(self) -> str:
        """That served it; "" = none."""
        body = self.body
        return str(body.get("served_by", "")) if isinstance(body, dict) else ""


class Client:
    """Keep-alive connections to one server, each used by one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[_Connection] = []

    async def get(self, path: str) -> Reply:
        """A GET."""
        return await self.send("GET", path, None)

    async def post(self, path: str, value: object, due: float | None = None) -> Reply:
        """A POST of JSON."""
        return await self.send("POST", path, value, due)

    async def send(self, method: str, path: str, value: object | None, due: float | None = None) -> Reply:
        """One request on an idle connection, or on a new one.

        A server may close an idle connection at the moment it is used; then nothing of an answer has come, and the
        request goes over a new one, as HTTP clients do.
        """
        now = time.perf_counter()
        begun = now if due is None else due
        body = b"" if value is None else orjson.dumps(value)
        about = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
        request = f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\n{about}\r\n".encode() + body
        found = await self._tried(request, self._idle.pop()) if self._idle else None
        found = found or await self._tried(request)
        ms = 1e3 * (time.perf_counter() - begun)
        late = 1e3 * (now - begun)
        return Reply(0, b"", ms, late) if found is None else Reply(found.status, found.data, ms, late)

    async def _tried(self, request: bytes, connection: "_Connection | None" = None) -> "_Got | None":
        """What came over a connection; none = it failed."""
        try:
            if connection is None:
                loop = asyncio.get_running_loop()
                _, connection = await loop.create_connection(_Connection, self.host, self.port)
            got = await connection.exchange(request)
        except OSError:
            return None
        if got.keeps:
            self._idle.append(connection)
        else:
            connection.transport.close()
        return got

    async def close(self) -> None:
        """Close idle connections."""
        for connection in self._idle:
            connection.transport.close()
        self._idle.clear()
        await asyncio.sleep(0)


@dataclass(frozen=True, slots=True)
class _Got:
    status: int
    data: bytes
    keeps: bool


class _Connection(asyncio.Protocol):
    """One connection, read with as little work as can be: the client shares the cores with what it measures."""

    transport: asyncio.Transport

    def __init__(self) -> None:
        self._buffer = b""
        self._waiting: asyncio.Future[_Got] | None = None

    def exchange(self, request: bytes) -> "asyncio.Future[_Got]":
        """Send a request; what comes back, or ``ConnectionError``."""
        self._waiting = asyncio.get_running_loop().create_future()
        if self.transport.is_closing():
            self.connection_lost(None)
        else:
            self.transport.write(request)
        return self._waiting

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        """A part of an answer."""
        self._buffer += data
        head, ends, rest = self._buffer.partition(b"\r\n\r\n")
        if not ends:
            return
        head = head.lower()
        length = re.search(rb"\r\ncontent-length: *(\d+)", head)
        body = (rest if len(rest) == int(length[1]) else None) if length else _chunks(rest)
        if body is not None and self._waiting is not None and not self._waiting.done():
            self._buffer = b""
            self._waiting.set_result(_Got(int(head[9:12]), body, b"\r\nconnection: close" not in head))

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(ConnectionError("the server closed the connection"))


def _chunks(data: bytes) -> bytes | None:
    """The body of a chunked answer; none = some of it is still to come."""
    parts: list[bytes] = []
    while True:
        size, ends, data = data.partition(b"\r\n")
        if not ends:
            return None
        length = int(size.split(b";")[0], 16)
        if len(data) < length + 2:
            return None
        if length == 0:
            return b"".join(parts)
        parts.append(data[:length])
        data = data[length + 2 :]


async def closed_loop(client: Client, path: str, values: Sequence[object], users: int) -> list[Reply]:
    """Send all values, ``users`` at a time, each as soon as the one before is answered."""
    waiting: Iterator[object] = iter(values)
    replies: list[Reply] = []

    async def user() -> None:
        for value in waiting:
            replies.append(await client.post(path, value))

    await asyncio.gather(*(user() for _ in range(users)))
    return replies


async def open_loop(client: Client, path: str, values: Sequence[object], rate: float, seconds: float) -> list[Reply]:
    """Send at a fixed rate, whatever comes back.

    Args:
        client: to the server.
        path: of the route.
        values: bodies, again from the first when they are used up.
        rate: requests a second.
        seconds: how long.
    """
    gc.disable()  # a client that stops to look through all its answers would see them late
    try:
        begun, tasks = time.perf_counter(), []
        for n in range(int(rate * seconds)):
            due = begun + n / rate
            if (wait := due - time.perf_counter()) > 0:
                await asyncio.sleep(wait)
            tasks.append(asyncio.create_task(client.post(path, values[n % len(values)], due)))
        return list(await asyncio.gather(*tasks))
    finally:
        gc.enable()


@dataclass
class Served:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    url: str
    ready_seconds: float
    """From the start of the process until ``/readyz`` was 200."""

    @property
    def rss_mib(self) -> float:
        """Memory of the process and of those below it."""
        return sum(_rss_mib(pid) for pid in self.pids)

    @property
    def pids(self) -> list[int]:
        """The process and those below it."""
        found = [self.process.pid]
        for pid in found:
            found += children(pid)
        return found

    @property
    def cpu_seconds(self) -> list[float]:
        """CPU time of each of ``pids`` so far; of one worker: the front, then the process that decodes."""
        return [_cpu_seconds(pid) for pid in self.pids]


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _cpu_seconds(pid: int) -> float:
    with suppress(OSError):
        after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")
    return 0.0


def _rss_mib(pid: int) -> float:
    with suppress(OSError):
        found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
        return int(found[1]) / 1024 if found else 0.0
    return 0.0


@asynccontextmanager
async def serving(run: Path, *settings: str) -> AsyncIterator[Served]:
    """``crsearch serve`` in a process of its own, on a free port, until the block ends.

    Args:
        run: what is served.
        settings: ``key=value``, as ``--set`` takes them.

    Raises:
        RunError: it does not get ready.
    """
    begun = time.perf_counter()
    chosen = [part for text in settings for part in ("--set", text)]
    process = subprocess.Popen(
        [sys.executable, "-m", "crsearch", "serve", str(run), "--port", "0", *chosen],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.to_thread(process.stdout.readline)).decode()
        url = re.search(r"http://\S+", line)
        if url is None:
            raise RunError(f"crsearch serve {run} did not start: run it to see why")
        client = Client(url[0])
        while (await client.get("/readyz")).status != 200:
            if process.poll() is not None or time.perf_counter() - begun > START_SECONDS:
                raise RunError(f"crsearch serve {run} did not get ready: run it to see why")
            await asyncio.sleep(0.05)
        await client.close()
        yield Served(process, url[0], time.perf_counter() - begun)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                await asyncio.to_thread(process.wait, 60)
            except subprocess.TimeoutExpired:
                process.kill()
        if process.stdout is not None:
            process.stdout.close()
