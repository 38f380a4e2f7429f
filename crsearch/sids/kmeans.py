"""Residual k-means: vectors -> one code per layer and the codebooks behind them (CRS §3.1.1, Eq. 1).

Own Lloyd rounds in NumPy and not ``faiss.Kmeans``, for what a stored identifier needs: k-means++ starts, every point
used, weights for repeated vectors, and the same codes for any number of threads and any order of the items.
"""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64, Shaped

from crsearch.encoders.blas import blas_threads, limit_blas
from crsearch.errors import SidError
from crsearch.sids.projection import UNPROJECTED, Projection

_CELLS = 2**22
"""Most numbers of a block of the distance matrix: 16 MiB in float32, however many points there are."""
_SAMPLE_PER_CODE = 64
"""The k-means++ start looks at no more points than this many per code; the rounds after it use all."""

Vectors = Float32[np.ndarray, "M D"]
Centroids = Float32[np.ndarray, "C D"]
Map = Callable[..., Iterator[Any]]


@dataclass(frozen=True)
class Quantised:
    """What a quantiser found."""

    codebooks: tuple[Float32[np.ndarray, "_ D"], ...]
    """Centroids of each layer, in lexicographic order; a layer may have fewer than asked for."""
    codes_NL: Int64[np.ndarray, "N L"]
    """Code of each vector in each layer."""
    warnings: tuple[str, ...]
    """One line per layer that could not have all its codes."""
    projection: Projection = UNPROJECTED
    """From vectors to what the codebooks are about."""


def residual_kmeans(
    embeddings_ND: Float[np.ndarray, "N D"], layers: int, codes: int, iterations: int, seed: int
) -> Quantised:
    """Quantise vectors layer by layer, each layer coding what the ones before left over.

        C^l = KMeans({e_i^l}, codes);  s_i^l = argmin_k |e_i^l - c_k^l|^2;  e_i^{l+1} = e_i^l - c^l_{s_i^l}

    Equal vectors get equal codes, permuting the rows permutes the result and changes nothing else, and the number of
    threads changes no bit. Codes are numbered by the lexicographic order of their centroids, so that reruns and
    other builds are comparable. A layer with fewer distinct residuals than ``codes`` gets one code for each.

    Args:
        embeddings_ND: one finite vector per item, at least one.
        layers: codebooks.
        codes: centroids per codebook, where there are that many distinct residuals.
        iterations: most Lloyd rounds per layer; a layer ends early once no vector moves.
        seed: of the k-means++ starts.

    Raises:
        SidError: there is no vector, or one holds NaN or infinity.

    Source: CRS §3.1.1, Eq. 1; start, repair of empty clusters and numbering: details of this project.

    >>> found = residual_kmeans(np.array([[0.0], [2.0], [9.0], [13.0]]), layers=3, codes=2, iterations=20, seed=0)
    >>> found.codes_NL.tolist()
    [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]
    >>> [codebook.ravel().tolist() for codebook in found.codebooks]
    [[1.0, 11.0], [-1.5, 1.5], [-0.5, 0.5]]
    """
    refuse_broken(embeddings_ND)
    # Adding 0 turns -0.0 into 0.0, so that equal vectors have equal bytes.
    rows_ND = np.ascontiguousarray(embeddings_ND, dtype=np.float32) + np.float32(0)
    first, row_N = distinct_rows(rows_ND)
    residual_MD = rows_ND[first]
    weight_M = np.bincount(row_N).astype(np.float64)

    codebooks, codes_of_layer, warnings = [], [], []
    for layer in range(layers):
        rng = np.random.default_rng([seed, layer])
        centroids_CD, code_M = _kmeans(residual_MD, weight_M, codes, iterations, rng)
        if len(centroids_CD) < codes:
            warnings.append(
                f"layer {layer + 1} has {len(centroids_CD)} codes instead of {codes}: "
                "the vectors left to it are not more distinct than that"
            )
        residual_MD = residual_MD - centroids_CD[code_M]
        codebooks.append(centroids_CD)
        codes_of_layer.append(code_M)
    return Quantised(tuple(codebooks), np.stack(codes_of_layer, axis=1)[row_N], tuple(warnings))


def refuse_broken(embeddings_ND: Float[np.ndarray, "N D"]) -> None:
    """Raise a SidError if there is no vector, or one holds NaN or infinity."""
    if len(embeddings_ND) == 0:
        raise SidError("semantic IDs need at least one item: the catalogue is empty")
    broken = np.flatnonzero(~np.isfinite(embeddings_ND).all(axis=1))
    if len(broken):
        raise SidError(
            f"{len(broken)} of {len(embeddings_ND)} embeddings hold NaN or infinity (first: row {broken[0]}). "
            "Check the encoder and the texts of these items"
        )


