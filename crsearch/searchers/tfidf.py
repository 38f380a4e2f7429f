"""TF-IDF over title, brand and category; reads the query only."""

from collections.abc import Sequence
from typing import Any

from crsearch.encoders.words import Split, words
from crsearch.errors import DataError
from crsearch.records.types import Context, Item, RankedList
from crsearch.searchers.ranking import ranked_list, top_rows
from crsearch.searchers.text import item_text


class TfidfSearcher:
    """Cosine of weighted word vectors.

        weight(t, d) = tf (ln((1 + N) / (1 + df)) + 1), each vector L2-normalised; fitted on the items only

    Unknown query words change the length of the query only, so not the order. Items that share no word with the
    query are not listed, so a query of unknown words gets an empty list. Equal scores by row.

    Args:
        catalogue: items in row order.
        split: text -> words, for items and queries.

    Raises:
        DataError: no item has a word.

    Source: TF-IDF as printed in textbooks, by scikit-learn.
    """

    name = "tfidf"

    def __init__(self, catalogue: Sequence[Item], *, split: Split = words) -> None:
        from sklearn.feature_extraction.text import TfidfVectorizer

        texts = [item_text(item) for item in catalogue]
        if not any(map(split, texts)):
            raise DataError(f"tfidf: none of {len(texts)} items has a word in title, brand or category")
        self._item_ids = [item.item_id for item in catalogue]
        self._vectoriser = TfidfVectorizer(analyzer=split)
        self._vectors_VN = self._vectoriser.fit_transform(texts).T.tocsr()

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank by the words of the query; see ``Searcher``."""
        if not contexts:
            return []
        queries_BV = self._vectoriser.transform([c.query for c in contexts])
        return [self._search(context, queries_BV[b], k) for b, context in enumerate(contexts)]

    def _search(self, context: Context, query_1V: Any, k: int) -> RankedList:
        scores_1N = query_1V @ self._vectors_VN  # sparse: only items that share a word
        scores_1N.sort_indices()
        best = top_rows(scores_1N.data, k)
        return ranked_list(context, self._item_ids, scores_1N.indices[best].tolist(), scores_1N.data[best])
