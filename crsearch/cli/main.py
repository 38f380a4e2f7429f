"""The command line. Heavy imports happen inside the commands, so that ``--help`` is instant."""

import dataclasses
import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crsearch.errors import ConfigError, CrsearchError, UserError

app = typer.Typer(
    name="crsearch",
    help="From search logs to a search engine that reads the whole context, thinks, and ranks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Out = Annotated[Path, typer.Option("--out", help="Run directory to make or to go on with.")]
Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting; may be repeated.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Try one batch; print steps, tokens, time, memory, disk.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of data, models and sampling.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads of torch; bits depend on it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def prepare_process() -> None:
    """Environment that must be set before torch is imported: waiting threads sleep instead of spinning."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    """Entry point: exit code 0, 1 (our fault), 2 (the user can mend it), 130 (interrupted)."""
    prepare_process()
    sys.exit(_run(sys.argv[1:]))


def _run(arguments: list[str]) -> int:
    import click

    try:
        code = app(arguments, standalone_mode=False)
    except click.ClickException as e:
        e.show()
        return 2
    except (KeyboardInterrupt, click.Abort):
        typer.echo("interrupted; the same command with --resume goes on from here", err=True)
        return 130
    except CrsearchError as e:
        typer.echo(f"{type(e).__name__}: {e}", err=True)
        return 2 if isinstance(e, UserError) else 1
    return code if isinstance(code, int) else 0


def _overrides(values: list[str] | None, seed: int | None, threads: int | None) -> list[str]:
    named = {"seed": seed, "threads": threads}
    return [*(values or []), *(f"{k}={v}" for k, v in named.items() if v is not None)]


def echo_json(value: Any) -> None:
    """Print JSON on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


# -- runs -------------------------------------------------------------------------------------------------------------
@app.command()
def demo(
    budget: Annotated[Literal["smoke", "demo", "small"], typer.Option(help="About 1, 10 or 60 minutes.")] = "demo",
    out: Out = Path("runs/demo"),
    set_: Set = None,
    seed: Seed = None,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Simulate a shop, train every stage, evaluate and report; goes on by itself if it was stopped."""
    from crsearch.cli.show import run_and_show
    from crsearch.config import load_settings

    settings = load_settings(None, _overrides(set_, seed, threads), {"preset": budget})
    run_and_show(settings, out, resume=(out / "manifest.json").exists(), dry_run=dry_run, as_json=as_json)


@app.command()
def run(
    settings_file: Annotated[Path | None, typer.Argument(metavar="[SETTINGS.toml]", help="Settings file.")] = None,
    out: Out = Path("runs/run"),
    set_: Set = None,
    resume: Resume = False,
    seed: Seed = None,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run all stages: from records to trained models, results and a report."""
    from crsearch.cli.show import run_and_show
    from crsearch.config import load_settings

    settings = load_settings(settings_file, _overrides(set_, seed, threads))
    run_and_show(settings, out, resume=resume, dry_run=dry_run, as_json=as_json)


@app.command()
def evaluate(
    run_folder: RunFolder,
    searcher: Annotated[list[str] | None, typer.Option(help="A system, or all; may be repeated.")] = None,
    run_file: Annotated[Path | None, typer.Option("--run", help="TREC run file of any other system.")] = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate systems of a run, or anybody's run file, on the test users of the run."""
    from crsearch.cli.show import show_results, show_rows
    from crsearch.pipeline.again import evaluate_again, evaluate_file

    if run_file is not None:
        rows = evaluate_file(run_folder, run_file)
        echo_json(rows) if as_json else show_rows(rows, str(run_file))
        return
    found = evaluate_again(run_folder, tuple(searcher or ["all"]))
    echo_json(found) if as_json else show_results(found)


@app.command()
def search(
    run_folder: RunFolder,
    query: Annotated[str, typer.Argument(help="What is searched for.")],
    user: Annotated[str | None, typer.Option(help="User whose profile and history are read.")] = None,
    k: Annotated[int, typer.Option(min=1, help="Items to show.")] = 10,
    think: Annotated[bool, typer.Option(help="Think before ranking.")] = True,
    place: Annotated[str | None, typer.Option(help="Where the user is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search with the trained model: the thought, then the items."""
    from crsearch.cli.show import show_answer
    from crsearch.pipeline.again import search_again

    answer = search_again(run_folder, query, user_id=user, k=k, thinks=think, place=place)
    echo_json(answer) if as_json else show_answer(answer)


@app.command()
def report(run_folder: RunFolder) -> None:
    """Write the report of a run: one HTML file."""
    from crsearch.report import write_report

    typer.echo(f"report: {write_report(run_folder)}")


# -- data -------------------------------------------------------------------------------------------------------------
@app.command()
def simulate(
    folder: Annotated[Path, typer.Argument(help="Folder for the records.")],
    set_: Set = None,
    seed: Seed = None,
) -> None:
    """Write the records of a simulated shop, with the truth beside them."""
    from crsearch.config import load_settings
    from crsearch.records.simulator import simulate as simulate_shop

    settings = load_settings(None, _overrides(set_, seed, None), {"preset": "demo"})
    shop = simulate_shop(settings.simulate, settings.split, settings.seed)
    shop.save(folder)
    typer.echo(f"{folder}: {len(shop.dataset.catalogue):,} items, {len(shop.dataset.users):,} users")


@app.command("import")
def import_(
    source: Annotated[str, typer.Argument(help="Kind of source: hem, kuaisearch, tables.")],
    logs: Annotated[Path, typer.Argument(help="Folder or mapping file of the source.")],
    folder: Annotated[Path, typer.Argument(help="Folder for the records.")],
    unknown_items: Annotated[
        Literal["error", "drop", "text"], typer.Option(help="What happens to an item that is not in the catalogue.")
    ] = "error",
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Turn logs into records, and say what was changed or dropped and why."""
    from crsearch.cli.show import show_import
    from crsearch.config import load_settings
    from crsearch.records.importers import IMPORTERS

    if source not in IMPORTERS:
        raise ConfigError(f"import {source}: there are {', '.join(IMPORTERS)}")
    split = load_settings(None, set_ or ()).split
    dataset, told = IMPORTERS[source](logs, split, unknown_items=unknown_items)
    dataset.save(folder)
    echo_json(dataclasses.asdict(told)) if as_json else show_import(dataset, told, folder)


@app.command()
def check(folder: Annotated[Path, typer.Argument(help="Folder of records.")], as_json: AsJson = False) -> None:
    """Check records: every broken row with its place and the fix; then the statistics."""
    from crsearch.cli.show import show_check

    raise typer.Exit(show_check(folder, as_json=as_json))


if __name__ == "__main__":
    main()
