"""What a report is made of. Sections hold plain text only; the two renderers escape all of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias

from markupsafe import Markup


@dataclass(frozen=True, slots=True)
class Prose:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "prose"


@dataclass(frozen=True, slots=True)
class Cell:
    """A value of a table, with its interval or another remark in smaller type."""

    text: str
    small: str = ""

    def __str__(self) -> str:
        return f"{self.text} {self.small}".rstrip()


NONE = Cell("–")
"""A value that there is none of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """Rows under a header; every row has as many cells as the header."""

    caption: str
    header: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    words: frozenset[int] = frozenset({0})
    """Columns of text; the others hold numbers and stand to the right."""
    marked: frozenset[int] = frozenset()
    """Rows to mark."""
    folded: bool = False
    """Shown on demand, where the page can do so."""
    notes: Sequence[tuple[Cell, str]] = ()
    """Last rows: a first cell, and a text that takes the place of all others."""
    kind: ClassVar[str] = "table"

    def __post_init__(self) -> None:
        assert all(len(row) == len(self.header) for row in self.rows), self.caption


@dataclass(frozen=True, slots=True)
class Look:
    """How a series is drawn: the colour as CSS, the marker as matplotlib and as text, the dashes."""

    colour: str
    marker: str
    sign: str
    dashes: str | tuple[int, tuple[int, ...]] = "-"


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """Small drawings side by side with one legend."""

    caption: str
    panels: Sequence[tuple[str, Markup]]
    """Title and SVG, which is safe HTML."""
    legend: Sequence[tuple[str, Look]] = ()
    kind: ClassVar[str] = "figure"


@dataclass(frozen=True, slots=True)
class Pairs:
    """Names with their values."""

    pairs: Sequence[tuple[str, str]]
    kind: ClassVar[str] = "pairs"


@dataclass(frozen=True, slots=True)
class Quote:
    """Text that somebody, or a model, wrote."""

    title: str
    text: str
    kind: ClassVar[str] = "quote"


@dataclass(frozen=True, slots=True)
class Listing:
    """Text of a file or a command, shown as it is; long ones are folded."""

    title: str
    text: str
    folded: bool = False
    kind: ClassVar[str] = "listing"


@dataclass(frozen=True, slots=True)
class Card:
    """Parts that belong together under a title of their own."""

    title: str
    parts: Sequence["Part"]
    kind: ClassVar[str] = "card"


Part: TypeAlias = Prose | Table | Figure | Pairs | Quote | Listing | Card


@dataclass(frozen=True, slots=True)
class Section:
    """A titled piece of the page; ``anchor`` is its address within it."""

    anchor: str
    title: str
    parts: Sequence[Part]


@dataclass(frozen=True, slots=True)
class Page:
    """A report."""

    title: str
    summary: str
    sections: Sequence[Section]
