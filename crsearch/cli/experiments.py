"""Experiments on the terminal: which arm is running, and at the end tables, differences and what they mean."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console

from crsearch.cli.progress import RunProgress, console, run_progress
from crsearch.cli.show import plain_table, print_metrics, shown, stdout
from crsearch.config import Settings

WIDE_PAIRS = 160
"""Columns that differences in all metrics take; a narrower terminal shows the last metric alone."""

PAPER_LOOP = "the paper: +39.02 % and +21.21 % on two data sets, figure 2"
PAPER_COLD = "the paper: CRS is best in every group, by 8.55 % where the history is shortest (figure 3, HR@10)"
PAPER_SCALE = "the paper, 0.6B, 1.7B and 4B: HR@10 .1690, .1716, .1766; NDCG@10 .1152, .1172, .1214 (table 4)"
PAPER_R_GRPO = "the paper: +1.2 to +2.7 % after each RL stage, one run, table 3"


@contextmanager
def arm_progress(name: str, settings: Settings) -> Iterator[RunProgress]:
    """Progress of an arm, under its name."""
    console.print(f"arm {name}", highlight=False, markup=False)
    with run_progress(settings) as progress:
        yield progress


def show_experiment(found: Mapping[str, Any], out: Console | None = None) -> None:
    """The result of any experiment but rgrpo."""
    SHOW[found["experiment"]](found, out or stdout())


def show_main(found: Mapping[str, Any], out: Console) -> None:
    """For each teacher all systems, then how ``crs`` differs from them."""
    for teacher, result in found["tables"].items():
        ordered = sorted(result["searchers"].items(), key=lambda row: -row[1]["NDCG@10"]["mean"])
        rows = [((name, _thousands(result["tokens"][name])), metrics) for name, metrics in ordered]
        title = f"systems, teacher {teacher}, {found['test_queries']:,} test queries, {_seeds(found)}"
        print_metrics(title, ("system", "tokens"), rows, _ceiling(found), out)
        for name, reason in result["not_run"].items():
            out.print(shown(f"{name}: not run: {reason}"))
        out.print()
        show_comparisons(result["comparisons"], out)
        best = ", ".join(f"{metric}: {name}" for metric, name in result["best_other"].items())
        out.print(shown(f"best other system by {best}"))
        if result["shared"]:
            out.print(shown(f"of the table above, as no thought is read: {', '.join(result['shared'])}"))
        out.print(shown(f"TREC files, below --out: {', '.join(f'{run}/eval' for run in result['runs'])}"), end="\n\n")


def show_loop(found: Mapping[str, Any], out: Console) -> None:
    """Every half-iteration of both loops, their last stages compared, and the paper's gain."""
    rows = [
        ((arm, stage["name"], f"{stage['cpu_seconds']:,.0f}"), stage["metrics"])
        for arm, facts in found["arms"].items()
        for stage in facts["stages"]
    ]
    title = f"loop, {found['test_queries']:,} test queries, {_seeds(found)}"
    print_metrics(title, ("loop", "stage", "CPU s"), rows, _ceiling(found), out)
    out.print()
    show_comparisons(found["comparisons"], out)
    out.print(f"sft-only after as many rounds: {found['equal_rounds']}; after as much CPU time: {found['equal_cpu']}")
    first, *_, last = (stage["metrics"]["NDCG@10"]["mean"] for stage in found["arms"]["rl+sft"]["stages"])
    out.print(f"NDCG@10 of rl+sft over its sft0: {_percent(last, first)} ({PAPER_LOOP})")


def show_cold(found: Mapping[str, Any], out: Console) -> None:
    """For each group of users all systems, then how ``crs`` differs from them."""
    for label, group in found["groups"].items():
        ordered = sorted(group["searchers"].items(), key=lambda row: -row[1]["HR@10"]["mean"])
        rows = [((name,), metrics) for name, metrics in ordered]
        print_metrics(f"{label} users, {group['queries']:,} queries, {_seeds(found)}", ("system",), rows, (), out)
        other = group["best_other"]["HR@10"]
        hits = {name: metrics["HR@10"]["mean"] for name, metrics in ordered}
        out.print(shown(f"HR@10 of crs over {other}: {_percent(hits['crs'], hits[other])}"), end="\n\n")
    show_comparisons(found["comparisons"], out)
    out.print(PAPER_COLD)


def show_scale(found: Mapping[str, Any], out: Console) -> None:
    """Every size with and without thought."""
    rows = [
        ((size, f"{facts['parameters'] / 1e6:.2f} M", name, _thousands(facts["tokens"][name])), metrics)
        for size, facts in found["sizes"].items()
        for name, metrics in facts["searchers"].items()
    ]
    title = f"backbones, {found['test_queries']:,} test queries, {_seeds(found)}"
    print_metrics(title, ("size", "parameters", "system", "tokens"), rows, _ceiling(found), out)
    out.print()
    show_comparisons(found["comparisons"], out)
    out.print(PAPER_SCALE)


