"""Progress on standard error: one estimate of the time left over all stages of a run."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from crsearch.config import Settings

console = Console(stderr=True)

Clock = Callable[[], float]
"""Seconds; only differences count."""

QUIET = 15.0
"""Seconds between lines in a log, at most one per stage in between."""


class Estimate:
    """Time left of a run whose stages have planned durations.

        left = elapsed * (1 - worked) / worked

    ``worked`` is the share of the planned work that this process has done. What an earlier process did counts as
    not planned, since it says nothing about the speed of this one.

    Args:
        planned: expected seconds of each stage; only their ratios count.
        clock: of this process.
    """

    def __init__(self, planned: Mapping[str, float], clock: Clock = time.monotonic) -> None:
        self.planned = dict(planned)
        self.clock, self.begun = clock, clock()
        self.share: dict[str, float] = {}
        self.given: dict[str, float] = {}
        """Share of a stage that an earlier process did."""

    def report(self, stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        """A stage stands at ``done`` of ``total``; ``resumed_at`` in the numbers says where this process began."""
        share = done / total if total else 1.0
        if "resumed_at" in numbers or (stage not in self.share and share == 1.0):
            self.given[stage] = share
        self.share[stage] = max(share, self.share.get(stage, 0.0))

    def fraction(self) -> float:
        """Planned work of this process that is done, 0..1."""
        whole = sum(seconds * (1 - self.given.get(name, 0.0)) for name, seconds in self.planned.items())
        done = sum(
            seconds * (self.share.get(name, 0.0) - self.given.get(name, 0.0)) for name, seconds in self.planned.items()
        )
        return done / whole if whole > 0 else 1.0

    def left(self) -> float | None:
        """Seconds left; none while there is too little to go by."""
        worked = self.fraction()
        return (self.clock() - self.begun) * (1 - worked) / worked if worked > 0.01 else None


class RunProgress:
    """All stages of a run: a bar on a terminal, in a log a line when a stage ends and now and then in between.

    Args:
        planned: expected seconds of each stage, in order.
        out: where it is shown.
        clock: of this process.
    """

    def __init__(self, planned: Mapping[str, float], out: Console = console, clock: Clock = time.monotonic) -> None:
        self.estimate = Estimate(planned, clock)
        self.out, self.clock = out, clock
        self.begun: dict[str, float] = {}
        self.ended: set[str] = set()
        self.last_line = clock()
        self.bar = Progress(
            TextColumn("{task.description:<24.24}"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[left]}"),
            console=out,
            transient=True,
            disable=not out.is_terminal,
        )
        self.task = self.bar.add_task("", total=1.0, left="")

    def __call__(self, stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        begun = self.begun.setdefault(stage, self.clock())
        was_done_before = done == total and stage not in self.estimate.share
        self.estimate.report(stage, done, total, numbers)
        left = in_words(self.estimate.left())
        if not self.bar.disable:
            self.bar.update(self.task, completed=self.estimate.fraction(), description=stage, left=left)
        elif not was_done_before and stage not in self.ended:
            self._line(stage, done, total, numbers, self.clock() - begun, left)
        if done == total:
            self.ended.add(stage)

    def _line(self, stage: str, done: int, total: int, numbers: Mapping[str, float], took: float, left: str) -> None:
        now = self.clock()
        if done < total and now - self.last_line < QUIET:
            return
        self.last_line = now
        place = "" if done == total else f"  {done}/{total}"
        loss = f"  loss {numbers['loss']:.3f}" if "loss" in numbers else ""
        self.out.print(f"{stage:<24} {took:7.1f} s{place}{loss}  {left}".rstrip(), highlight=False, markup=False)


def in_words(seconds: float | None) -> str:
    """A time left for people; empty if it is not known.

    >>> in_words(7_300.0), in_words(400.0), in_words(12.2), in_words(None)
    ('2.0 h left', '7 min left', '12 s left', '')
    """
    if seconds is None:
        return ""
    if seconds >= 5_400:
        return f"{seconds / 3_600:.1f} h left"
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"


@contextmanager
def run_progress(settings: Settings) -> Iterator[RunProgress]:
    """Progress of a run with these settings."""
    from crsearch.pipeline.plan import Rates, expected_sizes, plan

    shown = RunProgress({p.name: p.seconds(Rates()) for p in plan(settings, expected_sizes(settings))})
    with shown.bar:
        yield shown


@contextmanager
def working(what: str) -> Iterator[None]:
    """A block whose length nobody knows: what is being done and for how long, on a terminal only."""
    columns = SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn()
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        bar.add_task(what, total=None)
        yield
