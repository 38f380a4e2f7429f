"""Recursive k-means: the worked example, and what makes paths usable as identifiers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crsearch.decode.trie import Trie
from crsearch.errors import SidError
from crsearch.sids.recursive import ENDED, recursive_kmeans


def test_four_points_on_a_line_get_the_paths_worked_out_by_hand():
    points = np.array([[10.0], [1.0], [0.0], [11.0]])
    codes = recursive_kmeans(points, branching=2, leaf_size=1, iterations=20, seed=0)
    assert codes.tolist() == [[1, 0], [0, 1], [0, 0], [1, 1]]


def test_a_small_cluster_is_numbered_and_a_single_item_is_not():
    points = np.array([[0.0], [0.1], [9.0]])
    codes = recursive_kmeans(points, branching=2, leaf_size=2, iterations=20, seed=0)
    assert codes.tolist() == [[0, 0], [0, 1], [1, ENDED]]


@pytest.mark.parametrize(("count", "length"), [(1, 1), (2, 1), (8, 3), (9, 4)])
def test_equal_vectors_are_dealt_out_evenly(count, length):
    codes = recursive_kmeans(np.ones((count, 3)), branching=2, leaf_size=1, iterations=5, seed=0)
    assert codes.shape == (count, length)
    assert len(np.unique(codes, axis=0)) == count


@settings(max_examples=40)
@given(
    count=st.integers(1, 40), kinds=st.integers(1, 20), branching=st.integers(2, 5), leaf_size=st.integers(1, 7),
    seed=st.integers(0, 2**16),
)  # fmt: skip
def test_paths_are_distinct_prefix_free_and_of_few_digits(count, kinds, branching, leaf_size, seed):
    points = np.random.default_rng(seed).integers(0, kinds, (count, 2)).astype(float)
    codes = recursive_kmeans(points, branching, leaf_size, 5, seed)
    assert codes.max() < max(branching, leaf_size)
    paths = [tuple(c for c in row if c != ENDED) for row in codes.tolist()]
    assert [p + (ENDED,) * (codes.shape[1] - len(p)) for p in paths] == [tuple(row) for row in codes.tolist()]
    assert all(paths)
    assert not any(a == b[: len(a)] for i, a in enumerate(paths) for j, b in enumerate(paths) if i != j)
    end = max(branching, leaf_size)
    assert len(Trie.from_tokens(np.where(codes == ENDED, end, codes))) == count


def test_neighbours_share_the_first_digit():
    rng = np.random.default_rng(0)
    points = np.repeat([[0.0, 0.0], [50.0, 0.0], [0.0, 50.0]], 30, axis=0) + rng.normal(size=(90, 2))
    codes = recursive_kmeans(points, branching=3, leaf_size=10, iterations=30, seed=0)
    assert [len(set(codes[i : i + 30, 0])) for i in (0, 30, 60)] == [1, 1, 1]
    assert len(set(codes[:, 0])) == 3


def test_the_same_codes_again():
    points = np.random.default_rng(1).normal(size=(50, 4))
    first, second = (recursive_kmeans(points, 4, 3, 10, 7) for _ in range(2))
    assert np.array_equal(first, second)


def test_no_item_is_an_error():
    with pytest.raises(SidError, match="at least one item"):
        recursive_kmeans(np.empty((0, 2)), 2, 1, 5, 0)
