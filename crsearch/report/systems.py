"""Sections that compare systems on the same test users."""

from collections.abc import Mapping
from typing import Any

from crsearch.evaluate.intervals import Interval
from crsearch.evaluate.metrics import REPORTED
from crsearch.report import figures, paper
from crsearch.report.found import Found
from crsearch.report.parts import NONE, Cell, Figure, Part, Prose, Section, Table
from crsearch.report.values import count, percent, plain, probability, signed, with_interval
from crsearch.report.verdict import RULE, Verdict

CONTROLS = ("crs-direct", "crs-no-thought")
"""Systems made from the same training as ``crs``; the paper has no such rows."""

Rows = list[tuple[str, Mapping[str, Any]]]


def by_quality(found: Found) -> Rows:
    """Measured systems, best NDCG@10 first, equal ones by name."""
    rows = found.results.get("searchers", {}).items()
    return sorted(rows, key=lambda row: (-row[1]["NDCG@10"]["mean"], row[0]))


def main_table(found: Found) -> Section:
    """Every system with intervals, the ceiling, and where the paper has a number, that."""
    rows, ceiling = by_quality(found), found.results.get("ceiling") or {}
    cells = [
        (Cell(name), *(with_interval(row[m]) for m in REPORTED), count(trained_tokens(found, name)), _paper(name))
        for name, row in rows
    ]
    if ceiling:
        best = Cell("ceiling", "(Bayes optimum)")
        cells.append((best, *(Cell(plain(ceiling[m])) for m in REPORTED), NONE, NONE))
    table = Table(
        caption=f"Means over {found.results['test_queries']:,} test queries with 95 % bootstrap intervals. "
        f"The last column: NDCG@10 in table 2 of the paper on {', '.join(paper.DATASETS)}; those data are other data, "
        "so only the order of systems can be compared. "
        "† contradicts the HR@5, HR@10 and NDCG@5 of its own row in the paper.",
        header=("system", *REPORTED, "trained tokens", "paper, NDCG@10"),
        rows=cells,
        words=frozenset({0}),
        marked=frozenset(i for i, (name, _) in enumerate(rows) if name == "crs"),
    )
    parts: list[Part] = [table]
    if rows:
        parts.append(_intervals(rows, ceiling))
    parts.append(
        Prose(
            "Trained tokens are those that passed through an update of the weights, up to the stage that is used; "
            "tokens that were only generated, to choose examples or in rollouts, are not in them."
            + _unequal_control(found)
        )
    )
    if ceiling:
        parts.append(
            Prose(
                "The ceiling ranks by the exact probabilities of the simulated shop: no system is above it in "
                "expectation."
            )
        )
    return Section("systems", "All systems", parts)


def _unequal_control(found: Found) -> str:
    """A sentence where ``crs-direct`` was not trained on about as many tokens as ``crs``."""
    own, control = trained_tokens(found, "crs"), trained_tokens(found, "crs-direct")
    if own is None or control is None or abs(control / own - 1) <= 0.05:
        return ""
    return (
        f" crs-direct was to see as many tokens as crs in all stages; here it saw {percent(control / own, 0)} of those "
        "of crs, since an earlier stage was kept or steps are whole."
    )


def _intervals(rows: Rows, ceiling: Mapping[str, float]) -> Figure:
    values = [(name, row["NDCG@10"]) for name, row in rows]
    level = ceiling.get("NDCG@10")
    drawing = figures.intervals("systems", "NDCG@10 of every system with its interval", values, level)
    return Figure(
        caption="NDCG@10 and its 95 % interval; values are in the table above.",
        panels=[("NDCG@10", drawing)],
        legend=[("ceiling", figures.CEILING)] if level is not None else (),
    )


def trained_tokens(found: Found, system: str) -> float | None:
    """Tokens of updates behind a system; none where nothing was trained or nothing is known."""
    stages = found.stages
    names = [s["name"] for s in stages]
    final = found.results.get("final_stage")
    if system in ("crs", "crs-no-thought", "crs-fused") and final in names:
        return sum(float(s["tokens"]) for s in stages[: names.index(final) + 1])
    direct = [found.stage_numbers(stage).get("tokens_sum", 0.0) for stage in ("direct0", "direct")]
    if system == "crs-direct" and any(direct):
        return sum(map(float, direct)) + sum(float(s["tokens"]) for s in stages if s["name"] == "align")
    return None


def _paper(name: str) -> Cell:
    if name not in paper.NDCG_10:
        return NONE
    return Cell(
        " / ".join(
            f"{value:.4f}".removeprefix("0") + ("†" if (name, dataset) in paper.IMPOSSIBLE else "")
            for dataset, value in zip(paper.DATASETS, paper.NDCG_10[name], strict=True)
        )
    )


# -- significance -----------------------------------------------------------------------------------------------------
def verdicts(found: Found, metric: str = "NDCG@10") -> dict[str, Verdict]:
    """What may be said of ``crs`` against each other system."""
    rows = found.results.get("significance", {}).get(metric, {})
    return {name: Verdict(row["difference"], row["p_holm"]) for name, row in rows.items()}


