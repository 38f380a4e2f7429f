"""Balanced residual k-means: loads, what that costs, and the exact assignment as the oracle of the auction."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.optimize import linear_sum_assignment

from crsearch.config import SidConfig
from crsearch.sids import sids_from_embeddings
from crsearch.sids.balanced import _auction, _candidates, _placed, _too_many
from crsearch.sids.kmeans import residual_kmeans
from crsearch.sids.lloyd import distances

GRID = st.integers(-20, 20).map(float)
VECTORS = st.tuples(st.integers(1, 40), st.integers(1, 3)).flatmap(lambda s: arrays(np.float32, s, elements=GRID))


def kinds(num: int, width: int, seed: int) -> np.ndarray:
    """Unit vectors around centres of unequal size."""
    rng = np.random.default_rng(seed)
    centre = rng.choice(60, size=num, p=(share := 1 / np.arange(2, 62) ** 0.5) / share.sum())
    vectors_ND = rng.normal(size=(60, width))[centre] + rng.normal(size=(num, width))
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)


def left(embeddings_ND: np.ndarray, found, layers: int) -> float:
    coded = sum(found.codebooks[layer][found.codes_NL[:, layer]] for layer in range(layers))
    return float(((embeddings_ND - coded) ** 2).sum())


@settings(max_examples=60)
@given(embeddings_ND=VECTORS, codes=st.integers(2, 8), capacity=st.floats(1.0, 2.0), seed=st.integers(0, 9))
def test_no_code_has_more_items_than_its_capacity(embeddings_ND, codes, capacity, seed):
    found = residual_kmeans(embeddings_ND, 3, codes, 10, seed, capacity)
    for layer, codebook in enumerate(found.codebooks):
        load = np.bincount(found.codes_NL[:, layer], minlength=len(codebook))
        assert load.min() > 0
        assert load.max() <= math.ceil(capacity * len(embeddings_ND) / len(codebook))
        assert codebook.tolist() == sorted(codebook.tolist())
        assert np.isfinite(codebook).all()


@settings(max_examples=30)
@given(embeddings_ND=VECTORS, seed=st.integers(0, 9), shuffle=st.randoms(use_true_random=False))
def test_permuting_the_items_permutes_the_codes_but_for_equal_vectors(embeddings_ND, seed, shuffle):
    embeddings_ND = np.unique(embeddings_ND, axis=0)
    order = list(range(len(embeddings_ND)))
    shuffle.shuffle(order)
    found = residual_kmeans(embeddings_ND, 2, 4, 10, seed, 1.1)
    permuted = residual_kmeans(embeddings_ND[order], 2, 4, 10, seed, 1.1)
    assert permuted.codes_NL.tolist() == found.codes_NL[order].tolist()


@pytest.mark.parametrize("seed", range(3))
def test_little_is_lost_by_balance(seed):
    embeddings_ND = kinds(3_000, 32, seed)
    plain = residual_kmeans(embeddings_ND, 3, 64, 30, 0)
    balanced = residual_kmeans(embeddings_ND, 3, 64, 30, 0, 1.3)
    assert np.bincount(plain.codes_NL[:, 0]).max() > 1.3 * 3_000 / 64
    for layers in (1, 2, 3):
        assert left(embeddings_ND, balanced, layers) <= 1.06 * left(embeddings_ND, plain, layers)


def test_the_auction_deals_out_at_nearly_the_least_cost():
    points_ND, capacity = kinds(400, 8, seed=1), 22
    centroids_CD = points_ND[::20].copy()
    near = _candidates(points_ND, centroids_CD)
    code_N, price_C = _auction(near, 20, capacity)
    homeless_N = _too_many(near, price_C, code_N, capacity)
    code_N = _placed(points_ND, centroids_CD, price_C, code_N, homeless_N, capacity)
    cost_NC = distances(points_ND, centroids_CD) + (points_ND**2).sum(1, keepdims=True)
    rows, place = linear_sum_assignment(np.repeat(cost_NC, capacity, axis=1))
    least = cost_NC[rows, place // capacity].sum()
    assert np.bincount(cost_NC.argmin(1)).max() > capacity
    assert np.bincount(code_N).max() <= capacity
    assert cost_NC[np.arange(400), code_N].sum() <= 1.01 * least


def test_copies_of_one_item_are_dealt_out_the_first_rows_together():
    embeddings_ND = np.concatenate([np.zeros((9, 2)), np.eye(2), [[5.0, 5.0]]])
    found = residual_kmeans(embeddings_ND, 1, 4, 10, 0, 1.0)
    assert np.bincount(found.codes_NL[:, 0]).tolist() == [3, 3, 3, 3]


def test_a_book_of_balanced_codes_takes_new_items():
    embeddings_ND = kinds(500, 16, seed=0)
    config = SidConfig(quantizer="balanced-kmeans", codes=16, capacity=1.1)
    book = sids_from_embeddings([f"i{n}" for n in range(500)], embeddings_ND, config, seed=0)
    assert max(np.bincount(book.codes_NL[:, layer]).max() for layer in range(3)) <= math.ceil(1.1 * 500 / 16)
    grown = book.append(["new"], embeddings_ND[:1])
    assert len(grown) == 501
    assert grown.fingerprint() == book.fingerprint()