def show_controls(found: Mapping[str, Any], out: Console) -> None:
    """All rows, then for each check what was expected, whether it held, and by what."""
    title = f"controls, {found['test_queries']:,} test queries, {_seeds(found)}"
    print_metrics(title, ("row",), [((name,), metrics) for name, metrics in found["rows"].items()], (), out)
    if not found["informative"]:
        out.print("context does not pay here, in the ordinary shop: what holds below says little at this budget")
    for check in found["checks"]:
        out.print()
        out.print(f"{check['name']}: {'held' if check['held'] else 'DID NOT HOLD'}: {check['expected']}", markup=False)
        if "chance" in check:
            hits = check["hit_rate"]
            out.print(
                shown(f"HR@10 {hits['mean']:.3f} [{hits['low']:.3f}, {hits['high']:.3f}], chance {check['chance']:.3f}")
            )
        show_comparisons(check["comparisons"], out)


def show_loops(found: Mapping[str, Any], out: Console | None = None) -> None:
    """Per start: every stage of every arm, then the paired differences of R-GRPO."""
    out = out or stdout()
    for start, result in found.items():
        rows = [
            ((arm, stage, f"{cpu_seconds(facts, stage):.0f}"), metrics)
            for arm, facts in result["arms"].items()
            for stage, metrics in facts["stages"].items()
        ]
        title = f"{start}, {result['queries']:,} test queries, {_seeds(result)}"
        print_metrics(title, ("loop", "stage", "CPU s"), rows, (), out)
        show_comparisons(result["comparisons"], out)
        own, other = (result["arms"][arm] for arm in ("r-grpo", "grpo"))
        after = [stage for stage in own["stages"] if stage != "sft0"]
        gains = (_percent(own["stages"][s]["HR@1"]["mean"], other["stages"][s]["HR@1"]["mean"]) for s in after)
        said = ", ".join(f"{gain} after {s}" for gain, s in zip(gains, after, strict=True))
        out.print(f"HR@1 of r-grpo over grpo: {said} ({PAPER_R_GRPO})")
        for s in after:
            each = zip(own["by_seed"][s]["HR@1"], other["by_seed"][s]["HR@1"], strict=True)
            differs = ", ".join(f"{a - b:+.3f}" for a, b in each)
            out.print(shown(f"HR@1 of r-grpo minus grpo after {s}, seed by seed: {differs}"))
        out.print()


def cpu_seconds(facts: Mapping[str, Any], stage: str) -> float:
    """Of a stage and of choosing its examples."""
    return sum((s for name, s in facts["cpu_seconds"].items() if name.split(".")[0] == stage), 0.0)


def show_comparisons(comparisons: Sequence[Mapping[str, Any]], out: Console) -> None:
    """Paired differences with 95 % intervals and p-values after Holm, a line for each pair."""
    metrics = list(dict.fromkeys(c["metric"] for c in comparisons))
    metrics = metrics if out.width >= WIDE_PAIRS else metrics[-1:]
    pairs: dict[tuple[str, str], dict[str, str]] = {}
    for c in comparisons:
        value = c["difference"]
        cell = f"{value['mean']:+.3f} [{value['low']:+.3f}, {value['high']:+.3f}] p {c['p_holm']:.4f}"
        pairs.setdefault((c["system"], c["other"]), {})[c["metric"]] = cell
    out.print(shown("paired differences [95 % interval], p of a permutation test after Holm"))
    table = plain_table()
    for column in ("difference", *metrics):
        table.add_column(column)
    for (one, other), cells in pairs.items():
        table.add_row(shown(f"{one} - {other}"), *(shown(cells[m]) for m in metrics))
    out.print(table)


def _seeds(found: Mapping[str, Any]) -> str:
    number = len(found["seeds"])
    return "one seed" if number == 1 else f"mean over {number} seeds"


def _thousands(tokens: int) -> str:
    return f"{tokens / 1e3:,.0f} k" if tokens else "-"


def _ceiling(found: Mapping[str, Any]) -> list[tuple[str, Mapping[str, float]]]:
    return [("Bayes optimum", found["ceiling"])] if "ceiling" in found else []


def _percent(value: float, over: float) -> str:
    return f"{100 * (value / over - 1):+.1f} %" if over else "not defined, it is 0"


SHOW: Mapping[str, Callable[[Mapping[str, Any], Console], None]] = {
    "main": show_main,
    "loop": show_loop,
    "cold": show_cold,
    "scale": show_scale,
    "controls": show_controls,
}
