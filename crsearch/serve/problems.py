"""What an HTTP caller is told when a request cannot be answered: one shape, never an echo of the input.

    {"error": {"code", "message", "field"?, "hint", "request_id"}}

Source: details: this project (docs/serving.md lists all codes).
"""

from collections.abc import Mapping
from typing import Annotated, NotRequired

from pydantic import ConfigDict, Field, with_config
from typing_extensions import TypedDict

from crsearch.errors import UserError

STATUS: Mapping[str, int] = {
    "invalid_json": 422,
    "invalid_request": 422,
    "empty_query": 422,
    "query_too_long": 422,
    "unknown_system": 422,
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "request_timeout": 408,
    "catalogue_gone": 409,
    "conflict": 409,
    "body_too_large": 413,
    "uri_too_long": 414,
    "unsupported_media_type": 415,
    "wrong_host": 421,
    "too_many_requests": 429,
    "headers_too_large": 431,
    "internal": 500,
    "not_ready": 503,
}
"""Code -> HTTP status; the closed set of codes."""


_SAID = ConfigDict(extra="forbid", use_attribute_docstrings=True)


@with_config(_SAID)
class Wrong(TypedDict):
    """What is wrong."""

    code: Annotated[str, Field(json_schema_extra={"enum": [*STATUS]})]
    message: str
    hint: str
    """How to mend it."""
    field: NotRequired[str]
    """Where in the request."""
    request_id: str


@with_config(_SAID)
class Refusal(TypedDict):
    """Why a request is not answered; never an echo of it."""

    error: Wrong


class Problem(UserError):
    """A request that is not answered.

    Args:
        code: one of ``STATUS``.
        message: what is wrong, without the input.
        hint: how to mend it.
        field: where in the request.
        retry_after: seconds until it is worth trying again.
    """

    def __init__(
        self, code: str, message: str, *, hint: str = "", field: str | None = None, retry_after: int | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.message, self.hint, self.field, self.retry_after = code, message, hint, field, retry_after

    @property
    def status(self) -> int:
        """HTTP status."""
        return STATUS[self.code]

    def body(self, request_id: str) -> Refusal:
        """The JSON body."""
        error: Wrong = {"code": self.code, "message": self.message, "hint": self.hint, "request_id": request_id}
        if self.field is not None:
            error["field"] = self.field
        return {"error": error}
