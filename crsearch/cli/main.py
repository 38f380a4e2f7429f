"""The command line. Heavy imports happen inside the commands, so that ``--help`` is instant.

Exit codes: 0, 1 (our fault, with a traceback), 2 (what the user can mend), 130 (interrupted).
"""

import dataclasses
import json
import os
import shlex
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from crsearch.cli import items, privacy
from crsearch.errors import ConfigError, CrsearchError, DataError, UserError


class Commands(TyperGroup):
    """All commands; turns our errors into messages and exit codes."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Keep what was typed, for the command that goes on after Ctrl-C."""
        ctx.obj = list(args)
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: Any) -> list[str]:
        """Commands in the order of the file; those that have commands of their own come last."""
        return sorted(self.commands, key=lambda name: isinstance(self.commands[name], TyperGroup))

    def invoke(self, ctx: Any) -> Any:
        """Run a command."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo(f"interrupted{after_interrupt(ctx.obj)}", err=True)
            raise typer.Exit(130) from None
        except CrsearchError as e:
            typer.echo(f"{type(e).__name__}: {e}", err=True)
            raise typer.Exit(2 if isinstance(e, UserError) else 1) from None


def after_interrupt(typed: list[str]) -> str:
    """What to say about going on.

    >>> after_interrupt(["run", "my shop.toml", "--out", "runs/a"])
    "; go on with: crsearch run 'my shop.toml' --out runs/a --resume"
    """
    if not typed or typed[0] not in ("run", "demo", "evaluate", "experiment") or "--dry-run" in typed:
        return ""
    again = [*typed, "--resume"] if typed[0] == "run" and "--resume" not in typed else typed
    return f"; go on with: crsearch {shlex.join(again)}"


app = typer.Typer(
    name="crsearch",
    cls=Commands,
    help="From search logs to a search engine that reads the whole context, thinks, and ranks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Run directory to make or to go on with.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting, e.g. sids.codes=512; may be repeated."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped, or with changed settings.")]
Redo = Annotated[
    list[str] | None, typer.Option("--redo", metavar="STAGE", help="Run a finished stage again; may be repeated.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Try one batch; print steps, tokens, time, memory, disk.")]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Seed of data, models and sampling.")]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads of torch; bits depend on it.")]
LOOP_SEEDS = 3
"""Seeds of loops from runs that are given."""
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Records = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of records.")]


def main() -> None:
    """Entry point."""
    prepare_process()
    app()


def prepare_process() -> None:
    """Environment that must be set before torch is imported: waiting threads sleep instead of spinning."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _overrides(values: list[str] | None, seed: int | None, threads: int | None) -> list[str]:
    named = {"seed": seed, "threads": threads}
    return [*(values or []), *(f"{k}={v}" for k, v in named.items() if v is not None)]


def _version(wanted: bool) -> bool:
    if wanted:
        from crsearch import __version__

        typer.echo(f"crsearch {__version__}")
        raise typer.Exit
    return wanted