def significance(found: Found) -> Section:
    """``crs`` against each other system: difference, interval, corrected p."""
    measured = found.results.get("significance")
    if not measured:
        text = "The run did not measure crs together with another system, so there is nothing to compare."
        return Section("significance", "crs against the others", [Prose(text)])
    parts: list[Part] = [
        Prose(f"{RULE} The p-values are of a paired permutation test; each table is one family."),
    ]
    for metric, row in measured.items():
        said = verdicts(found, metric)
        rows = [
            (
                Cell(other), signed(said[other].difference), probability(row[other]["p"]),
                probability(row[other]["p_holm"]), Cell(said[other].word),
            )
            for other in sorted(row, key=lambda o: (row[o]["difference"]["mean"], o))
        ]  # fmt: skip
        parts.append(
            Table(
                caption=f"{metric} of crs minus that of another system, on the same queries.",
                header=("other system", "difference", "p", "p, Holm", "crs is"),
                rows=rows,
                words=frozenset({0, 4}),
            )
        )
    return Section("significance", "crs against the others", parts)


# -- claims of the paper ----------------------------------------------------------------------------------------------
def claims(found: Found) -> Section:
    """Claims of the paper that one run can look at, with the paper's number and this run's."""
    rows = [_claim_best(found), _claim_loop(found), _claim_little_history(found)]
    table = Table(
        caption="Claims of the paper beside this run. The paper's gains are relative; ours are absolute differences "
        "with intervals, then relative ones.",
        header=("claim", "paper", "this run", "reading"),
        rows=[tuple(Cell(text) for text in row) for row in rows],
        words=frozenset({0, 1, 2, 3}),
    )
    more = (
        "R-GRPO against GRPO (its table 3) and the size of the model (its table 4) need several runs, "
        "so one run says nothing of them."
    )
    return Section("claims", "Claims of the paper", [table, Prose(more)])


_READINGS = {"above": "as in the paper", "below": "the opposite", "not distinguishable from": "not shown"}
_UNMEASURED = ("not measured", "–")


def _claim_best(found: Found) -> tuple[str, str, str, str]:
    claim = "CRS ranks above the best other system (table 2, NDCG@10)"
    gains = ", ".join(f"{_gain(g)} on {name}" for name, g in paper.best_other_gain().items())
    said = {name: v for name, v in verdicts(found).items() if name not in CONTROLS}
    if not said:
        return claim, gains, *_UNMEASURED
    best = min(said, key=lambda name: (said[name].difference["mean"], name))
    base = found.results["searchers"][best]["NDCG@10"]["mean"]
    return claim, gains, _against(best, said[best], base), _reading_of_field(found, said[best])


def _claim_loop(found: Found) -> tuple[str, str, str, str]:
    claim = "the loop raises NDCG@10 from sft0 to its end (figure 2)"
    gains = ", ".join(f"{_gain(g)} on {name}" for name, g in paper.LOOP_GAIN.items())
    change = loop_change(found)
    if change is None:
        return claim, gains, *_UNMEASURED
    last = found.thinking[-1]["name"]
    base = found.thinking[0]["metrics"]["NDCG@10"]["mean"]
    said = Verdict(change)
    return claim, gains, f"{last}: {_against('sft0', said, base)}", _READINGS[said.word]


def loop_change(found: Found) -> Interval | None:
    """NDCG@10 of the last stage minus that of sft0."""
    names = [s["name"] for s in found.thinking]
    if len(names) < 2 or names[0] != "sft0":
        return None
    return found.difference(f"stage.{names[-1]}", "stage.sft0", "NDCG@10")


def _claim_little_history(found: Found) -> tuple[str, str, str, str]:
    claim = "users with the least history gain too, against the best other system (figure 3, HR@10)"
    gain = _gain(paper.FEWEST_HISTORY_GAIN)
    label = next((name for name in HISTORY if name in group_labels(found, "history")), None)
    rows = {
        name: groups["history"][label]["HR@10"]["mean"]
        for name, groups in found.results.get("groups", {}).items()
        if label is not None and name != "crs" and name not in CONTROLS and label in groups.get("history", {})
    }
    if not rows or label is None:
        return claim, gain, *_UNMEASURED
    best = max(sorted(rows), key=lambda name: rows[name])
    difference = found.difference("crs", best, "HR@10", ("history", label))
    if difference is None:
        return claim, gain, *_UNMEASURED
    said = Verdict(difference)
    queries = found.results["groups"][best]["history"][label]["queries"]
    what = f"{label} users, {queries} queries: {_against(best, said, rows[best])}"
    return claim, gain, what, _reading_of_field(found, said)


def _reading_of_field(found: Found, said: Verdict) -> str:
    """The reading of a claim on all other systems, which says which of the paper's were not there to beat."""
    absent = [name for name in paper.NDCG_10 if name not in found.results["searchers"]]
    if said.word != "above" or not absent:
        return _READINGS[said.word]
    return f"holds for the systems measured; not measured: {', '.join(absent)}"


