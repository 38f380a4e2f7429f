"""BM25 over title, brand and category; reads the query only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from crsearch.encoders.words import Split, words
from crsearch.errors import ConfigError, DataError
from crsearch.evaluate.evaluation import evaluate
from crsearch.evaluate.metrics import REPORTED
from crsearch.records.types import Context, Example, Item, RankedList
from crsearch.searchers.ranking import ranked_list, top_rows
from crsearch.searchers.text import item_text

K1, B = 1.2, 0.75
"""What the literature takes without looking at the data."""
GRID_K1 = (0.0, 0.4, 0.8, 1.2, 1.6, 2.0)
GRID_B = (0.0, 0.25, 0.5, 0.75, 1.0)


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
        split: text -> words, for items and queries.

    Raises:
        DataError: no item has a word.

    Source: Robertson and Zaragoza 2009; without the constant factor k1 + 1 (as bm25s has it), which changes no order.
    """

    name = "bm25"

    def __init__(self, catalogue: Sequence[Item], k1: float = K1, b: float = B, *, split: Split = words) -> None:
        self._item_ids = [item.item_id for item in catalogue]
        self._split = split
        self._words = [split(item_text(item)) for item in catalogue]
        if not any(self._words):
            raise DataError(f"bm25: none of {len(self._words)} items has a word in title, brand or category")
        self.reweigh(k1, b)

    def reweigh(self, k1: float, b: float) -> None:
        """Rank by another k1 and b from now on; the items are not split again."""
        import bm25s

        self._index = bm25s.BM25(method="lucene", k1=k1, b=b, dtype="float64")
        self._index.index(self._words, create_empty_token=False, show_progress=False)

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank by the words of the query; see ``Searcher``."""
        return [self._search(context, k) for context in contexts]

    def _search(self, context: Context, k: int) -> RankedList:
        asked = self._split(context.query)
        if not asked:
            return ranked_list(context, self._item_ids, (), ())
        scores_N = np.asarray(self._index.get_scores(asked))
        found = np.flatnonzero(scores_N)  # idf is above 0, so these share a word
        rows_K = found[top_rows(scores_N[found], k)]
        return ranked_list(context, self._item_ids, rows_K.tolist(), scores_N[rows_K])


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One setting of BM25 and what it reached on the validation users."""

    k1: float
    b: float
    metrics: Mapping[str, float]
    """Mean over the validation queries of every reported metric."""


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """BM25 on validation users, as it comes and at its best: a table shows both."""

    default: Trial
    """The setting that was there before."""
    best: Trial
    """The best of all trials; the default where nothing beats it."""
    trials: tuple[Trial, ...]
    """All of them, the default first, then the grid in order (k1 outside, b inside)."""


def tune(
    catalogue: Sequence[Item],
    examples: Sequence[Example],
    *,
    default: tuple[float, float] = (K1, B),
    grid_k1: Sequence[float] = GRID_K1,
    grid_b: Sequence[float] = GRID_B,
    split: Split = words,
    metric: str = "NDCG@10",
    exclude_history: bool = False,
) -> Tuning:
    """Choose k1 and b on validation users.

    Titles of shops repeat words to be found, so that the usual k1 and b need not fit them.

    Args:
        catalogue: items in row order.
        examples: of validation users only.
        default: k1 and b to begin with.
        grid_k1: values of k1 to try.
        grid_b: values of b to try; every pair is tried, k1 = 0 with the first b only.
        split: text -> words, see ``Bm25Searcher``.
        metric: what is to be large, one of the reported ones.
        exclude_history: as in ``evaluate``.

    Returns:
        Default, best and all trials. Of equal ones the earlier wins, so the default stays unless it is beaten.

    Raises:
        ConfigError: no such metric.
        DataError: an example of a training or test user; no examples; no item has a word.

    Source: details: this project.
    """
    if metric not in REPORTED:
        raise ConfigError(f"tune: metric = {metric!r}: there are {', '.join(REPORTED)}")
    foreign = next((e for e in examples if e.part != "valid"), None)
    if foreign is not None:
        raise DataError(
            f"tune: search {foreign.context.search_id!r} is of a {foreign.part} user: k1 and b are chosen on "
            'validation users only; pass dataset.examples("valid")'
        )
    grid = ((k1, b) for k1 in grid_k1 for b in (grid_b if k1 else grid_b[:1]))  # without saturation b does nothing
    pairs = dict.fromkeys([default, *grid])
    searcher = Bm25Searcher(catalogue, *default, split=split)
    trials = []
    for k1, b in pairs:
        searcher.reweigh(k1, b)
        done = evaluate(searcher, examples, [i.item_id for i in catalogue], exclude_history=exclude_history)
        trials.append(Trial(k1=k1, b=b, metrics={m: float(v.mean()) for m, v in done.per_query().items()}))
    return Tuning(default=trials[0], best=max(trials, key=lambda t: t.metrics[metric]), trials=tuple(trials))
