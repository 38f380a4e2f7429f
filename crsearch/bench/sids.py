"""``crsearch bench sids``: residual k-means against that of scikit-learn and faiss; how it grows in time and memory.

Clusterings differ by their starts, so "the same result" is its quality: what is left over of the vectors after all
layers must be at most 5 % more than the usual way leaves. Vectors in a file must get the codes they get in memory.
"""

import hashlib
import os
import re
import resource
import tempfile
import time
from collections.abc import Callable, Collection
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # comes with scikit-learn

from crsearch.bench.figures import Figure, Measured, NotMeasured, Ratio
from crsearch.bench.machine import Machine
from crsearch.bench.timing import Budget, ResultsDiffer, alternate, cpu_seconds
from crsearch.bench.usual import installed
from crsearch.sids.kmeans import Quantised, assign_codes, residual_kmeans

FLOOR_ITEMS = 1_000_000
FLOOR_SECONDS, FLOOR_GIB = 600.0, 4.0
WORSE = 1.05
"""Most that ours may leave over, times what the usual way leaves."""
CAPACITY, BALANCED_FLOOR = 1.3, 1.06
"""Most items of a code, times the mean, and the most that balance may leave over in a layer, times plain k-means."""
NEW_ITEMS = 1_000
SLOWEST = "sklearn KMeans"


@dataclass(frozen=True, kw_only=True)
class SidSizes:
    """How much is measured."""

    runs: int = 5
    compared: tuple[int, ...] = (10_000, 50_000)
    """Items of both sides in turns."""
    compared_once: tuple[int, ...] = (FLOOR_ITEMS,)
    """The same, one run after the one that warms up, and without what takes longest."""
    alone: tuple[int, ...] = (100_000, FLOOR_ITEMS)
    """Items of ours, once each in memory and from a file on all cores, in processes of their own, for peak memory."""
    balanced: int = 100_000
    """Items of balanced k-means."""
    width: int = 128
    layers: int = 3
    codes: int = 256
    iterations: int = 30


SIZES: dict[Budget, SidSizes] = {
    "smoke": SidSizes(
        compared=(2_000,),
        compared_once=(),
        alone=(10_000,),
        balanced=4_000,
        codes=64,
        iterations=10,
    ),
    "full": SidSizes(),
}


def bench_sids(sizes: SidSizes, machine: Machine) -> list[Measured]:
    """Measure residual k-means.

    Raises:
        ResultsDiffer: ours leaves more over than the usual way.
    """
    with threadpool_limits(1):
        found = [figure for items in sizes.compared for figure in _compared(sizes, items, sizes.runs)]
        found += [figure for items in sizes.compared_once for figure in _compared(sizes, items, 1, {SLOWEST})]
        found += _balanced(sizes)
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


def _fit(sizes: SidSizes, vectors_ND: np.ndarray, capacity: float | None = None) -> Quantised:
    return residual_kmeans(vectors_ND, sizes.layers, sizes.codes, sizes.iterations, 0, capacity)


def _ours(sizes: SidSizes, vectors_ND: np.ndarray) -> float:
    found = _fit(sizes, vectors_ND)
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

    ways = {SLOWEST: sklearn(KMeans, tol=0.0), "sklearn MiniBatchKMeans": sklearn(MiniBatchKMeans)}
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


def _compared(sizes: SidSizes, items: int, runs: int, but: Collection[str] = ()) -> list[Measured]:
    vectors = [toy_vectors(items, sizes.width, seed) for seed in range(1 + runs)]
    return [_against(name, way, sizes, vectors) for name, way in usual_ways(sizes).items() if name not in but]


def _against(name: str, way: Callable[[np.ndarray], float], sizes: SidSizes, vectors: list[np.ndarray]) -> Measured:
    runs = len(vectors) - 1
    what = f"residual k-means, {len(vectors[0]):,} x {sizes.width}, {sizes.layers} x {sizes.codes}"
    more = []

    def good(ours: float, usual: float) -> bool:
        more.append(100 * (ours / usual - 1))
        return ours <= WORSE * usual

    sides = {"ours": lambda r: _ours(sizes, vectors[r]), name: lambda r: way(vectors[r])}
    took = alternate(what, sides, good, runs)
    left = f"ours leaves {max(more):+.1f} % over at worst, after at most {sizes.iterations} rounds a layer"
    return Ratio(
        key="sids",
        what=what,
        ours=took["ours"],
        usual=took[name],
        unit="CPU s",
        usual_way=name,
        how=f"{left}; {f'median of {runs}' if runs > 1 else 'one run'}",
    )