def _gain(gain: float) -> str:
    return f"+{percent(gain)}"


def _against(other: str, said: Verdict, base: float) -> str:
    relative = f", relative {100 * said.difference['mean'] / base:+.1f} %" if base > 0 else ""
    return f"{signed(said.difference)} against {other}{relative}"


# -- groups -----------------------------------------------------------------------------------------------------------
HISTORY = ("cold", "medium", "warm")

_COLUMNS = {
    "history": "length of the history (cold: none, medium: 1 to 5 searches, warm: 6 or more)",
    "target": "how often the target was chosen in training (head: the items that together hold half of all choices)",
    "query_kind": "what the query says (full, bare: a word for several categories, brand: a brand only)",
}
_ORDER = {label: i for i, label in enumerate((*HISTORY, "head", "tail", "full", "bare", "brand"))}


def group_labels(found: Found, column: str) -> list[str]:
    """Labels of a grouping of the test queries in their natural order."""
    labels = {
        label for groups in found.results.get("groups", {}).values() for label in groups.get(column, {})
    }  # fmt: skip
    return sorted(labels, key=lambda label: (_ORDER.get(label, len(_ORDER)), label))


def groups(found: Found) -> Section:
    """HR@10 by kind of user, target and query: a table and a drawing for each grouping."""
    measured: Mapping[str, Any] = found.results.get("groups", {})
    columns = sorted({c for g in measured.values() for c in g}, key=lambda c: (list(_COLUMNS).index(c)
                     if c in _COLUMNS else len(_COLUMNS), c))  # fmt: skip
    if not columns:
        return Section("groups", "Groups of queries", [Prose("The run holds no groups of test queries.")])
    names = [name for name, _ in by_quality(found) if name in measured]
    look = figures.looks(names)
    panels, tables = [], []
    for column in columns:
        labels = group_labels(found, column)
        values = {name: [measured[name].get(column, {}).get(label) for label in labels] for name in names}
        sizes = [max(v[i]["queries"] for v in values.values() if v[i]) for i in range(len(labels))]
        series = [(look[name], [_metric(v, "HR@10") for v in values[name]]) for name in names]
        panels.append(
            (column.replace("_", " "), figures.groups(f"group-{column}", f"HR@10 by {column}", labels, series))
        )
        tables.append(
            Table(
                caption=f"HR@10 by {_COLUMNS.get(column, column)}.",
                header=("system", *(f"{label} ({size:,})" for label, size in zip(labels, sizes, strict=True))),
                rows=[
                    (Cell(name), *(NONE if v is None else with_interval(v["HR@10"]) for v in values[name]))
                    for name in names
                ],
                marked=frozenset(i for i, name in enumerate(names) if name == "crs"),
            )
        )
    drawn = Figure(
        caption="HR@10 by group with 95 % intervals, as in figure 3 of the paper (whose groups have other limits).",
        panels=panels,
        legend=[(name, look[name]) for name in names],
    )
    return Section("groups", "Groups of queries", [drawn, *tables])


def _metric(row: Mapping[str, Any] | None, metric: str) -> Interval | None:
    return None if row is None else row[metric]


# -- does the thought pay? --------------------------------------------------------------------------------------------
def thought_pays(found: Found) -> Section:
    """``crs`` against the same model without thoughts, by kind of query."""
    title = "Does the thought pay?"
    rest = [name for name in CONTROLS if name in found.results.get("searchers", {})]
    if "crs" not in found.results.get("searchers", {}) or not rest:
        return Section("thought", title, [Prose("The run did not measure crs together with one of its controls.")])
    column = "query_kind" if group_labels(found, "query_kind") else "history"
    rows = []
    for label in [None, *group_labels(found, column)]:
        values = [_of_group(found, name, column, label) for name in ("crs", *rest)]
        group = None if label is None else (column, label)
        changes = [found.difference("crs", name, "NDCG@10", group) for name in rest]
        queries = found.results["test_queries"] if label is None else values[0]["queries"]
        rows.append(
            (
                Cell(label or "all"), count(queries), *(with_interval(v["NDCG@10"]) for v in values),
                *(NONE if change is None else signed(change) for change in changes),
            )
        )  # fmt: skip
    table = Table(
        caption=f"NDCG@10 by {_COLUMNS[column]}; differences are paired, with 95 % intervals, each on its own.",
        header=("queries", "number", "crs", *rest, *(f"crs - {name}" for name in rest)),
        rows=rows,
        marked=frozenset({0}),
    )
    text = (
        "crs-direct was trained without thoughts, crs-no-thought is the model of crs asked to answer at once. "
        "The first asks whether the training spent on thoughts would be better spent on direct answers; "
        "the second asks what the trained model loses when it may not think."
    )
    return Section("thought", title, [Prose(text), table])


def _of_group(found: Found, system: str, column: str, label: str | None) -> Mapping[str, Any]:
    if label is None:
        return dict(found.results["searchers"][system])
    return dict(found.results["groups"][system][column][label])
