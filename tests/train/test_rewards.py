"""What a trajectory and its ranked list are worth."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crsearch.config import RewardConfig, RlConfig, load_settings
from crsearch.errors import ConfigError
from crsearch.train.rewards import (
    choose_beam,
    distinct_ngrams,
    list_reward,
    ndcg_reward,
    overlong_penalty,
    prob_reward,
    rank_weighted,
    score,
    sid_accuracy,
    structure_of,
    structure_of_text,
    structure_reward,
    validity,
)

rewards = st.floats(-3, 3, width=32)
lists = st.lists(rewards, min_size=1, max_size=12)


def r_star(values: list[float], base: str = "e") -> float:
    return float(rank_weighted(torch.tensor([[values]]), base))


# ---------------------------------------------------------------- structure

SID = "<a_1><b_2><c_3><d_0>"


@pytest.mark.parametrize(
    ("text", "broken"),
    [
        (f"<think>wants a case</think>{SID}", set()),
        (f"<think>wants a case</think> {SID}\n", set()),
        (f"wants a case</think>{SID}", {"one_open", "in_order", "non_empty"}),
        (f"<think>wants a case{SID}", {"one_close", "in_order", "non_empty", "only_sid_after"}),
        (f"<think><think>a</think>{SID}", {"one_open"}),
        (f"<think>a</think></think>{SID}", {"one_close", "only_sid_after"}),
        (f"</think>a<think>{SID}", {"in_order", "non_empty", "only_sid_after"}),
        (f"<think></think>{SID}", {"non_empty"}),
        (f"<think> \n</think>{SID}", {"non_empty"}),
        ("<think>a</think>", {"only_sid_after"}),
        (f"<think>a</think>{SID}{SID}", {"only_sid_after"}),
        (f"<think>a</think>the item {SID}", {"only_sid_after"}),
        ("<think>a</think><a_1><b_2>", {"only_sid_after"}),
        ("<think>a</think>the best item now", {"only_sid_after"}),
        ("", {"one_open", "one_close", "in_order", "non_empty", "only_sid_after"}),
    ],
)
def test_structure_names_what_is_broken(text, broken):
    found = structure_of_text(text, sid_length=4)
    flags = ("one_open", "one_close", "in_order", "non_empty", "only_sid_after")
    assert {name for name in flags if not getattr(found, name)} == broken
    assert found.reward == (-1.0 if broken else 0.0)


def test_structure_allows_one_end_token_at_the_very_end():
    form = {"think": 1, "close": 2, "is_sid": lambda t: t >= 50, "sid_length": 2, "end": 9}
    assert structure_of([1, 5, 2, 50, 51, 9], **form).is_well_formed
    assert not structure_of([1, 5, 2, 50, 51, 9, 9], **form).is_well_formed
    assert not structure_of([1, 5, 2, 9, 50, 51], **form).is_well_formed


@settings(max_examples=50)
@given(st.lists(st.lists(st.integers(0, 5), max_size=5), min_size=1, max_size=6), st.data())
def test_structure_of_token_ids_is_structure_of_text(thoughts, data):
    """Token 1 is <think>, token 2 </think>; the decoder adds the opening tag, a closing tag if due, and the SID."""
    is_closed = data.draw(st.lists(st.booleans(), min_size=len(thoughts), max_size=len(thoughts)))
    word = {1: "<think>", 2: "</think>"}
    texts = [
        "<think>" + " ".join(word.get(t, f"w{t}") for t in thought) + ("</think>" if closed else "") + SID
        for thought, closed in zip(thoughts, is_closed, strict=True)
    ]
    expected = [structure_of_text(t, sid_length=4).reward for t in texts]
    assert structure_reward(thoughts, is_closed, think_id=1, close_id=2).tolist() == expected


# ---------------------------------------------------------------- length


def test_repetition_lowers_the_share_of_distinct_4_grams():
    assert distinct_ngrams(list(range(20))) == 1.0
    assert distinct_ngrams([3] * 20) == pytest.approx(1 / 17)
    assert distinct_ngrams([1, 2, 3]) == 1.0  # too short to repeat a 4-gram
    assert distinct_ngrams([]) == 1.0


def test_overlong_penalty_is_off_at_zero():
    assert overlong_penalty(torch.tensor([[5, 500]]), limit=40, soft=0).tolist() == [[0.0, 0.0]]


# ---------------------------------------------------------------- items


@settings(max_examples=50)
@given(st.integers(0, 2**31), st.booleans(), st.floats(0, 1))
def test_sid_accuracy_equals_the_loop(seed, prefix_only, exact_weight):
    g = torch.Generator().manual_seed(seed)
    pred = torch.randint(0, 3, (2, 3, 4, 4), generator=g)
    target = torch.randint(0, 3, (2, 4), generator=g)
    weights = (0.1, 0.2, 0.3)
    expected = torch.zeros(2, 3, 4)
    for b in range(2):
        for i in range(3):
            for n in range(4):
                matches = [bool(x == y) for x, y in zip(pred[b, i, n], target[b], strict=True)]
                for layer, w in enumerate(weights):
                    counts = all(matches[: layer + 1]) if prefix_only else matches[layer]
                    expected[b, i, n] += w * counts
                expected[b, i, n] += exact_weight * all(matches)
    torch.testing.assert_close(sid_accuracy(pred, target, weights, exact_weight, prefix_only), expected)


def test_both_presets_prefer_the_exact_item():
    exact, twin = torch.tensor([[[[1, 5, 9, 0]]]]), torch.tensor([[[[1, 5, 9, 1]]]])
    target = torch.tensor([[1, 5, 9, 0]])
    for preset, is_strict in (("recommended", True), ("paper", False)):
        r = load_settings(base={"preset": preset}).rl.reward
        of_exact = sid_accuracy(exact, target, r.layer_weights, r.exact_weight, r.prefix_only)
        of_twin = sid_accuracy(twin, target, r.layer_weights, r.exact_weight, r.prefix_only)
        assert of_exact.item() == pytest.approx(1.0)
        assert (of_twin < of_exact).item() == is_strict  # as printed, Eq. 5 cannot tell a twin from the target


def test_a_weight_per_layer_is_required():
    with pytest.raises(ConfigError, match="2 weights, but semantic IDs have 3 layers"):
        sid_accuracy(torch.zeros(1, 1, 1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long), (0.5, 0.5))


def parts_of(config: RewardConfig, rows: list[int], codes: list[list[int]], length: int = 10) -> dict[str, Tensor]:
    return score(
        config,
        structure_BG=torch.zeros(1, 1),
        length_BG=torch.tensor([[length]]),
        is_closed_BG=torch.tensor([[True]]),
        distinct_BG=torch.tensor([[0.5]]),
        think_tokens=20,
        rows_BGK=torch.tensor([[rows]]),
        codes_BGKL1=torch.tensor([[codes]]),
        target_BL1=torch.tensor([[1, 2, 3, 0]]),
    )


def test_a_missing_beam_is_a_total_miss_even_if_its_codes_would_match():
    parts = parts_of(RewardConfig(length=1.0), [5, -1], [[1, 2, 3, 0], [1, 2, 3, 0]])
    assert parts["accuracy"].tolist() == [[[1.0, 0.0]]]
    assert parts["validity"].tolist() == [[[1.0, 0.0]]]
    assert parts["total"].tolist() == [[[2.5, 0.5]]]
    assert parts["base"].tolist() == [[0.5]]


def test_the_parts_are_logged_before_their_weights_and_the_total_after():
    parts = parts_of(RewardConfig(length=2.0, validity=0.0, length_repetition=True), [5], [[9, 9, 9, 9]])
    assert parts["length"].item() == 0.25  # half of the budget, half of it repetition
    assert parts["validity"].item() == 1.0
    assert parts["total"].item() == 0.5
    assert set(parts) == {"structure", "length", "overlong", "accuracy", "validity", "base", "total"}


def test_validity_counts_rows():
    assert validity(torch.tensor([[[0, 4, -1]]])).tolist() == [[[1.0, 1.0, 0.0]]]


# ---------------------------------------------------------------- lists


@settings(max_examples=50)
@given(lists)
def test_r_star_lies_between_the_least_and_the_largest_reward(values):
    assert min(values) - 1e-5 <= r_star(values) <= max(values) + 1e-5


@settings(max_examples=50)
@given(lists, st.sampled_from(["e", "2"]), st.data())
def test_moving_a_larger_reward_forward_never_lowers_r_star(values, base, data):
    i = data.draw(st.integers(0, len(values) - 1))
    j = data.draw(st.integers(i, len(values) - 1))
    better = values.copy()
    better[i], better[j] = max(values[i], values[j]), min(values[i], values[j])
    assert r_star(better, base) >= r_star(values, base) - 1e-6


@settings(max_examples=50)
@given(lists, rewards)
def test_a_constant_passes_through(values, c):
    assert r_star([v + c for v in values]) == pytest.approx(r_star(values) + c, abs=1e-4)


def test_a_list_of_one_keeps_its_reward():
    assert r_star([0.7]) == pytest.approx(0.7)


def test_another_logarithm_is_refused():
    with pytest.raises(ConfigError, match="rank_log"):
        rank_weighted(torch.zeros(1, 1, 2), "10")


def test_ndcg_reward_is_the_metric():
    rows = torch.tensor([[[3, 4, 5, 6, 7], [4, 3, 5, 6, 7], [4, 5, 6, 7, 3], [4, 5, 6, 7, -1]]])
    expected = [[1.0, 1 / math.log2(3), 1 / math.log2(6), 0.0]]
    torch.testing.assert_close(ndcg_reward(rows, torch.tensor([3])), torch.tensor(expected))


def test_prob_reward_has_no_gradient():
    logprob = torch.tensor([[math.log(0.25)]], requires_grad=True)
    value = prob_reward(logprob)
    assert value.item() == pytest.approx(0.25)
    assert not value.requires_grad


def test_the_settings_choose_the_reward_of_a_list():
    parts = parts_of(RewardConfig(), [8, 5, -1], [[9, 9, 9, 9], [1, 2, 3, 0], [0, 0, 0, 0]])
    rows, target = torch.tensor([[[8, 5, -1]]]), torch.tensor([5])

    def of(**settings: object) -> float:
        logprob = torch.tensor([[math.log(0.3)]])
        return float(
            list_reward(RlConfig(**settings), parts, rows_BGK=rows, target_B=target, target_logprob_BG=logprob)
        )

    assert parts["total"].tolist() == [[[1.0, 2.0, 0.0]]]
    assert of(aggregate="first") == 1.0
    assert of() == pytest.approx((1 + 2 * 0.590616) / (1 + 0.590616 + 0.476505), abs=1e-5)
    assert of(rank_log="2") == pytest.approx((1 + 2 * 0.5) / (1 + 0.5 + 0.386853), abs=1e-5)
    assert of(rank_reward="ndcg") == pytest.approx(0.630930, abs=1e-5)
    assert of(rank_reward="prob") == pytest.approx(0.3, abs=1e-5)
    with pytest.raises(ConfigError, match="prob"):
        list_reward(RlConfig(rank_reward="prob"), parts, rows_BGK=rows, target_B=target)


def test_ties_go_to_the_better_ranked_beam():
    assert choose_beam(torch.tensor([[[0.0, 1.0, 1.0], [2.0, 2.0, 2.0]]])).tolist() == [[1, 0]]
