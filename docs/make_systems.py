"""Put the tables of ``crsearch experiment main`` into docs/systems.md.

python docs/make_systems.py runs/main
"""

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blocks import replace_block
from make_results import METRICS, cells, interval, means

PAGE = Path(__file__).parent / "systems.md"


def tables(found: Mapping[str, Any], folder: str) -> Iterator[str]:
    """All systems for each teacher, best NDCG@10 first, and what ``crs`` differs by."""
    data, seeds = found["data"], len(found["seeds"])
    trained = "one training seed" if seeds == 1 else f"means over {seeds} training seeds"
    yield f"{data['items']:,} items, {data['users']:,} users, {found['test_queries']:,} test queries, {trained}."
    yield "Mean and 95 % interval by bootstrap over queries; differences paired by query."
    for teacher, table in found["tables"].items():
        yield from ("", f"### Teacher `{teacher}`", "")
        pairs = [c for c in table["comparisons"] if c["metric"] == "NDCG@10" and c["system"] == "crs"]
        differs = {c["other"]: interval(c["difference"], "+") for c in pairs}
        yield cells(["system", "trained tokens", *METRICS, "NDCG@10 of `crs` minus it"])
        yield cells(["---"] * (3 + len(METRICS)))
        if "ceiling" in found:
            yield cells(["best possible (Bayes)", "", *(f"{found['ceiling'][m]:.3f}" for m in METRICS), ""])
        shared = set(table["shared"])
        for name, row in sorted(table["searchers"].items(), key=lambda entry: -entry[1]["NDCG@10"]["mean"]):
            if name not in shared:
                tokens = table["tokens"][name]
                yield cells([f"`{name}`", f"{tokens:,}" if tokens else "", *means(row), differs.get(name, "")])
        if shared:
            yield from ("", "No thought is read by, and so the rows above hold for: " + named(sorted(shared)) + ".")
        for name, reason in table["not_run"].items():
            yield from ("", f"`{name}`: not run: {reason}.")
    yield from ("", "Made by:", "", "```")
    yield f"crsearch experiment main --budget hour --seeds {seeds} --threads 1 --out {folder}"
    yield from (f"python docs/make_systems.py {folder}", "```")


def named(names: Sequence[str]) -> str:
    """Names in a row."""
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    result = json.loads((Path(sys.argv[1]) / "main.json").read_text(encoding="utf-8"))
    block = "\n".join(tables(result, sys.argv[2] if len(sys.argv) > 2 else sys.argv[1])) + "\n"
    PAGE.write_text(replace_block(PAGE.read_text(encoding="utf-8"), "systems", block), encoding="utf-8")
