"""Residual k-means: vectors -> one code per layer and the codebooks behind them (CRS §3.1.1, Eq. 1).

Own Lloyd rounds in NumPy (`crsearch.sids.lloyd`) and not ``faiss.Kmeans``, for what a stored identifier needs:
k-means++ starts, every point used, weights for repeated vectors, and the same codes for any number of threads and any
order of the items.
"""

import math
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Float64, Int64

from crsearch.errors import SidError
from crsearch.sids.balanced import balance
from crsearch.sids.lloyd import Centroids, Vectors, blocks, cluster, distances, one_thread_per_block, tiles
from crsearch.sids.projection import UNPROJECTED, Projection
from crsearch.sids.rows import distinct_rows

_ROWS = 2**16
"""Vectors that are copied, or lessened by their centroids, at once."""


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
    embeddings_ND: Float[np.ndarray, "N D"],
    layers: int,
    codes: int,
    iterations: int,
    seed: int,
    capacity: float | None = None,
) -> Quantised:
    """Quantise vectors layer by layer, each layer coding what the ones before left over.

        C^l = KMeans({e_i^l}, codes);  s_i^l = argmin_k |e_i^l - c_k^l|^2;  e_i^{l+1} = e_i^l - c^l_{s_i^l}

    Equal vectors get equal codes, permuting the rows permutes the result and changes nothing else, and the number of
    threads changes no bit. Codes are numbered by the lexicographic order of their centroids, so that reruns and
    other builds are comparable. A layer with fewer distinct residuals than ``codes`` gets one code for each.

    Args:
        embeddings_ND: one finite vector per item, at least one. Of a memory-mapped array (``np.memmap``) only parts
            are read at once, and what is worked on lies in the folder of temporary files; the codes are the same.
        layers: codebooks.
        codes: centroids per codebook, where there are that many distinct residuals.
        iterations: most Lloyd rounds per layer; a layer ends early once no vector moves. Above 32,768 vectors and 128
            per code, as many at most on a sample, then on all; there a round that gains under 0.1 % is the last.
        seed: of the k-means++ starts.
        capacity: most vectors of a code, times the mean load of the codes (at least 1); none = as many as are nearest.
            Of equal vectors that do not all find room in a code, the first rows do; and a code may not be the nearest.

    Raises:
        SidError: there is no vector, or one holds NaN or infinity.

    Source: CRS §3.1.1, Eq. 1; start, repair of empty clusters, numbering and capacity: details of this project.

    >>> found = residual_kmeans(np.array([[0.0], [2.0], [9.0], [13.0]]), layers=3, codes=2, iterations=20, seed=0)
    >>> found.codes_NL.tolist()
    [[0, 0, 1], [0, 1, 0], [1, 0, 0], [1, 1, 1]]
    >>> [codebook.ravel().tolist() for codebook in found.codebooks]
    [[1.0, 11.0], [-1.5, 1.5], [-0.5, 0.5]]
    """
    refuse_broken(embeddings_ND)
    with _working_copy(embeddings_ND, merged=capacity is None) as (residual_MD, row_N):
        weight_M = np.bincount(row_N).astype(np.float64)
        codebooks, codes_of_layer, warnings = [], [], []
        for layer in range(layers):
            rng = np.random.default_rng([seed, layer])
            centroids_CD, code_M = _kmeans(residual_MD, weight_M, codes, iterations, rng)
            if capacity is not None:
                most = math.ceil(capacity * len(residual_MD) / len(centroids_CD))
                centroids_CD, code_M = _numbered(*balance(residual_MD, centroids_CD, most))
            if len(centroids_CD) < codes:
                warnings.append(
                    f"layer {layer + 1} has {len(centroids_CD)} codes instead of {codes}: "
                    "the vectors left to it are not more distinct than that"
                )
            for rows in _parts(len(residual_MD)):
                residual_MD[rows] -= centroids_CD[code_M[rows]]
            codebooks.append(centroids_CD)
            codes_of_layer.append(code_M)
        return Quantised(tuple(codebooks), np.stack(codes_of_layer, axis=1)[row_N], tuple(warnings))


