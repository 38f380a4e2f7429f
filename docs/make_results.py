"""Put the results of a finished run into a page: systems with intervals, stages, and the command that remakes them.

python docs/make_results.py runs/demo                                                  # README.md
python docs/make_results.py runs/mine --readme docs/results.md --block mine            # another page, another block
python docs/make_results.py runs/mine --readme docs/results.md --records real-queries  # of evaluate --data
"""

import argparse
import json
import shlex
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blocks import replace_block

from crsearch.config import Settings, load_settings
from crsearch.errors import CrsearchError, RunError
from crsearch.runs import RunDirectory, write_atomic

SCRIPT = "python docs/make_results.py"
README = Path(__file__).parent.parent / "README.md"
METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
BUDGETS = ("smoke", "demo", "small")
"""Presets that ``crsearch demo`` knows."""

Row = Mapping[str, Mapping[str, float]]
"""Metric -> mean, low, high."""


def results_block(folder: Path, options: str = "") -> str:
    """The block of a run as Markdown.

    Args:
        folder: the run.
        options: of this script, as they were given.

    Raises:
        RunError: no run, or one that is not finished.
    """
    manifest = RunDirectory.reading(folder).manifest
    file = folder / "results.json"
    if not file.exists():
        raise RunError(f"{folder}: the run is not finished (no results.json); go on with --resume")
    found = json.loads(file.read_text(encoding="utf-8"))
    settings = load_settings(folder / "settings.toml")
    data = "Simulated shop" if settings.data is None else f"`{settings.data}`"
    lines = [
        f"{data}: {found['data']['items']:,} items, {found['data']['users']:,} users, {found['test_queries']:,} test "
        f"queries, seed {', '.join(map(str, found['seeds']))}. Mean and 95 % interval by bootstrap over queries.",
        "",
        *systems_table(found),
        "",
        f"The stages of `crs` on the same users; validation kept `{found['final_stage']}`:",
        "",
        *stages_table(found),
        "",
        *made_by(remaking(settings, folder, int(manifest["threads"])), f"{SCRIPT} {shlex.quote(str(folder))}{options}"),
    ]
    return "\n".join(lines) + "\n"


def records_block(folder: Path, records: str, options: str = "") -> str:
    """The block of a run that was asked the test queries of other records (``crsearch evaluate RUN --data``).

    Raises:
        RunError: it was not asked them.
    """
    file = folder / "eval" / records / "results.json"
    if not file.exists():
        raise RunError(f"{file}: there is none; first: crsearch evaluate {folder} --data data/{records}")
    found = json.loads(file.read_text(encoding="utf-8"))
    lines = [
        f"`data/{records}`: {found['test_queries']:,} test searches, asked of the finished run "
        f"`{folder}`. Mean and 95 % interval by bootstrap over searches.",
        "",
        *systems_table(found),
        "",
        *made_by(
            shlex.join(["crsearch", "evaluate", str(folder), "--data", f"data/{records}"]),
            f"{SCRIPT} {shlex.quote(str(folder))}{options}",
        ),
    ]
    return "\n".join(lines) + "\n"


def made_by(*commands: str) -> Iterator[str]:
    """Commands that remake a block."""
    yield from ("Made by:", "", "```", *commands, "```")


def systems_table(found: Mapping[str, Any]) -> Iterator[str]:
    """All systems, best NDCG@10 first, with the paired difference of ``crs`` to each; the ceiling on top if known."""
    differences = found.get("significance", {}).get("NDCG@10", {})
    last = ["NDCG@10 of `crs` minus it"] if differences else []
    yield cells(["system", *METRICS, *last])
    yield cells(["---"] * (1 + len(METRICS) + len(last)))
    if "ceiling" in found:
        best = [f"{found['ceiling'][metric]:.3f}" for metric in METRICS]
        yield cells(["best possible (Bayes)", *best, *([""] if last else [])])
    for name, row in sorted(found["searchers"].items(), key=lambda entry: -entry[1]["NDCG@10"]["mean"]):
        extra = [interval(differences[name]["difference"], "+") if name in differences else ""] if last else []
        yield cells([f"`{name}`", *means(row), *extra])


def stages_table(found: Mapping[str, Any]) -> Iterator[str]:
    """The training stages in order, with the tokens each was trained on."""
    yield cells(["stage", "answers", "trained tokens", *METRICS])
    yield cells(["---"] * (3 + len(METRICS)))
    for stage in found["stages"]:
        answers = "at once" if stage["mode"] == "direct" else "after a thought"
        yield cells([f"`{stage['name']}`", answers, f"{stage['tokens']:,}", *means(stage["metrics"])])


def means(row: Row) -> list[str]:
    """All metrics of a row."""
    return [interval(row[metric]) for metric in METRICS]


def interval(value: Mapping[str, float], sign: str = "") -> str:
    """A mean with its interval."""
    return f"{value['mean']:{sign}.3f} [{value['low']:{sign}.3f}, {value['high']:{sign}.3f}]"


def cells(texts: Sequence[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(texts)} |"


def remaking(settings: Settings, folder: Path, threads: int) -> str:
    """The command that makes a run of these settings: a preset, and ``--set`` for whatever differs from it."""
    is_demo = settings.data is None and settings.preset in BUDGETS
    parts = ["crsearch", "demo", "--budget", settings.preset] if is_demo else ["crsearch", "run"]
    if not is_demo:
        parts += ["--set", f"preset={settings.preset}"]
    usual = dict(_flat(load_settings(None, (), {"preset": settings.preset}).model_dump()))
    for key, value in _flat(settings.model_dump()):
        if key not in ("preset", "seed", "threads", "processes") and value != usual[key]:
            parts += ["--set", f"{key}={json.dumps(value, ensure_ascii=False)}"]  # JSON of such values is TOML too
    return shlex.join([*parts, "--seed", str(settings.seed), "--threads", str(threads), "--out", str(folder)])


def _flat(values: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def main(arguments: Sequence[str]) -> int:
    """Fill the block; 2 where there is no finished run."""
    parser = argparse.ArgumentParser(description="Put the results of a finished run into a page.")
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--readme", type=Path, default=README, help="page with the block")
    parser.add_argument("--block", help="name of the block; default: results, or the name of the records")
    parser.add_argument("--records", metavar="NAME", help="of evaluate --data: the folder's name")
    given = parser.parse_args(arguments)
    named = {"--readme": given.readme if given.readme != README else None, "--block": given.block}
    options = "".join(f" {key} {shlex.quote(str(value))}" for key, value in named.items() if value is not None)
    try:
        if given.records is None:
            block = results_block(given.run, options)
        else:
            block = records_block(given.run, given.records, f"{options} --records {shlex.quote(given.records)}")
        page = given.readme.read_text(encoding="utf-8")
        write_atomic(given.readme, replace_block(page, given.block or given.records or "results", block))
    except (CrsearchError, ValueError, OSError) as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
