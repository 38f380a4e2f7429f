"""Who may do what: keys by scope, declared by every route, decided on the route that matched.

Without any key the server is for this machine alone (``require_keys_beyond_loopback``) and every scope is open.
With one, a scope is open to its own key and to the admin key only; a scope without a key is closed to the others.

Source: details: this project.
"""

import hashlib
import hmac
import inspect
import ipaddress
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, TypeVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Match, Mount, Route
from starlette.types import Scope

from crsearch.errors import ConfigError
from crsearch.serve.config import KeyConfig, ServeConfig
from crsearch.serve.problems import Problem

Need = Literal["open", "page", "search", "admin", "metrics"]
"""What a route asks for; ``open`` is for probes of liveness only, a ``page`` looks itself what its reader may see."""

ANYBODY: frozenset[Need] = frozenset({"open", "page"})
"""What needs no key."""

MIN_KEY = 16
"""Characters of a key."""

_DECLARED = "__crsearch_route__"
_Endpoint = TypeVar("_Endpoint")
_JSON = ("application/json",)


@dataclass(frozen=True, kw_only=True)
class Declared:
    """What a route says about itself."""

    need: Need
    media: tuple[str, ...] = _JSON
    """Content types of a body."""
    body_bytes: int | None = None
    """Longest body; None = ``limits.body_bytes``."""
    is_queued: bool = False
    """It waits for the model, and is refused where too many do. Its function takes the request alone, and answers with
    a ``Response``: it is called by the front, without the framework between."""


def needs(
    need: Need, *, media: tuple[str, ...] = _JSON, body_bytes: int | None = None, is_queued: bool = False
) -> Callable[[_Endpoint], _Endpoint]:
    """Declare the scope of a route: below the decorator of the route, above its function.

    A mounted application is declared by ``needs("search")(application)``. A route without a scope is closed.
    """

    def declare(endpoint: _Endpoint) -> _Endpoint:
        setattr(endpoint, _DECLARED, Declared(need=need, media=media, body_bytes=body_bytes, is_queued=is_queued))
        return endpoint

    return declare


def declared(route: BaseRoute) -> Declared | None:
    """What a route says about itself; None = nothing."""
    owner = route.app if isinstance(route, Mount) else getattr(route, "endpoint", None)
    return getattr(owner, _DECLARED, None)


def check_routes(routes: Sequence[BaseRoute]) -> None:
    """Make sure that every route declares its scope.

    Raises:
        RuntimeError: one does not, or is of a kind that hides others; our fault, so no ``UserError``.
    """
    for route in routes:
        own = declared(route)
        if own is None:
            raise RuntimeError(
                f"route {getattr(route, 'path', route)!r} has no scope: put @needs(...) on its function; "
                "routes of an included router must stand on the application itself"
            )
        if own.is_queued and [*inspect.signature(getattr(route, "endpoint", route)).parameters] != ["request"]:
            raise RuntimeError(
                f"route {getattr(route, 'path', route)!r} is queued: its function takes the request alone"
            )


@dataclass(frozen=True, kw_only=True)
class Matched:
    """The route of a request."""

    template: str
    """Path with the names of its parameters: the only form that logs and metrics see."""
    route: Declared | None
    methods: tuple[str, ...] | None = None
    """Those that the route knows, if that of the request is not among them."""
    endpoint: Callable[[Request], Awaitable[Response]] | None = None
    """What answers a request of a route that ``is_queued``, which has no other parameter."""


def match_route(routes: Sequence[BaseRoute], scope: Scope) -> Matched | None:
    """The route that will answer, found as the router finds it; None = no path matches."""
    others: list[BaseRoute] = []
    for route in routes:
        match, _ = route.matches(scope)
        if match is Match.FULL:
            own = declared(route)
            endpoint = route.endpoint if own is not None and own.is_queued and isinstance(route, Route) else None
            return Matched(template=_template(route), route=own, endpoint=endpoint)
        if match is Match.PARTIAL:
            others.append(route)
    if not others:
        return None
    methods = sorted({m for r in others if isinstance(r, Route) for m in r.methods or ()})
    return Matched(template=_template(others[0]), route=declared(others[0]), methods=tuple(methods))


