"""The report of experiments: the paper's tables and figures over many runs, from the files that they leave."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from crsearch.evaluate.metrics import REPORTED
from crsearch.report import about, figures, paper
from crsearch.report.figures import Stop
from crsearch.report.found import read_json
from crsearch.report.groups import DRAWN, HISTORY
from crsearch.report.lineage import CONTROLS, READS, is_crs
from crsearch.report.parts import NONE, Cell, Figure, Page, Part, Prose, Section, Table
from crsearch.report.training import look_of
from crsearch.report.values import count, percent, plain, probability, signed, with_interval
from crsearch.report.verdict import RULE, Verdict
from crsearch.runs import Json

Metrics = Mapping[str, Any]
"""Metric -> mean and interval."""

Keyed = tuple[Sequence[Cell], Metrics]
"""First cells of a row, and its metrics."""


def read(folder: Path) -> dict[str, Json]:
    """The results of experiments in a folder by name; empty for a run directory and for any other folder.

    Raises:
        RunError: a file cannot be read.
    """
    if (folder / "manifest.json").exists():
        return {}
    files = {name: folder / f"{name}.json" for name in SECTIONS}
    return {name: read_json(file) for name, file in files.items() if file.is_file()}


def page_of(folder: Path, results: Mapping[str, Json]) -> Page:
    """The content of the report, at least one experiment."""
    sections = [section for name, found in results.items() for section in SECTIONS[name](found)]
    return Page(
        title=f"crsearch experiments: {folder.resolve().name}",
        summary=" ".join(_conditions(name, found) for name, found in results.items())
        + " Intervals are over test queries, each of which counts with its mean over the seeds.",
        sections=sections,
    )


def _conditions(name: str, found: Json) -> str:
    if "seeds" not in found:
        return f"{name}: from {len(found)} {'start' if len(found) == 1 else 'starts'}."
    seeds = len(found["seeds"])
    said = "one seed, so nothing is known of the spread between training runs" if seeds == 1 else f"{seeds} seeds"
    preset = f"preset {found['preset']}, " if "preset" in found else ""
    queries = f", {found['test_queries']:,} test queries" if "test_queries" in found else ""
    return f"{name}: {preset}{said}{queries}."


# -- parts ------------------------------------------------------------------------------------------------------------
def _metrics_table(
    caption: str, keys: Sequence[str], rows: Sequence[Keyed], ceiling: Mapping[str, float] | None, **more: Any
) -> Table:
    """Rows with all metrics; the ceiling below them."""
    cells = [(*own, *(with_interval(metrics[m]) for m in REPORTED)) for own, metrics in rows]
    if ceiling:
        blank = [Cell("")] * (len(keys) - 1)
        cells.append((Cell("ceiling", "(Bayes optimum)"), *blank, *(Cell(plain(ceiling[m])) for m in REPORTED)))
    return Table(caption=caption, header=(*keys, *REPORTED), rows=cells, **more)


def _comparisons(comparisons: Sequence[Mapping[str, Any]]) -> Iterator[Table]:
    """A table of paired differences for each metric."""
    for metric in dict.fromkeys(c["metric"] for c in comparisons):
        verdicts = [
            (f"{c['system']} against {c['other']}", Verdict(c["difference"], c["p_holm"]))
            for c in comparisons
            if c["metric"] == metric
        ]
        yield Table(
            caption=f"{metric}: paired differences with 95 % intervals; all rows are one family for Holm's correction.",
            header=("comparison", "difference", "p, Holm", "the first is"),
            rows=[(Cell(name), signed(v.difference), _p(v), Cell(v.word)) for name, v in verdicts],
            words=frozenset({0, 3}),
            folded=metric != "NDCG@10",
        )


def _p(said: Verdict) -> Cell:
    return NONE if said.p_holm is None else probability(said.p_holm)


def _ordered(searchers: Mapping[str, Metrics], metric: str = "NDCG@10") -> list[tuple[str, Metrics]]:
    return sorted(searchers.items(), key=lambda row: (-row[1][metric]["mean"], row[0]))


def _relative(value: float, base: float) -> str:
    return f"{100 * (value / base - 1):+.1f} %" if base else "not defined, as the other is 0"


# -- experiments ------------------------------------------------------------------------------------------------------
def main(found: Json) -> list[Section]:
    """Table 2: all systems, for each teacher; data statistics before."""
    data = [Section("data", "Data", [about.statistics(found["data"])])] if "data" in found else []
    return [*data, *(_systems(teacher, table, found) for teacher, table in found["tables"].items())]


def _systems(teacher: str, table: Json, found: Json) -> Section:
    ordered = _ordered(table["searchers"])
    rows = [
        ((Cell(name), Cell(READS.get(name, "–")), count(table["tokens"].get(name) or None)), metrics)
        for name, metrics in ordered
    ]
    ceiling = found.get("ceiling")
    systems = _metrics_table(
        f"All systems, teacher {teacher}; best NDCG@10 first.", ("system", "reads", "trained tokens"), rows, ceiling,
        words=frozenset({0, 1}), marked=frozenset(i for i, (name, _) in enumerate(ordered) if name == "crs"),
        notes=[(Cell(name), f"not run: {why}") for name, why in sorted(table["not_run"].items())],
    )  # fmt: skip
    level = (ceiling or {}).get("NDCG@10")
    drawing = figures.intervals(
        f"main-{teacher}", f"NDCG@10, teacher {teacher}", [(n, m["NDCG@10"]) for n, m in ordered], level
    )
    drawn = Figure(
        caption="NDCG@10 and its 95 % interval; values are in the table above.",
        panels=[("NDCG@10", drawing)],
        legend=[("ceiling", figures.CEILING)] if level is not None else (),
    )
    seeds = _seeds(table, [name for name, _ in ordered])
    parts: list[Part] = [
        Prose(_standing(table)), systems, drawn, *seeds, Prose(RULE), *_comparisons(table["comparisons"]),
    ]  # fmt: skip
    return Section(f"main-{teacher}", f"All systems, teacher {teacher}", parts)


def _seeds(table: Json, names: Sequence[str], metric: str = "NDCG@10") -> list[Table]:
    """Trained systems with the mean of each training seed; none for one seed."""
    own = table.get("by_seed", {}).get("crs", {}).get(metric, ())
    if len(own) < 2:
        return []
    rows = []
    for name in (n for n in names if table["tokens"].get(n)):
        values = table["by_seed"][name][metric]
        differs = ", ".join(f"{a - b:+.3f}" for a, b in zip(own, values, strict=True))
        spread = plain(max(values) - min(values))
        rows.append(
            (Cell(name), *(Cell(plain(v)) for v in values), Cell(spread), Cell(differs) if name != "crs" else NONE)
        )
    caption = f"{metric} of each training seed: the intervals above are over queries and know nothing of this spread."
    header = ("system", *(f"seed {n}" for n in range(len(own))), "largest minus smallest", "crs minus it, by seed")
    return [Table(caption=caption, header=header, rows=rows, words=frozenset({0}))]


def _standing(table: Json) -> str:
    """How ``crs`` stands to the best other system and to its controls, where thinking does not pay included."""
    said = []
    for metric in ("NDCG@10", "HR@10"):
        others = {"best other system": table["best_other"][metric], **{f"control {name}": name for name in CONTROLS}}
        for what, other in others.items():
            for c in table["comparisons"]:
                if (c["system"], c["other"], c["metric"]) == ("crs", other, metric):
                    label = f"the {what}" if other in what else f"the {what}, {other}"
                    said.append(f"In {metric} crs is {Verdict(c['difference'], c['p_holm']).word} {label}.")
    shared = table.get("shared") or []
    if shared:
        said.append(f"Rows of the first table, as no thought is read: {', '.join(shared)}.")
    return " ".join(said)


def loop(found: Json) -> list[Section]:
    """Figure 2: a metric after each half-iteration, of the loop with RL and of SFT alone."""
    panels, rows = [], []
    for arm, facts in found["arms"].items():
        for metric in ("HR@10", "NDCG@10"):
            stops = [Stop(s["name"], look_of(s["name"]), True, s["metrics"][metric]) for s in facts["stages"]]
            name = f"loop-{arm}-{metric}".replace("@", "").replace("+", "-")
            panels.append((f"{arm}, {metric}", figures.path(name, f"{metric} after each stage of {arm}", stops, [])))
        rows += [
            ((Cell(arm), Cell(s["name"]), Cell(plain(s["cpu_seconds"], 0))), s["metrics"]) for s in facts["stages"]
        ]
    first, last = (found["arms"]["rl+sft"]["stages"][i]["metrics"]["NDCG@10"]["mean"] for i in (0, -1))
    gains = ", ".join(f"+{percent(gain)} on {name}" for name, gain in paper.LOOP_GAIN.items())
    text = (
        f"NDCG@10 from sft0 to the end of rl+sft: {_relative(last, first)} (paper: {gains}). sft-only is SFT alone; it "
        f"is compared after as many rounds ({found['equal_rounds']}) and after as much CPU time ({found['equal_cpu']})."
    )
    table = _metrics_table(
        "Every stage. CPU seconds: all since sft0.", ("loop", "stage", "CPU seconds"), rows, found.get("ceiling"),
        words=frozenset({0, 1}),
    )  # fmt: skip
    drawn = Figure(
        caption="After each half-iteration, as in figure 2 of the paper, with 95 % intervals.",
        panels=panels,
        legend=[("SFT", look_of("sft")), ("RL", look_of("rl"))],
    )
    return [Section("loop", "The loop", [Prose(text), drawn, table, *_comparisons(found["comparisons"])])]


def loops(found: Json) -> list[Section]:
    """Table 3: R-GRPO and GRPO from each start."""
    sections = []
    for place, (start, result) in enumerate(found.items(), 1):
        rows = [
            ((Cell(arm), Cell(stage)), metrics)
            for arm, facts in result["arms"].items()
            for stage, metrics in sorted(facts["stages"].items(), key=lambda row: _when(row[0]))
        ]
        own, other = (result["arms"][arm]["stages"] for arm in ("r-grpo", "grpo"))
        after = sorted((s for s in own if s != "sft0"), key=_when)
        gains = ", ".join(f"{_relative(own[s]['HR@1']['mean'], other[s]['HR@1']['mean'])} after {s}" for s in after)
        least, most = (percent(gain) for gain in paper.R_GRPO_GAIN)
        text = (
            f"HR@1 of r-grpo over grpo: {gains} (paper: +{least} to +{most} after each RL stage, one run). Both have "
            "the same rollout budget."
        )
        table = _metrics_table(
            f"Every stage on {result['queries']:,} test queries.", ("loop", "stage"), rows, None,
            words=frozenset({0, 1}),
        )  # fmt: skip
        parts: list[Part] = [Prose(text), table, _by_seed(result, after), *_comparisons(result["comparisons"])]
        sections.append(Section(f"loops-{place}", f"R-GRPO against GRPO, from {start}", parts))
    return sections


def _by_seed(result: Json, stages: Sequence[str]) -> Table:
    """R-GRPO minus GRPO in each seed of the loop."""
    own, other = (result["arms"][arm]["by_seed"] for arm in ("r-grpo", "grpo"))
    rows = [
        (
            Cell(stage),
            Cell(metric),
            *(Cell(f"{a - b:+.3f}") for a, b in zip(own[stage][metric], other[stage][metric], strict=True)),
        )
        for stage in stages
        for metric in own[stage]
    ]
    return Table(
        caption="r-grpo minus grpo in each seed of the loop; the intervals are over queries and know nothing of it.",
        header=("after", "metric", *(f"seed {n}" for n in result["seeds"])),
        rows=rows,
        words=frozenset({0, 1}),
    )


def _when(stage: str) -> tuple[int, bool]:
    """Sorts stages by time: sft0, rl0, sft1, rl1; a JSON file keeps no order.

    >>> sorted(["rl0", "sft10", "sft0", "sft2"], key=_when)
    ['sft0', 'rl0', 'sft2', 'sft10']
    """
    return int(stage.lstrip("sftrl")), stage.startswith("rl")


def cold(found: Json) -> list[Section]:
    """Figure 3: all systems by length of the history."""
    labels = [label for label in HISTORY if label in found["groups"]]
    names = [name for name, _ in _ordered(found["groups"][labels[-1]]["searchers"], "HR@10")]
    own = [name for name in ("crs", *CONTROLS) if name in names]
    names = [*own, *(name for name in names if not is_crs(name))][:DRAWN]
    look = figures.looks(names)
    series = [(look[n], [found["groups"][label]["searchers"][n]["HR@10"] for label in labels]) for n in names]
    drawn = Figure(
        caption="HR@10 by length of the history (cold: none, medium: 1 to 5 searches, warm: 6 or more), as in figure 3 "
        "of the paper, with 95 % intervals.",
        panels=[("HR@10", figures.groups("cold", "HR@10 by length of the history", labels, series))],
        legend=[(name, look[name]) for name in names],
    )
    tables = []
    for label in labels:
        group = found["groups"][label]
        hits, best = group["searchers"], group["best_other"]["HR@10"]
        gain = _relative(hits["crs"]["HR@10"]["mean"], hits[best]["HR@10"]["mean"])
        tables.append(
            _metrics_table(
                f"{label} users, {group['queries']:,} queries. HR@10 of crs over {best}, the best other: {gain}.",
                ("system",), [((Cell(name),), metrics) for name, metrics in _ordered(hits, "HR@10")], None,
            )
        )  # fmt: skip
    text = f"Paper: crs gains +{percent(paper.FEWEST_HISTORY_GAIN)} in HR@10 where the history is shortest."
    return [Section("cold", "By history", [Prose(text), drawn, *tables, *_comparisons(found["comparisons"])])]


def scale(found: Json) -> list[Section]:
    """Table 4: sizes of the backbone, with and without thought."""
    rows = [
        ((Cell(size), Cell(name), count(facts["parameters"]), count(facts["tokens"].get(name) or None)), metrics)
        for size, facts in sorted(found["sizes"].items(), key=lambda size: size[1]["parameters"])
        for name, metrics in facts["searchers"].items()
    ]
    reported = "; ".join(f"{size}: HR@10 {hr:.4f}, NDCG@10 {ndcg:.4f}" for size, (hr, ndcg) in paper.SCALE.items())
    table = _metrics_table(
        "Every size.", ("size", "system", "parameters", "trained tokens"), rows, found.get("ceiling"),
        words=frozenset({0, 1}),
    )  # fmt: skip
    parts: list[Part] = [Prose(f"Paper (table 4): {reported}."), table, *_comparisons(found["comparisons"])]
    return [Section("scale", "Size of the backbone", parts)]


def controls(found: Json) -> list[Section]:
    """Negative controls: what was expected, and whether it held."""
    checks = found["checks"]
    doubt = (
        []
        if found.get("informative", checks[0]["held"])
        else [Prose("Context does not pay here in the ordinary shop, so what holds below says little.")]
    )
    table = Table(
        caption="What each control should show, and whether it did.",
        header=("control", "expected", "held"),
        rows=[(Cell(c["name"]), Cell(c["expected"] + _chance(c)), Cell("yes" if c["held"] else "NO")) for c in checks],
        words=frozenset({0, 1, 2}),
    )
    rows = [((Cell(name),), metrics) for name, metrics in found["rows"].items()]
    parts: list[Part] = [*doubt, table, _metrics_table("All rows.", ("row",), rows, None)]
    for check in checks:
        parts += [Prose(f"{check['name']}: {check['expected']}."), *_comparisons(check["comparisons"])]
    return [Section("controls", "Negative controls", parts)]


def _chance(check: Json) -> str:
    return f" (HR@10 {with_interval(check['hit_rate'])}, chance {plain(check['chance'])})" if "chance" in check else ""


SECTIONS: Mapping[str, Callable[[Json], list[Section]]] = {
    "main": main,
    "loop": loop,
    "loops": loops,
    "cold": cold,
    "scale": scale,
    "controls": controls,
}
"""Name of the file of an experiment -> its sections."""
