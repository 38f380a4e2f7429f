"""The HTTP protocol of the server below ASGI: uvicorn's, with limits that it lacks.

uvicorn waits for ever for the headers of a request, keeps any number of idle connections, and answers what is no
HTTP with plain text. Here headers must arrive in time, the oldest idle connection makes room for a new one, and
every refusal has the one shape of ``problems``.

Source: details: this project; the base class is ``uvicorn.protocols.http.h11_impl.H11Protocol``.
"""

import asyncio
import json
import resource
import secrets
import sys
import time
from functools import partial
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from crsearch.serve.config import ServeConfig
from crsearch.serve.problems import Problem

MAX_HEAD_BYTES = 160_000
"""Of request line and headers; below, the front answers 414 or 431 with its own limits."""


def uvicorn_options(config: ServeConfig) -> dict[str, Any]:
    """Options of ``uvicorn.Config`` that the front relies on: no log of addresses, no name of the server."""
    return {
        "http": partial(Protocol, head_seconds=config.limits.body_seconds, most=most_connections()),
        "ws": "none",
        "access_log": False,
        "server_header": False,
        "proxy_headers": False,
        "h11_max_incomplete_event_size": MAX_HEAD_BYTES,
        "timeout_keep_alive": 5,
    }


def most_connections() -> int:
    """Connections that are kept, so that files can still be opened."""
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(32, min(4_096, files - 128))


class Protocol(H11Protocol):
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
        super().data_received(data)
        self._watch_head()

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
        code = "headers_too_large" if getattr(error, "error_status_hint", 400) == 431 else "bad_request"
        self._refuse(Problem(code, "this is no HTTP/1.1 request that we read", hint="see RFC 9112"))

    def _refuse(self, problem: Problem) -> None:
        """Answer if an answer is still possible, then end the connection."""
        self._stop_watching()
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            request_id = secrets.token_hex(12)
            body = json.dumps(problem.body(request_id)).encode()
            headers = [
                ("content-type", "application/json"),
                ("content-length", str(len(body))),
                ("x-request-id", request_id),
                ("x-content-type-options", "nosniff"),
                ("connection", "close"),
            ]
            response = h11.Response(status_code=problem.status, headers=headers)
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