def assign_codes(
    embeddings_ND: Float[np.ndarray, "N D"], codebooks: tuple[Float32[np.ndarray, "_ D"], ...]
) -> Int64[np.ndarray, "N L"]:
    """Codes of vectors under given codebooks: the nearest centroid of each layer, ties to the lower code."""
    residual_ND = np.asarray(embeddings_ND, dtype=np.float32)
    codes_NL = np.empty((len(residual_ND), len(codebooks)), dtype=np.int64)
    for layer, centroids_CD in enumerate(codebooks):
        codes_NL[:, layer] = nearest(residual_ND, centroids_CD)
        residual_ND = residual_ND - centroids_CD[codes_NL[:, layer]]
    return codes_NL


def nearest(points_MD: Vectors, centroids_CD: Centroids) -> Int64[np.ndarray, " M"]:
    """Index of the nearest centroid of each point, ties to the lower index.

    Distances are taken in float64: a point then gets the same code alone as in a batch, whatever order the
    processor adds in.
    """
    wide_CD = centroids_CD.astype(np.float64)

    def one_block(block: slice) -> Int64[np.ndarray, " m"]:
        return _distances(points_MD[block].astype(np.float64), wide_CD).argmin(axis=1)

    with _one_thread_per_block() as blocks_map:
        codes = blocks_map(one_block, _slices(len(points_MD), len(centroids_CD)))
        return np.concatenate([np.empty(0, dtype=np.int64), *codes])


def distinct_rows(rows_ND: Shaped[np.ndarray, "N D"]) -> tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, " N"]]:
    """The distinct rows of a matrix, compared byte by byte.

    Returns:
        (index of the first row of each kind, kind of each row); kinds are in an order that depends on the rows'
        values and not on their places.

    >>> first, kind = distinct_rows(np.array([[2, 2], [1, 1], [2, 2]]))
    >>> first.tolist(), kind.tolist()
    ([1, 0], [1, 0, 1])
    """
    rows_ND = np.ascontiguousarray(rows_ND)
    if rows_ND.shape[1] == 0:
        return np.zeros(min(1, len(rows_ND)), dtype=np.int64), np.zeros(len(rows_ND), dtype=np.int64)
    whole_rows = rows_ND.view(np.dtype((np.void, rows_ND.dtype.itemsize * rows_ND.shape[1]))).ravel()
    _, first, kind = np.unique(whole_rows, return_index=True, return_inverse=True)
    return first, kind


def rows_by_value(rows_ND: Shaped[np.ndarray, "N D"]) -> Int64[np.ndarray, " N"]:
    """Row numbers in an order of their values: permuting the rows does not change the sequence of values.

    >>> rows_by_value(np.array([[2, 2], [1, 1], [2, 2]])).tolist()
    [1, 0, 2]
    """
    return np.argsort(distinct_rows(rows_ND)[1], kind="stable")


def _kmeans(
    points_MD: Vectors, weight_M: Float64[np.ndarray, " M"], codes: int, iterations: int, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "_ D"], Int64[np.ndarray, " M"]]:
    """At most ``codes`` centroids of weighted points, in lexicographic order, and the nearest one of each point."""
    first, _ = distinct_rows(points_MD)
    if len(first) <= codes:
        centroids_CD = points_MD[first]
    else:
        centroids_CD = _lloyd(points_MD, weight_M, _plus_plus(points_MD, weight_M, codes, rng), iterations)
    centroids_CD = centroids_CD[np.lexsort(centroids_CD.T[::-1])]
    # A cluster that came out empty is dropped: no other point's nearest centroid changes by that.
    used, code_M = np.unique(nearest(points_MD, centroids_CD), return_inverse=True)
    return centroids_CD[used], code_M


def _lloyd(
    points_MD: Vectors, weight_M: Float64[np.ndarray, " M"], centroids_CD: Centroids, iterations: int
) -> Centroids:
    """Lloyd rounds until no point moves; an empty cluster restarts at a point that is served worst."""
    before_M = None
    for _ in range(iterations):
        code_M, distance_M, sum_CD, mass_C = _assign_and_sum(points_MD, weight_M, centroids_CD)
        if before_M is not None and np.array_equal(code_M, before_M):
            break
        empty = mass_C == 0
        centroids_CD = (sum_CD / np.where(empty, 1, mass_C)[:, None]).astype(np.float32)
        centroids_CD[empty] = points_MD[np.argsort(-distance_M, kind="stable")[: empty.sum()]]
        before_M = code_M
    return centroids_CD