@app.callback()
def _crsearch(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


# -- runs -------------------------------------------------------------------------------------------------------------
@app.command(short_help="Simulate a shop, train, evaluate, report.")
def demo(
    budget: Annotated[
        Literal["smoke", "demo", "small"], typer.Option(help="About 1, 8 or (an estimate) 60 minutes on two cores.")
    ] = "demo",
    out: Out = Path("runs/demo"),
    set_: Set = None,
    redo: Redo = None,
    seed: Seed = None,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Simulate a shop, train every stage, evaluate and report; given again, it goes on where it was stopped."""
    from crsearch.cli.show import run_and_show
    from crsearch.config import load_settings

    settings = load_settings(None, _overrides(set_, seed, threads), {"preset": budget})
    is_begun = (out / "manifest.json").exists()
    run_and_show(settings, out, resume=is_begun, redo=redo or (), dry_run=dry_run, as_json=as_json)


@app.command(short_help="Train, evaluate and report on your records.")
def run(
    settings_file: Annotated[Path | None, typer.Argument(metavar="SETTINGS.toml", help="Settings file.")] = None,
    out: Out = Path("runs/run"),
    set_: Set = None,
    resume: Resume = False,
    redo: Redo = None,
    seed: Seed = None,
    threads: Threads = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Run all stages: from records to trained models, results and a report.

    The settings are those of a preset, changed by the file, changed by --set; see `crsearch settings`.
    """
    from crsearch.cli.show import run_and_show
    from crsearch.config import load_settings

    settings = load_settings(settings_file, _overrides(set_, seed, threads))
    run_and_show(settings, out, resume=resume, redo=redo or (), dry_run=dry_run, as_json=as_json)


@app.command(short_help="Print all settings with their meaning.")
def settings(
    settings_file: Annotated[Path | None, typer.Argument(metavar="SETTINGS.toml", help="Settings file.")] = None,
    set_: Set = None,
) -> None:
    """Print the settings that a run would have, each with its meaning, as a TOML file to begin with."""
    from crsearch.config import load_settings, to_toml

    typer.echo(to_toml(load_settings(settings_file, set_ or ()), explained=True), nl=False)


@app.command(short_help="Evaluate systems, or any TREC run file.")
def evaluate(
    run_folder: RunFolder,
    searcher: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="A system, or all (the default); may be repeated.")
    ] = None,
    run_file: Annotated[
        Path | None, typer.Option("--run", metavar="FILE", help="TREC run file of any other system.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Other records with the same catalogue: ask theirs.")
    ] = None,
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Evaluate systems of a run, or anybody's run file, on the test users of the run, or on other test queries."""
    from crsearch.cli.progress import run_progress
    from crsearch.cli.show import echo_json, show_results, show_rows
    from crsearch.pipeline.again import evaluate_again, evaluate_file, evaluate_records, with_searchers

    if run_file is not None and (searcher or data):
        raise ConfigError("--run: a run file goes without --searcher and --data")
    if run_file is not None:
        rows = evaluate_file(run_folder, run_file)
        echo_json(rows) if as_json else show_rows(rows, str(run_file))
        return
    settings = with_searchers(run_folder, searcher or ["all"], set_ or ())
    with run_progress(settings) as progress:
        if data is not None:
            named = () if "all" in (searcher or ["all"]) else searcher or ()
            found = evaluate_records(run_folder, settings, data, progress, named)
        else:
            found = evaluate_again(run_folder, settings, progress)
    if as_json:
        echo_json(found)
    elif data is not None:
        show_rows(found, str(data))
    else:
        show_results(found)


@app.command(short_help="Search with the trained model.")
def search(
    run_folder: RunFolder,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="What is searched for.")],
    user: Annotated[
        str | None, typer.Option(metavar="ID", help="User whose profile and history are read; default: a stranger.")
    ] = None,
    k: Annotated[int, typer.Option("-k", "--k", min=1, max=100, metavar="N", help="Items to show.")] = 10,
    think: Annotated[bool, typer.Option(help="Think before ranking.")] = True,
    place: Annotated[str | None, typer.Option(metavar="TEXT", help="Where the user is.")] = None,
    as_json: AsJson = False,
) -> None:
    """Search with the trained model: the thought, then the items; --json prints the envelope that a server sends."""
    from crsearch.cli.show import echo_json, show_answer
    from crsearch.serve.once import request_of, search_once

    request = request_of(query=query, user_id=user, top_k=k, mode="think" if think else "fast", place=place)
    answer = search_once(run_folder, request)
    echo_json(dataclasses.asdict(answer)) if as_json else show_answer(answer)


