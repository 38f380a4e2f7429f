"""What each system reads, and which training stages stand behind it."""

from collections.abc import Mapping, Sequence

from crsearch.report.found import Found
from crsearch.searchers.dense import DENSE, WITH_HISTORY

CONTROLS = ("crs-direct", "crs-no-thought")
"""Systems made from the same training as ``crs`` that answer without a thought; the paper has no such rows."""

REPLACED: Mapping[str, str] = {
    "crs-empty-thought": "an empty thought",
    "crs-shuffled-thought": "the thought for another test query",
    "crs-oracle-thought": "the thought of an analyst who knows the target",
}
"""Systems that are ``crs`` with another thought than its own -> which."""

FINAL = ("crs", "crs-cut-thought", "crs-no-thought", "crs-fused", *REPLACED)
"""Systems that use the model of the stage that validation kept."""

BASELINES = ("genre", "dsi", "dsi-qg", "dsi-recursive", "ltrgr", "latent-r3", "tiger")
"""Systems with a training stage of their own, which has their name."""

FROM_ALIGN = ("latent-r3",)
"""Those of ``BASELINES`` that start from ``align``; the others start from the untrained base."""

_CONTEXT, _QUERY = "context", "query"
READS: Mapping[str, str] = {
    **dict.fromkeys(("crs-direct", *FINAL), _CONTEXT),
    **dict.fromkeys(BASELINES, _QUERY),
    **{name: f"{_QUERY}, last searches" if name.endswith(WITH_HISTORY) else _QUERY for name in DENSE},
    **dict.fromkeys(("bm25", "bm25-tuned", "tfidf", "popularity-in-query"), _QUERY),
    "hybrid": f"{_QUERY}, last searches",
    "latent-r3": _CONTEXT,
    **dict.fromkeys(("tiger", "item-knn"), "items chosen before"),
    "popularity": "nothing",
    "popularity-in-query-brand": f"{_QUERY}, brands chosen before",
}
"""System -> what of a search it reads. ``context`` is all: query, time, place, profile and earlier searches."""


def is_crs(system: str) -> bool:
    """CRS, its control or a variant of it: no rival of CRS.

    >>> is_crs("crs-direct"), is_crs("dense")
    (True, False)
    """
    return system.split("-")[0] == "crs"


def behind(found: Found, system: str) -> Sequence[str]:
    """Training stages that made the model of a system, in order; none for one without a model trained here."""
    stages = [s["name"] for s in found.stages]
    if system in FINAL:
        final = found.results.get("final_stage")
        return stages[: stages.index(final) + 1] if final in stages else ()
    control = ("direct0", "direct") if "sft1" in stages else ("direct",)  # without a loop it begins at align
    own = control if system == "crs-direct" else (system,) if system in BASELINES else ()
    trained = [stage for stage in own if found.stage_numbers(stage).get("tokens_sum")]
    starts_later = system == "crs-direct" or system in FROM_ALIGN
    return [*(s for s in stages if s == "align" and starts_later), *trained] if trained else ()


def trained_tokens(found: Found, system: str) -> float | None:
    """Tokens of updates behind a system; none where nothing was trained or nothing is known."""
    known = {s["name"]: float(s["tokens"]) for s in found.stages}
    trained = behind(found, system)
    if not trained:
        return None
    return sum((known.get(s) or float(found.stage_numbers(s).get("tokens_sum", 0)) for s in trained), 0.0)
