"""The report of experiments, from files as experiments leave them."""

import re
from pathlib import Path
from typing import Any

import pytest
from reading import Reader, section, tables

from crsearch.errors import RunError
from crsearch.evaluate.metrics import REPORTED
from crsearch.pipeline.experiments.conduct import EXPERIMENTS
from crsearch.report import experiments, write_report
from crsearch.runs import write_json


def metrics(mean: float) -> dict[str, Any]:
    return {m: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for m in REPORTED}


def compared(one: str, other: str, mean: float, p: float = 0.001) -> list[dict[str, Any]]:
    difference = {"mean": mean, "low": mean - 0.01, "high": mean + 0.01}
    return [
        {"system": one, "other": other, "metric": metric, "difference": difference, "p": p, "p_holm": p}
        for metric in ("HR@1", "HR@10", "NDCG@10")
    ]


FACTS = {"preset": "smoke", "seeds": [0, 1, 2], "test_queries": 50}
CEILING = dict.fromkeys(REPORTED, 0.75)
SEARCHERS = {"crs": metrics(0.4), "crs-direct": metrics(0.5), "bm25": metrics(0.1)}
BEST = dict.fromkeys(("HR@1", "HR@10", "NDCG@10"), "bm25")
PAIRS = [*compared("crs", "crs-direct", -0.1), *compared("crs", "bm25", 0.3)]
STAGES = [{"name": name, "metrics": metrics(m), "cpu_seconds": s} for name, m, s in (("sft0", 0.2, 0), ("rl0", 0.3, 9))]

