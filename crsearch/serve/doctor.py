"""Is a server unbreakable? Send it the hostile corpus and judge what comes back.

Whatever is sent: no 5xx, errors in the one shape of at most 4 kB, no stack trace, no echo, the security headers,
and the next good request is answered.

Source: details: this project.
"""

import asyncio
import json
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from urllib.parse import urlsplit

import h11

from crsearch.errors import ConfigError
from crsearch.serve.corpus import Case, Expected, Pieces, corpus
from crsearch.serve.problems import STATUS

ERROR_BYTES = 4_096
"""Most bytes of an error."""
PAGES = ("/?", "/admin")
"""Beginnings of addresses whose errors may be pages."""
SHARE = 65_536
"""Bytes written at once."""

_BODY = b'{"query": "case", "mode": "fast", "top_k": 3}'
GOOD = Case(
    id="good",
    about="a good search",
    method="POST",
    path="/v1/search",
    headers=(("content-type", "application/json"),),
    body=((_BODY, 1),),
    expected=Expected(statuses=frozenset({200})),
)
"""What must be answered between the groups."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Reply:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    """Names in lower case."""
    body: bytes


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """A case that was not answered as it must be."""

    id: str
    sent: str
    """In words."""
    expected: str
    got: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Examination:
    """What a doctor found."""

    cases: int
    groups: int
    seconds: float
    findings: tuple[Finding, ...]


Send = Callable[[Case], Awaitable[Reply | None]]
"""Sends a case; None = the connection ended; TimeoutError = nothing came in time."""


def examine(url: str, key: str | None = None, only: Sequence[str] = ()) -> Examination:
    """Send the corpus to a server.

    Args:
        url: of the server, e.g. ``http://127.0.0.1:8000``.
        key: that opens searches; for a server without keys None.
        only: ids of cases or of groups; none = all.

    Raises:
        ConfigError: the server cannot be reached, or the key is not right, or no case has such an id.
    """
    cases = corpus(only)
    if not cases:
        raise ConfigError(f"doctor --only {' '.join(only)}: no case has such an id; groups are {_groups()}")
    return asyncio.run(_examine(Line(url, key), cases))


async def examine_cases(send: Send, cases: Sequence[Case], *, at_once: int = 4) -> list[Finding]:
    """Send cases group by group, a good request after each; the slow ones at the end, side by side."""
    findings: list[Finding] = []
    quick = [c for c in cases if not c.is_slow]
    for group, members in groupby(quick, key=lambda c: c.group):
        findings += await _all(send, [*members], at_once)
        findings += await _one(send, GOOD, f"good after {group}")
    slow = [c for c in cases if c.is_slow]
    if slow:
        findings += await _all(send, slow, len(slow))
        findings += await _one(send, GOOD, "good after the slow ones")
    return findings


async def examine_some(
    send: Send, cases: Sequence[Case], *, until: float, at_once: int = 4
) -> tuple[int, list[Finding]]:
    """Send cases in their order while there is time; how many were sent, and what was found.

    Args:
        until: when no further one is begun, by the monotonic clock.
    """
    left, sent = iter(cases), 0
    findings: list[Finding] = []

    async def some() -> None:
        nonlocal sent
        while time.monotonic() < until and (case := next(left, None)) is not None:
            sent += 1
            findings.extend(await _one(send, case, case.id))

    await asyncio.gather(*(some() for _ in range(at_once)))
    return sent, findings


async def _examine(line: "Line", cases: list[Case]) -> Examination:
    begin = time.monotonic()
    is_keyed = await _first_words(line)
    cases = [c for c in cases if is_keyed or not c.keyed]
    findings = await examine_cases(line.send, cases)
    return Examination(
        cases=len(cases),
        groups=len({c.group for c in cases}),
        seconds=time.monotonic() - begin,
        findings=tuple(findings),
    )


async def _first_words(line: "Line") -> bool:
    """Whether the server has keys; it must answer a good request."""
    try:
        bare = await Line(line.url, None).send(GOOD)
        reply = await line.send(GOOD)
    except TimeoutError:
        bare = reply = None
    except OSError as e:
        raise ConfigError(f"doctor {line.url}: it cannot be reached ({e.strerror or e}); is it running?") from e
    if reply is None or bare is None:
        raise ConfigError(f"doctor {line.url}: no answer to a search in {GOOD.within:g} s; is it a server of crsearch?")
    if reply.status in (401, 403):
        raise ConfigError(f"doctor {line.url}: it needs a key; name the variable that holds it with --key-env")
    if reply.status == 404:
        raise ConfigError(f"doctor {line.url}: there is no {GOOD.path}; is it a server of crsearch?")
    return bare.status == 401


async def _all(send: Send, cases: Sequence[Case], at_once: int) -> list[Finding]:
    limit = asyncio.Semaphore(at_once)

    async def one(case: Case) -> list[Finding]:
        async with limit:
            return await _one(send, case, case.id)

    return [f for found in await asyncio.gather(*map(one, cases)) for f in found]


async def _one(send: Send, case: Case, name: str) -> list[Finding]:
    try:
        reply = await _patient(send, case)
    except TimeoutError:
        reply, wrong = None, [f"nothing in {case.within:g} s"]
    except OSError as e:
        reply, wrong = None, [f"no connection: {type(e).__name__}"]
    else:
        wrong = [*judge(case, reply)]
    expected = " or ".join(map(str, sorted(case.expected.statuses))) or "anything"
    if case.expected.code:
        expected += f" {case.expected.code}"
    return [Finding(id=name, sent=case.about, expected=expected, got="; ".join(wrong))] if wrong else []


async def _patient(send: Send, case: Case) -> Reply | None:
    """Send a case; where the server says that it is busy, wait and send it again."""
    for _ in range(5):
        reply = await send(case)
        if reply is None or reply.status != 429 or 429 in case.expected.statuses:
            break
        wait = reply.headers.get("retry-after", "1")
        await asyncio.sleep(min(5, int(wait) if wait.isdecimal() else 1))
    return reply


def _groups() -> str:
    return ", ".join(dict.fromkeys(c.group for c in corpus()))


# -- judging ----------------------------------------------------------------------------------------------------------
def judge(case: Case, reply: Reply | None) -> Iterator[str]:
    """What is wrong with an answer, in words; nothing = it is right."""
    if not case.expected.statuses:
        return
    if reply is None:
        if not case.silent:
            yield "no answer"
        return
    if reply.status not in case.expected.statuses:
        yield f"status {reply.status}"
    if b"Traceback (most recent call last)" in reply.body or b'File "/' in reply.body:
        yield "a stack trace"
    if "x-request-id" not in reply.headers:
        yield "no x-request-id"
    if reply.headers.get("x-content-type-options") != "nosniff":
        yield "no X-Content-Type-Options: nosniff"
    if reply.status >= 400 and not _is_no_error(case, reply):
        yield from _wrong_error(case, reply)
    else:
        yield from _wrong_answer(case, reply)


def _is_no_error(case: Case, reply: Reply) -> bool:
    """A page for people, or a server that says that it is not ready: neither has the shape of errors."""
    page = case.path.startswith(PAGES) and _kind(reply) == "text/html"
    return page or (case.path == "/readyz" and reply.status == 503)


def _wrong_error(case: Case, reply: Reply) -> Iterator[str]:
    if case.method == "HEAD":
        return
    if len(reply.body) > ERROR_BYTES:
        yield f"an error of {len(reply.body)} bytes"
    try:
        error = json.loads(reply.body)["error"]
        words = [str(error[name]) for name in ("code", "message", "hint", "request_id")]
    except (ValueError, KeyError, TypeError):
        yield "an error of another shape"
        return
    if set(error) - {"code", "message", "hint", "request_id", "field"} or words[0] not in STATUS:
        yield "an error of another shape"
    if case.expected.code and error["code"] != case.expected.code:
        yield f"code {error['code']}"
    if case.expected.field and error.get("field") != case.expected.field:
        yield f"field {error.get('field')}"
    if _is_telling(case.text) and any(case.text in w for w in [*words, str(error.get("field", ""))]):
        yield "an echo of what was sent"


def _wrong_answer(case: Case, reply: Reply) -> Iterator[str]:
    kind = _kind(reply)
    if kind == "text/html":
        policy = reply.headers.get("content-security-policy", "")
        if "default-src 'self'" not in policy or "unsafe-inline" in policy:
            yield "a page without a strict Content-Security-Policy"
        if set(case.text) & set('<"') and len(case.text) > 1 and case.text.encode("utf-8", "replace") in reply.body:
            yield "text as HTML"
    elif kind == "application/json":
        try:
            json.loads(reply.body, parse_constant=_no_constant)
        except ValueError:
            yield "an answer that is no JSON"
    elif kind == "text/event-stream" and not (b"event: final" in reply.body or b"event: error" in reply.body):
        yield "a stream without an end"


def _kind(reply: Reply) -> str:
    return reply.headers.get("content-type", "").partition(";")[0]


def _no_constant(name: str) -> None:
    raise ValueError(name)


def _is_telling(text: str) -> bool:
    """Whether a text would not stand in a message by chance."""
    return len(text) >= 8 and not text.isalpha()


# -- sending ----------------------------------------------------------------------------------------------------------
class Line:
    """Connections to a server, one for each case, as raw as the case wants.

    Args:
        url: of the server.
        key: sent with every case that does not test keys.

    Raises:
        ConfigError: it is no address of a server.
    """

    def __init__(self, url: str, key: str | None) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"doctor {url}: no address of a server, e.g. http://127.0.0.1:8000")
        self.url, self._key, self._host, self._name = url, key, parts.netloc.rpartition("@")[2], parts.hostname
        self._port = parts.port or (443 if parts.scheme == "https" else 80)
        self._prefix = parts.path.rstrip("/")
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None

    async def send(self, case: Case) -> Reply | None:
        """Send a case and read the first answer.

        Raises:
            OSError: there is no connection.
            TimeoutError: there is no answer in time.
        """
        if case.idle:
            return await self._beside_idle(case)
        pieces = self._request(case) if case.wire is None else self._filled(case.wire)
        reader, writer = await self._open()
        writing = asyncio.create_task(_write(writer, pieces, case.wait))
        try:
            if case.leave:
                await writing
                return None
            async with asyncio.timeout(case.within):
                return await _read(reader, case.method or "GET")
        except (ConnectionError, h11.RemoteProtocolError):
            return None
        finally:
            writing.cancel()
            writer.transport.abort()

    async def _beside_idle(self, case: Case) -> Reply | None:
        """A good request while connections that say nothing are open."""
        idle = [await self._open() for _ in range(case.idle)]
        try:
            return await self.send(GOOD)
        finally:
            for _, writer in idle:
                writer.transport.abort()

    async def _open(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        async with asyncio.timeout(10):
            return await asyncio.open_connection(self._name, self._port, ssl=self._tls)

    def _request(self, case: Case) -> Pieces:
        headers = [*case.headers]
        have = {name.lower() for name, _ in headers}
        own = {"host": self._host, "connection": "close"}
        if self._key and not case.keyed:
            own["authorization"] = f"Bearer {self._key}"
        if case.body:
            own["content-length"] = str(sum(len(piece) * times for piece, times in case.body))
        lines = [f"{case.method} {self._prefix}{case.path} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in [*((n, v) for n, v in own.items() if n not in have), *headers]]
        head = "\r\n".join([*lines, "", ""]).replace("$KEY", self._key or "").encode("utf-8", "replace")
        return ((head, 1), *case.body)

    def _filled(self, wire: Pieces) -> Pieces:
        key = f"Authorization: Bearer {self._key}\r\n" if self._key else ""
        return tuple((p.replace(b"$HOST", self._host.encode()).replace(b"$AUTH", key.encode()), n) for p, n in wire)


async def _write(writer: asyncio.StreamWriter, pieces: Pieces, wait: float) -> None:
    """Write pieces: as large ones as there is no waiting between them."""
    with suppress(ConnectionError):
        for piece, times in pieces:
            many = 1 if wait else max(1, SHARE // max(1, len(piece)))
            for begin in range(0, times, many):
                writer.write(piece * min(many, times - begin))
                await writer.drain()
                if wait:
                    await asyncio.sleep(wait)


async def _read(reader: asyncio.StreamReader, method: str) -> Reply | None:
    """The first answer on a connection; None = it ended before."""
    parser = h11.Connection(h11.CLIENT, max_incomplete_event_size=1 << 20)
    parser.send(h11.Request(method="HEAD" if method == "HEAD" else "GET", target="/", headers=[("host", "x")]))
    parser.send(h11.EndOfMessage())
    status, headers, body = 0, dict[str, str](), b""
    while True:
        event: Any = parser.next_event()
        if event is h11.NEED_DATA:
            parser.receive_data(await reader.read(SHARE))
        elif isinstance(event, h11.Response):
            status = event.status_code
            headers = {n.decode("latin-1").lower(): v.decode("latin-1") for n, v in event.headers}
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            return Reply(status=status, headers=headers, body=body)
        elif isinstance(event, h11.ConnectionClosed):
            return None