def _plus_plus(
    points_MD: Vectors, weight_M: Float64[np.ndarray, " M"], codes: int, rng: np.random.Generator
) -> Centroids:
    """Starting centroids: greedy k-means++, each the best of a few points drawn by squared distance.

    Source: Arthur and Vassilvitskii 2007, with 2 + ln(codes) trials per centroid as in scikit-learn.
    """
    if len(points_MD) > _SAMPLE_PER_CODE * codes:
        kept = np.sort(rng.choice(len(points_MD), _SAMPLE_PER_CODE * codes, replace=False))
        points_MD, weight_M = points_MD[kept], weight_M[kept]
    trials = 2 + int(np.log(codes))
    with limit_blas(1):
        square_M = np.einsum("md,md->m", points_MD, points_MD, dtype=np.float64)
        chosen = [int(rng.choice(len(points_MD), p=weight_M / weight_M.sum()))]
        distance_M = _to_points(points_MD, square_M, np.array(chosen))[0]
        while len(chosen) < codes:
            share_M = np.cumsum(distance_M * weight_M)
            if share_M[-1] <= 0:  # what is left differs by less than float32 can tell
                break
            # side="right" never lands on a point of no share, which is a centroid already
            candidates = np.searchsorted(share_M, rng.random(trials) * share_M[-1], side="right")
            closer_SM = np.minimum(_to_points(points_MD, square_M, candidates), distance_M)
            best = int(np.argmin(closer_SM @ weight_M))
            chosen.append(int(candidates[best]))
            distance_M = closer_SM[best]
    return points_MD[chosen]


def _to_points(
    points_MD: Vectors, square_M: Float64[np.ndarray, " M"], rows: Int64[np.ndarray, " S"]
) -> Float64[np.ndarray, "S M"]:
    """Squared distances of the points of some rows to all points, 0 to themselves."""
    product_SM = (points_MD[rows] @ points_MD.T).astype(np.float64)
    distance_SM = np.maximum(square_M + square_M[rows, None] - 2 * product_SM, 0)
    distance_SM[np.arange(len(rows)), rows] = 0
    return distance_SM


def _assign_and_sum(
    points_MD: Vectors, weight_M: Float64[np.ndarray, " M"], centroids_CD: Centroids
) -> tuple[Int64[np.ndarray, " M"], Float32[np.ndarray, " M"], Float64[np.ndarray, "C D"], Float64[np.ndarray, " C"]]:
    """One Lloyd round: code and squared distance of each point, weighted sum and mass of each cluster."""
    from scipy.sparse import csr_matrix

    def one_block(block: slice) -> tuple[Any, Any, Any]:
        points_mD = points_MD[block]
        distance_mC = _distances(points_mD, centroids_CD)
        code_m = distance_mC.argmin(axis=1)
        member_Cm = csr_matrix((weight_M[block], (code_m, np.arange(len(code_m)))), (len(centroids_CD), len(code_m)))
        square_m = np.einsum("md,md->m", points_mD, points_mD)
        return code_m, distance_mC[np.arange(len(code_m)), code_m] + square_m, member_Cm @ points_mD

    with _one_thread_per_block() as blocks_map:
        codes, distances, sums = zip(*blocks_map(one_block, _slices(len(points_MD), len(centroids_CD))), strict=True)
    code_M = np.concatenate(codes)
    mass_C = np.bincount(code_M, weights=weight_M, minlength=len(centroids_CD))
    return code_M, np.concatenate(distances), np.sum(sums, axis=0), mass_C


def _distances(points_mD: Float[np.ndarray, "m D"], centroids_CD: Float[np.ndarray, "C D"]) -> Float[np.ndarray, "m C"]:
    # |x - c|^2 without the |x|^2 term, which is equal for all centroids of a row
    return np.einsum("cd,cd->c", centroids_CD, centroids_CD) - 2 * (points_mD @ centroids_CD.T)


def _slices(points: int, codes: int) -> list[slice]:
    size = max(1, _CELLS // codes)
    return [slice(start, start + size) for start in range(0, points, size)]


@contextmanager
def _one_thread_per_block() -> Iterator[Map]:
    """A ``map`` that runs blocks on as many threads as BLAS has, with BLAS itself on one thread.

    Blocks have a fixed size and their results are put together in order: the number of threads changes no bit.
    """
    threads = blas_threads()
    with limit_blas(1), ThreadPoolExecutor(threads) as pool:
        yield pool.map
