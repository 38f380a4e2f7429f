"""What the paper reports, beside what this run shows."""

from crsearch.evaluate.intervals import Interval
from crsearch.report import paper
from crsearch.report.found import Found
from crsearch.report.groups import HISTORY, group_labels
from crsearch.report.lineage import is_crs
from crsearch.report.parts import NONE, Cell, Prose, Section, Table
from crsearch.report.systems import best_rival, by_quality, verdicts
from crsearch.report.values import percent, plain, signed
from crsearch.report.verdict import Verdict


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
    return Section("claims", "Claims of the paper", [table, Prose(more), _order(found)])


def _order(found: Found) -> Table:
    """The systems of the paper's table 2 that this run measured, in the order of this run, beside the paper's."""
    measured = [(name, row["NDCG@10"]) for name, row in by_quality(found) if name in paper.NDCG_10]
    absent = [name for name in paper.NDCG_10 if name not in found.results.get("searchers", {})]
    rows = [
        (Cell(name), Cell(plain(row["mean"], 4)), *(_paper(name, dataset) for dataset in paper.DATASETS))
        for name, row in measured
    ]
    rows += [(Cell(name), NONE, *(_paper(name, dataset) for dataset in paper.DATASETS)) for name in absent]
    return Table(
        caption="NDCG@10 of the systems of the paper's table 2. The data sets are others, so only the order of systems "
        "can be compared. † contradicts the HR@5, HR@10 and NDCG@5 of its own row in the paper.",
        header=("system", "this run", *(f"paper, {name}" for name in paper.DATASETS)),
        rows=rows,
        marked=frozenset(i for i, row in enumerate(rows) if row[0].text == "crs"),
    )


def _paper(name: str, dataset: str) -> Cell:
    value = paper.NDCG_10[name][paper.DATASETS.index(dataset)]
    return Cell(plain(value, 4) + ("†" if (name, dataset) in paper.IMPOSSIBLE else ""))


_READINGS = {"above": "as in the paper", "below": "the opposite", "not distinguishable from": "not shown"}
_UNMEASURED = ("not measured", "–")


def _claim_best(found: Found) -> tuple[str, str, str, str]:
    claim = "CRS ranks above the best other system (table 2, NDCG@10)"
    gains = ", ".join(f"{_gain(g)} on {name}" for name, g in paper.best_other_gain().items())
    said, best = verdicts(found), best_rival(found)
    if best is None or best not in said:
        return claim, gains, *_UNMEASURED
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
        if label is not None and not is_crs(name) and label in groups.get("history", {})
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
