"""Every system on the same test queries, and how ``crs`` differs from each."""

from collections.abc import Mapping
from typing import Any

from crsearch.evaluate.metrics import REPORTED
from crsearch.report import figures
from crsearch.report.found import Found
from crsearch.report.lineage import CONTROLS, READS, is_crs, trained_tokens
from crsearch.report.parts import NONE, Cell, Figure, Part, Prose, Section, Table
from crsearch.report.values import count, percent, plain, probability, signed, with_interval
from crsearch.report.verdict import RULE, Verdict

Rows = list[tuple[str, Mapping[str, Any]]]


def by_quality(found: Found) -> Rows:
    """Measured systems, best NDCG@10 first, equal ones by name."""
    rows = found.results.get("searchers", {}).items()
    return sorted(rows, key=lambda row: (-row[1]["NDCG@10"]["mean"], row[0]))


def best_rival(found: Found, metric: str = "NDCG@10") -> str | None:
    """The measured system with the best mean that is no variant of CRS, the first by name if equal."""
    rows = {name: row[metric]["mean"] for name, row in by_quality(found) if not is_crs(name)}
    return max(sorted(rows), key=lambda name: rows[name]) if rows else None


# -- all systems ------------------------------------------------------------------------------------------------------
def main_table(found: Found) -> Section:
    """Every system with its intervals, the ceiling, and the systems that could not run."""
    rows, ceiling = by_quality(found), found.results.get("ceiling") or {}
    cells = [
        (
            Cell(name), Cell(READS.get(name, "–")), *(with_interval(row[m]) for m in REPORTED),
            count(trained_tokens(found, name)),
        )
        for name, row in rows
    ]  # fmt: skip
    if ceiling:
        best = Cell("ceiling", "(Bayes optimum)")
        cells.append((best, Cell("context"), *(Cell(plain(ceiling[m])) for m in REPORTED), NONE))
    table = Table(
        caption=f"Means over {found.results['test_queries']:,} test queries with 95 % bootstrap intervals, best "
        "NDCG@10 first; crs is marked.",
        header=("system", "reads", *REPORTED, "trained tokens"),
        rows=cells,
        words=frozenset({0, 1}),
        marked=frozenset(i for i, (name, _) in enumerate(rows) if name == "crs"),
        notes=[(Cell(name), f"not run: {why}") for name, why in sorted(found.results.get("not_run", {}).items())],
    )
    parts: list[Part] = [Prose(_conditions(found)), table]
    if rows:
        parts.append(_intervals(rows, ceiling))
    return Section("systems", "All systems", parts)


def _conditions(found: Found) -> str:
    """Under what conditions the systems were compared, in a paragraph."""
    seeds = found.results.get("seeds", [found.settings.seed])
    said = [
        "All systems rank the whole catalogue for the same queries, one relevant item each.",
        "Items that the user chose before are left out of every list."
        if found.settings.evaluate.exclude_history
        else "Items that the user chose before may be listed, by every system.",
        f"Seeds of training: {', '.join(map(str, seeds))}.",
        "Reads: what of a search a system knows; context is query, time, place, profile and earlier searches.",
        "Trained tokens are those that passed through an update of the weights, up to the stage that is used; tokens "
        "that were only generated, to choose examples or in rollouts, are not in them." + _unequal_control(found),
    ]
    if found.results.get("ceiling"):
        said.append(
            "The ceiling ranks by the exact probabilities of the simulated shop: no system is above it in expectation."
        )
    return " ".join(said)


def _unequal_control(found: Found) -> str:
    """A sentence where ``crs-direct`` was not trained on about as many tokens as ``crs``."""
    own, control = trained_tokens(found, "crs"), trained_tokens(found, "crs-direct")
    if own is None or control is None or abs(control / own - 1) <= 0.05:
        return ""
    return (
        f" crs-direct was to see as many tokens as crs in all stages; here it saw {percent(control / own, 0)} of those "
        "of crs, since validation kept an earlier stage or steps are whole."
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


# -- significance -----------------------------------------------------------------------------------------------------
METRICS = ("NDCG@10", "HR@10")
"""Metrics in which ``crs`` is compared."""


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
        Prose(f"{RULE} The p-values are of a paired permutation test; each table is one family.{_best(found)}"),
    ]
    for metric, row in measured.items():
        said = verdicts(found, metric)
        ordered = sorted(row, key=lambda o: (row[o]["difference"]["mean"], o))
        rows = [
            (
                Cell(other), signed(said[other].difference), probability(row[other]["p"]),
                probability(row[other]["p_holm"]), Cell(said[other].word),
            )
            for other in ordered
        ]  # fmt: skip
        best = best_rival(found, metric)
        parts.append(
            Table(
                caption=f"{metric} of crs minus that of another system, on the same queries."
                + (" The best system that is no variant of CRS is marked." if best is not None else ""),
                header=("other system", "difference", "p", "p, Holm", "crs is"),
                rows=rows,
                words=frozenset({0, 4}),
                marked=frozenset(i for i, other in enumerate(ordered) if other == best),
            )
        )
    return Section("significance", "crs against the others", parts)


def _best(found: Found) -> str:
    """Sentences on the best rival in each metric."""
    said = []
    for metric in METRICS:
        best = best_rival(found, metric)
        verdict = verdicts(found, metric).get(best or "")
        if verdict is not None:
            said.append(f" Best other system by {metric}: {best}; crs is {verdict}.")
    return "".join(said)


def where_not(found: Found) -> list[str]:
    """One sentence for each control and metric in which ``crs`` is not above it: where thinking does not pay."""
    said = []
    for name in CONTROLS:
        for metric in METRICS:
            verdict = verdicts(found, metric).get(name)
            if verdict is not None and verdict.word != "above":
                said.append(f"In {metric} crs is {verdict.word} {name} ({signed(verdict.difference)}).")
    return said
