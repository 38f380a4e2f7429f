from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import bootstrap

from crsearch.errors import DataError
from crsearch.evaluate.intervals import bootstrap_intervals, holm, paired_difference, paired_permutation
from crsearch.evaluate.metrics import metrics_from_ranks

SEEDS = st.integers(0, 2**32 - 1)


def ndcg(seed, size=300, worst=25):
    ranks_B = np.random.default_rng(seed).integers(1, worst, size)
    return metrics_from_ranks(ranks_B)["NDCG@10"]


def test_the_interval_is_that_of_drawing_queries_one_by_one():
    values_B = ndcg(0)
    ours = bootstrap_intervals({"NDCG@10": values_B}, 20_000, seed=1)["NDCG@10"]
    theirs = bootstrap(
        (values_B,), np.mean, n_resamples=20_000, method="percentile", batch=2_000, rng=np.random.default_rng(2)
    ).confidence_interval
    width = theirs.high - theirs.low
    assert ours["mean"] == pytest.approx(values_B.mean())
    assert ours["low"] == pytest.approx(theirs.low, abs=0.03 * width)
    assert ours["high"] == pytest.approx(theirs.high, abs=0.03 * width)


def test_metrics_share_their_resamples():
    values_B = ndcg(0)
    both = bootstrap_intervals({"a": values_B, "twice": 2 * values_B}, 500, seed=0)
    for end in ("mean", "low", "high"):
        assert both["twice"][end] == pytest.approx(2 * both["a"][end])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=50), SEEDS)
def test_an_interval_holds_its_mean_and_does_not_depend_on_the_order_of_queries(ranks, seed):
    values_B = metrics_from_ranks(ranks)["NDCG@10"]
    forward = bootstrap_intervals({"m": values_B}, 200, seed)["m"]
    backward = bootstrap_intervals({"m": values_B[::-1]}, 200, seed)["m"]
    assert 0 <= forward["low"] <= forward["mean"] <= forward["high"] <= 1
    assert backward == pytest.approx(forward)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for seed in range(400):
        row = bootstrap_intervals({"HR@1": (rng.random(200) < 0.3).astype(float)}, 400, seed)["HR@1"]
        covered += row["low"] <= 0.3 <= row["high"]
    assert 0.91 <= covered / 400 <= 0.98  # 0.95 with a standard error of 0.011


def test_no_query_is_an_error():
    nothing = np.array([])
    with pytest.raises(DataError, match="the test part is empty"):
        bootstrap_intervals({"HR@1": nothing}, 100, 0)
    with pytest.raises(DataError, match="the test part is empty"):
        paired_permutation(nothing, nothing, 100, 0)


def test_pairs_of_different_length_are_an_error():
    with pytest.raises(DataError, match="3 with 2 queries"):
        paired_difference(np.ones(3), np.ones(2), 100, 0)


def test_the_difference_of_pairs_is_surer_than_the_two_means():
    b_B = ndcg(0)
    a_B = np.minimum(1.0, b_B + 0.02)
    paired = paired_difference(a_B, b_B, 2_000, seed=0)
    alone = bootstrap_intervals({"a": a_B}, 2_000, seed=0)["a"]
    assert 0 < paired["low"] <= paired["mean"] <= paired["high"]
    assert paired["high"] - paired["low"] < 0.2 * (alone["high"] - alone["low"])


@pytest.mark.parametrize("seed", range(3))
def test_the_p_value_is_that_of_all_sign_flips(seed):
    a_B, b_B = ndcg(seed, 12, 12), ndcg(seed + 100, 12, 12)
    difference_B = a_B - b_B
    flips = np.array(list(product((-1, 1), repeat=12)))
    exact = np.mean(np.abs(flips @ difference_B) >= abs(difference_B.sum()) - 1e-9)
    assert paired_permutation(a_B, b_B, 20_000, seed=seed) == pytest.approx(exact, abs=0.015)


def test_p_is_1_for_equal_systems_and_as_small_as_the_resamples_allow_for_a_clear_winner():
    a_B = ndcg(0)
    assert paired_permutation(a_B, a_B, 999, seed=0) == 1.0
    assert paired_permutation(a_B + 0.1, a_B, 999, seed=0) == 0.001


def test_p_below_5_percent_comes_up_in_5_percent_of_comparisons_of_equals():
    p = [paired_permutation(ndcg(2 * i, 100), ndcg(2 * i + 1, 100), 400, seed=i) for i in range(400)]
    assert 0.02 <= np.mean(np.array(p) <= 0.05) <= 0.09  # standard error 0.011


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), max_size=8))
def test_holm_equals_its_definition(p):
    adjusted = holm(p)
    assert list(adjusted) == list(p)
    ordered = sorted(p.values())
    steps = [min(1.0, (len(p) - i) * value) for i, value in enumerate(ordered)]
    for name, value in p.items():
        last = len(ordered) - 1 - ordered[::-1].index(value)
        first = ordered.index(value)
        assert max(steps[: first + 1]) <= adjusted[name] <= max(steps[: last + 1])
        assert value <= adjusted[name] <= 1
