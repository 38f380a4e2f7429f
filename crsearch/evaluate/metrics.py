"""HR@K and NDCG@K with one relevant item per query, from the rank of that item.

The axis ``B`` is the queries (contexts), as in the rest of the project.
"""

from collections.abc import Mapping
from math import inf, log2

import numpy as np
import numpy.typing as npt
from jaxtyping import Float64

from crsearch.errors import DataError

CUTOFFS = (1, 5, 10)
REPORTED = ("HR@1", "HR@5", "HR@10", "NDCG@5", "NDCG@10")
"""The columns of every table, in this order; NDCG@1 is HR@1."""

PerQuery = Float64[np.ndarray, " B"]


def metrics_from_ranks(ranks_B: npt.ArrayLike, cutoffs: tuple[int, ...] = CUTOFFS) -> dict[str, PerQuery]:
    """The metrics of every single query; a table shows their means.

        HR@k = [rank <= k],   NDCG@k = [rank <= k] / log2(rank + 1)

    The ideal DCG is 1, since one item is relevant.

    Args:
        ranks_B: 1-based rank of the target in each list; 0 or infinity = the list does not hold it.
        cutoffs: the values of k.

    Returns:
        ``HR@k`` and ``NDCG@k`` for each k, values in [0, 1], in the order of the queries. No query, empty arrays.

    Raises:
        DataError: a rank is negative or not a whole number.

    Source: CRS §4.1.2.

    >>> {name: round(float(v.mean()), 4) for name, v in metrics_from_ranks([1, 3, 7, 0], (5, 10)).items()}
    {'HR@5': 0.5, 'HR@10': 0.75, 'NDCG@5': 0.375, 'NDCG@10': 0.4583}
    """
    rank_B = np.asarray(ranks_B, dtype=np.float64)
    wrong = ~((rank_B >= 0) & ((rank_B == np.floor(rank_B)) | np.isinf(rank_B)))
    if wrong.any():
        raise DataError(
            f"rank {rank_B[wrong][0]} of query {int(np.flatnonzero(wrong)[0])}: "
            "a rank is 1, 2, 3, ..., or 0 or infinity for an absent target"
        )
    rank_B = np.where(rank_B == 0, inf, rank_B)
    gain_B = 1 / np.log2(rank_B + 1)  # 0 for an absent target
    hit = {k: rank_B <= k for k in cutoffs}
    return {f"HR@{k}": hit[k].astype(np.float64) for k in cutoffs} | {f"NDCG@{k}": hit[k] * gain_B for k in cutoffs}


def check_bounds(means: Mapping[str, float], name: str, tolerance: float = 1e-9) -> None:
    """Refuse a row of a table that no set of ranks can produce. Every row we report passes through here.

        0 <= HR@j <= HR@k <= 1 and NDCG@1 = HR@1, for j < k neighbouring cutoffs of the row
        NDCG@j + (HR@k - HR@j) / log2(k + 1)  <=  NDCG@k  <=  NDCG@j + (HR@k - HR@j) / log2(j + 2)

    since each hit that k adds to j has a rank from j + 1 to k. A cutoff whose NDCG the row lacks is stepped over.

    Args:
        means: metric -> mean over queries.
        name: of the row, for the message.
        tolerance: allowed excess: 1e-9 for float64 means, 1e-4 for a table printed with four digits.

    Raises:
        DataError: the row contradicts itself.

    Source: details: this project; found three impossible cells in table 2 of CRS.

    >>> check_bounds({"HR@1": 0.25, "HR@5": 0.5, "NDCG@5": 0.6}, "bm25")
    Traceback (most recent call last):
    crsearch.errors.DataError: bm25: NDCG@5 = 0.6 is impossible: the other columns allow 0.346713 to 0.407732
    """

    def within(metric: str, low: float, high: float) -> None:
        if not low - tolerance <= means[metric] <= high + tolerance:
            raise DataError(
                f"{name}: {metric} = {means[metric]:.6g} is impossible: the other columns allow {low:.6g} to {high:.6g}"
            )

    cutoffs = sorted(int(metric.removeprefix("HR@")) for metric in means if metric.startswith("HR@"))
    hits = [0.0, *(means[f"HR@{k}"] for k in cutoffs)]
    known = (0, 0.0, 0.0)  # the last cutoff whose HR and NDCG are both known
    for k, hit, fewer in zip(cutoffs, hits[1:], hits[:-1], strict=True):
        within(f"HR@{k}", fewer, 1.0)
        j, hit_j, ndcg_j = known
        if f"NDCG@{k}" in means:
            within(f"NDCG@{k}", ndcg_j + (hit - hit_j) / log2(k + 1), ndcg_j + (hit - hit_j) / log2(j + 2))
            known = (k, hit, means[f"NDCG@{k}"])
        elif k == 1:
            known = (1, hit, hit)
