"""Put the tables of an experiment (any but ``main``) into its block of docs/results.md.

python docs/make_experiments.py rgrpo runs/loops 'crsearch experiment rgrpo runs/demo --seeds 5 --out runs/loops'
python docs/make_experiments.py loop runs/loop 'crsearch experiment loop --budget hour --out runs/loop'

The last argument is the command that made the folder; it stands below the tables.
"""

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from blocks import replace_block
from make_results import METRICS, cells, interval, means

from crsearch.cli.experiments import cpu_seconds

PAGE = Path(__file__).parent / "results.md"
Found = Mapping[str, Any]


def rgrpo(found: Found) -> Iterator[str]:
    """Each stage of both arms, then R-GRPO minus GRPO, over the queries and seed by seed."""
    for start, result in found.items():
        seeds = result["seeds"]
        yield f"From the first reasoning of `{start}`: {result['queries']:,} test queries, {result['rl_steps']} steps"
        yield f"of RL in each round, means over {len(seeds)} seeds of the loop."
        yield ""
        rows = [
            ([f"`{arm}`", f"`{stage}`", f"{cpu_seconds(facts, stage):.0f}"], facts["stages"][stage])
            for arm, facts in result["arms"].items()
            for stage in in_time(facts["stages"])
        ]
        yield from table(["arm", "stage", "CPU seconds"], rows)
        own, other = (result["arms"][arm]["by_seed"] for arm in ("r-grpo", "grpo"))
        yield from ("", "`r-grpo` minus `grpo`, paired by query, and of each seed:", "")
        yield cells(["after", "HR@1", "of each seed", "NDCG@10", "of each seed"])
        yield cells(["---"] * 5)
        for stage in in_time(own)[1:]:
            row = [f"`{stage}`"]
            for metric in ("HR@1", "NDCG@10"):
                each = zip(own[stage][metric], other[stage][metric], strict=True)
                difference = result["differences"][f"r-grpo.{stage} - grpo.{stage}"][metric]
                row += [interval(difference, "+"), ", ".join(f"{a - b:+.3f}" for a, b in each)]
            yield cells(row)


def loop(found: Found) -> Iterator[str]:
    """Each half-iteration of the loop with RL and of SFT alone."""
    yield from opening(found)
    rows = [
        ([f"`{arm}`", f"`{stage['name']}`", f"{stage['cpu_seconds']:.0f}"], stage["metrics"])
        for arm, facts in found["arms"].items()
        for stage in facts["stages"]
    ]
    yield from table(["loop", "stage", "CPU seconds since `sft0`"], rows, found.get("ceiling"))
    yield from compared(found["comparisons"])


def cold(found: Found) -> Iterator[str]:
    """HR@10 of the systems in each group of users."""
    labels = [label for label in ("cold", "medium", "warm") if label in found["groups"]]
    names = sorted(
        found["groups"][labels[-1]]["searchers"],
        key=lambda name: -found["groups"][labels[-1]]["searchers"][name]["HR@10"]["mean"],
    )
    seeds = len(found["seeds"])
    yield f"HR@10, {'one seed' if seeds == 1 else f'means over {seeds} seeds'}; below each label its queries."
    yield ""
    yield cells(["system", *(f"{label} ({found['groups'][label]['queries']:,})" for label in labels)])
    yield cells(["---"] * (1 + len(labels)))
    for name in names:
        yield cells([f"`{name}`", *(interval(found["groups"][g]["searchers"][name]["HR@10"]) for g in labels)])


def scale(found: Found) -> Iterator[str]:
    """Each size of the backbone."""
    yield from opening(found)
    rows = [
        ([f"{size} ({facts['parameters'] / 1e6:.2f} M)", f"`{name}`", f"{facts['tokens'][name]:,}"], metrics)
        for size, facts in sorted(found["sizes"].items(), key=lambda row: row[1]["parameters"])
        for name, metrics in facts["searchers"].items()
    ]
    yield from table(["backbone", "system", "trained tokens"], rows, found.get("ceiling"))
    yield from compared(found["comparisons"])


