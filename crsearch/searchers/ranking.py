"""From the scores of a whole catalogue to a ranked list, ties by row."""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int64, Shaped

from crsearch.records.types import Context, Item, RankedList


def top_rows(scores_N: Shaped[np.ndarray, " N"], k: int) -> Int64[np.ndarray, " K"]:
    """Row numbers of the k highest scores, best first; equal scores by row. Fewer than k rows, all of them.

    Linear in N, with a sort of the best k only.

    >>> top_rows(np.array([1.0, 3.0, 0.0, 3.0]), 3)
    array([1, 3, 0])
    """
    if k < len(scores_N):
        kth = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
        rows = np.flatnonzero(scores_N >= kth)  # more than k where the k-th score is tied
    else:
        rows = np.arange(len(scores_N))
    return rows[np.argsort(-scores_N[rows], kind="stable")][:k]


def ranked_list(context: Context, items: Sequence[Item], rows: Iterable[int], scores: Iterable[float]) -> RankedList:
    """The answer to a context from row numbers and their scores, best first."""
    return RankedList(
        search_id=context.search_id,
        item_ids=tuple(items[row].item_id for row in rows),
        scores=tuple(float(s) for s in scores),
    )
