"""BM25 over title, brand and category; reads the query only."""

from collections.abc import Sequence

import numpy as np

from crsearch.errors import DataError
from crsearch.records.types import Context, Item, RankedList
from crsearch.searchers.ranking import ranked_list, top_rows
from crsearch.searchers.text import item_text, tokenise


class Bm25Searcher:
    """Lexical ranking with saturating term frequency and length normalisation.

        score(q, d) = sum_{t in q} idf(t) tf / (tf + k1 (1 - b + b |d| / avgdl))
        idf(t) = ln(1 + (N - df + 0.5) / (df + 0.5))

    A repeated query word counts again. Items that share no word with the query are not listed, so a query of
    unknown words gets an empty list. Equal scores by row.

    Args:
        catalogue: items in row order.
        k1: saturation of the term frequency, 0 = presence only.
        b: share of the length normalisation, in [0, 1].

    Raises:
        DataError: no item has a word.

    Source: Robertson and Zaragoza 2009; without the constant factor k1 + 1 (as bm25s has it), which changes no order.
    """

    name = "bm25"

    def __init__(self, catalogue: Sequence[Item], k1: float = 1.2, b: float = 0.75) -> None:
        import bm25s

        words = [tokenise(item_text(item)) for item in catalogue]
        if not any(words):
            raise DataError(f"bm25: none of {len(words)} items has a word in title, brand or category")
        self._item_ids = [item.item_id for item in catalogue]
        self._index = bm25s.BM25(method="lucene", k1=k1, b=b, dtype="float64")
        self._index.index(words, create_empty_token=False, show_progress=False)

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank by the words of the query; see ``Searcher``."""
        return [self._search(context, k) for context in contexts]

    def _search(self, context: Context, k: int) -> RankedList:
        words = tokenise(context.query)
        if not words:
            return ranked_list(context, self._item_ids, (), ())
        scores_N = np.asarray(self._index.get_scores(words))
        found = np.flatnonzero(scores_N)  # idf is above 0, so these share a word
        rows_K = found[top_rows(scores_N[found], k)]
        return ranked_list(context, self._item_ids, rows_K.tolist(), scores_N[rows_K])
