"""``crsearch bench sids``: residual k-means against that of scikit-learn and faiss; how it grows in time and memory.

Clusterings differ by their starts, so "the same result" is its quality: what is left over of the vectors after all
layers must be at most 5 % more than the usual way leaves.
"""

import os
import re
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from crsearch.bench.figures import Figure, Measured, NotMeasured, Ratio
from crsearch.bench.machine import Machine
from crsearch.bench.timing import Budget, alternate, cpu_seconds
from crsearch.bench.usual import installed
from crsearch.sids.kmeans import residual_kmeans

FLOOR_ITEMS = 1_000_000
FLOOR_SECONDS, FLOOR_GIB = 600.0, 4.0
WORSE = 1.05
"""Most that ours may leave over, times what the usual way leaves."""


@dataclass(frozen=True, kw_only=True)
class SidSizes:
    """How much is measured."""

    runs: int = 5
    compared: tuple[int, ...] = (10_000, 50_000)
    """Items of both sides in turns."""
    alone: tuple[int, ...] = (100_000, FLOOR_ITEMS)
    """Items of ours in a process of its own, once, for time and peak memory."""
    width: int = 128
    layers: int = 3
    codes: int = 256
    iterations: int = 30


SIZES: dict[Budget, SidSizes] = {
    "smoke": SidSizes(compared=(2_000,), alone=(10_000,), codes=64, iterations=10),
    "full": SidSizes(),
}


def bench_sids(sizes: SidSizes, machine: Machine) -> list[Measured]:
    """Measure residual k-means.

    Raises:
        ResultsDiffer: ours leaves more over than the usual way.
    """
    with threadpool_limits(1):
        found = [figure for items in sizes.compared for figure in _compared(sizes, items)]
    if not installed("faiss"):
        found.append(NotMeasured(key="sids", what="against faiss.Kmeans", how="not installed (pip install faiss-cpu)"))
    return [*found, *(figure for items in sizes.alone for figure in _alone(sizes, items, machine))]


def toy_vectors(items: int, width: int, seed: int) -> np.ndarray:
    """Unit vectors around 1,000 centres, as embeddings of products lie around their kinds; float32."""
    rng = np.random.default_rng([items, seed])
    centres = rng.standard_normal((1_000, width), dtype=np.float32)
    vectors = rng.standard_normal((items, width), dtype=np.float32)
    vectors *= np.float32(0.7)
    for start in range(0, items, 65_536):
        part = vectors[start : start + 65_536]
        part += centres[rng.integers(0, len(centres), len(part))]
        part /= np.linalg.norm(part, axis=1, keepdims=True)
    return vectors


def left_over(vectors_ND: np.ndarray, codebooks: tuple[np.ndarray, ...], codes_NL: np.ndarray) -> float:
    """Mean squared length of what no layer codes."""
    total = 0.0
    for start in range(0, len(vectors_ND), 65_536):
        rest = vectors_ND[start : start + 65_536].copy()
        for layer, codebook in enumerate(codebooks):
            rest -= codebook[codes_NL[start : start + 65_536, layer]]
        total += float(np.vdot(rest, rest))
    return total / len(vectors_ND)


def _ours(sizes: SidSizes, vectors_ND: np.ndarray) -> float:
    found = residual_kmeans(vectors_ND, sizes.layers, sizes.codes, sizes.iterations, seed=0)
    return left_over(vectors_ND, found.codebooks, found.codes_NL)


def _residual(sizes: SidSizes, vectors_ND: np.ndarray, fit: Callable[[np.ndarray], tuple[Any, Any]]) -> float:
    """The usual way layer by layer; ``fit`` returns centroids and codes."""
    rest = vectors_ND
    for _ in range(sizes.layers):
        centroids, codes = fit(rest)
        rest = rest - centroids[codes]
    return float(np.vdot(rest, rest)) / len(rest)


