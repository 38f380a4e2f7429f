"""The front of the server: everything that a request must pass before a route sees it.

``harden(app, config)`` puts it around an application whose routes declare their scopes:

    address, headers, Host, Origin  ->  route, key, rate  ->  type and size of the body  ->  the application

Every refusal and every error has the one shape of ``problems``; every answer has the security headers and a
request id; every request is told to the watchers (log, metrics) by its route template.

Source: details: this project.
"""

import asyncio
import ipaddress
import json
import logging
import os
import secrets
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from typing import Any, NoReturn
from urllib.parse import urlsplit

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crsearch.serve.config import LimitsConfig, ServeConfig
from crsearch.serve.keys import (
    Declared,
    Keys,
    Matched,
    check_routes,
    declared,
    is_loopback,
    match_route,
    needs,
    require,
    require_keys_beyond_loopback,
)
from crsearch.serve.problems import STATUS, Problem
from crsearch.serve.rates import RateLimit
from crsearch.serve.seen import Seen, Watcher, access_log, note

__all__ = [
    "SECURITY_HEADERS",
    "Front",
    "Keys",
    "Problem",
    "Seen",
    "check_routes",
    "declared",
    "harden",
    "log_broken",
    "needs",
    "note",
    "request_id_of",
    "require_keys_beyond_loopback",
]

LOG = logging.getLogger("crsearch.serve")

MAX_HEADERS = 100
SEND_SECONDS = 30.0
"""Longest wait for a client to take what it asked for."""
LINGER_SECONDS = 0.5
"""How long the rest of a refused body is read and thrown away, so that the answer arrives before the end."""
LINGER_BYTES = 1 << 20
"""Of it, what is read; the sender of more has the rest of the time to see the answer."""

SECURITY_HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        "frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}
"""On every answer that does not set its own."""

_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


def harden(
    app: FastAPI,
    config: ServeConfig,
    *,
    watchers: Sequence[Watcher] = (access_log,),
    gate: Callable[[], None] = lambda: None,
    environment: Mapping[str, str] = os.environ,
) -> Keys:
    """Put the front around an application. Call it last, when all routes are there.

    Args:
        app: its routes declare their scopes with ``needs``; make it with ``docs_url=None, redoc_url=None,
            openapi_url=None`` and declare ``/openapi.json`` as a route.
        config: of the server.
        watchers: told of every request.
        gate: called before a route that ``is_queued`` sees its request; raises the problem of who finds no room.
        environment: where keys are.

    Returns:
        The keys, e.g. for ``require_keys_beyond_loopback`` before the server listens.

    Raises:
        ConfigError: a key is unusable.
        RuntimeError: a route has no scope.
    """
    check_routes(app.router.routes)
    keys = Keys.from_environment(config.keys, environment)
    app.router.redirect_slashes = False
    app.add_exception_handler(HTTPException, _raise_problem)
    app.add_exception_handler(RequestValidationError, _raise_problem)
    app.add_middleware(Front, config=config, keys=keys, watchers=watchers, gate=gate)
    return keys


def request_id_of(connection: Any) -> str:
    """The id of a request, as its answer has it."""
    return str(connection.scope["state"]["request_id"])


def log_broken(request_id: str, error: Exception) -> Problem:
    """Log what broke by type and place, and return what the caller is told.

    The message of the error is left out of both: it may hold what a user sent.
    """
    LOG.error(json.dumps({"level": "error", "request_id": request_id, "error": _where(error)}))
    return Problem("internal", "something broke on our side", hint="try again; give the id if it stays so")


class _Gone(Exception):
    """The client went away while it sent the body."""