def _template(route: BaseRoute) -> str:
    return str(getattr(route, "path_format", None) or getattr(route, "path", "unmatched"))


# -- keys -------------------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Keys:
    """The keys of a server, as digests: the keys themselves are kept nowhere."""

    _digests: Mapping[Need, bytes] = field(default_factory=dict)

    @classmethod
    def from_environment(cls, names: KeyConfig, environment: Mapping[str, str]) -> "Keys":
        """The keys that the named variables hold; an empty one is none.

        Raises:
            ConfigError: a key is too short or holds other than visible ASCII.

        >>> bool(Keys.from_environment(KeyConfig(), {}))
        False
        """
        found: dict[Need, bytes] = {}
        variables: tuple[tuple[Need, str], ...] = (
            ("search", names.search),
            ("admin", names.admin),
            ("metrics", names.metrics),
        )
        for need, variable in variables:
            key = environment.get(variable, "").strip()
            if not key:
                continue
            if len(key) < MIN_KEY or not all("!" <= c <= "~" for c in key):
                raise ConfigError(
                    f"{variable}: a key has at least {MIN_KEY} visible ASCII characters; make one with "
                    "python -c 'import secrets; print(secrets.token_urlsafe(32))'"
                )
            found[need] = _digest(key)
        return cls(found)

    def __bool__(self) -> bool:
        return bool(self._digests)

    def scopes(self, authorization: Sequence[str]) -> frozenset[Need]:
        """What the ``Authorization`` headers of a request allow; the admin key allows all.

        The time does not depend on how much of a key is right, nor on which key it is.
        """
        if not self._digests:
            return ANYBODY | {"search", "admin", "metrics"}
        scheme, _, key = (authorization[0] if len(authorization) == 1 else "").partition(" ")
        given = _digest(key.strip() if scheme.lower() == "bearer" else "")
        right: set[Need] = {need for need, digest in self._digests.items() if hmac.compare_digest(digest, given)}
        return ANYBODY | right | (frozenset[Need]({"search", "metrics"}) if "admin" in right else frozenset[Need]())

    def client(self, authorization: Sequence[str], address: str) -> bytes:
        """Who asks, for the rate limit: the key if it is right, else the address (of IPv6, its network)."""
        if self._digests and self.scopes(authorization) > ANYBODY:
            return _digest(authorization[0])[:16]
        return _digest(_network(address))[:16]


def require_keys_beyond_loopback(config: ServeConfig, keys: Keys) -> None:
    """Refuse to be reached from other machines without keys.

    Raises:
        ConfigError: so it would be.
    """
    if not keys and not is_loopback(config.host):
        raise ConfigError(
            f"serve.host = {config.host}: a server that other machines reach needs keys; "
            f"set {config.keys.search} (and {config.keys.admin}), or listen on 127.0.0.1"
        )


def require(need: Need | None, allowed: frozenset[Need], sent_key: bool) -> None:
    """Refuse who may not.

    Raises:
        Problem: ``unauthorized`` without a right key, ``forbidden`` with one of another scope or where no scope is.
    """
    if need is None:
        raise Problem("forbidden", "this route is closed", hint="it declares no scope; tell the operator")
    if need in allowed:
        return
    if allowed > ANYBODY:
        raise Problem("forbidden", f"the key is not for this; it needs the {need} scope", hint="use the other key")
    message = "the key is wrong" if sent_key else "a key is needed"
    raise Problem("unauthorized", message, hint="send it as Authorization: Bearer KEY; not in the URL")


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address.

    >>> [is_loopback(h) for h in ("127.0.0.1", "localhost", "::1", "0.0.0.0", "shop.example")]
    [True, True, True, False, False]
    """
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).digest()


def _network(address: str) -> str:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else address
