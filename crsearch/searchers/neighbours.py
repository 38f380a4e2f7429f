"""What others chose beside the items that this user chose: the line that a model of histories has to beat.

Item-based collaborative filtering, without a model: it reads neither the query nor any text.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import islice

import numpy as np

from crsearch.records.store import Dataset
from crsearch.records.types import Context, Item, RankedList
from crsearch.searchers.popularity import training_counts
from crsearch.searchers.ranking import ranked_list, top_rows
from crsearch.train.habits import Habits


class ItemNeighbourSearcher:
    """Items by how often training users chose them beside the items of the history.

        score(i) = sum_h n_hi / sqrt(n_h + 1),   h = items chosen in the history

    where n_h training users chose h and n_hi of them i too; the user who asks is not counted. Equal scores by row.
    Items that nobody chose beside one of the history follow, the most chosen first. Scores count down to 1.

    Args:
        catalogue: items in row order.
        dataset: what may be counted (``Dataset.training_searches``).

    Source: Sarwar et al., WWW 2001; the normalisation: details: this project (``Habits.chosen_with``).
    """

    name = "item-knn"

    def __init__(self, catalogue: Sequence[Item], dataset: Dataset) -> None:
        self._item_ids = [item.item_id for item in catalogue]
        self._row_of = {item: row for row, item in enumerate(self._item_ids)}
        self._habits = Habits(dataset.training_searches)
        counts = training_counts(dataset).items
        count_N = np.array([counts.get(item, 0) for item in self._item_ids], dtype=np.float64)
        self._popular = top_rows(count_N, len(count_N)).tolist()

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """The k items most chosen beside the history; see ``Searcher``."""
        lists = []
        for context in contexts:
            rows = list(islice(self._rows(context), k))
            lists.append(ranked_list(context, self._item_ids, rows, np.arange(len(rows), 0, -1.0)))
        return lists

    def _rows(self, context: Context) -> Iterator[int]:
        score: defaultdict[int, float] = defaultdict(float)
        for item in dict.fromkeys(i for search in context.history for i in search.chosen):
            for other, share in self._habits.chosen_with(item, context.user_id).items():
                if other in self._row_of:
                    score[self._row_of[other]] += share
        yield from sorted(score, key=lambda row: (-score[row], row))
        yield from (row for row in self._popular if row not in score)
