"""Bytes to a checked request: JSON without its dark corners, then a strict model.

A refusal is a ``Problem`` that never repeats the input: an error page, a log or a browser must not become the
place where somebody's text acts.

Source: details: this project; the refusals are those of RFC 8259 (UTF-8, 8.1; no NaN, 6) and I-JSON (RFC 7493:
no duplicate names, 2.3; no lone surrogates, 2.1).
"""

import codecs
import difflib
import json
import math
import re
from collections.abc import Iterator, Mapping
from itertools import accumulate
from typing import Any, NoReturn, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from crsearch.serve.problems import Problem

Model = TypeVar("Model", bound=BaseModel)

MAX_DIGITS = 19
"""Digits of an integer: all of 64 bits."""

_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\\?\Z)', re.DOTALL)
"""A JSON string, or one without end up to the end: it matches at every quote, so that the scan is linear."""
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))
_STEP = {ord("["): 1, ord("{"): 1, ord("]"): -1, ord("}"): -1}
_SURROGATE_ESCAPE = re.compile(r"\\u[dD][89a-fA-F]")


def parse_json(body: bytes, depth: int) -> Any:
    """The value of a request body.

    Refused: other encodings than UTF-8 (a byte order mark is passed over), NaN, infinities and numbers beyond
    them (``1e999``), integers of more than 19 digits, half surrogate pairs in values and keys, a key twice in one
    object, nesting beyond ``depth``, and what is no JSON. The time is linear in the bytes.

    Raises:
        Problem: ``invalid_json``; without the input.

    >>> parse_json(b'{"query": "case", "top_k": -0}', depth=16)
    {'query': 'case', 'top_k': 0}
    >>> parse_json(b'{"top_k": NaN}', depth=16)
    Traceback (most recent call last):
    crsearch.serve.problems.Problem: the body holds a number that is not finite
    """
    body = body.removeprefix(codecs.BOM_UTF8)
    if not body.strip():
        _refuse("the body is empty", "send a JSON object")
    _check_depth(body, depth)
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError:
        _refuse("the body is not UTF-8", "encode it as UTF-8")
    try:
        value = json.loads(
            text, parse_constant=_not_finite, parse_float=_finite, parse_int=_integer, object_pairs_hook=_object
        )
    except json.JSONDecodeError as e:
        _refuse(f"the body is not JSON: {e.msg} (line {e.lineno}, column {e.colno})", "send one JSON object")
    if _SURROGATE_ESCAPE.search(text):
        _check_surrogates(value)
    return value


def read_model(model: type[Model], value: Any) -> Model:
    """``value`` as a request of the contract.

    Raises:
        Problem: ``invalid_request`` with the field and what it may be; for an unknown field the nearest known one.
            Names that the caller made up are never repeated.

    >>> from crsearch.serve.contract import SearchRequest
    >>> read_model(SearchRequest, {"query": "case", "top_k": 3}).top_k
    3
    >>> try:
    ...     read_model(SearchRequest, {"query": "case", "topk": 3})
    ... except Problem as e:
    ...     print(e.message, "|", e.hint)
    an unknown field | did you mean `top_k`?
    """
    if not isinstance(value, dict):
        raise Problem("invalid_request", "the body is no JSON object", hint=f"fields: {_listed(model)}")
    unknown = [name for name in value if name not in model.model_fields]
    if unknown:
        raise _unknown_field(model, unknown[0], None)
    try:
        return model.model_validate(value)
    except ValidationError as e:
        raise _problem(model, e) from None


# -- JSON -------------------------------------------------------------------------------------------------------------
def _refuse(message: str, hint: str) -> NoReturn:
    raise Problem("invalid_json", message, hint=hint) from None


def _check_depth(body: bytes, depth: int) -> None:
    """Refuse nesting beyond ``depth`` before anything recursive sees it."""
    brackets = _STRING.sub(b"", body).translate(None, _NOT_BRACKETS)
    if max(accumulate(map(_STEP.__getitem__, brackets)), default=0) > depth:
        _refuse(f"the body is nested more than {depth} deep", "send a flatter object")


def _not_finite(_: str) -> NoReturn:
    _refuse("the body holds a number that is not finite", "JSON knows no NaN and no Infinity; leave the field out")


def _finite(text: str) -> float:
    value = float(text)
    return value if math.isfinite(value) else _not_finite(text)


def _integer(text: str) -> int:
    if len(text.removeprefix("-")) > MAX_DIGITS:
        _refuse(f"the body holds an integer of more than {MAX_DIGITS} digits", "send a smaller number")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        _refuse("an object of the body has the same key twice", "send every key once")
    return found


def _check_surrogates(value: Any) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        _refuse("a string of the body holds half of a surrogate pair", "send whole characters")


# -- models -----------------------------------------------------------------------------------------------------------
def _problem(model: type[BaseModel], error: ValidationError) -> Problem:
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    kind, place = first["type"], first["loc"]
    field = ".".join(_place(model, place)) or None
    if kind == "extra_forbidden":
        owner = _owner(model, place)
        return _unknown_field(owner, str(place[-1]), ".".join(_place(model, place[:-1])) or None)
    if kind == "missing":
        return Problem("invalid_request", "a field is missing", field=field, hint=f"give `{field}`")
    hint = "see /openapi.json" if kind in ("value_error", "assertion_error") else str(first["msg"])[:300]
    return Problem("invalid_request", "a field is of the wrong kind or out of range", field=field, hint=hint)


def _unknown_field(model: type[BaseModel], name: str, field: str | None) -> Problem:
    near = difflib.get_close_matches(name[:64].lower(), model.model_fields, n=1, cutoff=0.5)
    hint = f"did you mean `{near[0]}`?" if near else f"known fields: {_listed(model)}"
    return Problem("invalid_request", "an unknown field", field=field or (near[0] if near else None), hint=hint)


def _listed(model: type[BaseModel]) -> str:
    return ", ".join(f"`{name}`" for name in model.model_fields)


def _place(model: type[BaseModel], place: tuple[int | str, ...]) -> Iterator[str]:
    """The parts of a place in a request; a key that the caller chose is shown as ``*``."""
    known = _names(model)
    return (str(part) if isinstance(part, int) or part in known else "*" for part in place if part != "[key]")


def _names(model: type[BaseModel]) -> set[str]:
    """Names of fields of a model and of all models in it."""
    return set(model.model_fields).union(*(_names(inner) for inner in _inner(model).values()))


def _owner(model: type[BaseModel], place: tuple[int | str, ...]) -> type[BaseModel]:
    """The innermost model on the way to a place."""
    for part in place:
        model = _inner(model).get(str(part), model)
    return model


def _inner(model: type[BaseModel]) -> Mapping[str, type[BaseModel]]:
    """Field -> model that it holds, alone or in a list."""
    return {name: found for name, info in model.model_fields.items() for found in _models(info.annotation)}


def _models(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from _models(argument)