class Front:
    """The middleware that ``harden`` adds; it must be the outermost.

    Args:
        app: what it protects; a Starlette or FastAPI application.
        config: of the server.
        keys: by scope.
        watchers: told of every request.
        gate: see ``harden``.
    """

    def __init__(
        self,
        app: ASGIApp,
        config: ServeConfig,
        keys: Keys,
        watchers: Sequence[Watcher] = (),
        gate: Callable[[], None] = lambda: None,
    ) -> None:
        self._app, self._config, self._keys, self._watchers, self._gate = app, config, keys, watchers, gate
        self._rates = RateLimit(config.limits.rate, config.limits.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] == "http":
            await _Visit(self, scope, receive, send).answer()
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await self._app(scope, receive, send)

    async def serve(self, visit: "_Visit") -> None:
        """Check a request and hand it on.

        Raises:
            Problem: it is refused.
        """
        scope, headers, limits = visit.scope, visit.headers, self._config.limits
        check_head(scope, headers, limits)
        check_host(headers, self._config)
        origin = check_origin(scope["method"], headers, self._config.origins)
        if origin:
            visit.extra += [("access-control-allow-origin", origin), ("vary", "Origin")]
            if scope["method"] == "OPTIONS" and headers.get("access-control-request-method"):
                await visit.allow_origin()
                return
        matched = match_route(scope["app"].router.routes, scope)
        if matched is None:
            raise Problem("not_found", "there is nothing here", hint="see /openapi.json")
        visit.route = matched.template
        self._admit(scope, headers, matched)
        if matched.methods is not None:
            visit.extra.append(("allow", ", ".join(matched.methods)))
            raise Problem("method_not_allowed", "this route has no such method", hint=f"use {visit.extra[-1][1]}")
        assert matched.route is not None  # else it was not admitted
        receive = await visit.with_body(matched.route, limits)
        if matched.route.is_queued:
            self._gate()  # the body is read, so that the connection can be kept, and not looked at
        await self._app(scope, receive, visit.send)

    def _admit(self, scope: Scope, headers: Mapping[str, list[str]], matched: Matched) -> None:
        authorization = headers.get("authorization", [])
        need = matched.route.need if matched.route else None
        address = (scope.get("client") or ("",))[0]
        if need != "open" and self._rates.is_on:
            self._rates.take(self._keys.client(authorization, address))
        require(need, self._keys.scopes(authorization), bool(authorization))

    def tell(self, seen: Seen) -> None:
        """Tell the watchers."""
        for watcher in self._watchers:
            watcher(seen)

    @property
    def logs_queries(self) -> bool:
        """Whether queries may be kept."""
        return self._config.log_queries


