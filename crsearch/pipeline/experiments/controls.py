"""Negative controls: where there is nothing to be learned from, the method must show nothing.

Each states what is expected and whether it held. "Not above" means that the 95 % interval of the paired difference
reaches 0 or lies below; "above" means that it lies above. A control says little where the first check, that context
pays in the ordinary shop, does not hold, as with models that are hardly trained.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from crsearch.config import Nested, RlConfig
from crsearch.errors import ConfigError
from crsearch.evaluate.evaluation import RowMetrics
from crsearch.evaluate.intervals import Interval
from crsearch.pipeline.experiments.lab import Arm, Lab
from crsearch.pipeline.experiments.summary import Rows, best, compare_rows, row_metrics
from crsearch.records.histories import with_shuffled_histories, without_histories
from crsearch.records.store import Dataset

METRIC = "NDCG@10"
"""What the checks look at."""

QUERY_ONLY = ("dsi", "tfidf", "bm25", "popularity-in-query")
"""Systems that see nothing but the query."""

READERS = ("crs", "crs-direct")
"""Systems that read the context."""

NO_ANCHORS: Nested = {name: 0.0 for name in RlConfig.model_fields if name.startswith("anchor_")}
"""With these a step of RL learns from rewards and from nothing else."""


def negative_controls(lab: Lab) -> dict[str, Any]:
    """Run the arms, and check what must and must not differ.

    Returns:
        ``checks``: for each ``name``, ``expected`` (a sentence), ``held``, ``comparisons`` (what it was judged by;
        ``random SIDs`` has ``chance`` and ``hit_rate`` too). ``informative``: the first check held. ``rows``: row ->
        metrics. ``runs``, ``test_queries``.

    Raises:
        ConfigError: the records are not those of a simulated shop.
    """
    if lab.settings.data is not None:
        raise ConfigError(
            "experiment controls: needs a simulated shop, whose history can be made to say nothing; leave out data = "
            f"{lab.settings.data!r}"
        )
    arms = _run_all(lab)
    rows = {f"{name}: {row}": its for name, own in arms.items() for row, its in _rows_of(own).items()}
    metrics = {name: row_metrics(row, lab.settings) for name, row in rows.items()}
    ordinary = arms["ordinary"][0].results
    checks = _checks(rows, metrics, ordinary["data"]["items"])
    return {
        "checks": checks,
        "informative": checks[0]["held"],
        "rows": metrics,
        "runs": {name: lab.relative(own) for name, own in arms.items()},
        "test_queries": ordinary["test_queries"],
    }


def _run_all(lab: Lab) -> dict[str, list[Arm]]:
    """Name -> arms, one per seed."""
    shop = lab.shop()
    everybody = {"evaluate": {"searchers": (*READERS, *QUERY_ONLY)}}
    readers = {"evaluate": {"searchers": READERS}}
    crs = {"evaluate": {"searchers": READERS[:1]}}
    uninfluenced = lab.shop("data-no-influence", {"simulate": {"history_weight": 0.0}})
    ordinary = _arms(lab, "ordinary", shop, everybody)
    return {
        "ordinary": ordinary,
        "no influence": _arms(lab, "no-influence", uninfluenced, everybody),
        "no history": _arms(lab, "no-history", _derived_shop(lab, "data-no-history", without_histories), readers),
        "shuffled history": _arms(
            lab,
            "shuffled-history",
            _derived_shop(lab, "data-shuffled", partial(with_shuffled_histories, seed=lab.settings.seed)),
            readers,
        ),
        "shuffled rewards": _arms(
            lab, "shuffled-rewards", shop, {"rl": {"shuffle_rewards": True, **NO_ANCHORS}, **crs}
        ),
        "random SIDs": _arms(lab, "random-sids", shop, {"sids": {"quantizer": "random"}, **crs}),
    }


def _checks(rows: Rows, metrics: Mapping[str, RowMetrics], items: int) -> list[dict[str, Any]]:
    """What is expected of the rows, and whether it held."""

    def best_query_only(arm: str) -> str:
        return best(metrics, [f"{arm}: {name}" for name in QUERY_ONLY], METRIC)

    return [
        _check(
            rows,
            "context pays",
            "in the ordinary shop the systems that read the context are above those that see the query alone",
            above=[(f"ordinary: {name}", best_query_only("ordinary")) for name in READERS],
        ),
        _check(
            rows,
            "no influence",
            "where the history decides nothing, they are not above those that see the query alone",
            not_above=[(f"no influence: {name}", best_query_only("no influence")) for name in READERS],
        ),
        _check(
            rows,
            "shuffled histories",
            "what the history gains is gone where each user has that of another, in training and in the test",
            above=[(f"ordinary: {name}", f"no history: {name}") for name in READERS],
            not_above=[(f"shuffled history: {name}", f"no history: {name}") for name in READERS],
        ),
        _check(
            rows,
            "shuffled rewards",
            "RL whose rewards change places is not above where it started",
            not_above=[("shuffled rewards: rl0", "shuffled rewards: sft0")],
            beside=[("ordinary: rl0", "ordinary: sft0")],
        ),
        _against_chance(
            _check(
                rows,
                "random SIDs",
                "with identifiers that mean nothing CRS is lower, but above chance",
                above=[("ordinary: crs", "random SIDs: crs")],
            ),
            metrics["random SIDs: crs"]["HR@10"],
            items,
        ),
    ]


def _arms(lab: Lab, name: str, records: Path, changes: Nested) -> list[Arm]:
    """One arm per seed, with a single round of the loop."""
    return lab.arms(name, records, {**changes, "loop": {"iterations": 1}})


def _rows_of(arms: Sequence[Arm]) -> Rows:
    """Systems of arms, and their stages before and after RL."""
    rows = {name: [arm.evaluation(name) for arm in arms] for name in arms[0].results["searchers"]}
    return rows | {stage: [arm.evaluation(f"stage.{stage}") for arm in arms] for stage in ("sft0", "rl0")}


def _derived_shop(lab: Lab, name: str, change: Callable[[Dataset], Dataset]) -> Path:
    """The shop with other histories, and what its analyst makes of them; made on the first call."""
    from crsearch.records.files import parquet, write_together
    from crsearch.records.simulator.simulation import TRUTH_FILE, Simulation, truth_of

    shop, folder = lab.shop(), lab.out / name
    if not (folder / TRUTH_FILE).exists():
        simulation = Simulation.load(shop)
        data = change(simulation.dataset)
        data.save(folder)
        write_together(folder, {TRUTH_FILE: parquet(truth_of(simulation.world, data))})
    return folder


def _check(
    rows: Rows,
    name: str,
    expected: str,
    *,
    above: Sequence[tuple[str, str]] = (),
    not_above: Sequence[tuple[str, str]] = (),
    beside: Sequence[tuple[str, str]] = (),
) -> dict[str, Any]:
    """Compare pairs of rows, and say whether those that are not just shown beside came out as expected."""
    found = compare_rows(rows, [*above, *not_above, *beside])
    is_above = {(c["system"], c["other"]): c["difference"]["low"] > 0 for c in found if c["metric"] == METRIC}
    held = all(is_above[pair] for pair in above) and not any(is_above[pair] for pair in not_above)
    return {"name": name, "expected": expected, "held": held, "comparisons": found}


def _against_chance(check: Mapping[str, Any], hit_rate: Interval, items: int) -> dict[str, Any]:
    """A check that also asks for a hit rate above that of ten random items."""
    chance = min(1.0, 10 / items)
    held = check["held"] and hit_rate["low"] > chance
    return {**check, "held": held, "chance": chance, "hit_rate": dict(hit_rate)}