def controls(found: Found) -> Iterator[str]:
    """What each control should show, and what it showed."""
    yield from opening(found)
    yield cells(["control", "expected", "held", "NDCG@10, differences"])
    yield cells(["---"] * 4)
    for check in found["checks"]:
        pairs = [c for c in check["comparisons"] if c["metric"] == "NDCG@10"]
        said = "; ".join(f"{c['system']} - {c['other']} {interval(c['difference'], '+')}" for c in pairs)
        if "chance" in check:
            said += f"; HR@10 {interval(check['hit_rate'])}, chance {check['chance']:.3f}"
        yield cells([check["name"], check["expected"], "yes" if check["held"] else "**no**", said])


# -- parts ------------------------------------------------------------------------------------------------------------
def opening(found: Found) -> Iterator[str]:
    """What was measured."""
    seeds = len(found["seeds"])
    yield f"{found['test_queries']:,} test queries, {'one seed' if seeds == 1 else f'means over {seeds} seeds'}."
    yield ""


def table(
    keys: Sequence[str], rows: Sequence[tuple[list[str], Found]], ceiling: Mapping[str, float] | None = None
) -> Iterator[str]:
    """Rows with all metrics, the ceiling below them."""
    yield cells([*keys, *METRICS])
    yield cells(["---"] * (len(keys) + len(METRICS)))
    for own, metrics in rows:
        yield cells([*own, *means(metrics)])
    if ceiling:
        yield cells(["best possible (Bayes)", *[""] * (len(keys) - 1), *(f"{ceiling[m]:.3f}" for m in METRICS)])


def compared(comparisons: Sequence[Found]) -> Iterator[str]:
    """Paired differences in HR@1 and NDCG@10."""
    wanted = ("HR@1", "NDCG@10")
    pairs: dict[str, dict[str, str]] = {}
    for c in comparisons:
        pairs.setdefault(f"{c['system']} - {c['other']}", {})[c["metric"]] = interval(c["difference"], "+")
    yield ""
    yield cells(["paired difference", *wanted])
    yield cells(["---"] * (1 + len(wanted)))
    for name, differences in pairs.items():
        yield cells([name, *(differences[metric] for metric in wanted)])


def in_time(stages: Mapping[str, Any]) -> list[str]:
    """Stages in the order in which they are run; JSON keeps none.

    >>> in_time({"rl1": 0, "sft2": 0, "sft0": 0, "rl0": 0, "sft1": 0})
    ['sft0', 'rl0', 'sft1', 'rl1', 'sft2']
    """
    return sorted(stages, key=lambda stage: (int(stage.lstrip("sftrl")), stage.startswith("rl")))


EXPERIMENTS: Mapping[str, tuple[str, Callable[[Found], Iterator[str]]]] = {
    "rgrpo": ("loops.json", rgrpo),
    "loop": ("loop.json", loop),
    "cold": ("cold.json", cold),
    "scale": ("scale.json", scale),
    "controls": ("controls.json", controls),
}
"""Experiment and block -> its file, and what makes the block."""


def block(name: str, found: Found, command: str, folder: str) -> str:
    """The content of a block: the tables, and the commands that remake them."""
    made = ("", "Made by:", "", "```", command, f"python docs/make_experiments.py {name} {folder} '{command}'", "```")
    return "\n".join([*EXPERIMENTS[name][1](found), *made]) + "\n"


def main(arguments: Sequence[str]) -> int:
    """Fill one block of docs/results.md."""
    parser = argparse.ArgumentParser(description="Put the tables of an experiment into docs/results.md.")
    parser.add_argument("name", choices=EXPERIMENTS)
    parser.add_argument("folder", type=Path, help="folder of the experiment")
    parser.add_argument("command", help="that made it")
    given = parser.parse_args(arguments)
    folder = given.command.split("--out ")[-1].split()[0] if "--out " in given.command else str(given.folder)
    file = given.folder / EXPERIMENTS[given.name][0]
    if not file.is_file():
        print(f"{file}: no such file; run it first: {given.command}", file=sys.stderr)
        return 2
    found = json.loads(file.read_text(encoding="utf-8"))
    content = block(given.name, found, given.command, folder)
    PAGE.write_text(replace_block(PAGE.read_text(encoding="utf-8"), given.name, content), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
