"""From the scores of a whole catalogue to a ranked list, ties by row."""

from collections.abc import Iterable, Sequence, Sized

import numpy as np
from jaxtyping import Int64, Shaped

from crsearch.records.types import Context, RankedList


def top_rows(scores_N: Shaped[np.ndarray, " N"], k: int) -> Int64[np.ndarray, " K"]:
    """Row numbers of the k highest scores, best first; equal scores by row. Fewer than k rows, all of them.

    Linear in N, with a sort of the best k only.

    >>> top_rows(np.array([1.0, 3.0, 0.0, 3.0]), 3)
    array([1, 3, 0])
    """
    k = min(k, len(scores_N))
    if k == 0:
        return np.empty(0, dtype=np.int64)
    kth = np.partition(scores_N, len(scores_N) - k)[len(scores_N) - k]
    above = np.flatnonzero(scores_N > kth)
    best_first = above[np.argsort(-scores_N[above], kind="stable")]
    tied = np.flatnonzero(scores_N == kth)[: k - len(above)]
    return np.concatenate([best_first, tied])


def ranked_list(
    context: Context,
    item_ids: Sequence[str],
    rows: Iterable[int],
    scores: Iterable[float],
    read_tokens: int | None = None,
) -> RankedList:
    """The answer to a context from row numbers and their scores, best first; ``item_ids`` are those of all rows."""
    return RankedList(
        search_id=context.search_id,
        item_ids=tuple(item_ids[row] for row in rows),
        scores=tuple(float(s) for s in scores),
        read_tokens=read_tokens,
    )


def beam_lists(
    contexts: Sequence[Context],
    item_ids: Sequence[str],
    rows_BK: Sequence[Sequence[int]],
    scores_BK: Sequence[Sequence[float]],
    k: int,
    prompts: Sequence[Sized],
) -> list[RankedList]:
    """The k best of each beam as ranked lists; row -1 stands for "no more".

    >>> context = Context(search_id="s", user_id="u", query="q")
    >>> beam_lists([context], ["a", "b"], [[1, 0, -1]], [[-0.5, -1.0, float("-inf")]], 5, [[7, 8, 9]])[0].item_ids
    ('b', 'a')
    """
    lists = []
    for context, rows, scores, prompt in zip(contexts, rows_BK, scores_BK, prompts, strict=True):
        found = [row for row in rows[:k] if row >= 0]
        lists.append(ranked_list(context, item_ids, found, scores[: len(found)], len(prompt)))
    return lists