# -- one request ------------------------------------------------------------------------------------------------------
class _Visit:
    """One request on its way in and its answer on its way out."""

    def __init__(self, front: Front, scope: Scope, receive: Receive, send: Send) -> None:
        self._front, self.scope, self._receive, self._send = front, scope, receive, send
        self.id, self.route, self.extra = secrets.token_hex(12), "unmatched", list[tuple[str, str]]()
        self.headers = _by_name(scope["headers"])
        self._status, self._is_done = 0, False
        self._code: str | None = None
        self._is_body_read = not _has_body(self.headers)
        scope.setdefault("state", {})["request_id"] = self.id

    async def answer(self) -> None:
        begin = time.perf_counter()
        try:
            await self._front.serve(self)
        except _Gone:
            self._is_done = False
        except Problem as problem:
            await self._refuse(problem)
        except Exception as error:
            await self._refuse(log_broken(self.id, error))
        finally:
            notes = dict(self.scope["state"].get("notes", {}))
            if not self._front.logs_queries:
                notes.pop("query", None)
            ms = 1000 * (time.perf_counter() - begin)
            status = self._status if self._is_done else 499
            self._front.tell(Seen(request_id=self.id, route=self.route, status=status, ms=ms, code=self._code, **notes))

    async def send(self, message: Message) -> None:
        """Pass a part of the answer on."""
        async with asyncio.timeout(SEND_SECONDS):
            await self._pass_on(message)

    async def _pass_on(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": [*message.get("headers", ()), *self._missing(message)]}
        elif message["type"] == "http.response.body":
            self._is_done = not message.get("more_body", False)
        await self._send(message)

    def _missing(self, message: Message) -> list[tuple[bytes, bytes]]:
        have = {name.lower() for name, _ in message.get("headers", ())}
        wanted = [("x-request-id", self.id), *SECURITY_HEADERS.items(), *self.extra]
        return [(n.encode(), v.encode()) for n, v in wanted if n.encode() not in have]

    async def allow_origin(self) -> None:
        """Answer a browser that asks whether a listed origin may call."""
        self.extra += [
            ("access-control-allow-methods", "GET, POST"),
            ("access-control-allow-headers", "authorization, content-type"),
            ("access-control-max-age", "600"),
        ]
        await self.send({"type": "http.response.start", "status": 204, "headers": []})
        await self.send({"type": "http.response.body", "body": b""})

    async def with_body(self, route: Declared, limits: LimitsConfig) -> Receive:
        """Read the body and return what hands it on, then waits for the client to go."""
        if self.scope["method"] in _SAFE_METHODS:
            if not self._is_body_read:
                raise Problem("bad_request", "this method has no body", hint="send it without one")
            return self._receive
        body = b""
        if not self._is_body_read:
            check_media(self.headers, route.media)
            body = await self._read(route.body_bytes or limits.body_bytes, limits.body_seconds)
        pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Message:
            return pending.pop() if pending else await self._receive()

        return receive

    async def _read(self, most: int, seconds: float) -> bytes:
        told = self.headers.get("content-length", ["0"])[0]
        if told.isdecimal() and (len(told) > 15 or int(told) > most):
            raise _too_large(most)
        parts, size = [], 0
        try:
            async with asyncio.timeout(seconds):
                while not self._is_body_read:
                    message = await self._receive()
                    if message["type"] == "http.disconnect":
                        raise _Gone
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    self._is_body_read = not message.get("more_body", False)
                    if size > most:
                        raise _too_large(most)
        except TimeoutError:
            raise Problem("request_timeout", f"the body took more than {seconds:g} s", hint="send it at once") from None
        return b"".join(parts)

    async def _refuse(self, problem: Problem) -> None:
        """Send the one shape of errors; end the connection where the rest of a body would still come."""
        self._code = problem.code
        if self._status:
            return  # the answer has begun: what is missing of it tells the client
        body = json.dumps(problem.body(self.id), ensure_ascii=False).encode("utf-8", "replace")
        self.extra += [("content-type", "application/json"), ("content-length", str(len(body)))]
        if problem.retry_after is not None:
            self.extra.append(("retry-after", str(problem.retry_after)))
        if problem.code == "unauthorized":
            self.extra.append(("www-authenticate", "Bearer"))
        if not self._is_body_read:
            self.extra.append(("connection", "close"))
        lingers = not self._is_body_read
        with suppress(OSError, TimeoutError):
            async with asyncio.timeout(SEND_SECONDS):
                await self._pass_on({"type": "http.response.start", "status": problem.status, "headers": []})
                await self._pass_on({"type": "http.response.body", "body": body, "more_body": lingers})
            if lingers:
                await self._linger()
                await self.send({"type": "http.response.body", "body": b""})

    async def _linger(self) -> None:
        size = 0
        with suppress(TimeoutError):
            async with asyncio.timeout(LINGER_SECONDS):
                while not self._is_body_read and size < LINGER_BYTES:
                    message = await self._receive()
                    size += len(message.get("body", b""))
                    self._is_body_read = message["type"] == "http.disconnect" or not message.get("more_body", False)
                if not self._is_body_read:
                    await asyncio.sleep(LINGER_SECONDS)  # reading no more, so that the sender stops and sees the answer


def _by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _has_body(headers: Mapping[str, list[str]]) -> bool:
    return "transfer-encoding" in headers or headers.get("content-length", ["0"]) != ["0"]


def _too_large(most: int) -> Problem:
    return Problem("body_too_large", f"the body has more than {most} bytes", hint="send less")


def _where(error: BaseException) -> str:
    """Type and places of an error."""
    frames = traceback.extract_tb(error.__traceback__)[-8:]
    return " < ".join([type(error).__name__, *(f"{f.filename}:{f.lineno} {f.name}" for f in reversed(frames))])


def _raise_problem(_: Any, error: Exception) -> NoReturn:
    """Turn what the framework raises into a problem, which the front answers."""
    if isinstance(error, RequestValidationError):
        place, *_ = (e["loc"] for e in error.errors())  # (where, name of a declared parameter)
        raise Problem(
            "invalid_request", "a parameter is of the wrong kind or out of range", field=str(place[1]),
            hint="see /openapi.json",
        ) from None  # fmt: skip
    assert isinstance(error, HTTPException)
    by_status = {status: code for code, status in reversed([*STATUS.items()])}
    code = by_status.get(error.status_code, "internal" if error.status_code >= 500 else "bad_request")
    raise Problem(code, code.replace("_", " "), hint="see /openapi.json") from None


# -- checks -----------------------------------------------------------------------------------------------------------
def check_head(scope: Scope, headers: Mapping[str, list[str]], limits: LimitsConfig) -> None:
    """Refuse addresses and headers that are too long.

    Raises:
        Problem: ``uri_too_long`` or ``headers_too_large``.
    """
    path = scope.get("raw_path") or scope["path"].encode("utf-8", "replace")
    if len(path) + len(scope.get("query_string", b"")) > limits.url_bytes:
        raise Problem("uri_too_long", f"the address has more than {limits.url_bytes} bytes", hint="use a POST route")
    size = sum(len(name) + len(value) for name, value in scope["headers"])
    if size > limits.header_bytes or len(scope["headers"]) > MAX_HEADERS:
        raise Problem(
            "headers_too_large",
            f"more than {limits.header_bytes} bytes or {MAX_HEADERS} headers",
            hint="send fewer headers",
        )
    for name in ("content-type", "content-length", "host", "origin"):
        if len(headers.get(name, ())) > 1:
            raise Problem("bad_request", f"the header {name} stands twice", hint="send it once")


def check_host(headers: Mapping[str, list[str]], config: ServeConfig) -> None:
    """Refuse names that are not ours: a page of another site that lets its name point here (DNS rebinding).

    Loopback names, ``serve.host`` and ``serve.hosts`` are ours. Where other machines may call, an address in
    numbers is taken too (a probe has no name for us), since rebinding needs a name.

    Raises:
        Problem: ``wrong_host``.
    """
    if not _is_ours(headers.get("host", [""])[0], (config.host, *config.hosts)):
        raise Problem("wrong_host", "this server is not known by that name", hint="list the name in serve.hosts")


@lru_cache(maxsize=64)
def _is_ours(host: str, names: tuple[str, ...]) -> bool:
    """Whether a Host header names us; the first of ``names`` is where the server listens."""
    name = _host_name(host)
    if is_loopback(name) or name in map(_host_name, names):
        return True
    return not is_loopback(names[0]) and _is_address(name)


def check_origin(method: str, headers: Mapping[str, list[str]], origins: Sequence[str]) -> str | None:
    """Refuse calls that pages of other sites make a browser send.

    Returns:
        The origin, if it is a listed one that may read the answer.

    Raises:
        Problem: ``forbidden``: the method may change something and the origin is neither ours nor listed.
    """
    origin = headers.get("origin", [""])[0]
    if not origin:
        return None
    if origin in origins:
        return origin
    is_ours = _netloc(origin) == headers.get("host", [""])[0].lower() != ""
    if method in _SAFE_METHODS or is_ours:
        return None
    raise Problem("forbidden", "a page of another site may not do this", hint="list its origin in serve.origins")


def check_media(headers: Mapping[str, list[str]], media: Sequence[str]) -> None:
    """Refuse bodies that are compressed or of another type.

    Raises:
        Problem: ``unsupported_media_type``.
    """
    encodings = {e.strip().lower() for value in headers.get("content-encoding", []) for e in value.split(",")}
    if encodings - {"", "identity"}:
        raise Problem("unsupported_media_type", "compressed bodies are not read", hint="send it uncompressed")
    kind, *parameters = headers.get("content-type", [""])[0].lower().split(";")
    charsets = {p.strip().removeprefix("charset=").strip("\"' ") for p in parameters if "charset" in p}
    if kind.strip() not in media or charsets - {"utf-8", "utf8"}:
        raise Problem(
            "unsupported_media_type",
            "the body is of another type",
            hint=f"send Content-Type: {' or '.join(media)}, in UTF-8",
        )


def _host_name(host: str) -> str:
    """Host without its port.

    >>> [_host_name(h) for h in ("Shop.Example.:80", "[::1]:8000", "127.0.0.1")]
    ['shop.example', '::1', '127.0.0.1']
    """
    host = host.strip().lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    name = host if host.count(":") > 1 else host.partition(":")[0]
    return name.removesuffix(".")


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _netloc(origin: str) -> str | None:
    """Host and port of an origin; None for ``null`` and what is no origin."""
    try:
        found = urlsplit(origin)
    except ValueError:
        return None
    return found.netloc.lower() if found.scheme in ("http", "https") else None
