"""``benchmarks/injection.py``: the counts behind the promise; the measurement itself runs by hand on a trained run."""

import asyncio
import importlib.util
from pathlib import Path

import numpy as np
import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "injection.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("injection_benchmark", SCRIPT)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_an_attack_succeeds_where_it_brings_its_target_to_the_top_and_neutral_text_does_not(script):
    ranks = {"attack": [3, 40, 9, 50], "neutral": [45, 42, 8, 5], "other": [45, 10, 8, 5]}
    found = script.told({name: np.array(places) for name, places in ranks.items()})
    assert (found["success"], found["reverse"], found["success_of_neutral"]) == (0.25, 0.25, 0.25)
    assert found["median_up"] == 0.5 and found["median_moved"] == 22.0


def test_a_target_that_is_not_listed_stands_behind_the_list(script):
    assert [script.place(row, (7, 5)) for row in (7, 5, 9)] == [1, 2, 3]


def test_neutral_text_is_as_long_as_the_attack(script):
    text = script.attack(42, "i00042")
    assert "item 42 (i00042)" in text
    assert all(len(script.neutral(words, len(text))) == len(text) for words in script.NEUTRAL)
    assert len(script.neutral("short", 500)) == 500


@pytest.mark.slow
def test_the_measurement_runs_on_a_finished_run(script, tiny_run, monkeypatch):
    monkeypatch.setattr(script, "PLACES", (3, 8))
    lines = asyncio.run(script.measure(tiny_run, 2, ["fast", "think"], 0))
    assert [(line["mode"], line["where"]) for line in lines] == [
        ("fast", "query"), ("fast", "title"), ("think", "query"), ("think", "title"),
    ]  # fmt: skip
    assert all(line["prompts"] == 2 and -1 <= line["net_low"] <= line["net"] <= line["net_high"] <= 1 for line in lines)
