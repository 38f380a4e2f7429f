"""When one system counts as above another, in one place for tables and summary."""

from dataclasses import dataclass
from typing import Literal

from crsearch.evaluate.intervals import Interval
from crsearch.report.values import signed

LEVEL = 0.05
"""Corrected p-values below it count."""

RULE = (
    "One system is called above (or below) another only where the 95 % interval of the paired difference leaves out 0 "
    f"and, in a family of comparisons, the p-value after Holm's correction is below {LEVEL}; "
    "otherwise the two are not distinguishable here."
)

Word = Literal["above", "below", "not distinguishable from"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """A paired difference and what may be said of it."""

    difference: Interval
    p_holm: float | None = None
    """None where it is a comparison on its own."""

    @property
    def word(self) -> Word:
        """How the first system stands to the second.

        >>> Verdict({"mean": 0.03, "low": 0.01, "high": 0.05}, 0.2).word
        'not distinguishable from'
        """
        if self.p_holm is not None and self.p_holm >= LEVEL:
            return "not distinguishable from"
        if self.difference["low"] > 0:
            return "above"
        return "below" if self.difference["high"] < 0 else "not distinguishable from"

    def __str__(self) -> str:
        return f"{self.word} ({signed(self.difference)})"
