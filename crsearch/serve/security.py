"""The front of the server: everything that a request must pass before a route sees it.

``harden(app, config)`` puts it around an application whose routes declare their scopes:

    address, headers, Host, Origin  ->  route, key, rate  ->  type and size of the body  ->  the application

Every refusal and every error has the one shape of ``problems``; every answer has the security headers and a
request id; every request is told to the watchers (log, metrics) by its route template.

Source: details: this project.
"""

import asyncio
import json
import logging
import os
import secrets
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, NoReturn

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from crsearch.serve.checks import (
    SAFE_METHODS,
    SECURITY_HEADERS,
    by_name,
    check_head,
    check_host,
    check_media,
    check_origin,
    dressed,
    has_body,
    refusal,
    too_large,
)
from crsearch.serve.config import LimitsConfig, ServeConfig
from crsearch.serve.early import Early
from crsearch.serve.keys import (
    Declared,
    Keys,
    Matched,
    check_routes,
    declared,
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

SEND_SECONDS = 30.0
"""Longest wait for a client to take what it asked for."""
LINGER_SECONDS = 0.5
"""How long the rest of a refused body is read and thrown away, so that the answer arrives before the end."""
LINGER_BYTES = 1 << 20
"""Of it, what is read; the sender of more has the rest of the time to see the answer."""


def harden(
    app: FastAPI,
    config: ServeConfig,
    *,
    watchers: Sequence[Watcher] = (access_log,),
    gate: Callable[[], None] = lambda: None,
    is_full: Callable[[], bool] = lambda: False,
    environment: Mapping[str, str] = os.environ,
) -> Keys:
    """Put the front around an application. Call it last, when all routes are there.

    Args:
        app: its routes declare their scopes with ``needs``; make it with ``docs_url=None, redoc_url=None,
            openapi_url=None`` and declare ``/openapi.json`` as a route.
        config: of the server.
        watchers: told of every request.
        gate: called before a route that ``is_queued`` sees its request; raises the problem of who finds no room.
        is_full: whether ``gate`` would raise; then the protocol may refuse without the front (``app.state.early``).
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
    app.state.early = Early(app.router.routes, config, keys, watchers, gate, is_full)
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
        self._matched: dict[tuple[str, str], Matched] = {}
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
        matched = self._match(scope)
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
        if matched.endpoint is not None:
            response = await matched.endpoint(Request(scope, receive))
            await response(scope, receive, visit.send)
        else:
            await self._app(scope, receive, visit.send)

    def _match(self, scope: Scope) -> Matched | None:
        """The route of a request; routes without parameters are remembered."""
        asked = (scope["method"], scope["path"])
        matched = self._matched.get(asked) or match_route(scope["app"].router.routes, scope)
        if matched is not None and matched.methods is None and matched.template == scope["path"]:
            self._matched[asked] = matched
        return matched

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
        self.headers = by_name(scope["headers"])
        self._status, self._is_done = 0, False
        self._code: str | None = None
        self._is_body_read = not has_body(self.headers)
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
            own = message.get("headers", ())
            missing = dressed(self.id, self.extra, {name.lower() for name, _ in own})
            message = {**message, "headers": [*own, *missing]}
        elif message["type"] == "http.response.body":
            self._is_done = not message.get("more_body", False)
        await self._send(message)

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
        if self.scope["method"] in SAFE_METHODS:
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
            raise too_large(most)
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
                        raise too_large(most)
        except TimeoutError:
            raise Problem("request_timeout", f"the body took more than {seconds:g} s", hint="send it at once") from None
        return b"".join(parts)

    async def _refuse(self, problem: Problem) -> None:
        """Send the one shape of errors; end the connection where the rest of a body would still come."""
        self._code = problem.code
        if self._status:
            return  # the answer has begun: what is missing of it tells the client
        headers, body = refusal(problem, self.id)
        self.extra += headers
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
