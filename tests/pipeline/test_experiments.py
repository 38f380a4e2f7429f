"""Experiments in seconds: what is run, what is compared, and that nothing finished is run again."""

import dataclasses
import io
import json
from contextlib import contextmanager

import numpy as np
import pytest
from rich.console import Console
from tiny_run import Events, tiny_settings

from crsearch.cli.experiments import show_experiment
from crsearch.errors import ConfigError, DataError, RunError
from crsearch.evaluate.evaluation import Evaluation
from crsearch.evaluate.metrics import REPORTED, check_bounds
from crsearch.pipeline.experiments.conduct import conduct
from crsearch.pipeline.experiments.lab import Arm, Lab
from crsearch.pipeline.experiments.rgrpo import loop_starts
from crsearch.pipeline.experiments.summary import COMPARED, compare_rows, row_metrics
from crsearch.pipeline.systems import BASELINES, SYSTEMS
from crsearch.runs import RunDirectory

FEW = (
    *(f"baselines.{name}.max_steps=2" for name in ("genre", "dsi", "ltrgr", "latent_r3", "tiger")),
    "baselines.latent_r3.batch=4", "baselines.dsi.branching=4",
    *(f"{stage}.max_steps=1" for stage in ("align", "distill", "sft")),
    "rl.steps=2", "sft.samples=2", "decode.think_tokens=8",
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
            own = [arm["searchers"]["crs"][metric]["mean"] for arm in arms]
            assert found["tables"][teacher]["by_seed"]["crs"].get(metric, own) == own
            mean = np.mean(own)
            assert found["tables"][teacher]["searchers"]["crs"][metric]["mean"] == pytest.approx(mean)


@pytest.mark.slow
def test_tokens_stand_beside_every_row(main):
    out, found, _ = main
    tokens = found["tables"]["map"]["tokens"]
    assert all(tokens[name] > 0 for name in (*BASELINES, "crs", "crs-direct"))
    assert tokens["bm25"] == tokens["popularity"] == 0
    arm = Arm(out / "map/seed-0")
    seen = {stage: arm.stages[stage]["numbers"].get("tokens_sum", 0) for stage in ("align", "sft0", "rl0", "sft1")}
    assert arm.results["final_stage"] == "sft1" and seen["align"] > 0 and seen["rl0"] > 0
    assert arm.tokens("crs") == arm.tokens("crs-no-thought") == sum(seen.values())
    assert arm.tokens("latent-r3") == seen["align"] + arm.stages["latent-r3"]["numbers"]["tokens_sum"]
    assert arm.tokens("crs-direct") == seen["align"] + sum(
        arm.stages[stage]["numbers"]["tokens_sum"] for stage in ("direct0", "direct") if stage in arm.stages
    )


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


@pytest.mark.slow
def test_loops_without_a_run_start_from_first_reasoning_after_each_analyst(tmp_path):
    lab, watched = lab_in(tmp_path)
    starts = loop_starts(lab)
    assert [start.relative_to(tmp_path).as_posix() for start in starts] == ["starts/map", "starts/noisy"]
    first, second = (Arm(start) for start in starts)
    assert first.loop == second.loop == ["sft0"]
    for stage, alike in (("data", True), ("distill", False)):
        assert (first.stages[stage]["outputs"] == second.stages[stage]["outputs"]) == alike
    assert loop_starts(lab) == starts
    assert all(events.ran == [] for events in watched.arms.values())


# -- the others -------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_cold_compares_within_groups_and_reads_what_main_has_run(main):
    out, table, _ = main
    lab, watched = lab_in(out, seeds=2)
    found = conduct("cold", lab)
    assert all(events.ran == [] for events in watched.arms.values())
    assert sum(group["queries"] for group in found["groups"].values()) == table["test_queries"]
    own = table["tables"]["map"]["groups"]["crs"]["history"]
    for label, group in found["groups"].items():
        assert {"queries": group["queries"], **group["searchers"]["crs"]} == own[label]
        assert any(c["system"] == f"{label}: crs" and c["other"] == f"{label}: bm25" for c in found["comparisons"])
    given = Lab(settings=lab.settings, seeds=1, out=out / "given", runs=[out / "map/seed-0", out / "map/seed-1"])
    assert conduct("cold", given)["groups"] == found["groups"]
    assert "HR@10 of crs over " in printed(found)


def test_cold_says_what_a_run_lacks(tiny_run, tmp_path):
    import shutil

    shutil.copytree(tiny_run, tmp_path / "run")
    results = tmp_path / "run/results.json"
    facts = json.loads(results.read_text())
    results.write_text(json.dumps({**facts, "searchers": {"crs": facts["searchers"]["crs"]}}))
    lab = Lab(settings=tiny_settings(), seeds=1, out=tmp_path, runs=[tmp_path / "run"])
    with pytest.raises(RunError, match=r"crs and another system are needed, not crs\. Measure more: crsearch evaluate"):
        conduct("cold", lab)


@pytest.mark.slow
def test_loop_shows_every_half_iteration_and_sft_alone_for_as_many_rounds_and_as_much_time(tmp_path):
    lab, _ = lab_in(tmp_path)
    found = conduct("loop", lab)
    arms = {name: [s["name"] for s in facts["stages"]] for name, facts in found["arms"].items()}
    assert arms["rl+sft"] == ["sft0", "rl0", "sft1", "rl1", "sft2", "rl2", "sft3"]
    assert arms["sft-only"] == [f"sft{i}" for i in range(len(arms["sft-only"]))]
    assert {found["equal_rounds"], found["equal_cpu"]} <= set(arms["sft-only"])
    starts = [facts["stages"][0] for facts in found["arms"].values()]
    assert starts[0] == starts[1] and starts[0]["cpu_seconds"] == 0
    for facts in found["arms"].values():
        seconds = [stage["cpu_seconds"] for stage in facts["stages"]]
        assert seconds == sorted(seconds) and seconds[-1] > 0
    assert any(c["other"] == "sft-only sft3" for c in found["comparisons"])
    again, watched = lab_in(tmp_path)
    assert conduct("loop", again) == found
    assert all(events.ran == [] for events in watched.arms.values())
    assert "NDCG@10 of rl+sft over its sft0: " in printed(found)


@pytest.mark.slow
def test_what_a_given_run_has_done_is_taken_over(main, tmp_path):
    source = main[0] / "map/seed-0"
    lab, watched = lab_in(tmp_path)
    conduct("scale", dataclasses.replace(lab, runs=[source]))
    ran = watched.arms["one/seed-0"].ran
    assert "align" in watched.arms["half/seed-0"].ran and ran == []
    taken, given = Arm(tmp_path / "one/seed-0"), Arm(source)
    assert taken.stages["sft1"] == given.stages["sft1"]  # the cost too
    assert taken.results["searchers"]["crs"] == given.results["searchers"]["crs"]
    logged = [
        [row for row in RunDirectory.reading(arm.folder).numbers() if row["stage"] == "align"] for arm in (taken, given)
    ]
    assert logged[0] == logged[1] != []


@pytest.mark.slow
def test_scale_trains_three_sizes_with_and_without_thought(tmp_path):
    lab, _ = lab_in(tmp_path, "model.width=16", "model.heads=2", "model.layers=2")
    found = conduct("scale", lab)
    sizes = found["sizes"]
    assert [s["parameters"] for s in sizes.values()] == sorted({s["parameters"] for s in sizes.values()})
    assert [(s["width"], s["layers"]) for s in sizes.values()] == [(8, 1), (16, 2), (24, 3)]
    assert all(set(s["searchers"]) == {"crs", "crs-direct", "crs-no-thought"} for s in sizes.values())
    pairs = {(c["system"], c["other"]) for c in found["comparisons"]}
    assert {("one: crs", "half: crs"), ("half: crs", "half: crs-direct")} <= pairs
    assert "one and a half" in printed(found)


def test_scale_refuses_a_model_folder(tmp_path):
    with pytest.raises(ConfigError, match="has one size"):
        conduct("scale", lab_in(tmp_path, "model.path=x")[0])


@pytest.mark.slow
def test_controls_state_what_they_expect_and_whether_it_held(tmp_path):
    lab, watched = lab_in(tmp_path)
    found = conduct("controls", lab)
    assert [check["name"] for check in found["checks"]] == [
        "context pays", "no influence", "shuffled histories", "shuffled rewards", "random SIDs",
    ]  # fmt: skip
    for check in found["checks"]:
        assert check["held"] in (True, False) and check["comparisons"] and len(check["expected"].split()) > 5
    assert found["informative"] == found["checks"][0]["held"]
    chance = found["checks"][-1]
    assert chance["chance"] == 10 / 40
    assert chance["hit_rate"] == found["rows"]["random SIDs: crs"]["HR@10"]
    fingerprints = {name: Arm(tmp_path / name / "seed-0") for name in found["runs"].values() for name in [name[0][:-7]]}
    data = {name: arm.stages["data"]["outputs"]["data/searches.parquet"] for name, arm in fingerprints.items()}
    assert data["ordinary"] == data["shuffled-rewards"] == data["random-sids"]
    assert len(set(data.values())) == 4
    start = fingerprints["ordinary"].stages["sft0"], fingerprints["shuffled-rewards"].stages["sft0"]
    assert start[0] == start[1]
    assert "sft0" in watched.arms["ordinary/seed-0"].ran and "sft0" not in watched.arms["shuffled-rewards/seed-0"].ran
    assert "shuffled rewards: " in printed(found)
    again, watched = lab_in(tmp_path)
    assert conduct("controls", again) == found
    assert all(events.ran == [] for events in watched.arms.values())


def test_controls_need_a_simulated_shop(tmp_path):
    with pytest.raises(ConfigError, match="needs a simulated shop"):
        conduct("controls", lab_in(tmp_path, "data=somewhere")[0])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["cold", "--steps", "5"], "experiment cold: --steps is for rgrpo; use --set rl.steps=5"),
    ],
)
def test_what_an_experiment_does_not_take_is_said(crsearch, arguments, told):
    done = crsearch("experiment", *arguments)
    assert done.exit_code == 2
    assert told in done.stderr
