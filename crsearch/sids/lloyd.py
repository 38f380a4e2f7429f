"""Rounds of k-means over many points: bounded memory, all cores, and the same bits for any number of them."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from crsearch.encoders.blas import blas_threads, limit_blas

_CELLS = 2**22
"""Numbers of the distance matrix that a thread is given to work through; sums of a round are taken block by block."""
_TILE = 1_024
"""Most points whose distances exist at once in a thread: with 256 codes 1 MiB, which the second cache holds."""
_SAMPLE_PER_CODE = 64
"""The k-means++ start looks at no more points than this many per code; the rounds after it use all."""
_MANY, _WARM_PER_CODE, _START_PER_CODE = 2**15, 128, 32
"""Above this many points, and this many per code, a sample of that size starts the rounds, from that many per code."""
_ENOUGH = 1e-3
"""Many points: a round that lowers the mean distance by less than this share is the last."""

Vectors = Float32[np.ndarray, "M D"]
Centroids = Float32[np.ndarray, "C D"]
Weights = Float64[np.ndarray, " M"]
Codes = Int64[np.ndarray, " M"]
Map = Callable[..., Iterator[Any]]


def cluster(points_MD: Vectors, weight_M: Weights, codes: int, iterations: int, rng: np.random.Generator) -> Centroids:
    """Centroids of weighted points: k-means++, then rounds until no point moves.

    Many points are worked through less often: rounds on a sample come first, and rounds on all follow until one gains
    next to nothing.

    Args:
        points_MD: in an order that only their values decide; more distinct ones than ``codes``.
        weight_M: of each.
        codes: centroids.
        iterations: most rounds, on the sample and on all.
        rng: of the start.

    Source: mini-batch starts as in Sculley 2010 are the idea; sizes and end measured by this project.
    """
    sample = max(_MANY, _WARM_PER_CODE * codes)
    if len(points_MD) <= sample:
        return _rounds(points_MD, weight_M, _plus_plus(points_MD, weight_M, codes, rng), iterations)
    drawn = rng.choice(len(points_MD), sample, replace=False)
    few, some = np.sort(drawn[: _START_PER_CODE * codes]), np.sort(drawn)
    centroids_CD = _plus_plus(points_MD[few], weight_M[few], codes, rng)
    centroids_CD = _rounds(points_MD[some], weight_M[some], centroids_CD, iterations, _ENOUGH)
    return _rounds(points_MD, weight_M, centroids_CD, iterations, _ENOUGH)


def _rounds(
    points_MD: Vectors, weight_M: Weights, centroids_CD: Centroids, iterations: int, enough: float = 0.0
) -> Centroids:
    """Lloyd rounds until no point moves, or little is gained; an empty cluster restarts at a point served worst.

    Args:
        points_MD: the points.
        weight_M: of each.
        centroids_CD: the start.
        iterations: most rounds.
        enough: stop after a round that lowers the sum of distances by less than this share of it.
    """
    before_M, before = None, np.inf
    for _ in range(iterations):
        code_M, distance_M, sum_CD, mass_C = assign_and_sum(points_MD, weight_M, centroids_CD)
        if before_M is not None and np.array_equal(code_M, before_M):
            break
        centroids_CD = means(sum_CD, mass_C, points_MD, distance_M)
        total = float(distance_M @ weight_M) if enough else np.inf
        if before - total < enough * total:
            break
        before_M, before = code_M, total
    return centroids_CD


def means(
    sum_CD: Float64[np.ndarray, "C D"], mass_C: Float64[np.ndarray, " C"], points_MD: Vectors, distance_M: Any
) -> Centroids:
    """Centroids of sums and masses; an empty cluster goes to a point that is served worst."""
    empty = mass_C == 0
    centroids_CD = (sum_CD / np.where(empty, 1, mass_C)[:, None]).astype(np.float32)
    if empty.any():
        centroids_CD[empty] = points_MD[np.argsort(-distance_M, kind="stable")[: empty.sum()]]
    return centroids_CD


def _plus_plus(points_MD: Vectors, weight_M: Weights, codes: int, rng: np.random.Generator) -> Centroids:
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


def assign_and_sum(
    points_MD: Vectors, weight_M: Weights, centroids_CD: Centroids
) -> tuple[Codes, Float32[np.ndarray, " M"], Float64[np.ndarray, "C D"], Float64[np.ndarray, " C"]]:
    """One Lloyd round: code and squared distance of each point, weighted sum and mass of each cluster."""

    def one_block(block: slice) -> tuple[Any, Any, Any]:
        points_mD, weight_m = points_MD[block], weight_M[block]
        code_m, distance_m = np.empty(len(points_mD), np.int64), np.empty(len(points_mD), np.float32)
        sum_CD = np.zeros(centroids_CD.shape)
        for tile in tiles(len(points_mD)):
            points_tD = points_mD[tile]
            distance_tC = distances(points_tD, centroids_CD)
            code_m[tile] = code_t = distance_tC.argmin(axis=1)
            square_t = np.einsum("td,td->t", points_tD, points_tD)
            distance_m[tile] = distance_tC[np.arange(len(code_t)), code_t] + square_t
            sum_CD = add_up(sum_CD, code_t, weight_m[tile], points_tD)
        return code_m, distance_m, sum_CD

    with one_thread_per_block() as blocks_map:
        codes, distance, sums = zip(*blocks_map(one_block, blocks(len(points_MD), len(centroids_CD))), strict=True)
    code_M = np.concatenate(codes)
    mass_C = np.bincount(code_M, weights=weight_M, minlength=len(centroids_CD))
    return code_M, np.concatenate(distance), np.sum(sums, axis=0), mass_C


def add_up(
    sum_CD: Float64[np.ndarray, "C D"],
    code_t: Int64[np.ndarray, " t"],
    weight_t: Float64[np.ndarray, " t"],
    points_tD: Float32[np.ndarray, "t D"],
) -> Float64[np.ndarray, "C D"]:
    """Sums of the clusters with more points; added one after the other, so that tiles change no bit."""
    from scipy.sparse import csr_matrix

    C, t = len(sum_CD), len(code_t)
    held = np.concatenate([sum_CD, points_tD])
    share, row = np.concatenate([np.ones(C), weight_t]), np.concatenate([np.arange(C), code_t])
    added: Float64[np.ndarray, "C D"] = csr_matrix((share, (row, np.arange(C + t))), (C, C + t)) @ held
    return added


def distances(points_tD: Float[np.ndarray, "t D"], centroids_CD: Float[np.ndarray, "C D"]) -> Float[np.ndarray, "t C"]:
    """Squared distances without the term |x|^2, which is equal for all centroids of a point."""
    distance_tC: Float[np.ndarray, "t C"] = points_tD @ (-2 * centroids_CD).T
    distance_tC += np.einsum("cd,cd->c", centroids_CD, centroids_CD)
    return distance_tC


def blocks(points: int, codes: int) -> list[slice]:
    """What threads are given, one after the other."""
    size = max(1, _CELLS // codes)
    return [slice(start, start + size) for start in range(0, points, size)]


def tiles(points: int) -> list[slice]:
    """A block in parts of about equal size: BLAS has other kernels, and other last bits, for very short ones."""
    count = -(-points // _TILE)
    return [slice(points * i // count, points * (i + 1) // count) for i in range(count)]


@contextmanager
def one_thread_per_block() -> Iterator[Map]:
    """A ``map`` that runs blocks on as many threads as BLAS has, with BLAS itself on one thread.

    Blocks have a fixed size and their results are put together in order: the number of threads changes no bit.
    """
    threads = blas_threads()
    with limit_blas(1), ThreadPoolExecutor(threads) as pool:
        yield pool.map
