"""Progress, tables and answers on the terminal. Results go to standard output, progress to standard error."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from crsearch.config import Settings

METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")

console = Console(stderr=True)


class RunProgress:
    """All stages of a run: a bar with one ETA on a terminal, a line per stage in a log.

    The ETA scales the planned seconds of what is left by how the finished stages compare to their plan.

    Args:
        planned: expected seconds of each stage, in order.
    """

    def __init__(self, planned: Mapping[str, float]) -> None:
        self.planned = dict(planned)
        self.begun = time.monotonic()
        self.stage_begun: dict[str, float] = {}
        self.share: dict[str, float] = {}
        self.spent = 0.0
        self.expected = 0.0
        self.last_line = self.begun
        self.bar = Progress(
            TextColumn("{task.description:<18}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[eta]}"),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.task = self.bar.add_task("", total=1.0, eta="")

    def __call__(self, stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        now = time.monotonic()
        fresh = stage not in self.stage_begun
        begun = self.stage_begun.setdefault(stage, now)
        self.share[stage] = max(self.share.get(stage, 0.0), done / total if total else 1.0)
        skipped = fresh and done == total
        if skipped:
            self.planned.pop(stage, None)  # done in an earlier run: says nothing about speed
        eta = self.eta(now)
        if self.bar.disable:
            self._line(stage, done, total, numbers, now - begun, eta, skipped)
        else:
            self.bar.update(self.task, completed=self.fraction(), description=stage, eta=_left(eta))

    def fraction(self) -> float:
        """Planned work that is done, 0..1."""
        whole = sum(self.planned.values())
        return sum(s * self.share.get(n, 0.0) for n, s in self.planned.items()) / whole if whole else 1.0

    def eta(self, now: float) -> float | None:
        """Seconds left, once there is something to go by."""
        worked = self.fraction()
        return (now - self.begun) * (1 - worked) / worked if worked > 0.01 else None

    def _line(
        self,
        stage: str,
        done: int,
        total: int,
        numbers: Mapping[str, float],
        took: float,
        eta: float | None,
        skipped: bool,
    ) -> None:
        now = time.monotonic()
        if done < total and now - self.last_line < 15:
            return
        self.last_line = now
        if skipped:
            return
        loss = f"  loss {numbers['loss']:.3f}" if "loss" in numbers else ""
        place = "" if done == total else f"  {done}/{total}"
        console.print(f"{stage:<18} {took:7.1f} s{place}{loss}  {_left(eta)}", highlight=False)


def _left(seconds: float | None) -> str:
    if seconds is None:
        return ""
    return f"{seconds / 60:.0f} min left" if seconds >= 90 else f"{seconds:.0f} s left"


@contextmanager
def progress_of(settings: Settings) -> Iterator[RunProgress]:
    """Progress of a run with these settings."""
    from crsearch.pipeline.plan import Rates, expected_sizes, plan

    shown = RunProgress({p.name: p.seconds(Rates()) for p in plan(settings, expected_sizes(settings))})
    with shown.bar:
        yield shown


def run_and_show(settings: Settings, out: Path, *, resume: bool, dry_run: bool = False, as_json: bool = False) -> None:
    """Run all stages with progress, write the report; print the table, its place and the next command."""
    from crsearch.cli.main import echo_json
    from crsearch.pipeline.run import run

    if dry_run:
        show_dry_run(settings, as_json=as_json)
        return
    with progress_of(settings) as progress:
        found = run(settings, out, resume=resume, progress=progress)
    from crsearch.report import write_report

    page = write_report(out)
    if as_json:
        echo_json(found)
        return
    show_results(found)
    typer.echo(f"report  {page}")
    typer.echo(f'next    crsearch search {out} "{_example_query(out)[1]}" --user {_example_query(out)[0]}')


def _example_query(out: Path) -> tuple[str, str]:
    """A test user and what they searched for."""
    from crsearch.records.store import Dataset

    dataset = Dataset.load(out / "data")
    example = dataset.examples("test", 1)[0].context
    return example.user_id, example.query


def show_dry_run(settings: Settings, *, as_json: bool) -> None:
    """What a run would do and take, tried on one real batch."""
    from crsearch.cli.main import echo_json
    from crsearch.pipeline.dry import dry_run

    found = dry_run(settings)
    if as_json:
        echo_json(found)
        return
    table = Table(title="what this run would do (rates measured on one batch)")
    for column in ("stage", "steps", "training tokens", "thoughts", "lists", "seconds"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in found["stages"]:
        table.add_row(row["name"], *(f"{row[c]:,.0f}" for c in ("steps", "trained", "thoughts", "answers", "seconds")))
    Console().print(table)
    typer.echo(
        f"about {found['seconds'] / 60:.0f} min, {found['memory_mib']:,.0f} MiB of memory, "
        f"{found['disk_mib']:,.0f} MiB of disk"
    )


def show_rows(found: Mapping[str, Any], title: str, extra: Sequence[tuple[str, Mapping[str, float]]] = ()) -> None:
    """A table of systems with intervals, best NDCG@10 first."""
    shown = Table(title=f"{title}: {found['test_queries']:,} test queries, mean [95 % interval]")
    for column in ("system", *METRICS):
        shown.add_column(column, no_wrap=True)
    rows = sorted(found["searchers"].items(), key=lambda r: -r[1]["NDCG@10"]["mean"])
    for name, row in rows:
        shown.add_row(name, *(_cell(row[m]) for m in METRICS))
    for name, means in extra:
        shown.add_row(name, *(f"{means[m]:.3f}" for m in METRICS))
    Console(width=max(120, Console().width)).print(shown)


def _cell(value: Mapping[str, float]) -> str:
    return f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"


def show_results(found: Mapping[str, Any]) -> None:
    """The main table, the ceiling, and the stages."""
    extra = [("Bayes optimum", found["ceiling"])] if "ceiling" in found else []
    show_rows(found, "systems", extra)
    stages = Table(title=f"stages of crs on the same users (validation kept {found['final_stage']})")
    for column in ("stage", "tokens", *METRICS):
        stages.add_column(column, no_wrap=True)
    for stage in found["stages"]:
        cells = (_cell(stage["metrics"][m]) for m in METRICS)
        stages.add_row(stage["name"], f"{stage['tokens'] / 1e6:.2f} M", *cells)
    Console(width=max(120, Console().width)).print(stages)


def show_answer(answer: Mapping[str, Any]) -> None:
    """Thought, then items. Control characters of the data never reach the terminal."""
    if answer["thought"] is not None:
        typer.echo(f"thought  {_plain(answer['thought'])}\n")
    for item in answer["items"]:
        price = "" if item["price"] is None else f"  {item['price']:g}"
        typer.echo(f"{item['rank']:>3}  {_plain(item['title'])}{price}  {item['sid']}  {item['score']:.2f}")
    typer.echo(f"\n{answer['timings_ms']:.0f} ms")


def _plain(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)


def show_import(dataset: Any, told: Any, folder: Path) -> None:
    """What an import made, changed and dropped."""
    counts = f"{len(dataset.catalogue):,} items, {len(dataset.users):,} users, {len(dataset.searches):,} searches"
    typer.echo(f"{told.summary()}\n{folder}: {counts}")


def show_check(folder: Path, *, as_json: bool) -> int:
    """Problems of a folder of records and its statistics; the exit code."""
    from crsearch.cli.main import echo_json
    from crsearch.records.checks import check_folder
    from crsearch.records.statistics import statistics
    from crsearch.records.store import Dataset

    problems = check_folder(folder)
    facts = None if problems else statistics(Dataset.load(folder))
    if as_json:
        echo_json({"problems": [str(p) for p in problems], "statistics": facts})
        return 2 if problems else 0
    for problem in problems:
        typer.echo(str(problem), err=True)
    for name, value in (facts or {}).items():
        typer.echo(f"{name:<28} {value}")
    if problems:
        typer.echo(f"{len(problems)} problems", err=True)
    return 2 if problems else 0