FOUND: dict[str, dict[str, Any]] = {
    "main": {
        **FACTS, "ceiling": CEILING, "data": {"users": 60, "items": 40},
        "tables": {
            "map": {
                "searchers": SEARCHERS, "tokens": {"crs": 1_000, "crs-direct": 900, "bm25": 0},
                "not_run": {"dense-bge": "weights not at hand (get them)"}, "comparisons": PAIRS, "best_other": BEST,
                "shared": [],
                "by_seed": {"crs": {"NDCG@10": [0.3, 0.4, 0.5]}, "crs-direct": {"NDCG@10": [0.5, 0.5, 0.5]},
                            "bm25": {"NDCG@10": [0.1, 0.1, 0.1]}},
            },
        },
    },
    "loop": {
        **FACTS, "arms": {"rl+sft": {"stages": STAGES}, "sft-only": {"stages": STAGES[:1]}}, "equal_rounds": "sft3",
        "equal_cpu": "sft5", "comparisons": compared("rl+sft rl0", "sft-only sft0", 0.1),
    },
    "loops": {
        "demo": {
            "arms": {
                "r-grpo": {"stages": {"sft0": metrics(0.2), "rl0": metrics(0.33)},
                           "by_seed": {"rl0": {"HR@1": [0.36, 0.3]}}},
                "grpo": {"stages": {"sft0": metrics(0.2), "rl0": metrics(0.3)},
                         "by_seed": {"rl0": {"HR@1": [0.28, 0.32]}}},
            },
            "seeds": [0, 1],
            "comparisons": compared("r-grpo.rl0", "grpo.rl0", 0.03, p=0.2), "queries": 50,
        },
    },
    "cold": {
        "seeds": [0], "groups": {label: {"queries": n, "searchers": SEARCHERS, "best_other": BEST}
                                 for label, n in (("warm", 30), ("cold", 20))},
        "comparisons": compared("cold: crs", "cold: bm25", 0.3),
    },
    "scale": {
        **FACTS, "sizes": {
            "x0.5": {"parameters": 4_321, "searchers": SEARCHERS, "tokens": {}},
            "x1": {"parameters": 1_234, "searchers": SEARCHERS, "tokens": {"crs": 1_000}},
        },
        "comparisons": compared("x1: crs", "x1: crs-direct", -0.1),
    },
    "controls": {
        **FACTS, "rows": {"ordinary: crs": metrics(0.4)}, "informative": False,
        "checks": [
            {"name": "context pays", "expected": "above", "held": False, "comparisons": compared("a", "b", -0.1)},
            {"name": "random SIDs", "expected": "lower", "held": True, "chance": 0.05,
             "hit_rate": {"mean": 0.2, "low": 0.1, "high": 0.3}, "comparisons": compared("a", "c", 0.1)},
        ],
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Markdown of a folder with every experiment, whose page is read too."""
    folder = tmp_path_factory.mktemp("all")
    for name, found in FOUND.items():
        write_json(folder / f"{name}.json", found)
    page = write_report(folder)
    read = Reader(page.read_text(encoding="utf-8"))
    assert len(read.values("id")) == len(set(read.values("id")))
    assert not read.values("src")
    return page.with_name("report.md").read_text(encoding="utf-8")


def test_every_experiment_of_the_pipeline_has_its_sections() -> None:
    assert experiments.SECTIONS.keys() == {*EXPERIMENTS, "loops"} == FOUND.keys()


def test_all_systems_stand_by_quality_with_tokens_and_those_not_run(text: str) -> None:
    part = section(text, "All systems, teacher map")
    rows = tables(part)[0]
    assert [row[0] for row in rows[1:]] == ["crs-direct", "crs", "bm25", "ceiling (Bayes optimum)", "dense-bge"]
    assert rows[2][:4] == ["crs", "context", "1,000", "0.400 [0.390, 0.410]"]
    assert rows[3][2] == "–"
    assert rows[5][1] == "not run: weights not at hand (get them)"
    assert "In HR@10 crs is below the control crs-direct." in part
    assert tables(part)[1][1:] == [
        ["crs-direct", "0.500", "0.500", "0.500", "0.000", "-0.200, -0.100, +0.000"],
        ["crs", "0.300", "0.400", "0.500", "0.200", "–"],
    ], "trained systems only"
    assert "In NDCG@10 crs is above the best other system, bm25." in part


def test_the_loops_have_every_stage_and_the_papers_gains(text: str) -> None:
    part = section(text, "The loop")
    assert [row[:3] for row in tables(part)[0][1:]] == [
        ["rl+sft", "sft0", "0"], ["rl+sft", "rl0", "9"], ["sft-only", "sft0", "0"],
    ]  # fmt: skip
    assert "to the end of rl+sft: +50.0 % (paper: +39.0 % on All-100K" in part
    table_3 = section(text, "R-GRPO against GRPO, from demo")
    assert "+10.0 % after rl0 (paper: +1.2 % to +2.7 % after each RL stage, one run)" in table_3
    assert [row[:2] for row in tables(table_3)[0][1:3]] == [["grpo", "sft0"], ["grpo", "rl0"]]
    assert tables(table_3)[1][1:] == [["rl0", "HR@1", "+0.080", "-0.020"]]
    assert tables(table_3)[2][1][3] == "not distinguishable from"


def test_groups_stand_from_cold_to_warm_with_the_gain_over_the_best_other(text: str) -> None:
    captions = re.findall(r"\. (\w+) users, (\d+) queries\. HR@10 of crs over bm25, the best other: (\S+) %", text)
    assert captions == [("cold", "20", "+300.0"), ("warm", "30", "+300.0")]


def test_sizes_and_controls_are_told(text: str) -> None:
    sizes = tables(section(text, "Size of the backbone"))[0][1:]
    assert [row[0] for row in sizes] == ["x1"] * 3 + ["x0.5"] * 3
    assert ["x1", "crs", "1,234", "1,000"] in [row[:4] for row in sizes]
    part = section(text, "Negative controls")
    assert "what holds below says little" in part
    assert tables(part)[0][1:] == [
        ["context pays", "above", "NO"],
        ["random SIDs", "lower (HR@10 0.200 [0.100, 0.300], chance 0.050)", "yes"],
    ]


def test_seeds_are_told(text: str) -> None:
    assert "main: preset smoke, 3 seeds, 50 test queries." in text
    assert "cold: one seed, so nothing is known of the spread between training runs." in text


def test_a_run_is_a_run_though_an_experiment_lies_in_it_and_a_broken_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "main.json").write_text("{")
    with pytest.raises(RunError, match=r"main\.json: not readable"):
        write_report(tmp_path)
    (tmp_path / "manifest.json").write_text("{}")
    assert experiments.read(tmp_path) == {}
