"""What a server remembers of a request: enough to run it, nothing of what was searched for.

Source: details: this project.
"""

import hashlib
import json
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

LOG = logging.getLogger("crsearch.serve.access")
QUERY_CHARS = 256
"""Characters of a query in the log, where queries are logged at all."""

_SALT = secrets.token_bytes(16)
"""Of this process: hashes of users tell requests of one user apart, and nothing after a restart."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Seen:
    """A request that was answered."""

    request_id: str
    route: str
    """Template of the route, or ``unmatched``: a closed set."""
    status: int
    """499 = the client went away."""
    ms: float
    """Until the last byte was handed over."""
    code: str | None = None
    """Of the problem."""
    rung: str | None = None
    user: str | None = None
    """Salted hash."""
    query: str | None = None
    """Only where ``serve.log_queries`` is on."""


_FIELDS = tuple(f.name for f in fields(Seen))


def note(connection: Any, *, rung: str | None = None, user_id: str | None = None, query: str | None = None) -> None:
    """Tell what is known about a request only inside its route.

    Args:
        connection: the request.
        rung: that served it.
        user_id: whose context was read; only its salted hash is kept.
        query: what was searched for; kept only where ``serve.log_queries`` is on.
    """
    notes = connection.scope.setdefault("state", {}).setdefault("notes", {})
    found = {"rung": rung, "user": user_id and hash_user(user_id), "query": query and query[:QUERY_CHARS]}
    notes.update({name: value for name, value in found.items() if value})


def hash_user(user_id: str) -> str:
    """A user id as it may stand in a log.

    >>> hash_user("u1") == hash_user("u1") != hash_user("u2")
    True
    """
    return hashlib.blake2b(user_id.encode("utf-8", "replace"), key=_SALT, digest_size=8).hexdigest()


def log_line(seen: Seen, now: float | None = None) -> str:
    """One line of JSON, in ASCII: nothing in it ends the line or acts on a terminal."""
    values = {name: value for name in _FIELDS if (value := getattr(seen, name)) is not None}
    values["ms"] = round(seen.ms, 2)
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(now))
    return json.dumps({"time": stamp, **values}).replace("\x7f", "\\u007f")


def access_log(seen: Seen) -> None:
    """Write a request into the log ``crsearch.serve.access``."""
    LOG.info(log_line(seen))


def log_to_stderr() -> None:
    """Print what the server logs, one JSON line each, to standard error."""
    log = logging.getLogger("crsearch.serve")
    if not log.handlers:
        log.addHandler(logging.StreamHandler())
    log.setLevel(logging.INFO)
    log.propagate = False


Watcher = Callable[[Seen], None]
"""Told of every request after its answer: the log, the metrics."""
