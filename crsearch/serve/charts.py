"""Training curves as numbers of an SVG: no styles inside, classes colour it, the page's CSP holds.

Source: details: this project.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

WIDTH, HEIGHT = 360, 180
LEFT, RIGHT, TOP, BOTTOM = 40, 14, 8, 24
"""Margins of the plot, in the units of the drawing."""
MOST_POINTS = 200
"""Points of a line; longer ones are thinned evenly, the last kept."""
MOST_LINES = 8
"""Lines of a chart that have a look of their own."""


@dataclass(frozen=True, slots=True)
class Tick:
    """A mark of an axis."""

    at: float
    label: str


@dataclass(frozen=True, slots=True)
class Curve:
    """A line, and where its last value stands."""

    name: str
    points: str
    """``x,y x,y`` as ``<polyline points>`` takes them."""
    last: str
    """The last value, to three digits."""


@dataclass(frozen=True, slots=True)
class Chart:
    """A drawing of lines over steps."""

    title: str
    x: str
    y: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    curves: tuple[Curve, ...]


def chart(drawn: Mapping[str, Any]) -> Chart | None:
    """A chart of ``{"title", "x", "y", "lines": [{"name", "points": [[x, y], ...]}]}``; none without a finite point."""
    lines = [
        (str(line["name"]), finite)
        for line in drawn["lines"][:MOST_LINES]
        if (finite := [(float(x), float(y)) for x, y in line["points"] if math.isfinite(x) and math.isfinite(y)])
    ]
    if not lines:
        return None
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points]
    x_low, x_high, x_ticks = _axis(min(xs), max(xs), 4)
    y_low, y_high, y_ticks = _axis(min(ys), max(ys), 4)

    def across(x: float) -> float:
        return round(LEFT + (x - x_low) / (x_high - x_low) * (WIDTH - LEFT - RIGHT), 1)

    def down(y: float) -> float:
        return round(HEIGHT - BOTTOM - (y - y_low) / (y_high - y_low) * (HEIGHT - TOP - BOTTOM), 1)

    return Chart(
        title=str(drawn["title"]),
        x=str(drawn.get("x", "")),
        y=str(drawn.get("y", "")),
        x_ticks=tuple(Tick(across(x), _label(x)) for x in x_ticks),
        y_ticks=tuple(Tick(down(y), _label(y)) for y in y_ticks),
        curves=tuple(
            Curve(name, " ".join(f"{across(x)},{down(y)}" for x, y in thinned(points)), f"{points[-1][1]:.3g}")
            for name, points in lines
        ),
    )


def thinned(points: Sequence[tuple[float, float]], most: int = MOST_POINTS) -> Sequence[tuple[float, float]]:
    """At most ``most`` of the points, evenly taken, with the first and the last.

    >>> thinned([(0.0, 1.0), (1.0, 2.0), (2.0, 3.0), (3.0, 4.0), (4.0, 5.0)], 3)
    [(0.0, 1.0), (2.0, 3.0), (4.0, 5.0)]
    """
    if len(points) <= most:
        return points
    return [points[round(n * (len(points) - 1) / (most - 1))] for n in range(most)]


def _axis(low: float, high: float, wanted: int) -> tuple[float, float, list[float]]:
    """Bounds that hold ``low`` and ``high``, and round values between them."""
    if high - low <= 1e-12 * max(abs(low), abs(high), 1e-12):
        pad = abs(low) / 2 or 1.0
        low, high = low - pad, high + pad
    raw = (high - low) / wanted
    unit = 10.0 ** math.floor(math.log10(raw))
    step = next(unit * n for n in (1, 2, 2.5, 5, 10) if unit * n >= raw)
    first, last = math.floor(low / step), math.ceil(high / step)
    ticks = [n * step for n in range(first, last + 1)]
    return ticks[0], ticks[-1], ticks


def _label(value: float) -> str:
    """A value of an axis, short.

    >>> [_label(v) for v in (0.0, 0.25, 1200.0, 2e6)]
    ['0', '0.25', '1.2k', '2M']
    """
    for size, sign in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{sign}"
    return f"{value:.3g}"