def usual_ways(sizes: SidSizes) -> dict[str, Callable[[np.ndarray], float]]:
    """Names and k-means of others that are installed."""
    from sklearn.cluster import KMeans, MiniBatchKMeans

    def sklearn(kind: Any, **own: Any) -> Callable[[np.ndarray], float]:
        def fit(rest: np.ndarray) -> tuple[Any, Any]:
            model = kind(sizes.codes, n_init=1, max_iter=sizes.iterations, random_state=0, **own).fit(rest)
            return model.cluster_centers_, model.labels_

        return lambda vectors: _residual(sizes, vectors, fit)

    ways = {"sklearn KMeans": sklearn(KMeans, tol=0.0), "sklearn MiniBatchKMeans": sklearn(MiniBatchKMeans)}
    if installed("faiss"):

        def fit(rest: np.ndarray) -> tuple[Any, Any]:
            import faiss

            model = faiss.Kmeans(
                rest.shape[1], sizes.codes, niter=sizes.iterations, seed=1, min_points_per_centroid=1,
                max_points_per_centroid=len(rest),
            )  # fmt: skip
            model.train(rest)
            return model.centroids, model.index.search(rest, 1)[1][:, 0]

        ways["faiss.Kmeans"] = lambda vectors: _residual(sizes, vectors, fit)
    return ways


def _compared(sizes: SidSizes, items: int) -> list[Measured]:
    vectors = [toy_vectors(items, sizes.width, seed) for seed in range(1 + sizes.runs)]
    return [_against(name, way, sizes, vectors) for name, way in usual_ways(sizes).items()]


def _against(name: str, way: Callable[[np.ndarray], float], sizes: SidSizes, vectors: list[np.ndarray]) -> Measured:
    what = f"residual k-means, {len(vectors[0]):,} x {sizes.width}, {sizes.layers} x {sizes.codes}"
    more = []

    def good(ours: float, usual: float) -> bool:
        more.append(100 * (ours / usual - 1))
        return ours <= WORSE * usual

    sides = {"ours": lambda r: _ours(sizes, vectors[r]), name: lambda r: way(vectors[r])}
    took = alternate(what, sides, good, sizes.runs)
    left = f"ours leaves {max(more):+.1f} % over at worst, after at most {sizes.iterations} rounds a layer"
    return Ratio(
        key="sids",
        what=what,
        ours=took["ours"],
        usual=took[name],
        unit="CPU s",
        usual_way=name,
        how=f"{left}; median of {sizes.runs}",
    )


@dataclass(frozen=True)
class _Took:
    seconds: float
    peak_gib: float
    left: float


def _in_own_process(sizes: SidSizes, items: int) -> _Took:
    vectors_ND = toy_vectors(items, sizes.width, 0)
    with threadpool_limits(1):
        seconds, left = cpu_seconds(lambda: _ours(sizes, vectors_ND))
    return _Took(seconds, peak_gib(), left)


def peak_gib() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 2**20
    unit = 2**30 if os.uname().sysname == "Darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _alone(sizes: SidSizes, items: int, machine: Machine) -> list[Measured]:
    what = f"residual k-means, {items:,} x {sizes.width}, {sizes.layers} x {sizes.codes}"
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        took = pool.submit(_in_own_process, sizes, items).result()
    floors = items == FLOOR_ITEMS and (sizes.width, sizes.layers, sizes.codes) == (128, 3, 256)
    how = f"one run in a process of its own; {took.left:.3f} of 1 is left over"
    return [
        Figure(
            key="sids", what=what, value=took.seconds, unit="CPU s", floor=FLOOR_SECONDS if floors else None, how=how
        ),
        Figure(
            key="sids",
            what=f"{what}: peak memory",
            value=took.peak_gib,
            unit="GiB",
            floor=FLOOR_GIB if floors else None,
            how=f"of the process, the vectors ({items * sizes.width * 4 / 2**30:.2f} GiB) counted",
        ),
    ]
