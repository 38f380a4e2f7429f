"""What a request must be before a route sees it, and what every answer says beside its body.

Source: details: this project.
"""

import ipaddress
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.types import Scope

from crsearch.serve.config import LimitsConfig, ServeConfig
from crsearch.serve.keys import is_loopback
from crsearch.serve.problems import Problem

MAX_HEADERS = 100

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

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


# -- what an answer says ----------------------------------------------------------------------------------------------
def dressed(
    request_id: str, more: Iterable[tuple[str, str]], have: Collection[bytes] = ()
) -> list[tuple[bytes, bytes]]:
    """Headers that an answer lacks.

    Args:
        request_id: of the request.
        more: beside the id and ``SECURITY_HEADERS``.
        have: names of those that it has, lower case.
    """
    wanted = [("x-request-id", request_id), *SECURITY_HEADERS.items(), *more]
    return [(n.encode(), v.encode()) for n, v in wanted if n.encode() not in have]


def refusal(problem: Problem, request_id: str) -> tuple[list[tuple[str, str]], bytes]:
    """What a refusal says: the headers of its own, and the body."""
    body = json.dumps(problem.body(request_id), ensure_ascii=False).encode("utf-8", "replace")
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    if problem.retry_after is not None:
        headers.append(("retry-after", str(problem.retry_after)))
    if problem.code == "unauthorized":
        headers.append(("www-authenticate", "Bearer"))
    return headers, body


# -- what a request says ----------------------------------------------------------------------------------------------
def by_name(headers: Sequence[tuple[bytes, bytes]]) -> dict[str, list[str]]:
    """Values of each header, by its name in lower case."""
    found: dict[str, list[str]] = {}
    for name, value in headers:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def has_body(headers: Mapping[str, list[str]]) -> bool:
    """Whether a body comes after the headers."""
    return "transfer-encoding" in headers or headers.get("content-length", ["0"]) != ["0"]


def too_large(most: int) -> Problem:
    """The refusal of a long body."""
    return Problem("body_too_large", f"the body has more than {most} bytes", hint="send less")


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
    if method in SAFE_METHODS or is_ours:
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
