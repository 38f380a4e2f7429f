"""docs/make_experiments.py: from the JSON of an experiment to its block of docs/results.md."""

import make_experiments
import pytest
from pages import read

from crsearch.pipeline.experiments.conduct import EXPERIMENTS
from crsearch.runs import write_json


def row(mean):
    return {m: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for m in make_experiments.METRICS}


def difference(mean):
    return {"mean": mean, "low": mean - 0.02, "high": mean + 0.02}


def compared(one, other, mean):
    return [
        {"system": one, "other": other, "metric": m, "difference": difference(mean)}
        for m in ("HR@1", "HR@10", "NDCG@10")
    ]


FACTS = {"seeds": [0], "test_queries": 1_677, "ceiling": dict.fromkeys(make_experiments.METRICS, 0.75)}
STAGES = {"rl1": row(0.4), "sft1": row(0.3), "sft0": row(0.1), "rl0": row(0.2)}
FOUND = {
    "rgrpo": {"demo": {
        "seeds": [0, 1], "queries": 1_677, "rl_steps": 40,
        "arms": {
            arm: {"stages": STAGES, "cpu_seconds": {"rl0": 80.4},
                  "by_seed": {s: {"HR@1": [0.2, mean], "NDCG@10": [0.3, 0.4]} for s in STAGES}}
            for arm, mean in (("r-grpo", 0.25), ("grpo", 0.28))
        },
        "differences": {
            f"r-grpo.{s} - grpo.{s}": {"HR@1": difference(0.02), "NDCG@10": difference(0.01)} for s in STAGES
        },
    }},
    "loop": {
        **FACTS, "comparisons": compared("rl+sft sft3", "sft-only sft5", -0.1),
        "arms": {"rl+sft": {"stages": [{"name": "rl0", "cpu_seconds": 9.4, "metrics": row(0.2)}]}},
    },
    "cold": {**FACTS, "groups": {
        label: {"queries": 200, "searchers": {"bm25": row(0.1), "crs": row(mean)}}
        for label, mean in (("warm", 0.5), ("cold", 0.3))
    }},
    "scale": {
        **FACTS, "comparisons": compared("one: crs", "half: crs", 0.1),
        "sizes": {"one": {"parameters": 600_000, "tokens": {"crs": 7_000}, "searchers": {"crs": row(0.5)}}},
    },
    "controls": {**FACTS, "checks": [
        {"name": "context pays", "expected": "above", "held": True, "comparisons": compared("a", "b", 0.3)},
        {"name": "random SIDs", "expected": "lower", "held": False, "chance": 0.003,
         "hit_rate": difference(0.2), "comparisons": compared("a", "c", 0.1)},
    ]},
}  # fmt: skip
SAID = {
    "rgrpo": [
        "| `r-grpo` | `rl0` | 80 | 0.200 [0.190, 0.210]",
        "| `rl0` | +0.020 [+0.000, +0.040] | +0.000, -0.030 | +0.010 [-0.010, +0.030] | +0.000, +0.000 |",
    ],
    "loop": [
        "| `rl+sft` | `rl0` | 9 | 0.200",
        "| rl+sft sft3 - sft-only sft5 | -0.100 [-0.120, -0.080] |",
        "| 0.750 |",
    ],
    "cold": ["| system | cold (200) | warm (200) |", "| `crs` | 0.300 [0.290, 0.310] | 0.500 [0.490, 0.510] |"],
    "scale": ["| one (0.60 M) | `crs` | 7,000 | 0.500", "| one: crs - half: crs | +0.100"],
    "controls": [
        "| context pays | above | yes | a - b +0.300",
        "| **no** | a - c +0.100",
        "HR@10 0.200 [0.180, 0.220], chance",
    ],
}


def test_every_experiment_but_main_has_a_block():
    assert set(make_experiments.EXPERIMENTS) == {*EXPERIMENTS, "rgrpo"} - {"main"}


@pytest.mark.parametrize("name", make_experiments.EXPERIMENTS)
def test_a_block_has_the_numbers_and_the_commands_and_the_page_around_it_stays(name, tmp_path, monkeypatch):
    page, file = tmp_path / "page.md", make_experiments.EXPERIMENTS[name][0]
    page.write_text(f"before\n<!-- {name}:begin -->\nold\n<!-- {name}:end -->\nafter\n")
    monkeypatch.setattr(make_experiments, "PAGE", page)
    write_json(tmp_path / file, FOUND[name])
    command = f"crsearch experiment {name} --out runs/it"
    assert make_experiments.main([name, str(tmp_path), command]) == 0
    text = read(page)
    assert (
        text.startswith(f"before\n<!-- {name}:begin -->\n")
        and text.endswith(":end -->\nafter\n")
        and "\nold\n" not in text
    )
    assert all(said in text for said in SAID[name]), text
    assert f"\n{command}\npython docs/make_experiments.py {name} runs/it '{command}'\n" in text


def test_stages_stand_in_the_order_in_which_they_were_run():
    text = make_experiments.block("rgrpo", FOUND["rgrpo"], "x", "y")
    assert text.index("`sft0`") < text.index("`rl0`") < text.index("`sft1`") < text.index("`rl1`")


def test_a_folder_without_the_experiment_is_told(tmp_path, capsys):
    assert make_experiments.main(["loop", str(tmp_path), "crsearch experiment loop"]) == 2
    assert "loop.json: no such file; run it first: crsearch experiment loop" in capsys.readouterr().err
