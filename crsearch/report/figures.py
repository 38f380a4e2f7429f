"""Drawings as SVG that stands inside a page: colours of Okabe and Ito, ink that takes the colour of the text.

The bytes depend on the data alone: ids are hashed with a fixed salt, there is no date, and the user's matplotlib
settings are not read. Labels never pass a formula parser; legends are left to the page.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from typing import Any

from markupsafe import Markup, escape

from crsearch.evaluate.intervals import Interval
from crsearch.report.parts import Look
from crsearch.report.values import Number

INK = "#010203"
"""Stands for the colour of the surrounding text until the SVG is written."""

LOOKS = (
    Look("#0072b2", "o", "●"),
    Look("#d55e00", "s", "■", "--"),
    Look("#009e73", "^", "▲", "-."),
    Look("#cc79a7", "D", "◆", ":"),
    Look("#e69f00", "v", "▼", (0, (5, 1))),
    Look("#56b4e9", "P", "✚", (0, (1, 1))),
    Look(INK, "X", "✖", (0, (3, 1, 1, 1))),
)
"""Told apart by colour, by marker and by dashes. Source: Okabe & Ito, Color Universal Design, 2008."""

CEILING = Look(INK, "", "┄", ":")
CONTROL = Look("#e69f00", "", "╌", "--")
"""Level lines: the best that any system can expect, and the control."""

_STYLE: Mapping[str, Any] = {
    "axes.edgecolor": INK, "axes.grid": True, "axes.labelcolor": INK, "axes.labelsize": 9, "axes.linewidth": 0.6,
    "axes.spines.right": False, "axes.spines.top": False, "axes.axisbelow": True, "figure.facecolor": "none",
    "axes.facecolor": "none", "font.size": 9, "grid.alpha": 0.18, "grid.color": INK, "grid.linewidth": 0.6,
    "lines.linewidth": 1.6, "lines.markersize": 4.5, "svg.fonttype": "none", "svg.hashsalt": "crsearch",
    "text.color": INK, "text.parse_math": False, "xtick.color": INK, "ytick.color": INK, "xtick.labelsize": 9,
    "ytick.labelsize": 9,
}  # fmt: skip

_PANEL = (4.3, 2.7)
"""Inches of a small drawing; it is scaled to the width that the page has."""


def looks(names: Sequence[str]) -> dict[str, Look]:
    """A look for each name, in order; more than seven names repeat colours."""
    return {name: LOOKS[i % len(LOOKS)] for i, name in enumerate(names)}


@dataclass(frozen=True, slots=True)
class Line:
    """A series of a panel, not empty."""

    look: Look
    x: Sequence[float]
    y: Sequence[float]


def curves(name: str, label: str, lines: Sequence[Line], *, from_zero: bool = False) -> Markup:
    """Values over steps; few points have markers, so that a single one is seen.

    Args:
        name: of the drawing, unique in its page.
        label: what it shows, for those who do not see it.
        lines: series.
        from_zero: the vertical axis holds 0.
    """
    from matplotlib.ticker import MaxNLocator

    with _axes(name, label) as (axes, svg):
        for line in lines:
            many = len(line.x) > 12
            axes.plot(
                line.x, line.y, color=line.look.colour, linestyle=line.look.dashes,
                marker=None if many else line.look.marker, clip_on=False,
            )  # fmt: skip
        axes.set_xlabel("step")
        axes.set_xlim(0, 1.03 * max(x for line in lines for x in line.x))
        axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True, min_n_ticks=1))
        if from_zero:
            low, high = axes.get_ylim()
            low = min(low, 0.0) if min(y for line in lines for y in line.y) < 0 else 0.0
            axes.set_ylim(low, max(high, 0.0))
    return svg()


def intervals(name: str, label: str, rows: Sequence[tuple[str, Interval]], level: Number | None) -> Markup:
    """One dot with its interval per row, the first row on top; ``level`` is a dotted line."""
    with _axes(name, label, (5.2, 0.6 + 0.25 * len(rows))) as (axes, svg):
        for place, (_, row) in enumerate(rows):
            _dot(axes, LOOKS[0], row, place, horizontal=True)
        if level is not None:
            axes.axvline(level, color=CEILING.colour, linestyle=CEILING.dashes)
        axes.set_yticks(range(len(rows)), [row for row, _ in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
    return svg()


@dataclass(frozen=True, slots=True)
class Stop:
    """A stage on the path of a metric."""

    name: str
    look: Look
    joined: bool
    """It lies on the line; else it stands beside it."""
    value: Interval


def path(name: str, label: str, stops: Sequence[Stop], levels: Sequence[tuple[Look, Number]]) -> Markup:
    """A metric from stage to stage with a ribbon of its intervals, and level lines to compare with."""
    with _axes(name, label) as (axes, svg):
        at = [i for i, stop in enumerate(stops) if stop.joined]
        on = [stops[i].value for i in at]
        axes.plot(at, [v["mean"] for v in on], color=INK, alpha=0.6, linewidth=1.2)
        axes.fill_between(at, [v["low"] for v in on], [v["high"] for v in on], color=INK, alpha=0.1, linewidth=0)
        for i, stop in enumerate(stops):
            _dot(axes, stop.look, stop.value, i, horizontal=False)
        for look, level in levels:
            axes.axhline(level, color=look.colour, linestyle=look.dashes, linewidth=1.2)
        axes.set_xticks(range(len(stops)), [stop.name for stop in stops])
        axes.set_xlim(-0.5, len(stops) - 0.5)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
    return svg()


@dataclass(frozen=True, slots=True)
class Bar:
    """A row of a bar chart."""

    name: str
    look: Look
    value: Number


def bars(name: str, label: str, rows: Sequence[Bar]) -> Markup:
    """One bar per row from 0, the first row on top."""
    with _axes(name, label, (5.2, 0.6 + 0.2 * len(rows))) as (axes, svg):
        axes.barh(range(len(rows)), [row.value for row in rows], height=0.62, color=[row.look.colour for row in rows])
        axes.set_yticks(range(len(rows)), [row.name for row in rows])
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.grid(visible=False, axis="y")
    return svg()


def groups(
    name: str, label: str, labels: Sequence[str], systems: Sequence[tuple[Look, Sequence[Interval | None]]]
) -> Markup:
    """Dots with intervals, side by side per label.

    Args:
        name, label: as for ``curves``.
        labels: of the groups, left to right.
        systems: for each system its look and its value in each group.
    """
    with _axes(name, label) as (axes, svg):
        for k, (look, values) in enumerate(systems):
            shift = 0.7 * ((k + 0.5) / len(systems) - 0.5)
            for i, value in enumerate(values):
                if value is not None:
                    _dot(axes, look, value, i + shift, horizontal=False)
        axes.set_xticks(range(len(labels)), list(labels))
        axes.set_xlim(-0.5, len(labels) - 0.5)
        axes.set_ylim(bottom=0)
        axes.grid(visible=False, axis="x")
    return svg()


def _dot(axes: Any, look: Look, value: Interval, at: Number, *, horizontal: bool) -> None:
    ends = ([at, at], [value["low"], value["high"]])
    point = ([at], [value["mean"]])
    if horizontal:
        ends, point = (ends[1], ends[0]), (point[1], point[0])
    axes.plot(*ends, color=look.colour, linewidth=1.4)
    axes.plot(*point, color=look.colour, marker=look.marker, linestyle="none", clip_on=False)


@contextmanager
def _axes(name: str, label: str, size: tuple[float, float] = _PANEL) -> Iterator[tuple[Any, Any]]:
    """Axes to draw on, and a function that gives the drawing once the block has ended."""
    from matplotlib import style
    from matplotlib.figure import Figure

    done: list[Markup] = []
    with style.context(["default", dict(_STYLE)]), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")  # the page's fonts draw the text
        figure = Figure(figsize=size, layout="constrained")
        yield figure.add_subplot(), lambda: done[0]
        text = StringIO()
        figure.savefig(text, format="svg", metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    done.append(inline(text.getvalue(), name, label))


def inline(svg: str, name: str, label: str) -> Markup:
    """A file of matplotlib as an element of a page: own ids, ink of the page, no size, no addresses.

    Args:
        svg: the file.
        name: put before every id, so that drawings of one page do not share ids.
        label: what the drawing shows.
    """
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None, "matplotlib writes a view box"
    body = svg[svg.index(">", svg.index("<svg")) + 1 :].rstrip()
    body = re.sub(r"<style.*?</style>", "", body, flags=re.DOTALL)
    body = re.sub(r' id="', f' id="{name}-', body)
    body = re.sub(r"url\(#", f"url(#{name}-", body)
    body = re.sub(r'xlink:href="#', f'href="#{name}-', body)
    body = body.replace(INK, "currentColor")
    return Markup(f'<svg viewBox="{box[1]}" role="img" aria-label="{escape(label)}">{body}')
