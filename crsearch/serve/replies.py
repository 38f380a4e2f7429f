"""What a route answers, said once: the annotation of what its function returns is what ``/openapi.json`` shows.

Source: details: this project.
"""

import functools
import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import orjson
from fastapi import Response

JSON = "application/json"
EVENTS = "text/event-stream"

_GIVEN = "__crsearch_given__"
_Endpoint = TypeVar("_Endpoint")
_P = ParamSpec("_P")
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Given:
    """What a route says about its answers."""

    model: Any
    """Type of the value; for events: name -> type of each."""
    statuses: tuple[int, ...] = (200,)
    media: str = JSON
    refuses: tuple[str, ...] = ()
    """Codes of problems of this route, beside those that any route of its kind has."""


def tells(
    model: Any, *statuses: int, media: str = JSON, refuses: tuple[str, ...] = ()
) -> Callable[[_Endpoint], _Endpoint]:
    """Say what a route answers that makes its response itself."""

    def declare(endpoint: _Endpoint) -> _Endpoint:
        given = Given(model=model, statuses=statuses or (200,), media=media, refuses=refuses)
        setattr(endpoint, _GIVEN, given)
        return endpoint

    return declare


def gives(
    status: int = 200, *, refuses: tuple[str, ...] = ()
) -> Callable[[Callable[_P, Awaitable[_T]]], Callable[_P, Awaitable[Response]]]:
    """Answer with the value that the function returns, as JSON; stands right above the function.

    The framework is not told the type: it would check and copy every answer.
    """

    def wrap(endpoint: Callable[_P, Awaitable[_T]]) -> Callable[_P, Awaitable[Response]]:
        @functools.wraps(endpoint)
        async def answer(*args: _P.args, **kwargs: _P.kwargs) -> Response:
            return Response(text_of(await endpoint(*args, **kwargs)), status, media_type=JSON)

        signature = inspect.signature(endpoint)
        answer.__signature__ = signature.replace(return_annotation=Response)  # type: ignore[attr-defined]
        return tells(signature.return_annotation, status, refuses=refuses)(answer)

    return wrap


def given(endpoint: Any) -> Given | None:
    """What a route says about its answers; None = nothing."""
    found: Given | None = getattr(endpoint, _GIVEN, None)
    return found


def text_of(value: Any) -> bytes:
    """A value of the contract as JSON: frozen values become objects with their fields."""
    return orjson.dumps(value)


def event(name: str, data: Any) -> str:
    """A server-sent event."""
    return f"event: {name}\ndata: {text_of(data).decode()}\n\n"
