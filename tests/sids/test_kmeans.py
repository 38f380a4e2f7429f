"""Residual k-means: the worked example, its properties, and faiss as the oracle of its quality."""

import tempfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from crsearch.encoders.blas import limit_blas
from crsearch.errors import SidError
from crsearch.sids import kmeans, lloyd
from crsearch.sids.kmeans import assign_codes, nearest, residual_kmeans
from crsearch.sids.lloyd import _CELLS

GRID = st.integers(-20, 20).map(float)
"""Small whole numbers: equal vectors, ties and degenerate layers are frequent."""


def vectors(rows: int = 30, width: int = 3):
    return st.tuples(st.integers(1, rows), st.integers(1, width)).flatmap(
        lambda shape: arrays(np.float32, shape, elements=GRID)
    )


def clustered(num: int, width: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    vectors_ND = rng.normal(size=(40, width))[rng.integers(40, size=num)] + 0.3 * rng.normal(size=(num, width))
    return (vectors_ND / np.linalg.norm(vectors_ND, axis=1, keepdims=True)).astype(np.float32)


def reconstruct(found, layers: int) -> np.ndarray:
    return sum(found.codebooks[layer][found.codes_NL[:, layer]] for layer in range(layers))


@pytest.mark.parametrize("seed", range(20))
def test_four_numbers_get_the_codes_worked_out_by_hand(seed):
    embeddings_ND = np.array([[0.0], [2.0], [9.0], [13.0]])
    found = residual_kmeans(embeddings_ND, layers=3, codes=2, iterations=20, seed=seed)
    assert found.codes_NL.tolist() == [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]
    assert [book.ravel().tolist() for book in found.codebooks] == [[1, 11], [-1.5, 1.5], [-0.5, 0.5]]
    errors = [float(((embeddings_ND - reconstruct(found, layers)) ** 2).sum()) for layers in (1, 2, 3)]
    assert errors == [10, 1, 0]
    assert found.warnings == ()


@settings(max_examples=40)
@given(embeddings_ND=vectors(), codes=st.integers(2, 8), seed=st.integers(0, 9))
def test_codes_are_the_nearest_centroids_of_what_is_left(embeddings_ND, codes, seed):
    found = residual_kmeans(embeddings_ND, layers=3, codes=codes, iterations=10, seed=seed)
    left_ND = embeddings_ND.astype(np.float64)
    for layer, centroids_CD in enumerate(found.codebooks):
        distance_NC = ((left_ND[:, None] - centroids_CD[None]) ** 2).sum(-1)
        own_N = distance_NC[np.arange(len(left_ND)), found.codes_NL[:, layer]]
        np.testing.assert_allclose(own_N, distance_NC.min(1), atol=1e-4)
        left_ND = left_ND - centroids_CD[found.codes_NL[:, layer]]


@settings(max_examples=40)
@given(embeddings_ND=vectors(), codes=st.integers(2, 8), seed=st.integers(0, 9))
def test_every_code_is_used_and_codes_follow_their_centroids_order(embeddings_ND, codes, seed):
    found = residual_kmeans(embeddings_ND, layers=3, codes=codes, iterations=10, seed=seed)
    for layer, centroids_CD in enumerate(found.codebooks):
        assert set(found.codes_NL[:, layer].tolist()) == set(range(len(centroids_CD)))
        assert centroids_CD.tolist() == sorted(centroids_CD.tolist())
        assert len(centroids_CD) <= codes


@settings(max_examples=40)
@given(embeddings_ND=vectors(), codes=st.integers(2, 8), seed=st.integers(0, 9))
def test_assigning_the_items_again_gives_their_codes_even_on_ties(embeddings_ND, codes, seed):
    found = residual_kmeans(embeddings_ND, layers=3, codes=codes, iterations=2, seed=seed)
    assert assign_codes(embeddings_ND, found.codebooks).tolist() == found.codes_NL.tolist()


@settings(max_examples=40)
@given(embeddings_ND=vectors(), seed=st.integers(0, 9), shuffle=st.randoms(use_true_random=False))
def test_permuting_the_items_permutes_the_codes_only(embeddings_ND, seed, shuffle):
    order = list(range(len(embeddings_ND)))
    shuffle.shuffle(order)
    found = residual_kmeans(embeddings_ND, layers=2, codes=4, iterations=10, seed=seed)
    permuted = residual_kmeans(embeddings_ND[order], layers=2, codes=4, iterations=10, seed=seed)
    assert permuted.codes_NL.tolist() == found.codes_NL[order].tolist()
    assert all((a == b).all() for a, b in zip(found.codebooks, permuted.codebooks, strict=True))


@settings(max_examples=40)
@given(embeddings_ND=vectors(), seed=st.integers(0, 9))
def test_error_never_grows_from_layer_to_layer(embeddings_ND, seed):
    found = residual_kmeans(embeddings_ND, layers=3, codes=3, iterations=30, seed=seed)
    errors = [float(((embeddings_ND - reconstruct(found, layers)) ** 2).sum()) for layers in (1, 2, 3)]
    assert errors[1] <= errors[0] * 1.0001 + 1e-4
    assert errors[2] <= errors[1] * 1.0001 + 1e-4


def test_equal_vectors_get_equal_codes_and_count_for_the_centroid():
    found = residual_kmeans(np.array([[0.0], [0.0], [0.0], [4.0], [100.0]]), layers=1, codes=2, iterations=10, seed=0)
    assert found.codes_NL.ravel().tolist() == [0, 0, 0, 0, 1]
    assert found.codebooks[0].ravel().tolist() == [1.0, 100.0]


@pytest.mark.parametrize(
    ("embeddings_ND", "sizes"),
    [
        (np.array([[3.0, 4.0]]), [1, 1, 1]),
        (np.zeros((5, 2)), [1, 1, 1]),
        (np.full((1000, 2), 0.1), [1, 1, 1]),
        (np.array([[0.0], [1.0], [5.0]]), [3, 1, 1]),
    ],
    ids=["one item", "all zero", "all identical", "fewer items than codes"],
)
def test_a_layer_without_enough_distinct_vectors_is_smaller_and_says_so(embeddings_ND, sizes):
    found = residual_kmeans(embeddings_ND, layers=3, codes=4, iterations=10, seed=0)
    assert [len(book) for book in found.codebooks] == sizes
    assert [warning.split(":")[0] for warning in found.warnings] == [
        f"layer {layer + 1} has {size} codes instead of 4" for layer, size in enumerate(sizes)
    ]
    np.testing.assert_array_equal(reconstruct(found, 3), embeddings_ND.astype(np.float32))


def test_the_number_of_threads_changes_no_bit(monkeypatch):
    monkeypatch.setattr(lloyd, "_CELLS", 2**10)  # many blocks
    embeddings_ND = clustered(600, 16, seed=1)
    results = []
    for threads in (1, 4):
        with limit_blas(threads):
            results.append(residual_kmeans(embeddings_ND, layers=3, codes=24, iterations=20, seed=0))
    assert (results[0].codes_NL == results[1].codes_NL).all()
    assert all((a == b).all() for a, b in zip(results[0].codebooks, results[1].codebooks, strict=True))


def test_an_item_alone_gets_the_codes_it_has_in_the_batch():
    embeddings_ND = clustered(200, 24, seed=2)
    found = residual_kmeans(embeddings_ND, layers=3, codes=32, iterations=20, seed=0)
    assert (assign_codes(embeddings_ND, found.codebooks) == found.codes_NL).all()
    alone_NL = np.concatenate([assign_codes(embeddings_ND[row : row + 1], found.codebooks) for row in range(200)])
    assert (alone_NL == found.codes_NL).all()


def test_blocks_of_the_distance_matrix_join_to_the_whole():
    points_MD = clustered(_CELLS // 1024 + 7, 4, seed=3)
    centroids_CD = clustered(1024, 4, seed=4)
    in_blocks_M = nearest(points_MD, centroids_CD)
    some = [0, _CELLS // 1024 - 1, _CELLS // 1024, len(points_MD) - 1]
    distance_SC = ((points_MD[some, None].astype(np.float64) - centroids_CD) ** 2).sum(-1)
    assert in_blocks_M[some].tolist() == distance_SC.argmin(1).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_first_layer_is_as_tight_as_that_of_faiss(seed):
    faiss = pytest.importorskip("faiss")
    embeddings_ND = clustered(2000, 16, seed=seed)
    found = residual_kmeans(embeddings_ND, layers=1, codes=64, iterations=30, seed=0)
    ours = ((embeddings_ND - reconstruct(found, 1)) ** 2).sum()
    oracle = faiss.Kmeans(16, 64, niter=30, seed=1, max_points_per_centroid=2000, min_points_per_centroid=1)
    oracle.train(embeddings_ND)
    distances, _ = oracle.index.search(embeddings_ND, 1)
    assert ours <= 1.02 * distances.sum()


@pytest.fixture
def many(monkeypatch):
    """Vectors that count as many, in several parts, blocks and tiles."""
    monkeypatch.setattr(lloyd, "_MANY", 300)
    monkeypatch.setattr(lloyd, "_WARM_PER_CODE", 16)
    monkeypatch.setattr(lloyd, "_CELLS", 2**13)
    monkeypatch.setattr(lloyd, "_TILE", 64)
    monkeypatch.setattr(kmeans, "_ROWS", 100)
    return clustered(2_000, 16, seed=5)


def test_many_vectors_start_on_a_sample_and_come_out_as_tight(many, monkeypatch):
    def left_over() -> np.ndarray:
        found = [residual_kmeans(many, layers=3, codes=24, iterations=30, seed=seed) for seed in range(6)]
        return np.array([((many - reconstruct(f, 3)) ** 2).sum() for f in found])

    in_two_steps = left_over()
    monkeypatch.setattr(lloyd, "_MANY", 10_000)
    at_once = left_over()
    assert (in_two_steps != at_once).all()
    assert 0.97 < in_two_steps.mean() / at_once.mean() < 1.03


def test_many_vectors_get_their_codes_in_any_order(many):
    order = np.random.default_rng(0).permutation(len(many))
    found = residual_kmeans(many, layers=2, codes=24, iterations=30, seed=0)
    permuted = residual_kmeans(many[order], layers=2, codes=24, iterations=30, seed=0)
    assert (permuted.codes_NL == found.codes_NL[order]).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.float64])
def test_vectors_in_a_file_get_the_codes_they_get_in_memory(many, dtype, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "working"))
    (tmp_path / "working").mkdir()
    np.save(tmp_path / "vectors.npy", many.astype(dtype))
    mapped = np.load(tmp_path / "vectors.npy", mmap_mode="r")
    in_memory = residual_kmeans(np.array(mapped), layers=3, codes=24, iterations=30, seed=0)
    streamed = residual_kmeans(mapped, layers=3, codes=24, iterations=30, seed=0)
    assert (streamed.codes_NL == in_memory.codes_NL).all()
    assert all((a == b).all() for a, b in zip(streamed.codebooks, in_memory.codebooks, strict=True))
    assert not isinstance(streamed.codebooks[0], np.memmap)
    assert list((tmp_path / "working").iterdir()) == []


