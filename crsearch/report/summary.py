"""One paragraph in plain words that is true whatever came out."""

from collections.abc import Mapping, Sequence

from crsearch.evaluate.intervals import Interval
from crsearch.report.claims import loop_change
from crsearch.report.found import Found
from crsearch.report.lineage import CONTROLS, is_crs
from crsearch.report.systems import METRICS, by_quality, verdicts
from crsearch.report.values import brackets, percent, plain, signed
from crsearch.report.verdict import Verdict

_WHAT = {
    "crs-direct": "crs-direct, the control trained without thoughts",
    "crs-no-thought": "crs-no-thought, the same model asked to answer at once",
}


def summary(found: Found) -> str:
    """What the run shows and what it does not, in one paragraph."""
    sentences = [_level(found), *_controls(found), *_others(found), *_ceiling(found), *_loop(found), *_care(found)]
    return " ".join(sentences)


def _level(found: Found) -> str:
    """How good ``crs`` is, or which system is best where it was not measured."""
    queries = f"On {found.results['test_queries']:,} test queries"
    rows = by_quality(found)
    if not rows:
        return f"{queries} no system was measured."
    measured = dict(rows)
    name = "crs" if "crs" in measured else rows[0][0]
    row = measured[name]
    stage = found.results.get("final_stage")
    which = f"crs (thinks, then ranks; stage {stage})" if name == "crs" else f"{name}, the best system measured,"
    return (
        f"{queries} {which} has the chosen item first for {percent(row['HR@1']['mean'])} and among ten for "
        f"{percent(row['HR@10']['mean'])} of them; its NDCG@10 is {plain(row['NDCG@10']['mean'])} "
        f"{brackets(row['NDCG@10'])}."
    )


def _controls(found: Found) -> list[str]:
    """How ``crs`` stands to its controls: in NDCG@10, and in another metric that says something else."""
    out = []
    for name in CONTROLS:
        said = {metric: verdicts(found, metric)[name] for metric in METRICS if name in verdicts(found, metric)}
        out += [
            _stands("crs", _WHAT[name] if metric == METRICS[0] else name, verdict, metric)
            for metric, verdict in said.items()
            if metric == METRICS[0] or METRICS[0] not in said or verdict.word != said[METRICS[0]].word
        ]
    return out


def _stands(system: str, other: str, said: Verdict, metric: str = "NDCG@10") -> str:
    """A comparison as a sentence."""
    if said.word == "not distinguishable from":
        return f"In {metric} {system} is not distinguishable from {other} (difference {signed(said.difference)})."
    size = _without_sign(said.difference)
    return f"In {metric} {system} is {said.word} {other}, by {plain(size['mean'])} {brackets(size)}."


def _without_sign(difference: Interval) -> Interval:
    """The size of a difference whose interval leaves out 0."""
    if difference["mean"] > 0:
        return difference
    return Interval(mean=-difference["mean"], low=-difference["high"], high=-difference["low"])


def _others(found: Found) -> list[str]:
    """How ``crs`` stands to all other systems, its own variants apart."""
    said = {name: v for name, v in verdicts(found).items() if name not in CONTROLS}
    rivals = {name: v for name, v in said.items() if not is_crs(name)}
    variants = {name: v for name, v in said.items() if is_crs(name)}
    out = [f"Against the other systems: {text}." for text in [_by_word(rivals)] if text]
    if variants:
        out.append(f"Against its own variants: {_by_word(variants)}.")
    lacking = sorted(found.results.get("not_run", {}))
    if lacking:
        out.append(f"Not run: {_names(lacking)}; the table says what they need.")
    return out


def _by_word(said: Mapping[str, Verdict]) -> str:
    by_word = {w: [name for name in sorted(said) if said[name].word == w] for w in _PHRASES}
    return "; ".join(f"{_PHRASES[word]} {_names(names)}" for word, names in by_word.items() if names)


_PHRASES = {
    "above": "crs is above",
    "below": "crs is below",
    "not distinguishable from": "crs is not distinguishable from",
}


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _ceiling(found: Found) -> list[str]:
    ceiling = (found.results.get("ceiling") or {}).get("NDCG@10")
    if ceiling is None:
        return []
    return [f"The best that any system can expect on this simulated shop is an NDCG@10 of {plain(ceiling)}."]


def _loop(found: Found) -> list[str]:
    change = loop_change(found)
    if change is None:
        return []
    said, last = Verdict(change), found.thinking[-1]["name"]
    return [_stands(f"the last stage of the loop ({last})", "its start (sft0)", said)]


def _care(found: Found) -> list[str]:
    out = []
    invalid = found.results.get("invalid_items", 0)
    if invalid:
        out.append(f"{invalid:,} listed items were repeated or not in the catalogue.")
    seeds = len(found.results.get("seeds", [0]))
    if seeds == 1:
        out.append(
            "There is one seed: the intervals are over test queries and say nothing of the spread between "
            "training runs."
        )
    else:
        out.append(f"Means are over {seeds} seeds; the intervals are over test queries.")
    return out
