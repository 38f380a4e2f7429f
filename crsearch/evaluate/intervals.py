"""How sure a mean or a difference is: bootstrap over queries, paired permutation test, Holm correction.

All are exact in distribution and vectorised by one observation: metrics of a ranked list take few values
(11 ranks that count), so drawing queries with replacement is a multinomial draw over the distinct rows.
"""

from collections.abc import Mapping
from typing import TypedDict

import numpy as np
from jaxtyping import Float64

from crsearch.errors import DataError
from crsearch.evaluate.metrics import PerQuery

Other = Float64[np.ndarray, " other"]
"""Values of the second system; that they are as many as the first's is checked with a message of its own."""


class Interval(TypedDict):
    """A mean over queries and its 95 % interval, ``low <= mean <= high``."""

    mean: float
    low: float
    high: float


def _resampled_means(values_BM: Float64[np.ndarray, "B M"], resamples: int, seed: int) -> Float64[np.ndarray, "R M"]:
    """Means of ``resamples`` bootstrap samples of the rows."""
    row_UM, count_U = np.unique(values_BM, axis=0, return_counts=True)
    num_queries = len(values_BM)
    drawn_RU = np.random.default_rng(seed).multinomial(num_queries, count_U / num_queries, size=resamples)
    return drawn_RU @ row_UM / num_queries


def bootstrap_intervals(values: Mapping[str, PerQuery], resamples: int, seed: int) -> dict[str, Interval]:
    """Mean and 95 % percentile bootstrap interval of each metric, over queries.

    All metrics share the resamples, and the order of the queries does not matter. Memory is resamples x
    distinct rows: at most 11 for one system's metrics.

    Args:
        values: metric -> its value for each query, all of one length.
        resamples: number of bootstrap samples; 2,000 make the ends good to about 2 % of the width.
        seed: of the draw; equal seeds, equal intervals.

    Raises:
        DataError: there is no query.

    Source: Efron & Tibshirani 1993, ch. 13.

    >>> bootstrap_intervals({"HR@1": np.array([1.0, 1.0, 1.0])}, resamples=100, seed=0)
    {'HR@1': {'mean': 1.0, 'low': 1.0, 'high': 1.0}}
    """
    values_BM = np.stack(list(values.values()), axis=1).astype(np.float64)
    if not len(values_BM):
        raise DataError("no query to average over: the test part is empty")
    mean_M = values_BM.mean(axis=0)
    low_M, high_M = np.percentile(_resampled_means(values_BM, resamples, seed), (2.5, 97.5), axis=0)
    return {
        # the rounding of a mean must not push it out of its own interval
        name: Interval(mean=float(mean), low=float(min(low, mean)), high=float(max(high, mean)))
        for name, mean, low, high in zip(values, mean_M, low_M, high_M, strict=True)
    }


def paired_difference(a_B: PerQuery, b_B: Other, resamples: int, seed: int) -> Interval:
    """Mean of ``a - b`` over the same queries, with its 95 % bootstrap interval.

    Raises:
        DataError: there is no query, or the two differ in number.
    """
    return bootstrap_intervals({"difference": _differences(a_B, b_B)}, resamples, seed)["difference"]


def paired_permutation(a_B: PerQuery, b_B: Other, resamples: int, seed: int) -> float:
    """Two-sided p-value of "the systems are exchangeable within each query", by random sign flips.

        p = (1 + #{|flipped mean| >= |observed mean|}) / (1 + resamples)

    so p is never 0, and 1 where the systems agree on every query.

    Raises:
        DataError: there is no query, or the two differ in number.

    Source: Smucker, Allan & Carterette, CIKM 2007; the + 1 is of Phipson & Smyth 2010.
    """
    difference_B = _differences(a_B, b_B)
    size_U, count_U = np.unique(np.abs(difference_B[difference_B != 0]), return_counts=True)
    # of count equal |differences| a binomial number keeps the plus sign
    plus_RU = np.random.default_rng(seed).binomial(count_U, 0.5, size=(resamples, len(count_U)))
    flipped_R = np.abs((2 * plus_RU - count_U) @ size_U)
    observed = abs(difference_B.sum())
    as_far = int((flipped_R >= observed - 1e-9 * len(difference_B)).sum())
    return (1 + as_far) / (1 + resamples)


def _differences(a_B: PerQuery, b_B: Other) -> PerQuery:
    if len(a_B) != len(b_B):
        raise DataError(f"a paired comparison of {len(a_B)} with {len(b_B)} queries: both systems need the same ones")
    if not len(a_B):
        raise DataError("no query to compare on: the test part is empty")
    return np.asarray(a_B - b_B, dtype=np.float64)


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """p-values adjusted for being a family, so that any below 0.05 is wrong with chance 5 % at most.

        p*_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),   p_(1) <= ... <= p_(m)

    Returns:
        The adjusted values, in the order of the input, each at least as large as before.

    Source: Holm 1979.

    >>> holm({"bm25": 0.01, "tfidf": 0.04, "dense": 0.03})
    {'bm25': 0.03, 'tfidf': 0.06, 'dense': 0.06}
    """
    adjusted: dict[str, float] = {}
    largest = 0.0
    for i, name in enumerate(sorted(p, key=lambda n: p[n])):
        largest = max(largest, min(1.0, (len(p) - i) * p[name]))
        adjusted[name] = largest
    return {name: adjusted[name] for name in p}
