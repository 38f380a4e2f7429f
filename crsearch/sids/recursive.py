"""Recursive k-means: vectors -> paths in a tree of clusters, DSI's "semantically structured" identifiers.

Source: Tay et al. 2022 (DSI), §3.2; single items, equal vectors and the numbering: details of this project.
"""

import numpy as np
from jaxtyping import Float, Int64

from crsearch.sids.kmeans import residual_kmeans

ENDED = -1
"""Fills up the paths that are shorter than the longest."""


def recursive_kmeans(
    embeddings_ND: Float[np.ndarray, "N D"], branching: int, leaf_size: int, iterations: int, seed: int
) -> Int64[np.ndarray, "N L"]:
    """The path of every vector: the cluster at each level, then its number in the last one.

    A cluster of more than ``leaf_size`` items is split into at most ``branching``; the items of a smaller one are
    numbered in their order, and a single one needs no number. Items whose vectors are equal are dealt out evenly. No
    path is the beginning of another one, so that they stay distinct when filled up.

    Args:
        embeddings_ND: one finite vector per item, at least one.
        branching: most clusters that a cluster is split into, at least 2.
        leaf_size: most items of a cluster that is not split, at least 1.
        iterations: most rounds of k-means per split.
        seed: of the k-means starts.

    Returns:
        Digits below max(``branching``, ``leaf_size``), then ``ENDED``; L is the length of the longest path, at
        least 1.

    Raises:
        SidError: there is no vector, or one holds NaN or infinity.

    >>> recursive_kmeans(np.array([[0.0], [1.0], [10.0], [11.0]]), branching=2, leaf_size=1, iterations=20, seed=0)
    array([[0, 0],
           [0, 1],
           [1, 0],
           [1, 1]])
    """
    paths: dict[int, tuple[int, ...]] = {}
    open_clusters: list[tuple[tuple[int, ...], Int64[np.ndarray, " n"]]] = [((), np.arange(len(embeddings_ND)))]
    while open_clusters:
        path, rows = open_clusters.pop()
        if path and len(rows) == 1:
            paths[int(rows[0])] = path
        elif path and len(rows) <= leaf_size:
            paths.update((int(row), (*path, number)) for number, row in enumerate(rows))
        else:
            cluster_n = _split(embeddings_ND[rows], branching, iterations, seed)
            open_clusters += [((*path, int(c)), rows[cluster_n == c]) for c in np.unique(cluster_n)]
    codes_NL = np.full((len(embeddings_ND), max(map(len, paths.values()))), ENDED, dtype=np.int64)
    for row, path in paths.items():
        codes_NL[row, : len(path)] = path
    return codes_NL


def _split(embeddings_nD: Float[np.ndarray, "n D"], branching: int, iterations: int, seed: int) -> np.ndarray:
    """Cluster of each vector, 0, 1, ...; more than one cluster wherever there is more than one vector."""
    cluster_n = residual_kmeans(embeddings_nD, 1, branching, iterations, seed).codes_NL[:, 0]
    if cluster_n.any():
        return cluster_n
    count = len(embeddings_nD)
    return np.arange(count) * min(branching, count) // count
