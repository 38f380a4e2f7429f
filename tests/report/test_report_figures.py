"""Drawings: the same bytes for the same data, whatever the labels and the user's settings of matplotlib."""

from xml.etree import ElementTree

import matplotlib
import pytest

from crsearch.evaluate.intervals import Interval
from crsearch.report import figures
from crsearch.report.figures import CEILING, LOOKS, Bar, Line, Stop

LOW_HIGH = Interval(mean=0.4, low=0.3, high=0.5)


def draw_all(label: str) -> list[str]:
    """Every kind of drawing with a label."""
    return [
        figures.curves(
            "a", label, [Line(LOOKS[0], [1.0, 2.0], [0.1, 0.2]), Line(LOOKS[1], [4.0], [0.0])], from_zero=True
        ),
        figures.intervals("b", label, [(label, LOW_HIGH), ("bm25", LOW_HIGH)], 0.7),
        figures.path("c", label, [Stop(label, LOOKS[0], True, LOW_HIGH)], [(CEILING, 0.9)]),
        figures.bars("e", label, [Bar(label, LOOKS[1], 2.5), Bar("x", LOOKS[0], 0.0)]),
        figures.groups("d", label, [label, "warm"], [(LOOKS[2], [LOW_HIGH, None])]),
    ]


def test_the_same_data_give_the_same_bytes_whatever_the_user_set(monkeypatch: pytest.MonkeyPatch) -> None:
    before = draw_all("crs")
    for name, value in {"font.size": 30, "svg.fonttype": "path", "axes.facecolor": "red", "svg.hashsalt": None}.items():
        monkeypatch.setitem(matplotlib.rcParams, name, value)
    assert draw_all("crs") == before


@pytest.mark.parametrize("label", ["$x^$", "冷启动", "<b>&\"'", "‮abc", "_x", ""])
def test_any_label_is_drawn_as_text(label: str) -> None:
    for drawing in draw_all(label):
        read = ElementTree.fromstring(drawing)
        assert read.get("aria-label") == label
    assert label in "".join(ElementTree.fromstring(draw_all(label)[-1]).itertext())


def test_a_drawing_shows_its_points_and_its_intervals() -> None:
    drawing = figures.groups("d", "x", ["a", "b"], [(LOOKS[0], [LOW_HIGH, LOW_HIGH]), (LOOKS[1], [LOW_HIGH, None])])
    assert drawing.count(f"stroke: {LOOKS[0].colour}; stroke-width: 1.4") == 2
    assert drawing.count(f"stroke: {LOOKS[1].colour}; stroke-width: 1.4") == 1


def test_negative_rewards_stay_in_view() -> None:
    up = figures.curves("a", "x", [Line(LOOKS[0], [1.0, 2.0], [-0.5, 0.2])], from_zero=True)
    assert "−0.4" in up


def test_the_colours_are_those_of_okabe_and_ito() -> None:
    known = {"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#f0e442", figures.INK}
    assert {look.colour for look in LOOKS} <= known
    assert len({look.colour for look in LOOKS}) == len({look.marker for look in LOOKS}) == len(LOOKS)
