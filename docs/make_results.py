"""Put the results of a finished run into README.md: systems with intervals, stages, and the command that remakes them.

python docs/make_results.py runs/demo
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

README = Path(__file__).parent.parent / "README.md"
METRICS = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
BUDGETS = ("smoke", "demo", "small")
"""Presets that ``crsearch demo`` knows."""

Row = Mapping[str, Mapping[str, float]]
"""Metric -> mean, low, high."""


def results_block(folder: Path) -> str:
    """The block of a run as Markdown.

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
        "Made by:",
        "",
        "```",
        remaking(settings, folder, int(manifest["threads"])),
        f"python docs/make_results.py {shlex.quote(str(folder))}",
        "```",
    ]
    return "\n".join(lines) + "\n"


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
    parser = argparse.ArgumentParser(description="Put the results of a finished run into README.md.")
    parser.add_argument("run", type=Path, help="run directory")
    parser.add_argument("--readme", type=Path, default=README, help="page with the block `results`")
    given = parser.parse_args(arguments)
    try:
        page = replace_block(given.readme.read_text(encoding="utf-8"), "results", results_block(given.run))
        write_atomic(given.readme, page)
    except (CrsearchError, ValueError) as e:
        print(e, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