@app.command(short_help="The paper's tables and figures, and controls.")
def experiment(
    name: Annotated[
        Literal["main", "loop", "rgrpo", "cold", "scale", "controls"],
        typer.Argument(
            help="main: all systems (table 2). loop: each half-iteration (figure 2). rgrpo: R-GRPO and GRPO "
            "(table 3). cold: users by length of history (figure 3). scale: three sizes (table 4). controls: where "
            "nothing can be learned."
        ),
    ],
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUN]...",
            help="Runs: rgrpo starts from them, cold looks at them, the others copy what they would run again.",
        ),
    ] = None,
    budget: Annotated[
        Literal["smoke", "hour", "full"], typer.Option(help="Minutes, under an hour on two cores, or a night.")
    ] = "hour",
    seeds: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Seeds of training; rgrpo: of the loop. Default: the budget's."),
    ] = None,
    steps: Annotated[
        int | None,
        typer.Option(min=5, metavar="N", help="rgrpo: steps of each RL stage. Default: rl.steps of the start."),
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="rgrpo: rounds of RL and SFT. Default: 2; the paper has 3.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="DIR", help="Folder of the arms and of the result; default runs/NAME."),
    ] = None,
    set_: Set = None,
    threads: Threads = None,
    as_json: AsJson = False,
) -> None:
    """Run an experiment of the paper: many runs, one table with intervals and significance, one JSON file.

    Every arm is a run directory below --out. Given again, the command goes on where it was stopped, and finished
    arms are not run again.
    """
    from crsearch.cli.experiments import arm_progress, show_experiment, show_loops
    from crsearch.cli.show import echo_json
    from crsearch.config import load_settings
    from crsearch.pipeline.experiments.conduct import conduct
    from crsearch.pipeline.experiments.lab import BUDGETS, Lab
    from crsearch.pipeline.experiments.rgrpo import ROUNDS, compare_loops, loop_starts

    size, runs = BUDGETS[budget], runs or []
    if steps and name != "rgrpo":
        raise ConfigError(f"experiment {name}: --steps is for rgrpo; use --set rl.steps={steps}")
    if rounds and name != "rgrpo":
        raise ConfigError(f"experiment {name}: --rounds is for rgrpo; use --set loop.iterations={rounds}")
    settings = load_settings(None, _overrides(set_, None, threads), {"preset": size.preset})
    folder = out or Path("runs") / ("loops" if name == "rgrpo" else "main" if name == "cold" and not runs else name)
    lab = Lab(settings=settings, seeds=seeds or size.seeds, out=folder, progress=arm_progress, runs=runs)
    if name == "rgrpo":
        number = seeds or (LOOP_SEEDS if runs else size.seeds)
        starts = runs or loop_starts(lab)
        found = compare_loops(
            starts, folder, seeds=number, rounds=rounds or ROUNDS, rl_steps=steps, progress=arm_progress
        )
        show: Any = show_loops
    else:
        found, show = conduct(name, lab), show_experiment
    echo_json(found) if as_json else show(found)


@app.command(short_help="Write the report of a run: one HTML file.")
def report(run_folder: RunFolder) -> None:
    """Write the report of a finished run: one HTML file, and the same as Markdown beside it."""
    from crsearch.cli.progress import working
    from crsearch.report import write_report

    with working("writing the report"):
        page = write_report(run_folder)
    typer.echo(f"report  {page}")


@app.command(short_help="Serve a run: HTTP API and search page.")
def serve(
    run_folder: RunFolder,
    settings_file: Annotated[
        Path | None, typer.Option("--settings", metavar="FILE", help="Settings of the server, a TOML file.")
    ] = None,
    host: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Default: this machine only.")] = None,
    port: Annotated[int | None, typer.Option(metavar="N", help="Default: 8000; 0 = any that is free.")] = None,
    set_: Set = None,
) -> None:
    """Serve a finished run: the HTTP API, the search page at / and the admin page at /admin."""
    from crsearch.config import load_section
    from crsearch.serve.config import ServeConfig
    from crsearch.serve.server import serve as serve_run

    named = [f"{key}={json.dumps(value)}" for key, value in (("host", host), ("port", port)) if value is not None]
    config = load_section(ServeConfig, settings_file, [*(set_ or []), *named])
    serve_run(run_folder, config, lambda url: typer.echo(f"serving {run_folder} at {url} (Ctrl-C ends)"))


