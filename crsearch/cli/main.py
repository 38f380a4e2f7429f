"""The command line. Heavy imports happen inside the commands, so that ``--help`` is instant."""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from crsearch.errors import CrsearchError, UserError

app = typer.Typer(
    name="crsearch",
    help="From search logs to a search engine that reads the whole context, thinks, and ranks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Out = Annotated[Path, typer.Option("--out", help="Run directory.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="section.key=value; may be repeated.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on with a run that was stopped.")]
Seed = Annotated[int | None, typer.Option("--seed", help="Seed of data, models and sampling.")]
Threads = Annotated[int | None, typer.Option("--threads", help="Threads of torch; bits depend on it.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def prepare_process() -> None:
    """Environment that must be set before torch is imported: idle threads sleep instead of spinning."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def main() -> None:
    """Entry point: exit code 0, 1 (our fault), 2 (the user can mend it), 130 (interrupted)."""
    prepare_process()
    try:
        app(standalone_mode=False)
    except typer.Exit as e:
        sys.exit(e.exit_code)
    except UserError as e:
        typer.echo(f"{type(e).__name__}: {e}", err=True)
        sys.exit(2)
    except CrsearchError as e:
        typer.echo(f"{type(e).__name__}: {e}", err=True)
        sys.exit(1)
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("interrupted; the same command with --resume goes on from here", err=True)
        sys.exit(130)
    except Exception as e:
        if hasattr(e, "exit_code") and hasattr(e, "format_message"):  # wrong use of the command line
            typer.echo(f"Usage error: {e.format_message()}", err=True)
            sys.exit(2)
        raise


def _overrides(values: list[str] | None, seed: int | None, threads: int | None) -> list[str]:
    named = {"seed": seed, "threads": threads}
    return [*(values or []), *(f"{k}={v}" for k, v in named.items() if v is not None)]


@app.command()
def demo(
    budget: Annotated[Literal["smoke", "demo", "small"], typer.Option(help="About 1, 5 or 60 minutes.")] = "demo",
    out: Out = Path("runs/demo"),
    set_: Set = None,
    seed: Seed = None,
    threads: Threads = None,
) -> None:
    """Simulate a shop, train every stage, evaluate and report."""
    from crsearch.cli.show import run_and_show
    from crsearch.config import load_settings

    settings = load_settings(None, _overrides(set_, seed, threads), {"preset": budget})
    run_and_show(settings, out, resume=(out / "manifest.json").exists())


@app.command()
def run(
    settings_file: Annotated[Path | None, typer.Argument(help="TOML file.")] = None,
    out: Out = Path("runs/run"),
    set_: Set = None,
    resume: Resume = False,
    seed: Seed = None,
    threads: Threads = None,
) -> None:
    """Run all stages: from records to trained models, results and a report."""
    from crsearch.cli.show import run_and_show
    from crsearch.config import load_settings

    settings = load_settings(settings_file, _overrides(set_, seed, threads))
    run_and_show(settings, out, resume=resume)


def echo_json(value: Any) -> None:
    """Print JSON on standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, indent=2))


if __name__ == "__main__":
    main()
