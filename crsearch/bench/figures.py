"""A measured figure beside what it has to be."""

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
        value: measured.
        unit: of value and floor.
        floor: what a release must hold; none = reported only.
        better: which side of the floor is good.
        how: size of the sample and anything a reader needs.
    """

    key: str
    what: str
    value: float
    unit: str
    floor: float | None = None
    better: Literal["lower", "higher"] = "lower"
    how: str = ""

    @property
    def holds(self) -> bool | None:
        """Whether the floor is kept; none = there is none."""
        if self.floor is None:
            return None
        return self.value <= self.floor if self.better == "lower" else self.value >= self.floor

    def plain(self) -> dict[str, Any]:
        """As JSON."""
        return {**asdict(self), "value": round(self.value, 4), "holds": self.holds}


def percentile(values: Sequence[float], at: int) -> float:
    """A percentile by the nearest rank above, so that it is a value that was seen; NaN of nothing.

    >>> percentile([3.0, 1.0, 2.0], 50), percentile([1.0, 2.0], 99)
    (2.0, 2.0)
    """
    return float(np.percentile(values, at, method="higher")) if len(values) else float("nan")
