"""Put the tables of ``crsearch experiment main`` into docs/results.md, or the short one into README.md.

python docs/make_systems.py runs/main
python docs/make_systems.py runs/main --short README.md    # the block `results` of that page
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blocks import replace_block
from make_results import METRICS, cells, interval, means

from crsearch.pipeline.experiments.lab import BUDGETS

PAGE = Path(__file__).parent / "results.md"
SHORT = (
    "crs", "crs-fused", "crs-direct", "crs-no-thought", "latent-r3", "dense-history", "hybrid", "tiger", "ltrgr",
    "genre", "dsi", "popularity-in-query-brand", "popularity-in-query", "dense", "tfidf", "bm25", "popularity",
)  # fmt: skip
"""Systems of the short table: those of the paper, the controls, and the lines that every model has to beat."""


def tables(found: Mapping[str, Any], folder: str) -> Iterator[str]:
    """All systems for each teacher, best NDCG@10 first, what ``crs`` differs by, and how far the seeds are apart."""
    yield from opening(found)
    for teacher, table in found["tables"].items():
        shared = set(table["shared"])
        yield from ("", f"### Teacher `{teacher}`", "")
        yield from systems(table, found.get("ceiling"), [name for name in table["searchers"] if name not in shared])
        if shared:
            yield from ("", "No thought is read by, and so the rows above hold for: " + named(sorted(shared)) + ".")
        yield from by_seed(table, [name for name in table["searchers"] if name not in shared])
    reasons = {n: reason for table in found["tables"].values() for n, reason in table["not_run"].items()}
    for name, reason in reasons.items():
        yield from ("", f"`{name}`: not run: {reason}.")
    yield from made_by(found, folder, "")


def short(found: Mapping[str, Any], folder: str, page: str) -> Iterator[str]:
    """The systems of ``SHORT`` for the first teacher."""
    teacher, table = next(iter(found["tables"].items()))
    yield from opening(found)
    yield f"Teacher `{teacher}`."
    yield ""
    names = [name for name in SHORT if name in table["searchers"]]
    yield from systems(table, found.get("ceiling"), names)
    yield from by_seed(table, names)
    yield from made_by(found, folder, f" --short {page}")


def opening(found: Mapping[str, Any]) -> Iterator[str]:
    """What was measured."""
    data, seeds = found["data"], len(found["seeds"])
    trained = "one training seed" if seeds == 1 else f"means over {seeds} training seeds"
    yield f"{data['items']:,} items, {data['users']:,} users, {found['test_queries']:,} test queries, {trained}."
    yield "Mean and 95 % interval by bootstrap over queries; differences paired by query."


def systems(table: Mapping[str, Any], ceiling: Mapping[str, float] | None, names: Sequence[str]) -> Iterator[str]:
    """Rows of systems, best NDCG@10 first, below the ceiling."""
    pairs = [c for c in table["comparisons"] if c["metric"] == "NDCG@10" and c["system"] == "crs"]
    differs = {c["other"]: interval(c["difference"], "+") for c in pairs}
    yield cells(["system", "trained tokens", *METRICS, "NDCG@10 of `crs` minus it"])
    yield cells(["---"] * (3 + len(METRICS)))
    if ceiling:
        yield cells(["best possible (Bayes)", "", *(f"{ceiling[m]:.3f}" for m in METRICS), ""])
    for name in sorted(names, key=lambda name: -table["searchers"][name]["NDCG@10"]["mean"]):
        tokens, row = table["tokens"][name], table["searchers"][name]
        yield cells([f"`{name}`", f"{tokens:,}" if tokens else "", *means(row), differs.get(name, "")])


def by_seed(table: Mapping[str, Any], names: Sequence[str], metric: str = "NDCG@10") -> Iterator[str]:
    """Trained systems with the mean of each seed, and what ``crs`` differs by in each; nothing for one seed."""
    seeds = table.get("by_seed", {}).get("crs", {}).get(metric, ())
    if len(seeds) < 2:
        return
    yield from ("", f"{metric} by training seed, and of `crs` minus the system:", "")
    yield cells(["system", *(f"seed {n}" for n in range(len(seeds))), "`crs` minus it"])
    yield cells(["---"] * (2 + len(seeds)))
    trained = [name for name in names if table["tokens"][name]]
    for name in sorted(trained, key=lambda name: -table["searchers"][name][metric]["mean"]):
        own = table["by_seed"][name][metric]
        differs = ", ".join(f"{a - b:+.3f}" for a, b in zip(seeds, own, strict=True)) if name != "crs" else ""
        yield cells([f"`{name}`", *(f"{value:.3f}" for value in own), differs])


def made_by(found: Mapping[str, Any], folder: str, options: str) -> Iterator[str]:
    """The commands that remake the block."""
    budget = next(name for name, size in BUDGETS.items() if size.preset == found["preset"])
    yield from ("", "Made by:", "", "```")
    yield f"crsearch experiment main --budget {budget} --seeds {len(found['seeds'])} --threads 1 --out {folder}"
    yield from (f"python docs/make_systems.py {folder}{options}", "```")


def named(names: Sequence[str]) -> str:
    """Names in a row."""
    return ", ".join(f"`{name}`" for name in names)


def main(arguments: Sequence[str]) -> int:
    """Fill the block `systems` of docs/results.md, or the block `results` of another page."""
    parser = argparse.ArgumentParser(description="Put the tables of crsearch experiment main into a page.")
    parser.add_argument("folder", type=Path, help="folder of the experiment, with main.json")
    parser.add_argument("--name", help="folder as the page names it; default: as given")
    parser.add_argument("--short", metavar="PAGE", help="the short table, into the block `results` of this page")
    given = parser.parse_args(arguments)
    found = json.loads((given.folder / "main.json").read_text(encoding="utf-8"))
    name = given.name or str(given.folder)
    lines = tables(found, name) if given.short is None else short(found, name, given.short)
    page, block = (PAGE, "systems") if given.short is None else (Path(given.short), "results")
    text = replace_block(page.read_text(encoding="utf-8"), block, "\n".join(lines) + "\n")
    page.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
