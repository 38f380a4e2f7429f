"""One value of a record: read, checked, or refused with the rule it breaks."""

import math
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from crsearch.records.schema import Field

LARGEST_NUMBER = 1e12
"""Prices and sales above this are taken for mistakes."""

EARLIEST = datetime(1990, 1, 1, tzinfo=UTC)
"""Shops did not log searches before; an earlier time is usually an empty one read as 1970."""

_IDS = {"item_id", "user_id", "search_id", "target"}


class BadValue(ValueError):
    """A value breaks a rule.

    Attributes:
        rule: name of the rule.
        fix: what to do.
    """

    def __init__(self, rule: str, message: str, fix: str) -> None:
        super().__init__(message)
        self.rule = rule
        self.fix = fix


def parse(field: Field, value: Any, now: datetime) -> Any:
    """The value as records hold it; none, an empty list or an empty map if absent.

    Args:
        field: what it should be.
        value: as JSON or Parquet gave it (cells of a CSV: after ``rows.decode_cell``).
        now: times more than a day later are refused.

    Raises:
        BadValue: a rule is broken.
    """
    if value is None or (isinstance(value, str) and not value.strip()):
        if field.required:
            raise BadValue(f"empty-{field.name}", f"{field.name} is empty", f"give it a value, e.g. {field.example!r}")
        return {"texts": (), "map": {}}.get(field.kind)
    if field.kind == "text":
        return _text(field, value)
    if field.kind == "number":
        return _number(field, value)
    if field.kind == "order":
        return _order(field, value)
    if field.kind == "time":
        return _time(field, value, now)
    if field.kind == "texts":
        return _texts(field, value)
    return _map(field, value)


def _wrong_type(field: Field, value: Any, needed: str) -> BadValue:
    return BadValue("wrong-type", f"{field.name} = {short(value)}: {needed} is needed", f"write e.g. {field.example!r}")


def short(value: Any) -> str:
    """A value for a message, cut to 60 characters.

    >>> short("x" * 100)[-5:]
    'xx...'
    """
    text = ascii(value) if isinstance(value, str) and _has_surrogates(value) else repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= c <= "\udfff" for c in text)


def _text(field: Field, value: Any) -> str:
    if not isinstance(value, str):
        raise _wrong_type(field, value, "text")
    if _has_surrogates(value):
        raise BadValue("broken-text", f"{field.name} = {short(value)}: half of a character", "save the text as UTF-8")
    if field.name in _IDS and (value != value.strip() or not value.isprintable()):
        raise BadValue("bad-id", f"{field.name} = {short(value)}: blanks or invisible characters", "strip them")
    if field.name == "part" and value not in ("train", "valid", "test"):
        raise BadValue("bad-part", f"part = {short(value)}: no such part", "write train, valid or test")
    return value


def _number(field: Field, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise _wrong_type(field, value, "a number")
    above_zero = value > 0 or (field.name != "price" and value == 0)
    if not math.isfinite(value) or not above_zero or value > LARGEST_NUMBER:
        least = "above 0" if field.name == "price" else "0 or more"
        raise BadValue(
            f"bad-{field.name}",
            f"{field.name} = {short(value)}: a number {least}, at most {LARGEST_NUMBER:g}, is needed",
            "mend it, or leave it out where it is not known",
        )
    return float(value)


def _order(field: Field, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise _wrong_type(field, value, "a whole number from 0")
    return value


def _time(field: Field, value: Any, now: datetime) -> datetime | int:
    if isinstance(value, int) and not isinstance(value, bool):
        if abs(value) >= 2**63:
            raise _wrong_type(field, value, "an order number of at most 18 digits")
        return value
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise _wrong_type(field, value, "an ISO 8601 time or a whole order number") from None
    if not isinstance(value, datetime):
        raise _wrong_type(field, value, "an ISO 8601 time or a whole order number")
    return check_time(value, now)


def check_time(time: datetime, now: datetime) -> datetime:
    """The time in UTC.

    Raises:
        BadValue: without a zone, more than a day in the future, or before 1990.
    """
    if time.tzinfo is None:
        raise BadValue("naive-time", f"time {time.isoformat()} has no zone", "write UTC, e.g. 2025-06-01T20:11:00Z")
    if time > now + timedelta(days=1):
        raise BadValue("future-time", f"time {time.isoformat()} lies in the future", "check its zone and its unit")
    if time < EARLIEST:
        raise BadValue("early-time", f"time {time.isoformat()} is before {EARLIEST.year}", "check its unit")
    return time.astimezone(UTC)


def _texts(field: Field, value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple):
        raise _wrong_type(field, value, "a list of texts")
    return tuple(_inner(field, value))


def _map(field: Field, value: Any) -> dict[str, str]:
    if not isinstance(value, dict):
        raise _wrong_type(field, value, "a map from text to text")
    return dict(zip(_inner(field, value), _inner(field, value.values()), strict=True))


def _inner(field: Field, values: Iterable[Any]) -> list[str]:
    out = list(values)
    for value in out:
        if not isinstance(value, str):
            raise _wrong_type(field, value, "text inside it")
        if _has_surrogates(value):
            raise BadValue("broken-text", f"{field.name}: {short(value)}: half of a character", "save it as UTF-8")
    return out
