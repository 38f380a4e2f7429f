"""CRS as a searcher: think, then rank; or, from the same model, answer at once; or both, fused."""

from collections.abc import Mapping, Sequence
from typing import Literal

from crsearch.config import DecodeConfig
from crsearch.decode.trie import Trie
from crsearch.records.types import Context, RankedList
from crsearch.train.answer import Answer, answer_after, answer_both_ways, answer_directly, answer_thinking
from crsearch.train.examples import TreeBuilder

Mode = Literal["think", "direct", "fused"]
"""Rank after a thought, at once, or by the mean of both probabilities."""

ANSWERS = {"think": answer_thinking, "direct": answer_directly, "fused": answer_both_ways}


class CrsSearcher:
    """Two-step inference of a trained model (CRS §3.4).

    Args:
        builder: model, tokenizer and prompts.
        trie: items that may be answered; row numbers of the catalogue.
        config: beam width and thought budget.
        mode: whether it thinks before it ranks.
        name: ``crs``, ``crs-no-thought``, ``crs-fused`` or ``crs-direct`` in tables.
    """

    def __init__(
        self, builder: TreeBuilder, trie: Trie, config: DecodeConfig, *, mode: Mode = "think", name: str = "crs"
    ) -> None:
        self.name = name
        self.builder, self.trie, self.config, self.mode = builder, trie, config, mode

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank the k most probable items for each context, best first; a beam of at least k."""
        answers = ANSWERS[self.mode](self.builder, contexts, self.trie, self.config, max(k, self.config.width))
        thinks = self.mode != "direct"
        return [_ranked(self.builder, c, a, k, thinks=thinks) for c, a in zip(contexts, answers, strict=True)]


class GivenThoughtSearcher:
    """CRS with thoughts from elsewhere in place of its own: what is a thought worth, and is it read at all?

    Args:
        builder: model, tokenizer and prompts.
        trie: items that may be answered.
        config: beam width.
        thoughts: search_id -> text of the thought, for every search that will be asked.
        name: in tables.

    Source: details: this project.
    """

    def __init__(
        self, builder: TreeBuilder, trie: Trie, config: DecodeConfig, thoughts: Mapping[str, str], *, name: str
    ) -> None:
        self.name = name
        self.builder, self.trie, self.config, self.thoughts = builder, trie, config, thoughts

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """Rank the k most probable items for each context after its given thought, best first."""
        given = [self.builder.prompts.thought(self.thoughts[c.search_id]) for c in contexts]
        answers = answer_after(self.builder, contexts, given, self.trie, self.config, max(k, self.config.width))
        return [_ranked(self.builder, c, a, k, thinks=True) for c, a in zip(contexts, answers, strict=True)]


def _ranked(builder: TreeBuilder, context: Context, answer: Answer, k: int, *, thinks: bool) -> RankedList:
    rows = answer.rows[:k]
    return RankedList(
        search_id=context.search_id,
        item_ids=tuple(builder.catalogue[row].item_id for row in rows),
        scores=answer.scores[: len(rows)],
        thought=builder.bundle.tokenizer.decode(list(answer.thought)) if thinks else None,
        read_tokens=answer.read,
        thought_tokens=len(answer.thought) if thinks else None,
    )
