"""A server in a process of its own, and a light client that loads it: closed loops, and open loops at a fixed rate.

Open loops send at their times whatever the answers do, so that a slow server is not spared (no coordinated omission):
the latency of a request counts from when it should have been sent.
"""

import asyncio
import json
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

from crsearch.errors import RunError

START_SECONDS = 120.0


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back; status 0 = no answer."""

    status: int
    body: Any
    ms: float
    """From when the request was due."""

    @property
    def rung(self) -> str:
        """That served it; "" = none."""
        return str(self.body.get("served_by", "")) if isinstance(self.body, dict) else ""


class Client:
    """Keep-alive connections to one server, each used by one request at a time."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self.host, self.port = parts.hostname or "127.0.0.1", parts.port or 80
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

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
        begun = time.perf_counter() if due is None else due
        found = await self._tried(method, path, value) if self._idle else None
        found = found or await self._tried(method, path, value, fresh=True)
        ms = 1e3 * (time.perf_counter() - begun)
        if found is None:
            return Reply(0, None, ms)
        body: Any = None
        with suppress(ValueError):
            body = json.loads(found[1])
        return Reply(found[0], body, ms)

    async def _tried(
        self, method: str, path: str, value: object | None, *, fresh: bool = False
    ) -> tuple[int, bytes] | None:
        """Status and body; none = the connection failed."""
        writer: asyncio.StreamWriter | None = None
        try:
            if fresh or not self._idle:
                reader, writer = await asyncio.open_connection(self.host, self.port)
            else:
                reader, writer = self._idle.pop()
            status, data, keeps = await _exchange(reader, writer, method, path, self.host, value)
        except (OSError, EOFError, ValueError, IndexError):
            if writer is not None:
                await _closed(writer)
            return None
        if keeps:
            self._idle.append((reader, writer))
        else:
            await _closed(writer)
        return status, data

    async def close(self) -> None:
        """Close idle connections."""
        for _, writer in self._idle:
            await _closed(writer)
        self._idle.clear()


async def _closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(OSError):
        await writer.wait_closed()


async def _exchange(
    reader: asyncio.StreamReader,
    writer: asyncio.StreamWriter,
    method: str,
    path: str,
    host: str,
    value: object | None,
) -> tuple[int, bytes, bool]:
    body = b"" if value is None else json.dumps(value).encode()
    about = f"content-type: application/json\r\ncontent-length: {len(body)}\r\n" if body else ""
    writer.write(f"{method} {path} HTTP/1.1\r\nhost: {host}\r\n{about}\r\n".encode() + body)
    await writer.drain()
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    status = int(head.split(" ", 2)[1])
    length = re.search(r"\r\ncontent-length: *(\d+)", head)
    data = await reader.readexactly(int(length[1])) if length else await _chunks(reader)
    return status, data, "\r\nconnection: close" not in head


async def _chunks(reader: asyncio.StreamReader) -> bytes:
    parts = []
    while size := int((await reader.readline()).split(b";")[0], 16):
        parts.append(await reader.readexactly(size))
        await reader.readline()
    await reader.readline()
    return b"".join(parts)


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
    begun, tasks = time.perf_counter(), []
    for n in range(int(rate * seconds)):
        due = begun + n / rate
        if (wait := due - time.perf_counter()) > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(client.post(path, values[n % len(values)], due)))
    return list(await asyncio.gather(*tasks))


@dataclass
class Served:
    """A server that runs."""

    process: subprocess.Popen[bytes]
    url: str
    ready_seconds: float
    """From the start of the process until ``/readyz`` was 200."""

    @property
    def rss_mib(self) -> float:
        """Memory of the process and of its workers."""
        return sum(_rss_mib(pid) for pid in (self.process.pid, *children(self.process.pid)))


def children(pid: int) -> list[int]:
    """Processes that a process started."""
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


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
