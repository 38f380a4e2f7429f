"""Tables and answers on the terminal. Results go to standard output, everything else to standard error."""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from crsearch.cli.progress import run_progress, working
from crsearch.config import Settings

if TYPE_CHECKING:
    from crsearch.bench.figures import Measured
    from crsearch.records.importers import ImportReport
    from crsearch.records.store import Dataset
    from crsearch.serve.contract import Answer

METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
WIDE = 132
"""Columns that a table with all intervals takes."""


def stdout() -> Console:
    """Standard output: as wide as the terminal, and as wide as needed in a file."""
    plain = Console()
    return plain if plain.is_terminal else Console(width=1_000)


def echo_json(value: Any) -> None:
    """Print JSON on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


def shown(text: str) -> Text:
    """Text of others: nothing in it acts on the terminal or on the table.

    >>> shown("[red]a\\x1b[2J").plain
    '[red]a [2J'
    """
    return Text("".join(c if c.isprintable() else " " for c in text))


def plain_table() -> Table:
    """A table without lines."""
    return Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")


# -- runs -------------------------------------------------------------------------------------------------------------
def run_and_show(
    settings: Settings, out: Path, *, resume: bool, redo: Sequence[str], dry_run: bool, as_json: bool
) -> None:
    """Run all stages with progress, write the report; print the table, its place and the next command."""
    from crsearch.pipeline.run import run
    from crsearch.report import write_report

    if dry_run:
        show_dry_run(settings, as_json=as_json)
        return
    with run_progress(settings) as progress:
        found = run(settings, out, resume=resume, redo=redo, progress=progress)
    with working("writing the report"):
        page = write_report(out)
    if as_json:
        echo_json(found)
        return
    show_results(found)
    user, query = _example_query(out)
    typer.echo(f"\nreport  {page}\nnext    crsearch search {shlex.join([str(out), query, '--user', user])}")


def _example_query(out: Path) -> tuple[str, str]:
    """A test user and what they searched for."""
    from crsearch.records.store import Dataset

    example = Dataset.load(out / "data").examples("test", 1)[0].context
    return example.user_id, example.query


def show_dry_run(settings: Settings, *, as_json: bool) -> None:
    """What a run would do and take, tried on one real batch."""
    from crsearch.pipeline.dry import dry_run

    with working("trying one batch"):
        found = dry_run(settings)
    if as_json:
        echo_json(found)
        return
    table = plain_table()
    for column in ("stage", "steps", "training tokens", "thoughts", "lists", "seconds"):
        table.add_column(column, justify="left" if column == "stage" else "right")
    for row in found["stages"]:
        table.add_row(row["name"], *(f"{row[c]:,.0f}" for c in ("steps", "trained", "thoughts", "answers", "seconds")))
    out = stdout()
    out.print("what this run would do (rates measured on one batch)")
    out.print(table)
    typer.echo(
        f"about {found['seconds'] / 60:.0f} min, {found['memory_mib']:,.0f} MiB of memory, "
        f"{found['disk_mib']:,.0f} MiB of disk"
    )


def show_rows(
    found: Mapping[str, Any],
    title: str,
    extra: Sequence[tuple[str, Mapping[str, float]]] = (),
    out: Console | None = None,
) -> None:
    """A table of systems with intervals, best NDCG@10 first.

    Args:
        found: ``searchers`` and ``test_queries`` of a result.
        title: of the table.
        extra: rows without intervals.
        out: none = standard output.
    """
    rows = sorted(found["searchers"].items(), key=lambda row: -row[1]["NDCG@10"]["mean"])
    named = [((name,), metrics) for name, metrics in rows]
    out = out or stdout()
    print_metrics(f"{title}, {found['test_queries']:,} test queries", ("system",), named, extra, out)
    for name, reason in found.get("not_run", {}).items():
        out.print(shown(f"{name}: not run: {reason}"))


def show_results(found: Mapping[str, Any], out: Console | None = None) -> None:
    """The main table, the ceiling, and the stages."""
    out = out or stdout()
    extra = [("Bayes optimum", found["ceiling"])] if "ceiling" in found else []
    show_rows(found, "systems", extra, out)
    rows = [((s["name"], f"{s['tokens'] / 1e3:,.0f} k"), s["metrics"]) for s in found["stages"]]
    out.print()
    print_metrics(f"stages, same users (crs is {found['final_stage']})", ("stage", "tokens"), rows, (), out)


def print_metrics(
    title: str,
    columns: Sequence[str],
    rows: Sequence[tuple[Sequence[str], Mapping[str, Mapping[str, float]]]],
    extra: Sequence[tuple[str, Mapping[str, float]]],
    out: Console,
) -> None:
    """Means with 95 % intervals: of all metrics where there is room, else of the last one."""
    with_interval = METRICS if out.width >= WIDE else METRICS[-1:]
    out.print(shown(f"{title}: mean [95 % interval]"))
    table = plain_table()
    for column in (*columns, *METRICS):
        table.add_column(column, no_wrap=True)
    for names, metrics in rows:
        table.add_row(*names, *(_cell(metrics[m], m in with_interval) for m in METRICS))
    for name, means in extra:
        table.add_row(name, *(f"{means[m]:.3f}" for m in METRICS))
    out.print(table)


def _cell(value: Mapping[str, float], with_interval: bool) -> Text:
    interval = f" [{value['low']:.3f}, {value['high']:.3f}]" if with_interval else ""
    return Text(f"{value['mean']:.3f}{interval}")


def show_answer(answer: "Answer", out: Console | None = None) -> None:
    """Thought, then items. Control characters of the data never reach the terminal."""
    out = out or stdout()
    if answer.reasoning is not None:
        out.print(Text.assemble("thought  ", shown(answer.reasoning.text)), end="\n\n")
    rows = [
        (str(i.rank), shown(i.title), "" if i.price is None else f"{i.price:g}", "".join(i.sid), f"{i.score:.2f}")
        for i in answer.items
    ]
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, show_header=False)
    for justify in ("right", "left", "right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    taken = sum(max(len(row[n]) for row in rows) + 2 for n in (0, 2, 3, 4)) if rows else 0
    for row in rows:
        row[1].truncate(max(20, out.width - taken), overflow="ellipsis")
        table.add_row(*row)
    out.print(table)
    typer.echo(f"\n{answer.timings_ms['total']:.0f} ms, {answer.served_by}: {answer.why_rung}")


def show_figures(figures: Sequence["Measured"], out: Console | None = None) -> None:
    """Measured figures with their floors."""
    table = plain_table()
    for column in ("", "what", "measured", "floor", "", "how"):
        table.add_column(column, justify="right" if column in ("measured", "floor") else "left")
    for figure in figures:
        table.add_row(*figure.row())
    (out or stdout()).print(table)


def show_bench(document: dict[str, Any], figures: Sequence["Measured"], *, as_json: bool) -> None:
    """What a bench measured, and on what machine."""
    if as_json:
        echo_json(document)
        return
    show_figures(figures)
    typer.echo(", ".join(f"{key} {value}" for key, value in document["machine"].items()))


# -- data -------------------------------------------------------------------------------------------------------------
def show_dataset(dataset: "Dataset", folder: Path) -> None:
    """Where records were written, and what to do next."""
    counts = f"{len(dataset.catalogue):,} items, {len(dataset.users):,} users, {len(dataset.searches):,} searches"
    typer.echo(f"{folder}: {counts}")
    typer.echo(f"next    crsearch check {shlex.quote(str(folder))}")


def show_import(dataset: "Dataset", told: "ImportReport", folder: Path) -> None:
    """What an import made, changed and dropped."""
    typer.echo(told.summary())
    show_dataset(dataset, folder)


def show_check(folder: Path, *, as_json: bool) -> int:
    """Problems of a folder of records and its statistics; the exit code."""
    from crsearch.records.checks import read_folder
    from crsearch.records.statistics import statistics

    with working("reading"):
        problems, dataset = read_folder(folder)
    facts = None if dataset is None else statistics(dataset)
    if as_json:
        echo_json({"problems": [str(p) for p in problems], "statistics": facts})
        return 2 if problems else 0
    for problem in problems:
        typer.echo(shown(str(problem)).plain, err=True)
    for name, value in (facts or {}).items():
        typer.echo(f"{name.replace('_', ' '):<26} {_number(value)}")
    if dataset is not None and not any(search.chosen for search in dataset.searches):
        typer.echo("warning: no search has a click or a purchase: no example can come of it", err=True)
    if problems:
        typer.echo(f"{len(problems):,} problem{'s' * (len(problems) > 1)}", err=True)
    return 2 if problems else 0


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.2f}"
    return f"{value:,}" if isinstance(value, int) else str(value)
