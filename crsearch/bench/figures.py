"""A measured figure beside what it has to be, or beside the figure of the usual way."""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One measured number.

    Attributes:
        key: of the promise (docs/promises.md), e.g. ``L3``.
        what: in words.
        value: measured; NaN = there was nothing to measure.
        unit: of value and floor.
        floor: what a release must hold; none = reported only.
        better: which side of the floor is good.
        how: size of the sample and anything a reader needs.
    """

    key: str
    what: str
    value: float | int
    unit: str
    floor: float | int | None = None
    better: Literal["lower", "higher"] = "lower"
    how: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the floor is kept; none = there is none, or nothing was measured."""
        if self.floor is None or math.isnan(self.value):
            return None
        return self.value <= self.floor if self.better == "lower" else self.value >= self.floor

    def plain(self) -> dict[str, Any]:
        """As JSON; a figure of nothing has the value null."""
        value = None if math.isnan(self.value) else round(self.value, 4)
        return {**asdict(self), "value": value, "holds": self.holds}

    def row(self) -> tuple[str, ...]:
        """As a line of a table: key, what, value, floor, verdict, how."""
        sign = {"lower": "at most", "higher": "at least"}[self.better]
        floor = "" if self.floor is None else f"{sign} {self.floor:g} {self.unit}".strip()
        return self.key, self.what, f"{short(self.value)} {self.unit}".strip(), floor, VERDICT[self.holds], self.how


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Our cost beside the cost of the usual way, measured in turns in one process on the same material.

    Attributes:
        key: name of the bench.
        what: was done, with its sizes.
        ours: our cost, in ``unit``.
        usual: the cost of the usual way, in ``unit``.
        unit: e.g. ``CPU ms``.
        usual_way: its name.
        floor: the ratio must be at least this; none = reported only.
        how: size of the sample and anything a reader needs.

    >>> Ratio(key="trie", what="build", ours=2.0, usual=9.0, unit="ms", usual_way="dict", floor=5.0).holds
    False
    """

    key: str
    what: str
    ours: float
    usual: float
    unit: str
    usual_way: str
    floor: float | int | None = None
    how: str = ""

    @property
    def value(self) -> float:
        """How many times less we need."""
        return self.usual / self.ours

    @property
    def holds(self) -> bool | None:
        """Whether the floor is kept; none = there is none."""
        return None if self.floor is None else self.value >= self.floor

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        rounded = {"ours": round(self.ours, 6), "usual": round(self.usual, 6), "ratio": round(self.value, 4)}
        return {**asdict(self), **rounded, "holds": self.holds}

    def row(self) -> tuple[str, ...]:
        """As a line of a table: key, what, value, floor, verdict, how."""
        floor = "" if self.floor is None else f"at least {self.floor:g} x"
        both = f"{short(self.ours)} {self.unit}; {self.usual_way} {short(self.usual)}"
        return (
            self.key,
            self.what,
            f"{short(self.value)} x",
            floor,
            VERDICT[self.holds],
            "; ".join(filter(None, [both, self.how])),
        )


@dataclass(frozen=True, kw_only=True)
class NotMeasured:
    """A figure that could not be taken here, and why."""

    key: str
    what: str
    how: str

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)

    def row(self) -> tuple[str, ...]:
        """As a line of a table: key, what, value, floor, verdict, how."""
        return self.key, self.what, "-", "", "", self.how


Measured = Figure | Ratio | NotMeasured

VERDICT = {None: "", True: "holds", False: "DOES NOT HOLD"}


def short(value: float) -> str:
    """Three digits that count.

    >>> short(0.012345), short(12.345), short(12345.6)
    ('0.0123', '12.3', '12,346')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def percentile(values: Sequence[float], at: int) -> float:
    """A percentile by the nearest rank above, so that it is a value that was seen; NaN of nothing.

    >>> percentile([3.0, 1.0, 2.0], 50), percentile([1.0, 2.0], 99)
    (2.0, 2.0)
    """
    return float(np.percentile(values, at, method="higher")) if len(values) else float("nan")
