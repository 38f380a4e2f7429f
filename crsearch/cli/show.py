"""Progress and tables on the terminal."""

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from crsearch.config import Settings

console = Console(stderr=True)


class Printer:
    """A line per stage with its time, for terminals and logs alike."""

    def __init__(self) -> None:
        self.begun: dict[str, float] = {}
        self.shown = 0.0

    def __call__(self, stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        now = time.monotonic()
        if stage not in self.begun:
            self.begun[stage] = now
            self.shown = now
        if done == total and total >= 1:
            console.print(f"{stage:<16} {now - self.begun[stage]:7.1f} s")
        elif now - self.shown > 10:
            self.shown = now
            loss = f"  loss {numbers['loss']:.3f}" if "loss" in numbers else ""
            console.print(f"{stage:<16} {now - self.begun[stage]:7.1f} s  {done}/{total}{loss}")


def run_and_show(settings: Settings, out: Path, *, resume: bool) -> None:
    """Run all stages with progress; then the table and what to do next."""
    from crsearch.pipeline.run import run

    found = run(settings, out, resume=resume, progress=Printer())
    show_results(found)


def show_results(found: Mapping[str, Any]) -> None:
    """The main table and the stages."""
    from crsearch.pipeline.measure import table

    shown = Table(title=f"{found['test_queries']} test queries, 95 % intervals")
    names = ["HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10"]
    for column in ("system", *names):
        shown.add_column(column)
    for name, row in table(found):
        shown.add_row(name, *(f"{row[m]['mean']:.3f} [{row[m]['low']:.3f}, {row[m]['high']:.3f}]" for m in names))
    for stage in found["stages"]:
        row = stage["metrics"]
        shown.add_row("  " + stage["name"], *(f"{row[m]['mean']:.3f}" for m in names))
    if "ceiling" in found:
        shown.add_row("Bayes optimum", *(f"{found['ceiling'][m]:.3f}" for m in names))
    console.print(shown)
