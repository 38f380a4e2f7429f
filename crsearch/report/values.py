"""How numbers are written: in one form throughout a report."""

from collections.abc import Mapping
from typing import Any, TypeAlias

from crsearch.evaluate.intervals import Interval
from crsearch.report.parts import NONE, Cell

Number: TypeAlias = int | float
"""A whole number in a JSON file is an int, whatever it counts."""


def plain(value: Number, digits: int = 3) -> str:
    """A number with a fixed number of decimals, without a minus sign before zero.

    >>> plain(0.12345), plain(-0.0001)
    ('0.123', '0.000')
    """
    text = f"{value:.{digits}f}"
    return text.removeprefix("-") if not float(text) else text


def brackets(interval: Interval, digits: int = 3) -> str:
    """The ends of an interval.

    >>> brackets({"mean": 0.0, "low": -0.012, "high": 0.012})
    '[-0.012, 0.012]'
    """
    return f"[{plain(interval['low'], digits)}, {plain(interval['high'], digits)}]"


def with_interval(interval: Interval) -> Cell:
    """A mean with its 95 % interval."""
    return Cell(plain(interval["mean"]), brackets(interval))


def signed(interval: Interval) -> Cell:
    """A difference with its sign and its 95 % interval.

    >>> str(signed({"mean": 0.031, "low": 0.01, "high": 0.05}))
    '+0.031 [0.010, 0.050]'
    """
    text = plain(interval["mean"])
    return Cell(text if text.startswith("-") or not float(text) else f"+{text}", brackets(interval))


def count(value: Number | None) -> Cell:
    """A whole number with separators; nothing where there is none."""
    return NONE if value is None else Cell(f"{value:,.0f}")


def percent(share: Number, digits: int = 1) -> str:
    """A share in percent.

    >>> percent(0.4567)
    '45.7 %'
    """
    return f"{plain(100 * share, digits)} %"


def probability(p: Number) -> Cell:
    """A p-value."""
    return Cell("<0.001" if p < 0.001 else plain(p))


def optional(numbers: Mapping[str, Any], name: str, digits: int = 3) -> Cell:
    """A number by its name, if it is there."""
    value = numbers.get(name)
    return NONE if value is None else Cell(plain(value, digits))
