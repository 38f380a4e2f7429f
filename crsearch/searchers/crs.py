"""CRS as a searcher: think, then rank; or, from the same model, answer at once."""

from collections.abc import Sequence

from crsearch.config import DecodeConfig
from crsearch.decode.trie import Trie
from crsearch.records.types import Context, RankedList
from crsearch.train.answer import Answer, answer_directly, answer_thinking
from crsearch.train.examples import TreeBuilder


class CrsSearcher:
    """Two-step inference of a trained model (CRS §3.4).

    Args:
        builder: model, tokenizer and prompts.
        trie: items that may be answered; row numbers of the catalogue.
        config: beam width and thought budget.
        thinks: False answers at once, without a thought.
        name: ``crs``, ``crs-no-thought`` or ``crs-direct`` in tables.
    """

    def __init__(
        self, builder: TreeBuilder, trie: Trie, config: DecodeConfig, *, thinks: bool = True, name: str = "crs"
    ) -> None:
        self.name = name
        self.builder, self.trie, self.config, self.thinks = builder, trie, config, thinks

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank the k most probable items for each context, best first; a beam of at least k."""
        answer = answer_thinking if self.thinks else answer_directly
        answers = answer(self.builder, contexts, self.trie, self.config, max(k, self.config.width))
        return [self._ranked(c, a, k) for c, a in zip(contexts, answers, strict=True)]

    def _ranked(self, context: Context, answer: Answer, k: int) -> RankedList:
        rows = answer.rows[:k]
        return RankedList(
            search_id=context.search_id,
            item_ids=tuple(self.builder.catalogue[row].item_id for row in rows),
            scores=answer.scores[: len(rows)],
            thought=self.builder.bundle.tokenizer.decode(list(answer.thought)) if self.thinks else None,
        )