@app.command(short_help="Send hostile requests to a server.")
def doctor(
    url: Annotated[str, typer.Argument(metavar="URL", help="Server, e.g. http://127.0.0.1:8000.")],
    key_env: Annotated[
        str | None, typer.Option("--key-env", metavar="NAME", help="Environment variable with the key of searches.")
    ] = None,
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="ID", help="A case or a group of them; may be repeated.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Send a server what breaks servers, and list what it answered wrongly.

    About 11,000 cases: broken JSON, wrong types, control tokens, script, endless bodies, bytes that are no HTTP. Each
    must be refused or answered in its form, and a good search after each group. Exit code 1 if a case was answered
    wrongly, 2 if the server cannot be reached. Ask your own servers only.
    """
    from crsearch.cli.doctor import show_examination
    from crsearch.cli.progress import working
    from crsearch.serve.doctor import examine

    key = os.environ.get(key_env, "") if key_env else None
    if key == "":
        raise ConfigError(f"doctor --key-env {key_env}: the variable is empty or not set")
    with working(f"examining {url}"):
        found = examine(url, key, only or ())
    raise typer.Exit(show_examination(found, url, as_json=as_json))


@app.command(short_help="Measure speed, with floors.")
def bench(
    name: Annotated[
        Literal["serve", "decode", "trie", "sids", "train", "rollout", "startup"],
        typer.Argument(
            help="serve: latencies, throughput and overload of a server. decode: constrained beam search. trie: "
            "building, appending. sids: residual k-means. train: RL updates. rollout: thoughts, lists. startup: import."
        ),
    ],
    run_folder: Annotated[
        Path | None, typer.Argument(metavar="[RUN]", help="Run directory: served (serve) or started (startup).")
    ] = None,
    budget: Annotated[
        Literal["smoke", "full"] | None,
        typer.Option(help="All but serve: a minute, or minutes at the sizes of the floors (sids: half an hour)."),
    ] = None,
    seconds: Annotated[
        float | None, typer.Option(min=1, metavar="S", help="serve: length of the overload; default 60.")
    ] = None,
    requests: Annotated[
        int | None, typer.Option(min=10, metavar="N", help="serve: requests of each latency; default 300.")
    ] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write the JSON to a file, too.")] = None,
    as_json: AsJson = False,
) -> None:
    """Measure this machine: each figure beside the usual way's, or with the floor that a release must hold.

    Ours and the usual way take turns in one process, on one thread, and must give the same results; else there is no
    ratio and the exit code is 1.
    """
    from crsearch.bench.benches import run_bench
    from crsearch.cli.progress import working
    from crsearch.cli.show import show_bench
    from crsearch.runs import write_json

    with working("measuring"):
        document, figures = run_bench(name, run_folder, budget, seconds, requests)
    if out is not None:
        write_json(out, document)
    show_bench(document, figures, as_json=as_json)


@app.command(short_help="Break a served run in many ways.")
def verify(
    run_folder: RunFolder,
    swaps: Annotated[int, typer.Option(min=2, metavar="N", help="Catalogue swaps under load.")] = 100,
    restarts: Annotated[int, typer.Option(min=1, metavar="N", help="Restarts with requests under way.")] = 50,
    soak: Annotated[float, typer.Option(min=1, metavar="S", help="Seconds of steady load.")] = 600.0,
    as_json: AsJson = False,
) -> None:
    """Serve a copy of a run and break it: swaps, restarts, kill -9, hostile requests, a soak; say what was lost."""
    from crsearch.bench.benches import document
    from crsearch.bench.machine import machine
    from crsearch.bench.verify import verify as verify_run
    from crsearch.cli.progress import working
    from crsearch.cli.show import show_bench

    with working("verifying"):
        limits = machine()
        figures = verify_run(run_folder, swaps=swaps, restarts=restarts, soak_seconds=soak)
    show_bench(document("verify", None, limits, figures), figures, as_json=as_json)


# -- data -------------------------------------------------------------------------------------------------------------
@app.command(short_help="Write the records of a simulated shop.")
def simulate(
    folder: Records,
    budget: Annotated[Literal["smoke", "demo", "small"], typer.Option(help="Size of the shop.")] = "demo",
    set_: Set = None,
    seed: Seed = None,
) -> None:
    """Write the records of a simulated shop, and the truth about them in `truth.parquet`."""
    from crsearch.cli.progress import working
    from crsearch.cli.show import show_dataset
    from crsearch.config import load_settings
    from crsearch.records.simulator import simulate as simulate_shop

    settings = load_settings(None, _overrides(set_, seed, None), {"preset": budget})
    with working("simulating"):
        shop = simulate_shop(settings.simulate, settings.split, settings.seed)
        shop.save(folder)
    show_dataset(shop.dataset, folder)


@app.command("import", short_help="Turn your logs into records.")
def import_(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="Whose logs; see above.")],
    logs: Annotated[
        Path,
        typer.Argument(metavar="LOGS", help="Folder of the source, mapping file of tables, or queries of esci."),
    ],
    folder: Records,
    unknown_items: Annotated[
        Literal["error", "drop", "text"], typer.Option(help="What happens to an item that is not in the catalogue.")
    ] = "error",
    duplicates: Annotated[
        Literal["error", "first", "last"], typer.Option(help="tables: which row of a repeated item or user counts.")
    ] = "error",
    on_error: Annotated[
        Literal["stop", "skip"], typer.Option(help="tables: stop at a broken row, or leave it out and count it.")
    ] = "stop",
    max_errors: Annotated[
        int, typer.Option(min=0, metavar="N", help="tables: with skip, stop after more broken rows than these.")
    ] = 100,
    catalogue: Annotated[
        Path | None, typer.Option(metavar="DIR", help="esci: records whose items are searched; all queries are tests.")
    ] = None,
    no_query: Annotated[
        bool, typer.Option("--no-query", help="hem: every query is *, so that histories alone decide.")
    ] = False,
    set_: Set = None,
    as_json: AsJson = False,
) -> None:
    """Turn logs into records, and say what was changed or dropped and why.

    tables: your own CSV, JSON lines or Parquet, with a mapping.toml that says which column is what (without one, an
    example is shown). hem, amazon2023: Amazon reviews of 2014 or 2023. completejourney: a year of a grocery shop.
    kuaisearch, kuaisar, jdsearch: published search logs with users. esci, wands: real queries with judged products.
    """
    from crsearch.cli.progress import working
    from crsearch.cli.show import echo_json, show_import
    from crsearch.config import load_settings
    from crsearch.records.importers import IMPORTERS
    from crsearch.records.importers.common import refuse_overwriting
    from crsearch.records.importers.tables import source_files

    if source not in IMPORTERS:
        raise ConfigError(f"import {source}: the sources are {', '.join(IMPORTERS)}")
    split = load_settings(None, set_ or ()).split
    own: dict[str, Any] = {}
    if source == "tables":
        own = {"duplicates": duplicates, "on_error": on_error, "max_errors": max_errors}
    elif (duplicates, on_error) != ("error", "stop"):
        raise ConfigError(f"import {source}: --duplicates and --on-error are for tables; leave them out")
    if source == "esci":
        own = {"catalogue": catalogue}
    elif catalogue is not None:
        raise ConfigError(f"import {source}: --catalogue is for esci; leave it out")
    if source == "hem":
        own = {"with_queries": not no_query}
    elif no_query:
        raise ConfigError(f"import {source}: --no-query is for hem; leave it out")
    refuse_overwriting(folder, source_files(logs) if source == "tables" else [p for p in (logs, catalogue) if p])
    with working(f"reading {logs}"):
        dataset, told = IMPORTERS[source](logs, split, unknown_items=unknown_items, **own)
        if not dataset.searches:
            raise DataError(f"{logs}: no search is left, so nothing is saved; what became of them:\n{told.summary()}")
        dataset.save(folder)
    if not dataset.targets:
        typer.echo(
            "warning: no search has a choice in the catalogue: there is no example to train or test on", err=True
        )
    echo_json(dataclasses.asdict(told)) if as_json else show_import(dataset, told, folder)


@app.command(short_help="Check records: broken rows, statistics.")
def check(folder: Records, as_json: AsJson = False) -> None:
    """Check records: every broken row with its place and the fix; then the statistics."""
    from crsearch.cli.show import show_check

    raise typer.Exit(show_check(folder, as_json=as_json))


# -- a run that is served ---------------------------------------------------------------------------------------------
app.add_typer(items.app)
app.add_typer(privacy.feedback)
app.command(short_help="Remove a user from a run.")(privacy.forget)


if __name__ == "__main__":
    main()
