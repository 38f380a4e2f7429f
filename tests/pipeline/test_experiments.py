"""Experiments in seconds: what is run, what is compared, and that nothing finished is run again."""

import io
import json
from contextlib import contextmanager

import numpy as np
import pytest
from rich.console import Console
from tiny_run import Events, tiny_settings

from crsearch.cli.experiments import show_experiment
from crsearch.errors import DataError, RunError
from crsearch.evaluate.evaluation import Evaluation
from crsearch.evaluate.metrics import REPORTED, check_bounds
from crsearch.pipeline.experiments.conduct import conduct
from crsearch.pipeline.experiments.lab import Arm, Lab
from crsearch.pipeline.experiments.summary import COMPARED, compare_rows, row_metrics
from crsearch.pipeline.systems import BASELINES, SYSTEMS

FEW = (
    *(f"baselines.{name}.max_steps=2" for name in ("genre", "dsi", "ltrgr", "latent_r3", "tiger")),
    "baselines.latent_r3.batch=4", "baselines.dsi.branching=4",
)  # fmt: skip


class Watched:
    """The progress of every arm, by name."""

    def __init__(self) -> None:
        self.arms: dict[str, Events] = {}

    @contextmanager
    def __call__(self, name, settings):
        self.arms[name] = Events()
        yield self.arms[name]


def lab_in(out, *changes: str, seeds: int = 1) -> tuple[Lab, Watched]:
    watched = Watched()
    return Lab(settings=tiny_settings(*FEW, *changes), seeds=seeds, out=out, progress=watched), watched


def printed(found) -> str:
    out = Console(file=io.StringIO(), width=200)
    show_experiment(found, out)
    return out.file.getvalue()


# -- rows and comparisons ---------------------------------------------------------------------------------------------
def evaluation(name: str, ranks: list[int]) -> Evaluation:
    """A system whose target stands at these ranks."""
    from crsearch.records.types import RankedList

    targets = {f"s{i}": "wanted" for i in range(len(ranks))}
    lists = tuple(
        RankedList(
            search_id=search,
            item_ids=tuple("wanted" if place == rank else f"i{place}" for place in range(1, 11)),
            scores=tuple(map(float, range(10, 0, -1))),
        )
        for search, rank in zip(targets, ranks, strict=True)
    )
    zeros = np.zeros(len(ranks), dtype=np.int64)
    groups = {"history": tuple("cold" if i % 2 else "warm" for i in range(len(ranks)))}
    return Evaluation(
        searcher=name, targets=targets, lists=lists, latency_ms_B=zeros.astype(float), invalid_B=zeros, groups=groups
    )


def test_each_query_counts_with_its_mean_over_the_seeds():
    row = [evaluation("crs", [1, 0, 1, 0]), evaluation("crs", [1, 0, 0, 2])]
    assert row_metrics(row, tiny_settings())["HR@1"]["mean"] == pytest.approx(3 / 8)
    (found,) = (c for c in compare_rows({"a": row, "b": row}, [("a", "b")]) if c["metric"] == "HR@1")
    assert found["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert found["p"] == found["p_holm"] == 1.0


def test_a_difference_is_paired_by_query_whatever_their_order():
    one = evaluation("a", [1, 0, 1, 0] * 20)
    order = np.random.default_rng(0).permutation(len(one))
    same = one._select(order.tolist())
    better = evaluation("b", [1, 1, 1, 0] * 20)
    for c in compare_rows({"a": [one], "same": [same], "b": [better]}, [("a", "same"), ("b", "a")]):
        if c["other"] == "same":
            assert c["difference"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
        else:
            assert c["difference"]["mean"] == pytest.approx(0.25)
            assert c["p"] < 0.001 and c["p_holm"] == pytest.approx(min(1.0, 2 * c["p"]))


def test_rows_of_other_queries_are_refused():
    with pytest.raises(DataError, match="a and b were not tested on the same queries"):
        compare_rows({"a": [evaluation("a", [1, 2])], "b": [evaluation("b", [1, 2, 3])]}, [("a", "b")])


# -- main -------------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def main(tmp_path_factory):
    out = tmp_path_factory.mktemp("experiments") / "main"
    lab, watched = lab_in(out, seeds=2)
    return out, conduct("main", lab), watched


@pytest.mark.slow
def test_main_has_every_system_for_both_analysts_on_the_same_queries(main):
    out, found, watched = main
    assert list(watched.arms) == ["map/seed-0", "map/seed-1", "noisy/seed-0", "noisy/seed-1"]
    assert json.loads((out / "main.json").read_text()) == found
    assert found["seeds"] == [0, 1]
    for result in found["tables"].values():
        assert {*result["searchers"], *result["not_run"]} == set(SYSTEMS)
        for name, row in result["searchers"].items():
            check_bounds({metric: row[metric]["mean"] for metric in REPORTED}, name)
        assert all(not other.startswith("crs") for other in result["best_other"].values())
        compared = {(c["system"], c["other"], c["metric"]) for c in result["comparisons"]}
        assert compared == {("crs", name, m) for name in result["searchers"] if name != "crs" for m in COMPARED}
    tables = found["tables"]
    assert tables["map"]["searchers"]["dsi"] == tables["noisy"]["searchers"]["dsi"]
    assert tables["map"]["runs"] == ["map/seed-0", "map/seed-1"]
    assert all((out / run / "eval/crs.trec").exists() for table in tables.values() for run in table["runs"])
    fingerprints = {Arm(out / name).results["data"]["searches"] for name in watched.arms}
    assert len(fingerprints) == 1


@pytest.mark.slow
def test_a_row_of_main_is_the_mean_over_the_arms(main):
    out, found, _ = main
    for teacher in ("map", "noisy"):
        arms = [json.loads((out / teacher / f"seed-{s}/results.json").read_text()) for s in (0, 1)]
        for metric in REPORTED:
            mean = np.mean([arm["searchers"]["crs"][metric]["mean"] for arm in arms])
            assert found["tables"][teacher]["searchers"]["crs"][metric]["mean"] == pytest.approx(mean)


@pytest.mark.slow
def test_tokens_stand_beside_every_row(main):
    out, found, _ = main
    tokens = found["tables"]["map"]["tokens"]
    assert all(tokens[name] > 0 for name in (*BASELINES, "crs", "crs-direct"))
    assert tokens["bm25"] == tokens["popularity"] == 0
    arm = Arm(out / "map/seed-0")
    path = ["align", "sft0", "rl0", "sft1"]
    assert arm.results["final_stage"] == "sft1"
    assert arm.tokens("crs") == sum(arm.stages[s]["numbers"]["tokens_sum"] for s in path)


@pytest.mark.slow
def test_main_given_again_runs_nothing(main):
    out, found, _ = main
    lab, watched = lab_in(out, seeds=2)
    assert conduct("main", lab) == found
    assert [events.ran for events in watched.arms.values()] == [[], [], [], []]


@pytest.mark.slow
def test_main_reads_as_a_table(main):
    _, found, _ = main
    lines = printed(found).splitlines()
    assert lines[0].startswith("systems, teacher map, ") and "mean over 2 seeds" in lines[0]
    assert sum(line.startswith("Bayes optimum") for line in lines) == 2
    assert any(line.startswith("dense-bge: not run: ") for line in lines)
    assert any(line.startswith("crs - bm25 ") for line in lines)


def test_a_folder_with_another_shop_is_refused(tmp_path):
    lab_in(tmp_path)[0].shop()
    lab_in(tmp_path)[0].shop()
    with pytest.raises(RunError, match="holds a shop of other settings"):
        lab_in(tmp_path, "simulate.users=70")[0].shop()
