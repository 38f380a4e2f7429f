"""The description of the routes that ``/openapi.json`` gives, with what the framework does not know of them.

Answers are described by the types that the code answers with (``replies``), problems by the codes that a route of its
kind can have.

Source: details: this project; OpenAPI 3.1.
"""

import copy
from collections.abc import Iterator, Mapping
from typing import Any

from fastapi import FastAPI
from pydantic import TypeAdapter

from crsearch.serve.keys import declared
from crsearch.serve.problems import STATUS, Refusal
from crsearch.serve.replies import EVENTS, JSON, Given, given

EVERY = ("bad_request", "request_timeout", "uri_too_long", "wrong_host", "headers_too_large", "internal")
"""Problems of any route."""
KEYED = ("unauthorized", "forbidden", "too_many_requests")
"""Of those that are not open to everybody."""
WITH_BODY = ("invalid_json", "invalid_request", "forbidden", "body_too_large", "unsupported_media_type")
"""Of those that take a body."""
WITH_PATH = ("invalid_request", "not_found")
"""Of those with a name in their path."""
WITH_QUERY = ("invalid_request",)
"""Of those with parameters."""

_FRAMEWORK = ("HTTPValidationError", "ValidationError")
"""Shapes of errors that no route answers with."""
_REF = "#/components/schemas/{model}"


def describe(app: FastAPI) -> dict[str, Any]:
    """All routes with their bodies, their answers, their problems, and the scope that each needs."""
    found = copy.deepcopy(app.openapi())
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for name in _FRAMEWORK:
        schemas.pop(name, None)
    parts["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "Asked for where the server has keys."}
    }
    routes = _routes(app)
    types = _types([answer for _, answer in routes.values()])
    parts["responses"] = {str(status): _problem(status) for status in sorted(set(STATUS.values()))}
    for path, method, operation in _operations(found):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            schemas.update(media["schema"].pop("$defs", {}))
        need, answer = routes[path, method]
        operation["responses"] = _responses(answer, types, _codes(path, operation, need, answer))
        operation["x-scope"] = need
        operation["security"] = [] if need == "open" else [{"key": []}, {}]
    schemas.update(types.pop("$defs"))
    return found


def _operations(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            yield path, method.upper(), operation


def _routes(app: FastAPI) -> dict[tuple[str, str], tuple[str, Given]]:
    """(path, method) -> scope and answers of every route that is described.

    Raises:
        RuntimeError: a route does not say what it answers; our fault.
    """
    found: dict[tuple[str, str], tuple[str, Given]] = {}
    for route in app.router.routes:
        if not getattr(route, "include_in_schema", False):
            continue
        said, answer = declared(route), given(getattr(route, "endpoint", None))
        if said is None or answer is None:
            raise RuntimeError(f"route {getattr(route, 'path', route)!r}: put @gives() or @tells(...) on its function")
        for method in getattr(route, "methods", None) or ():
            found[getattr(route, "path", ""), method] = said.need, answer
    return found


# -- answers ----------------------------------------------------------------------------------------------------------
def _types(answers: list[Given]) -> dict[Any, Any]:
    """The JSON schema of every type that is answered with, by the type's ``id``; ``$defs`` holds what they refer to."""
    models = {id(model): model for answer in answers for model in _models(answer)} | {id(Refusal): Refusal}
    inputs = [(key, "serialization", TypeAdapter(model)) for key, model in models.items()]
    made, rest = TypeAdapter.json_schemas(inputs, ref_template=_REF)  # type: ignore[arg-type]
    return {key: schema for (key, _), schema in made.items()} | {"$defs": rest.get("$defs", {})}


def _models(answer: Given) -> list[Any]:
    return [*answer.model.values()] if isinstance(answer.model, Mapping) else [answer.model]


def _responses(answer: Given, types: Mapping[Any, Any], codes: set[str]) -> dict[str, Any]:
    if answer.media == EVENTS:
        events = [_event(name, types[id(model)]) for name, model in answer.model.items()]
        schema = {"description": "Each server-sent event.", "oneOf": events}
    else:
        schema = types[id(answer.model)]
    content = {answer.media: {"schema": schema}}
    good = {str(s): {"description": _NAMES.get(s, "OK"), "content": content} for s in answer.statuses}
    refused = {str(s): {"$ref": f"#/components/responses/{s}"} for s in sorted({STATUS[code] for code in codes})}
    return refused | good


def _event(name: str, data: Mapping[str, Any]) -> dict[str, Any]:
    """A server-sent event as the readers of such streams see it: its name, and its data as text that is JSON."""
    text = {"type": "string", "contentMediaType": JSON, "contentSchema": data}
    return {"type": "object", "required": ["event", "data"], "properties": {"event": {"const": name}, "data": text}}


_NAMES = {202: "Taken", 503: "Not yet, or no longer"}


# -- problems ---------------------------------------------------------------------------------------------------------
def _codes(path: str, operation: Mapping[str, Any], need: str, answer: Given) -> set[str]:
    """Problems that a route may answer with."""
    found = {*EVERY, *answer.refuses}
    found.update(KEYED if need != "open" else ())
    found.update(WITH_BODY if "requestBody" in operation else ())
    found.update(WITH_PATH if "{" in path else ())
    found.update(WITH_QUERY if operation.get("parameters") else ())
    return found


def _problem(status: int) -> dict[str, Any]:
    """The response of every problem of a status."""
    codes = ", ".join(code for code, of in STATUS.items() if of == status)
    headers = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds."}} if status == 429 else {}
    return {
        "description": codes,
        "content": {JSON: {"schema": {"$ref": _REF.format(model=Refusal.__name__)}}},
        **({"headers": headers} if headers else {}),
    }
