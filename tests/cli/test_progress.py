"""The time left, and what is shown of it."""

import io

import pytest
from rich.console import Console

from crsearch.cli.progress import QUIET, Estimate, RunProgress, in_words


class Clock:
    """A clock that is moved by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def estimate(clock):
    return Estimate({"data": 10.0, "align": 60.0, "rl0": 30.0}, clock)


def test_nothing_is_known_before_something_is_done(estimate):
    assert estimate.fraction() == 0
    assert estimate.left() is None


def test_time_left_scales_the_plan_by_the_speed_so_far(estimate, clock):
    """10 of 100 planned seconds took 20: the other 90 will take 180."""
    estimate.report("data", 0, 1, {})
    clock.now += 20
    estimate.report("data", 1, 1, {})
    assert estimate.fraction() == pytest.approx(0.1)
    assert estimate.left() == pytest.approx(180)


def test_a_stage_under_way_counts_by_its_steps(estimate, clock):
    """10 + half of 60 planned seconds took 40: the other 60 will take 60."""
    estimate.report("data", 0, 1, {})
    estimate.report("data", 1, 1, {})
    estimate.report("align", 0, 1, {})
    clock.now += 40
    estimate.report("align", 5, 10, {})
    assert estimate.left() == pytest.approx(60)


def test_stages_of_an_earlier_process_say_nothing_about_the_speed_of_this_one(estimate, clock):
    estimate.report("data", 1, 1, {})
    estimate.report("align", 1, 1, {})
    assert estimate.fraction() == 0
    estimate.report("rl0", 0, 1, {})
    clock.now += 7
    estimate.report("rl0", 1, 2, {})
    assert estimate.left() == pytest.approx(7)


def test_steps_of_an_earlier_process_do_not_count_as_work_of_this_one(estimate, clock):
    """Of align, 50 of 60 planned seconds were done before: 10 + 30 are left, of which 6 took 12."""
    estimate.report("data", 1, 1, {})
    estimate.report("align", 0, 1, {})
    estimate.report("align", 50, 60, {"resumed_at": 50.0})
    assert estimate.left() is None
    clock.now += 12
    estimate.report("align", 56, 60, {})
    assert estimate.fraction() == pytest.approx(6 / 40)
    assert estimate.left() == pytest.approx(12 * 34 / 6)


def test_at_the_end_nothing_is_left(estimate, clock):
    for stage in ("data", "align", "rl0"):
        estimate.report(stage, 0, 1, {})
        clock.now += 5
        estimate.report(stage, 1, 1, {})
    assert estimate.left() == 0


def test_when_all_was_done_before_nothing_is_left(estimate):
    for stage in ("data", "align", "rl0"):
        estimate.report(stage, 1, 1, {})
    assert estimate.fraction() == 1
    assert estimate.left() == 0


def test_stages_that_are_not_planned_do_not_disturb(estimate, clock):
    estimate.report("surprise", 0, 1, {})
    clock.now += 5
    estimate.report("surprise", 1, 1, {})
    assert estimate.fraction() == 0


def lines(out: io.StringIO) -> list[str]:
    return out.getvalue().splitlines()


@pytest.fixture
def log(clock):
    """A progress that writes into a file, and the file."""
    out = io.StringIO()
    console = Console(file=out, width=200)
    return RunProgress({"align": 10.0, "rl0": 30.0}, console, clock), out


def test_a_log_gets_a_line_when_a_stage_ends_and_now_and_then_in_between(log, clock):
    shown, out = log
    shown("align", 0, 1, {})
    clock.now += 5
    shown("align", 1, 4, {"loss": 2.0})
    assert lines(out) == []
    clock.now += QUIET
    shown("align", 2, 4, {"loss": 1.5})
    shown("align", 3, 4, {"loss": 1.25})
    clock.now += 20
    shown("align", 4, 4, {"loss": 1.0})
    shown("align", 1, 1, {})
    assert [line.split() for line in lines(out)] == [
        ["align", "20.0", "s", "2/4", "loss", "1.500", "2", "min", "left"],
        ["align", "40.0", "s", "loss", "1.000", "2", "min", "left"],
    ]


def test_a_log_is_silent_about_what_was_done_before(log):
    shown, out = log
    shown("align", 1, 1, {})
    shown("rl0", 1, 1, {})
    assert lines(out) == []


def test_a_terminal_gets_one_bar_that_goes_away(clock):
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=80, color_system=None)
    shown = RunProgress({"align": 10.0, "rl0": 30.0}, console, clock)
    with shown.bar:
        shown("align", 0, 1, {})
        clock.now += 30
        shown("align", 1, 1, {})
        shown.bar.refresh()
    assert "align" in out.getvalue()
    assert "25 %  2 min left" in out.getvalue()
    assert out.getvalue().endswith("\x1b[2K")  # the line is cleared


@pytest.mark.parametrize(
    "seconds, words",
    [
        (None, ""),
        (0.0, "0 s left"),
        (89.0, "89 s left"),
        (90.0, "2 min left"),
        (5_399.0, "90 min left"),
        (5_400.0, "1.5 h left"),
    ],
)
def test_times_in_words(seconds, words):
    assert in_words(seconds) == words
