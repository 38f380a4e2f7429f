"""The hostile corpus: what is sent to servers to break them, as data beside this module.

    hostile/surfaces.jsonl   routes with a good request each, and the places where text goes ("$")
    hostile/texts.jsonl      one text a line, for all places of its kinds        -> many cases
    hostile/bodies.jsonl     one body a line, or one change of the good one      -> one case
    hostile/requests.jsonl   one request a line: method, path, headers           -> one case
    hostile/wire.jsonl       bytes for a socket: what is no HTTP, or too slow    -> one case

Long values are written short: ``[[text, times], ...]`` for text, ``{"$times": [value, times]}`` for a list (of
values, or of headers of one name), ``{"$text": [[text, times], ...]}`` for text inside a value. ``$HOST``, ``$AUTH``
and ``$KEY`` are filled in when a case is sent. The first part of an id is its group, a row of docs/promises.md.

Source: details: this project.
"""

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any
from urllib.parse import quote

from crsearch.runs import split_lines

Pieces = tuple[tuple[bytes, int], ...]
"""Bytes written short: (piece, times), one after the other."""

JSON_TYPE = ("content-type", "application/json")


@dataclass(frozen=True, kw_only=True, slots=True)
class Expected:
    """What a server must answer."""

    statuses: frozenset[int]
    """Any of these; none = an answer is not waited for."""
    code: str | None = None
    """Of the problem, if the status is an error."""
    field: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One thing to send."""

    id: str
    about: str
    expected: Expected
    surface: str = ""
    text: str = ""
    """What must not come back in an error, nor as HTML."""
    method: str = ""
    path: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    body: Pieces = ()
    wire: Pieces | None = None
    """In place of a request: bytes of a connection."""
    wait: float = 0.0
    """Seconds after every piece of ``wire``."""
    within: float = 10.0
    """Seconds for an answer."""
    silent: bool = False
    """The end of the connection is an answer too."""
    leave: bool = False
    """The client goes away at once."""
    idle: int = 0
    """Connections to open beside that say nothing."""
    keyed: bool = False
    """Only for servers with keys; the key is not sent."""

    @property
    def group(self) -> str:
        """The first part of the id."""
        return self.id.partition("-")[0]

    @property
    def is_slow(self) -> bool:
        """It takes seconds even of a good server."""
        return self.within > 10

    def body_bytes(self) -> bytes:
        """The body as sent."""
        return b"".join(piece * times for piece, times in self.body)


def corpus(only: Sequence[str] = (), places: int | None = None) -> list[Case]:
    """All cases, always the same in the same order.

    Args:
        only: ids, or beginnings of ids that end before a dash; none = all.
        places: most places that a text is put into, taking turns; none = all that are of its kinds.
    """
    cases = (*_texts(places), *_bodies(), *_requests(), *_wires())
    return [c for c in cases if not only or any(c.id == o or c.id.startswith(f"{o}-") for o in only)]


# -- files ------------------------------------------------------------------------------------------------------------
@cache
def _rows(name: str) -> tuple[Mapping[str, Any], ...]:
    text = files("crsearch.serve").joinpath("hostile", f"{name}.jsonl").read_text(encoding="utf-8")
    return tuple(json.loads(line) for line in split_lines(text))


def _surfaces() -> dict[str, Mapping[str, Any]]:
    return {row["surface"]: row for row in _rows("surfaces")}


def _texts(places: int | None) -> Iterator[Case]:
    slots = [(surface, name, *slot) for surface in _surfaces().values() for name, slot in surface["slots"].items()]
    turn = 0
    for row in _rows("texts"):
        fitting = [s for s in slots if s[2] in row["slots"] or f"{s[0]['surface']}.{s[1]}" in row["slots"]]
        number = min(places or len(fitting), len(fitting))
        for i in range(turn, turn + number):
            surface, name, _, change, statuses = fitting[i % len(fitting)]
            yield _with_text(row, _text(row["text"]), surface, f"{surface['surface']}.{name}", change, statuses)
        turn += number if places else 0


def _with_text(
    row: Mapping[str, Any], text: str, surface: Mapping[str, Any], name: str, change: Any, statuses: list[int]
) -> Case:
    """A text in one place of one route."""
    given, is_body = row.get("expected", {}), change is not None
    accepted = given.get("body" if is_body else "address", statuses)
    expected = Expected(statuses=frozenset(accepted), code=given.get("code") if is_body else None)
    body = json.dumps({**surface["body"], **_filled(change, text)}) if is_body else ""
    return Case(
        id=f"{row['id']}-{name}",
        about=f"{row['about']} in {name}",
        expected=expected,
        surface=surface["surface"],
        text=text,
        method=surface["method"],
        path=surface["path"].replace("$", quote(text, safe="", errors="surrogatepass")),
        headers=(JSON_TYPE,) if is_body else (),
        body=((body.encode(), 1),) if is_body else (),
    )


def _bodies() -> Iterator[Case]:
    for row in _rows("bodies"):
        surface = _surfaces()[row["surface"]]
        is_change = "body_json" in row
        changed = json.dumps({**surface["body"], **_expanded(row["body_json"])}) if is_change else ""
        yield Case(
            id=row["id"],
            about=row["about"],
            expected=_expected(row),
            surface=row["surface"],
            method=surface["method"],
            path=surface["path"],
            headers=tuple(row.get("headers", dict([JSON_TYPE])).items()),
            body=((changed.encode(), 1),) if is_change else _pieces(row),
        )


def _requests() -> Iterator[Case]:
    for row in _rows("requests"):
        request = row["request"]
        yield Case(
            id=row["id"],
            about=row["about"],
            expected=_expected(row),
            method=request["method"],
            path=_text(request["path"]),
            headers=tuple(_headers(request.get("headers", {}))),
            body=((request["body"].encode(), 1),) if "body" in request else (),
            keyed="only" in row,
        )


def _wires() -> Iterator[Case]:
    for row in _rows("wire"):
        more: dict[str, Any] = {n: row[n] for n in ("wait", "within", "silent", "leave", "idle") if n in row}
        yield Case(id=row["id"], about=row["about"], expected=_expected(row), wire=_pieces(row, "wire"), **more)


# -- parts ------------------------------------------------------------------------------------------------------------
def _expected(row: Mapping[str, Any]) -> Expected:
    given = row["expected"]
    return Expected(statuses=frozenset(given["status"]), code=given.get("code"), field=given.get("field"))


def _pieces(row: Mapping[str, Any], name: str = "body") -> Pieces:
    if f"{name}_b64" in row:
        return ((base64.b64decode(row[f"{name}_b64"]), 1),)
    pieces: list[list[Any]] = [[row[name], 1]] if isinstance(row[name], str) else row[name]
    return tuple((piece.encode(), times) for piece, times in pieces)


def _text(value: str | list[list[Any]]) -> str:
    return value if isinstance(value, str) else "".join(piece * times for piece, times in value)


def _headers(headers: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name, value in headers.items():
        found = _expanded(value)
        if isinstance(found, list):
            yield from ((f"{name}-{i}", v) for i, v in enumerate(found))
        else:
            yield name, found


def _expanded(value: Any) -> Any:
    """A value whose short forms are written out."""
    if isinstance(value, list):
        return [_expanded(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "$text" in value:
        return _text(value["$text"])
    if "$times" in value:
        return [_expanded(value["$times"][0])] * value["$times"][1]
    return {name: _expanded(v) for name, v in value.items()}


def _filled(value: Any, text: str) -> Any:
    """A value with ``text`` in place of every ``"$"``, keys too."""
    if isinstance(value, dict):
        return {text if name == "$" else name: _filled(v, text) for name, v in value.items()}
    if isinstance(value, list):
        return [_filled(v, text) for v in value]
    return text if value == "$" else value