def test_the_nearest_is_that_of_float64_where_float32_cannot_tell():
    rng = np.random.default_rng(0)
    centroids_CD = rng.normal(size=(40, 8)).astype(np.float32)
    centroids_CD[20:] = centroids_CD[:20] * np.float32(1 + 1e-7)  # a last bit apart
    points_MD = np.concatenate([100 * centroids_CD, rng.normal(size=(400, 8)).astype(np.float32)])
    wide = points_MD.astype(np.float64), centroids_CD.astype(np.float64)
    expected = ((wide[1] ** 2).sum(1) - 2 * wide[0] @ wide[1].T).argmin(1)
    in_float32 = (-2 * points_MD @ centroids_CD.T + (centroids_CD**2).sum(1)).argmin(1)
    assert nearest(points_MD, centroids_CD).tolist() == expected.tolist()
    assert (in_float32 != expected).any()


def test_no_vectors_or_broken_ones_are_refused():
    with pytest.raises(SidError, match="at least one item"):
        residual_kmeans(np.empty((0, 4)), layers=1, codes=2, iterations=5, seed=0)
    with pytest.raises(SidError, match=r"1 of 2 embeddings hold NaN or infinity \(first: row 1\)"):
        residual_kmeans(np.array([[1.0], [np.nan]]), layers=1, codes=2, iterations=5, seed=0)
