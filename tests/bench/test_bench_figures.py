"""Figures and ratios: floors judged, results compared before a ratio is shown."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from crsearch.bench.figures import Figure, NotMeasured, Ratio
from crsearch.bench.machine import forward_flops, machine, reading_flops
from crsearch.bench.timing import ResultsDiffer, alternate
from crsearch.bench.usual import toy_qwen3
from crsearch.decode.prefix import PrefixTree, decoding


def ratio(ours: float, usual: float, floor: float | None) -> Ratio:
    return Ratio(key="k", what="w", ours=ours, usual=usual, unit="CPU ms", usual_way="slow", floor=floor)


@pytest.mark.parametrize(("floor", "holds"), [(None, None), (4.0, True), (4.01, False)])
def test_a_ratio_holds_when_the_usual_way_needs_at_least_so_many_times_more(floor, holds):
    assert ratio(2.0, 8.0, floor).holds is holds


@pytest.mark.parametrize(
    ("value", "better", "holds"), [(1.3, "lower", True), (1.31, "lower", False), (1.3, "higher", True)]
)
def test_a_figure_holds_on_the_good_side_of_its_floor(value, better, holds):
    assert Figure(key="k", what="w", value=value, unit="x", floor=1.3, better=better).holds is holds


def test_a_ratio_says_both_costs_in_json_and_in_words():
    found = ratio(2.0, 9.0, 5.0)
    assert found.plain() == {
        "key": "k", "what": "w", "ours": 2.0, "usual": 9.0, "ratio": 4.5, "unit": "CPU ms", "usual_way": "slow",
        "floor": 5.0, "holds": False, "how": "",
    }  # fmt: skip
    assert found.row() == ("k", "w", "4.5 x", "at least 5 x", "DOES NOT HOLD", "2 CPU ms; slow 9")


def test_what_is_not_measured_has_no_number():
    row = NotMeasured(key="sids", what="faiss", how="not installed (pip install faiss-cpu)")
    assert row.row() == ("sids", "faiss", "-", "", "", "not installed (pip install faiss-cpu)")
    assert "value" not in row.plain()


def test_sides_take_turns_on_the_same_round_and_the_first_round_does_not_count():
    calls: list[tuple[str, int]] = []

    def side(name: str):
        return lambda r: calls.append((name, r))

    took = alternate("w", {"ours": side("a"), "usual": side("b")}, lambda a, b: True, runs=2)
    assert calls == [("a", 0), ("b", 0), ("b", 1), ("a", 1), ("a", 2), ("b", 2)]
    assert set(took) == {"ours", "usual"}


@pytest.mark.parametrize("wrong_in", [0, 2])
def test_different_results_give_an_error_and_no_ratio(wrong_in):
    with pytest.raises(ResultsDiffer, match=f"add: ours and usual give different results in round {wrong_in}"):
        alternate("add", {"ours": lambda r: r + (r == wrong_in), "usual": lambda r: r}, int.__eq__, runs=3)


def test_the_operations_of_a_model_are_those_that_torch_counts():
    model = toy_qwen3(100, width=64, layers=2)
    model.config._attn_implementation = "eager"
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.model(torch.arange(24)[None])
    assert counter.get_total_flops() == pytest.approx(forward_flops(model.config, 24, 24 * 24), rel=1e-3)


def test_reading_a_prompt_ends_in_the_last_layer_and_that_is_counted():
    model, tokens = toy_qwen3(100, width=64, layers=3), 24
    with FlopCounterMode(display=False) as counter, decoding(model):
        PrefixTree(model, [list(range(tokens + 1))], 1, 1)
    c = model.config
    attention = 2 * 4 * c.num_attention_heads * c.head_dim * tokens * (tokens + 1) // 2  # torch counts none on a CPU
    assert counter.get_total_flops() == reading_flops(c, tokens) - attention


def test_the_limits_of_a_machine_are_positive_and_named():
    found = machine(size=64, megabytes=1, runs=1)
    assert min(found.float32_gflops, found.bfloat16_gflops, found.memory_gbytes) > 0
    assert found.cpu
    assert found.plain()["torch"] == torch.__version__
