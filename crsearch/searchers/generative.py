"""GENRE, DSI and LTRGR as searchers: the query in, identifiers out."""

from collections.abc import Sequence

from crsearch.config import DecodeConfig
from crsearch.decode.trie import Trie
from crsearch.records.types import Context, RankedList
from crsearch.searchers.ranking import beam_lists
from crsearch.train.examples import TreeBuilder
from crsearch.train.generative import query_prompts, rank_queries


class GenerativeSearcher:
    """A model that writes the identifiers of items after the query, and reads nothing else.

    Contexts of one query get one list, whoever asks.

    Args:
        builder: model, tokenizer and prompts.
        trie: items that may be answered, by the identifiers that the model was trained on
            (``crsearch.train.generative.identifiers``); row numbers of the catalogue.
        config: beam width and queries decoded together.
        name: ``genre``, ``dsi`` or ``ltrgr`` in tables.

    Source: CRS §4.1.2 (query-only baselines); constrained beam search: GENRE.
    """

    def __init__(self, builder: TreeBuilder, trie: Trie, config: DecodeConfig, *, name: str) -> None:
        self.name = name
        self.builder, self.trie, self.config = builder, trie, config

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank the k most probable items for each query, best first; a beam of at least k."""
        queries = [context.query for context in contexts]
        rows_BK, scores_BK = rank_queries(
            self.builder, queries, self.trie, max(k, self.config.width), self.config.batch
        )
        prompts = query_prompts(self.builder, queries)
        read = [prompts[query] for query in queries]
        return beam_lists(contexts, self.builder.catalogue.ids, rows_BK.tolist(), scores_BK.tolist(), k, read)
