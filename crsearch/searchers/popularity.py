"""What users chose most: over all, for this query, and of the brands this user chose before.

The lines that every model has to beat. Counts come from training users only.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import TypeVar

import numpy as np
from jaxtyping import Float64, Int64

from crsearch.encoders.words import words
from crsearch.records.store import Dataset
from crsearch.records.types import Context, Item, RankedList
from crsearch.searchers.ranking import ranked_list, top_rows
from crsearch.searchers.text import item_text

Rows = Int64[np.ndarray, " n"]
Label = TypeVar("Label", bound=Hashable)


@dataclass(frozen=True, kw_only=True)
class TrainingCounts:
    """How often training users chose each item, in all and for each query."""

    items: Mapping[str, int]
    """item_id -> searches in which it was chosen."""
    queries: Mapping[str, Mapping[str, int]]
    """``query_key`` -> item_id -> searches with this query in which it was chosen."""


def query_key(query: str) -> str:
    """Queries that differ in case, width, spaces or punctuation only are one query.

    >>> query_key("  Phone-Case ") == query_key("phone case")
    True
    """
    return " ".join(words(query))


def training_counts(dataset: Dataset) -> TrainingCounts:
    """Count the choices of all that may be learned from (``Dataset.training_searches``), and of nothing else.

    An item both clicked and bought in one search counts once. Items outside the catalogue do not count.
    """
    items: Counter[str] = Counter()
    queries: defaultdict[str, Counter[str]] = defaultdict(Counter)
    known = frozenset(dataset.catalogue.ids)
    for search in dataset.training_searches:
        chosen = [item for item in search.chosen if item in known]
        items.update(chosen)
        if chosen:
            queries[query_key(search.query)].update(chosen)
    return TrainingCounts(items=items, queries=queries)


class PopularitySearcher:
    """The same list for everybody: items by times chosen, equal counts by row. Items never chosen come last."""

    name = "popularity"

    def __init__(self, catalogue: Sequence[Item], counts: TrainingCounts) -> None:
        self._item_ids = [item.item_id for item in catalogue]
        self._count_N = np.array([counts.items.get(item, 0) for item in self._item_ids], dtype=np.float64)

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """The k most chosen items, whatever the context; see ``Searcher``."""
        rows_K = top_rows(self._count_N, k)
        return [ranked_list(c, self._item_ids, rows_K.tolist(), self._count_N[rows_K]) for c in contexts]


class PopularityInQuerySearcher:
    """What training users chose for the same query, most chosen first.

    A list that is not full yet goes on with the next step:

    1. items chosen for the query, and items of the categories (whole paths) of those, by times chosen *for the
       query*, then by times chosen at all;
    2. items whose title, brand or category has words of the query, by the number of different ones, then by times
       chosen at all;
    3. all other items, by times chosen at all.

    Equal items by row. With ``brand_bonus`` "times chosen" n becomes

        ln(max(n, 1/2)) + brand_bonus [the user chose an item of this brand in the history]

    which is the system ``popularity-in-query-brand``. Scores count down to 1: the order of several keys has no
    single number.

    Args:
        catalogue: items in row order.
        counts: of the training users.
        brand_bonus: 0 = the history is not read. 3 = a brand chosen before weighs as much as 20 times the choices.

    Source: details: this project. The weight was chosen on users of Amazon Beauty who are not tested.
    """

    def __init__(self, catalogue: Sequence[Item], counts: TrainingCounts, brand_bonus: float = 0.0) -> None:
        self.name = "popularity-in-query-brand" if brand_bonus else "popularity-in-query"
        self._item_ids = [item.item_id for item in catalogue]
        self._row_of = {item: row for row, item in enumerate(self._item_ids)}
        self._categories = [item.category for item in catalogue]
        self._brands = [item.brand for item in catalogue]
        self._texts = [item_text(item) for item in catalogue]
        self._queries = counts.queries
        self._brand_bonus = brand_bonus
        count_N = np.array([counts.items.get(item, 0) for item in self._item_ids], dtype=np.float64)
        self._weight_N = _log_counts(count_N)

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank by step, then by count; see ``Searcher``."""
        lists = []
        for context in contexts:
            rows = list(islice(self._rows(context, k), k))
            lists.append(ranked_list(context, self._item_ids, rows, np.arange(len(rows), 0, -1.0)))
        return lists

    def _rows(self, context: Context, k: int) -> Iterator[int]:
        """Rows of all steps in order, none twice; later steps are computed only when asked for."""
        bonus_N = self._bonus(context)
        given: set[int] = set()
        for step in (self._of_query, self._of_words, self._of_all):
            fresh = [row for row in step(context, bonus_N, k + len(given)) if row not in given]
            given.update(fresh)
            yield from fresh

    def _of_query(self, context: Context, bonus_N: Float64[np.ndarray, " N"], k: int) -> list[int]:
        chosen = self._queries.get(query_key(context.query), {})
        count_of = {self._row_of[item]: n for item, n in chosen.items() if item in self._row_of}
        if not count_of:
            return []
        categories = {self._categories[row] for row in count_of} - {()}
        rows = np.unique(np.concatenate([list(count_of), *(self._rows_of_category[c] for c in categories)]))
        count = np.zeros(len(rows))
        count[np.searchsorted(rows, list(count_of))] = list(count_of.values())
        in_query = _log_counts(count)
        # lexsort: last key first; rows ascend, and the sort is stable
        order = np.lexsort((-(self._weight_N[rows] + bonus_N[rows]), -(in_query + bonus_N[rows])))
        return rows[order][:k].tolist()

    def _of_words(self, context: Context, bonus_N: Float64[np.ndarray, " N"], k: int) -> list[int]:
        found = [self._rows_of_word[w] for w in set(words(context.query)) if w in self._rows_of_word]
        if not found:
            return []
        overlap_N = np.bincount(np.concatenate(found), minlength=len(self._item_ids))
        rows = np.flatnonzero(overlap_N)
        order = np.lexsort((-(self._weight_N[rows] + bonus_N[rows]), -overlap_N[rows]))
        return rows[order][:k].tolist()

    def _of_all(self, context: Context, bonus_N: Float64[np.ndarray, " N"], k: int) -> list[int]:
        return top_rows(self._weight_N + bonus_N, k).tolist()

    def _bonus(self, context: Context) -> Float64[np.ndarray, " N"]:
        bonus_N = np.zeros(len(self._item_ids))
        if self._brand_bonus:
            rows = {self._row_of[i] for search in context.history for i in search.chosen if i in self._row_of}
            for brand in {self._brands[row] for row in rows} - {None}:
                bonus_N[self._rows_of_brand[brand]] = self._brand_bonus
        return bonus_N

    @cached_property
    def _rows_of_category(self) -> dict[tuple[str, ...], Rows]:
        return _rows_by([category] for category in self._categories)

    @cached_property
    def _rows_of_brand(self) -> dict[str | None, Rows]:
        return _rows_by([brand] for brand in self._brands)

    @cached_property
    def _rows_of_word(self) -> dict[str, Rows]:
        return _rows_by(set(words(text)) for text in self._texts)


def _rows_by(labels_of_rows: Iterable[Iterable[Label]]) -> dict[Label, Rows]:
    """Label -> the rows that have it, ascending."""
    rows: defaultdict[Label, list[int]] = defaultdict(list)
    for row, labels in enumerate(labels_of_rows):
        for label in labels:
            rows[label].append(row)
    return {label: np.array(own, dtype=np.int64) for label, own in rows.items()}


def _log_counts(count: Float64[np.ndarray, " n"]) -> Float64[np.ndarray, " n"]:
    """ln of each count; an item never chosen counts as half a choice."""
    return np.log(np.maximum(count, 0.5))