@contextmanager
def _working_copy(
    embeddings_ND: Float[np.ndarray, "N D"], merged: bool
) -> Iterator[tuple[Vectors, Int64[np.ndarray, " N"]]]:
    """The vectors in float32, in an order of their values, to be changed; and which of them each row is.

    Equal ones are merged, or lie side by side. In memory; or, of embeddings in a file, in files that are gone after it.
    """
    on_disk = isinstance(embeddings_ND, np.memmap)
    with tempfile.TemporaryDirectory(prefix="crsearch-sids-") if on_disk else nullcontext() as folder:

        def room(name: str, rows: int) -> Vectors:
            shape = (rows, embeddings_ND.shape[1])
            if folder is None or 0 in shape:
                return np.empty(shape, dtype=np.float32)
            return np.memmap(Path(folder, name), np.float32, "w+", shape=shape)

        rows_ND = room("rows", len(embeddings_ND))
        for part in _parts(len(rows_ND)):
            # Adding 0 turns -0.0 into 0.0, so that equal vectors have equal bytes.
            rows_ND[part] = embeddings_ND[part].astype(np.float32) + np.float32(0)
        first, row_N = distinct_rows(rows_ND)
        if not merged:
            first = np.argsort(row_N, kind="stable")
            row_N = np.argsort(first)
        points_MD = room("points", len(first))
        for part in _parts(len(first)):
            points_MD[part] = rows_ND[first[part]]
        del rows_ND
        yield points_MD, row_N


def _parts(rows: int) -> list[slice]:
    """Slices of as many rows as are worked on at once where no distances are taken."""
    return [slice(start, start + _ROWS) for start in range(0, rows, _ROWS)]


def refuse_broken(embeddings_ND: Float[np.ndarray, "N D"]) -> None:
    """Raise a SidError if there is no vector, or one holds NaN or infinity."""
    if len(embeddings_ND) == 0:
        raise SidError("semantic IDs need at least one item: the catalogue is empty")
    finite = [np.isfinite(embeddings_ND[part]).all(axis=1) for part in _parts(len(embeddings_ND))]
    broken = np.flatnonzero(~np.concatenate(finite))
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

    The nearest in float64: a point then gets the same code alone as in a batch, whatever order the processor adds in.
    Products are taken in float32, and in float64 only for points to which a second centroid is as near as their
    rounding errors can tell.
    """
    wide_CD = centroids_CD.astype(np.float64)
    longest = np.sqrt(np.einsum("cd,cd->c", wide_CD, wide_CD).max(initial=0))

    def one_tile(points_tD: Float32[np.ndarray, "t D"]) -> Int64[np.ndarray, " t"]:
        distance_tC = distances(points_tD, centroids_CD)
        code_t = distance_tC.argmin(axis=1)
        # an inner product of D numbers is off by at most D x 2^-24 x the lengths of both (Higham 2002, 3.1)
        length_t = np.sqrt(np.einsum("td,td->t", points_tD, points_tD, dtype=np.float64))
        error_t = (points_tD.shape[1] + 8) * 2.0**-24 * longest * (2 * length_t + longest)
        reach_t = (distance_tC.min(axis=1) + 2 * error_t).astype(np.float32)
        unsure = np.count_nonzero(distance_tC <= reach_t[:, None], axis=1) != 1  # none where numbers are no numbers
        code_t[unsure] = distances(points_tD[unsure].astype(np.float64), wide_CD).argmin(axis=1)
        return code_t

    def one_block(block: slice) -> Int64[np.ndarray, " m"]:
        points_mD = points_MD[block]
        return np.concatenate([one_tile(points_mD[tile]) for tile in tiles(len(points_mD))])

    with one_thread_per_block() as blocks_map:
        codes = blocks_map(one_block, blocks(len(points_MD), len(centroids_CD)))
        return np.concatenate([np.empty(0, dtype=np.int64), *codes])


def _kmeans(
    points_MD: Vectors, weight_M: Float64[np.ndarray, " M"], codes: int, iterations: int, rng: np.random.Generator
) -> tuple[Float32[np.ndarray, "_ D"], Int64[np.ndarray, " M"]]:
    """At most ``codes`` centroids of weighted points, in lexicographic order, and the nearest one of each point."""
    first, _ = distinct_rows(points_MD)
    few = len(first) <= codes
    centroids_CD = points_MD[first] if few else cluster(points_MD, weight_M, codes, iterations, rng)
    centroids_CD = centroids_CD[np.lexsort(centroids_CD.T[::-1])]
    return _numbered(centroids_CD, nearest(points_MD, centroids_CD))


def _numbered(
    centroids_CD: Centroids, code_M: Int64[np.ndarray, " M"]
) -> tuple[Float32[np.ndarray, "_ D"], Int64[np.ndarray, " M"]]:
    """Centroids in lexicographic order, those without points left out: no other point's nearest changes by that."""
    order = np.lexsort(centroids_CD.T[::-1])
    used, code_M = np.unique(np.argsort(order)[code_M], return_inverse=True)
    return centroids_CD[order[used]], code_M