def _balanced(sizes: SidSizes) -> list[Measured]:
    """Time of balanced k-means, and what the first layer leaves over beside the plain one."""
    vectors_ND = toy_vectors(sizes.balanced, sizes.width, 0)
    what = f"balanced k-means, {sizes.balanced:,} x {sizes.width}, {sizes.layers} x {sizes.codes}"
    plain = _fit(sizes, vectors_ND)
    seconds, found = cpu_seconds(lambda: _fit(sizes, vectors_ND, CAPACITY))
    left, least = (left_over(vectors_ND, f.codebooks[:1], f.codes_NL[:, :1]) for f in (found, plain))
    before, after = (np.bincount(f.codes_NL[:, 0]).max() for f in (plain, found))
    mean = sizes.balanced / sizes.codes
    how = (
        f"largest load {before / mean:.2f} times the mean without, {after / mean:.2f} with capacity {CAPACITY}; one run"
    )
    return [
        Figure(key="sids", what=what, value=seconds, unit="CPU s", how=how),
        Figure(key="sids", what=f"{what}: left over, first layer", value=left / least, unit="x", floor=BALANCED_FLOOR),
    ]


@dataclass(frozen=True)
class _Took:
    seconds: float
    """CPU time, of one thread."""
    wall: float
    peak_gib: float
    left: float
    assigning: float
    """CPU time of the codes of new items."""
    fingerprint: str
    """Of the codes."""


def _in_own_process(sizes: SidSizes, items: int, file: Path | None, threads: int) -> _Took:
    """Residual k-means in memory, or of a file."""
    vectors_ND = toy_vectors(items, sizes.width, 0) if file is None else np.load(file, mmap_mode="r")
    with threadpool_limits(threads):
        began = time.perf_counter()
        seconds, found = cpu_seconds(lambda: _fit(sizes, vectors_ND))
        wall, peak = time.perf_counter() - began, peak_gib()
        new_ND = toy_vectors(NEW_ITEMS, sizes.width, 1)
        assigning = cpu_seconds(lambda: assign_codes(new_ND, found.codebooks))[0]
    fingerprint = hashlib.sha256(found.codes_NL.tobytes()).hexdigest()
    return _Took(seconds, wall, peak, left_over(vectors_ND, found.codebooks, found.codes_NL), assigning, fingerprint)


def peak_gib() -> float:
    """The most memory that this process has held."""
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return int(found[1]) / 2**20
    unit = 2**30 if os.uname().sysname == "Darwin" else 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _alone(sizes: SidSizes, items: int, machine: Machine) -> list[Measured]:
    what = f"residual k-means, {items:,} x {sizes.width}, {sizes.layers} x {sizes.codes}"
    in_memory = _spawned(sizes, items, None, 1)
    with tempfile.TemporaryDirectory(prefix="crsearch-bench-") as folder:
        file = Path(folder, "vectors.npy")
        np.save(file, toy_vectors(items, sizes.width, 0))
        streamed = _spawned(sizes, items, file, machine.cores)
    if streamed.fingerprint != in_memory.fingerprint:
        raise ResultsDiffer(f"{what}: vectors in a file get other codes than in memory")
    floors = items == FLOOR_ITEMS and (sizes.width, sizes.layers, sizes.codes) == (128, 3, 256)
    floor_seconds, floor_gib = (FLOOR_SECONDS, FLOOR_GIB) if floors else (None, None)
    once = "one run in a process of its own"
    size = f"{items * sizes.width * 4 / 2**30:.2f} GiB"

    def figure(of: str, value: float, unit: str, floor: float | None, how: str) -> Measured:
        return Figure(key="sids", what=what + of, value=value, unit=unit, floor=floor, how=how)

    return [
        figure("", in_memory.seconds, "CPU s", floor_seconds, f"{once}; {in_memory.left:.3f} of 1 is left over"),
        figure(": peak memory", in_memory.peak_gib, "GiB", floor_gib, f"of the process, the vectors ({size}) counted"),
        figure(
            f", from a file, threads: {machine.cores}", streamed.wall, "s", floor_seconds,
            f"{once}; wall clock, {streamed.seconds:.0f} CPU s; codes as in memory",
        ),
        figure(
            ", from a file: peak memory", streamed.peak_gib, "GiB", floor_gib,
            f"of the process, pages of the files counted; what is worked on, {size}, lies in a file too",
        ),
        figure(
            f": codes of {NEW_ITEMS:,} new items", 1e3 * in_memory.assigning, "CPU ms", None, "nearest centroids"
        ),
    ]  # fmt: skip


def _spawned(sizes: SidSizes, items: int, file: Path | None, threads: int) -> _Took:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(_in_own_process, sizes, items, file, threads).result()
