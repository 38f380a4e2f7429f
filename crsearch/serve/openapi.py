"""The description of the routes that ``/openapi.json`` gives, with what the framework does not know of them.

Source: details: this project; OpenAPI 3.1.
"""

import copy
from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI

from crsearch.serve.keys import declared
from crsearch.serve.problems import STATUS

PROBLEM = {
    "title": "Problem",
    "type": "object",
    "description": "Why a request is not answered; never an echo of it.",
    "required": ["error"],
    "additionalProperties": False,
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "hint", "request_id"],
            "additionalProperties": False,
            "properties": {
                "code": {"type": "string", "enum": list(STATUS)},
                "message": {"type": "string"},
                "hint": {"type": "string", "description": "How to mend it."},
                "field": {"type": "string", "description": "Where in the request."},
                "request_id": {"type": "string"},
            },
        }
    },
}
_FRAMEWORK = ("HTTPValidationError", "ValidationError")
"""Shapes of errors that no route answers with."""


def describe(app: FastAPI) -> dict[str, Any]:
    """All routes with their bodies, the shape of every problem, and the scope that each needs."""
    found = copy.deepcopy(app.openapi())
    parts = found.setdefault("components", {})
    schemas = parts.setdefault("schemas", {})
    for name in _FRAMEWORK:
        schemas.pop(name, None)
    schemas["Problem"] = PROBLEM
    parts["securitySchemes"] = {
        "key": {"type": "http", "scheme": "bearer", "description": "Asked for where the server has keys."}
    }
    needs = _needs(app)
    for path, method, operation in _operations(found):
        for media in operation.get("requestBody", {}).get("content", {}).values():
            schemas.update(media["schema"].pop("$defs", {}))
        operation["responses"].pop("422", None)
        operation["responses"]["default"] = {
            "description": "A problem: the status is that of its code.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        need = needs[path, method]
        operation["x-scope"] = need
        operation["security"] = [] if need == "open" else [{"key": []}, {}]
    return found


def _operations(found: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, operations in found["paths"].items():
        for method, operation in operations.items():
            yield path, method.upper(), operation


def _needs(app: FastAPI) -> dict[tuple[str, str], str]:
    """(path, method) -> scope."""
    found: dict[tuple[str, str], str] = {}
    for route in app.router.routes:
        said = declared(route)
        for method in getattr(route, "methods", None) or ():
            found[getattr(route, "path", ""), method] = said.need if said else ""
    return found
