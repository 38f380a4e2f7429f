"""The HTTP protocol of the server below ASGI: uvicorn's, with limits that it lacks.

uvicorn waits for ever for the headers of a request, keeps any number of idle connections, and answers what is no
HTTP with plain text. Here headers must arrive in time, the oldest idle connection makes room for a new one, and
every refusal has the one shape of ``problems``. The parser is llhttp, in C: of a request that is refused, reading it
would cost the most otherwise (docs/log.md). A search that finds no room is refused here (``early``). What is written in
one turn of the event loop is sent at once, so that an answer wakes its reader once.

Source: details: this project; the base class is ``uvicorn.protocols.http.httptools_impl.HttpToolsProtocol``.
"""

import asyncio
import json
import resource
import secrets
import sys
import time
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from crsearch.serve.config import ServeConfig
from crsearch.serve.early import Early
from crsearch.serve.problems import Problem

MAX_HEAD_BYTES = 160_000
"""Of a request beside its body: request line, headers, lengths of chunks, trailers. Below, the front answers 414 or 431
with its own limits."""

MAX_URL_BYTES = 60_000
"""Longest address that can be parsed at all; the front answers 414 far below."""


def uvicorn_options(config: ServeConfig) -> dict[str, Any]:
    """Options of ``uvicorn.Config`` that the front relies on: no log of addresses, no name of the server."""
    return {
        "http": partial(Protocol, head_seconds=config.limits.body_seconds, most=most_connections()),
        "ws": "none",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "timeout_keep_alive": 5,
    }


def most_connections() -> int:
    """Connections that are kept, so that files can still be opened."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(32, min(4_096, files - 128))


class Protocol(HttpToolsProtocol):
    """One connection.

    Args:
        head_seconds: time for request line and headers to arrive.
        most: connections kept.
    """

    def __init__(self, *args: Any, head_seconds: float = 10.0, most: int = 4_096, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_seconds, self._most = head_seconds, most
        self._head_timer: asyncio.TimerHandle | None = None
        self._since = time.monotonic()
        self._beside = 0
        """Bytes of the request so far that are not of its body."""
        self._early: Early | None = getattr(getattr(self.app, "state", None), "early", None)
        self._held: list[bytes] | None = None
        """The body so far of a request that may be refused when it is whole; none = there is no such."""
        self._is_refused = False
        """The request was refused and the next has not begun."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and end the oldest idle connection if there are too many."""
        super().connection_made(cast(asyncio.Transport, Gathered(transport, self.loop)))
        self._since = time.monotonic()
        self._watch_head()
        if len(self.connections) > self._most:
            others = [c for c in self.connections if isinstance(c, Protocol) and c is not self and not c.is_busy]
            oldest = min(others, key=lambda c: c._since, default=self)
            oldest.connections.discard(oldest)
            oldest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._beside += len(data)
        super().data_received(data)
        parts, self._held = self._held, None
        if parts is not None and not self.transport.is_closing():  # its rest is still to come
            self._begin(parts)
        if self._beside > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(Problem("headers_too_large", f"more than {MAX_HEAD_BYTES} bytes", hint="send fewer headers"))
        self._watch_head()

    def on_message_begin(self) -> None:
        """The first bytes of a request."""
        self._is_refused = False
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """The request begins, unless it is none (RFC 9112: one Host, version 1.x)."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        version = self.parser.get_http_version()
        if len(self.url) > MAX_URL_BYTES:
            raise Problem("uri_too_long", f"the address has more than {MAX_URL_BYTES} bytes", hint="use a POST route")
        if hosts > 1 or (version, hosts) not in (("1.1", 1), ("1.0", 0), ("1.0", 1)):
            raise _no_http()
        if version == "1.1" and self._may_be_refused():
            self._held = []
        else:
            super().on_headers_complete()

    def _may_be_refused(self) -> bool:
        """Whether the request can be answered here and now, should there be no room for it."""
        return (
            self._early is not None
            and self.url in self._early
            and not (self.is_busy or self.flow.write_paused or self.expect_100_continue)
            and self.parser.get_method() == b"POST"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
        )

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._beside -= len(body)
        if self._held is None:
            super().on_body(body)
        else:
            self._held.append(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._beside = 0
        parts, self._held = self._held, None
        if parts is not None:
            if self._refused(sum(map(len, parts))):
                return
            self._begin(parts)
        super().on_message_complete()

    def _refused(self, size: int) -> bool:
        """Refuse the request with a body of ``size`` bytes if there is no room for it."""
        assert self._early is not None
        said = self._early.answer(self.url, self.headers, size, self.server_state.default_headers)
        if said is None:
            return False
        self._is_refused = True
        self.transport.write(said)
        self.on_response_complete()
        return True

    def _begin(self, parts: list[bytes]) -> None:
        """Hand a request that was held back, with what there is of its body, to the application."""
        super().on_headers_complete()
        for part in parts:
            super().on_body(part)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_watching()
        super().connection_lost(exc)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _watch_head(self) -> None:
        if self.is_busy or self._is_refused or self.transport.is_closing():
            self._stop_watching()
        elif self._head_timer is None:
            self._head_timer = self.loop.call_later(self._head_seconds, self._head_is_late)

    def _stop_watching(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if not self.is_busy and not self.transport.is_closing():
            self._refuse(Problem("request_timeout", "the request took too long to arrive", hint="send it at once"))

    def send_400_response(self, msg: str) -> None:
        """Refuse what is no HTTP."""
        error = sys.exc_info()[1]
        told = error.__context__ if error else None  # what a method of ours raised below the parser
        if "Content-Length overflow" in str(error):
            told = Problem("body_too_large", "the length of the body has too many digits", hint="send less")
        self._refuse(told if isinstance(told, Problem) else _no_http())

    def _unsupported_upgrade_warning(self) -> None:
        """Who asks for another protocol is answered in this one; what comes after it is not read."""
        self.cycle.keep_alive = False

    def _refuse(self, problem: Problem) -> None:
        """Answer if an answer is still possible, then end the connection."""
        self._stop_watching()
        if not self.is_busy or not self.cycle.response_started:
            request_id = secrets.token_hex(12)
            body = json.dumps(problem.body(request_id)).encode()
            head = (
                f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n"
                f"content-type: application/json\r\ncontent-length: {len(body)}\r\nx-request-id: {request_id}\r\n"
                "x-content-type-options: nosniff\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()


class Gathered:
    """A transport that sends what is written in one turn of the event loop in one piece.

    Head and body of an answer would else be two packets, and wake the reader twice.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport, self._loop = transport, loop
        self._parts: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Send at the end of the turn."""
        if not self._parts:
            self._loop.call_soon(self._flush)
        self._parts.append(data)

    def close(self) -> None:
        """Send what there is, then end."""
        self._flush()
        self._transport.close()

    def _flush(self) -> None:
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts.clear()


def _no_http() -> Problem:
    return Problem("bad_request", "this is no HTTP/1.1 request that we read", hint="see RFC 9112")
