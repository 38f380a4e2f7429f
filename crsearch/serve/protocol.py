"""The HTTP protocol of the server below ASGI: uvicorn's, with limits that it lacks.

uvicorn waits for ever for the headers of a request, keeps any number of idle connections, and answers what is no
HTTP with plain text. Here headers must arrive in time, the oldest idle connection makes room for a new one, and
every refusal has the one shape of ``problems``. The parser is llhttp, in C: of a request that is refused, reading it
would cost the most otherwise (docs/log.md).

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
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from crsearch.serve.config import ServeConfig
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

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin, and end the oldest idle connection if there are too many."""
        super().connection_made(transport)
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
        if self._beside > MAX_HEAD_BYTES and not self.transport.is_closing():
            self._refuse(Problem("headers_too_large", f"more than {MAX_HEAD_BYTES} bytes", hint="send fewer headers"))
        self._watch_head()

    def on_headers_complete(self) -> None:
        """The request begins, unless it is none (RFC 9112: one Host, version 1.x)."""
        hosts = sum(name == b"host" for name, _ in self.headers)
        version = self.parser.get_http_version()
        if len(self.url) > MAX_URL_BYTES:
            raise Problem("uri_too_long", f"the address has more than {MAX_URL_BYTES} bytes", hint="use a POST route")
        if hosts > 1 or (version, hosts) not in (("1.1", 1), ("1.0", 0), ("1.0", 1)):
            raise _no_http()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._beside -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The end of a request."""
        self._beside = 0
        super().on_message_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._stop_watching()
        super().connection_lost(exc)

    @property
    def is_busy(self) -> bool:
        """Whether a request is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def _watch_head(self) -> None:
        if self.is_busy or self.transport.is_closing():
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


def _no_http() -> Problem:
    return Problem("bad_request", "this is no HTTP/1.1 request that we read", hint="see RFC 9112")
