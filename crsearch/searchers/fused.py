"""Two searchers as one: their lists, fused by reciprocal rank."""

from collections.abc import Iterable, Sequence

from crsearch.records.types import Context, RankedList, Searcher

K = 60
"""Added to every rank: the larger, the less the first places count. That of the source."""

DEPTH = 200
"""Items asked of each searcher at least."""


class FusedSearcher:
    """Ranks items by where two other searchers have them.

        score(d) = sum over the lists that hold d of 1 / (60 + rank of d),   rank = 1, 2, ...

    Both are asked for 200 items, or for k where k is more, so a list of up to 200 is the beginning of a longer one.
    Scores of the searchers play no part, so that they need no common unit. Equal scores go by the first searcher's
    list, then by the second's. Where one finds nothing, the list is that of the other; where both do, it is empty.

    Args:
        first: a searcher; it wins ties.
        second: another one of the same catalogue.
        name: in tables.

    Source: Cormack, Clarke and Büttcher 2009, with their constant 60. The depth was chosen on validation users
    (docs/log.md); details: this project.
    """

    def __init__(self, first: Searcher, second: Searcher, *, name: str = "hybrid") -> None:
        self.name = name
        self._searchers = (first, second)

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Ask both searchers and fuse their lists; see ``Searcher``."""
        asked = [searcher.search(contexts, max(k, DEPTH)) for searcher in self._searchers]
        return [
            _first(context, reciprocal_ranks(answer.item_ids for answer in answers), k)
            for context, *answers in zip(contexts, *asked, strict=True)
        ]


def reciprocal_ranks(lists: Iterable[Sequence[str]]) -> dict[str, float]:
    """The fused score of every item of some lists, in the order of lists and ranks.

    >>> {item: round(score, 4) for item, score in reciprocal_ranks([["a", "b"], ["b"]]).items()}
    {'a': 0.0164, 'b': 0.0325}
    """
    scores: dict[str, float] = {}
    for items in lists:
        for rank, item in enumerate(items, 1):
            scores[item] = scores.get(item, 0.0) + 1 / (K + rank)
    return scores


def _first(context: Context, scores: dict[str, float], k: int) -> RankedList:
    """The k items of highest score; the sort is stable."""
    best_K = sorted(scores, key=lambda item: -scores[item])[:k]
    return RankedList(
        search_id=context.search_id, item_ids=tuple(best_K), scores=tuple(scores[item] for item in best_K)
    )
