"""A search that there is no room for, refused before anything is built for it.

Beyond its capacity a server mostly refuses, so a refusal must cost little: where ``is_full`` says so, the protocol asks
``Early`` as soon as a request has arrived whole, before it makes a scope, a task and the way through the middleware.
What ``Early`` says is what the front would say (``checks``, ``gate``), to the log and the metrics too; whatever would
be answered in another way than "busy", or is not plain in every respect, it leaves to the front.

Source: details: this project.
"""

import secrets
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from http import HTTPStatus

from starlette.routing import BaseRoute, Route

from crsearch.serve.checks import by_name, check_head, check_host, check_media, dressed, has_body, refusal
from crsearch.serve.config import ServeConfig
from crsearch.serve.keys import Declared, Keys, declared, match_route, require
from crsearch.serve.problems import Problem
from crsearch.serve.seen import Seen, Watcher

_ID = "0" * 24
"""Stands for the id in texts that are kept; as long as one, and in no other place of them."""


class Early:
    """Refuses whole requests to routes that are queued.

    Args:
        routes: of the application.
        config: of the server.
        keys: by scope.
        watchers: told of every refusal.
        gate: raises the problem of who finds no room, and counts it.
        is_full: whether ``gate`` would raise one; counts nothing.
    """

    def __init__(
        self,
        routes: Sequence[BaseRoute],
        config: ServeConfig,
        keys: Keys,
        watchers: Sequence[Watcher],
        gate: Callable[[], None],
        is_full: Callable[[], bool],
    ) -> None:
        self._config, self._keys, self._watchers, self._gate, self._is_full = config, keys, watchers, gate, is_full
        self._routes = {} if config.limits.rate else dict(_queued(routes))  # rates are counted in one place
        """Path -> template and what the route says about itself."""

    def __contains__(self, url: bytes) -> bool:
        """Whether a POST to this address may be refused here."""
        return url in self._routes

    def answer(
        self, url: bytes, headers: Sequence[tuple[bytes, bytes]], size: int, own: Sequence[tuple[bytes, bytes]] = ()
    ) -> bytes | None:
        """All bytes of the refusal of a POST, after which the connection is kept; none = the front answers.

        Args:
            url: address as it was sent, ``in`` this.
            headers: of the request, names in lower case.
            size: of the body.
            own: headers that the server puts before ours.
        """
        if not self._is_full():
            return None
        began = time.perf_counter()
        template, route = self._routes[url]
        if not self._is_plain(url, route, headers, size):
            return None
        try:
            self._gate()
        except Problem as problem:
            request_id = secrets.token_hex(12)
            status, rest = _said(problem.code, problem.message, problem.hint, problem.field, problem.retry_after)
            ms = 1e3 * (time.perf_counter() - began)
            seen = Seen(request_id=request_id, route=template, status=problem.status, ms=ms, code=problem.code)
            for watcher in self._watchers:
                watcher(seen)
            before = b"".join(b"%b: %b\r\n" % header for header in own)
            return status + before + rest.replace(_ID.encode(), request_id.encode())
        return None

    def _is_plain(self, url: bytes, route: Declared, headers: Sequence[tuple[bytes, bytes]], size: int) -> bool:
        """Whether the front would let a request through to the gate and would add no further header."""
        named, limits = by_name(headers), self._config.limits
        told = named.get("content-length", ["0"])[0]
        if (
            "origin" in named
            or len(told) > len(str(limits.body_bytes))
            or size > (route.body_bytes or limits.body_bytes)
        ):
            return False
        authorization = named.get("authorization", [])
        try:
            check_head({"raw_path": url, "headers": headers}, named, limits)
            check_host(named, self._config)
            require(route.need, self._keys.scopes(authorization), bool(authorization))
            if has_body(named):
                check_media(named, route.media)
        except Problem:
            return False
        return True


def _queued(routes: Sequence[BaseRoute]) -> list[tuple[bytes, tuple[str, Declared]]]:
    """Address -> template and declaration of routes that are queued and have one address, as requests find them."""
    found = []
    for route in routes:
        own = declared(route)
        if own is not None and own.is_queued and isinstance(route, Route) and "{" not in route.path:
            matched = match_route(routes, {"type": "http", "method": "POST", "path": route.path, "root_path": ""})
            if matched is not None and matched.route is own and matched.methods is None:
                found.append((route.path.encode(), (matched.template, own)))
    return found


@lru_cache(maxsize=64)
def _said(code: str, message: str, hint: str, field: str | None, retry_after: int | None) -> tuple[bytes, bytes]:
    """Status line, and headers and body, of a refusal with ``_ID`` for the id."""
    problem = Problem(code, message, hint=hint, field=field, retry_after=retry_after)
    headers, body = refusal(problem, _ID)
    status = f"HTTP/1.1 {problem.status} {HTTPStatus(problem.status).phrase}\r\n".encode()
    return status, b"".join(b"%b: %b\r\n" % header for header in dressed(_ID, headers)) + b"\r\n" + body
