"""Two-step inference over many contexts (CRS §3.4); selection, RL and searchers share it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from crsearch.config import DecodeConfig
from crsearch.decode.beam import beam_search
from crsearch.decode.thoughts import RankedThoughts, fuse_thoughts, think_then_rank
from crsearch.decode.trie import Trie
from crsearch.models.bundle import Bundle, forbidden_in_thoughts
from crsearch.records.types import Context
from crsearch.train.examples import TreeBuilder


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model answered to one context."""

    rows: tuple[int, ...]
    """Catalogue rows, best first."""
    scores: tuple[float, ...]
    """Log-probability of each item, given context and thought."""
    thought: tuple[int, ...] = ()
    """Token ids between the tags; empty when the model answered at once."""
    is_closed: bool = True
    """The model closed the thought itself."""
    read: int = 0
    """Tokens of the prompt."""


def catalogue_trie(bundle: Bundle) -> Trie:
    """The trie of all items of the catalogue; row numbers are those of the catalogue."""
    return Trie.from_tokens(bundle.sid_ids_NL)


def think(
    builder: TreeBuilder,
    contexts: Sequence[Context],
    trie: Trie,
    config: DecodeConfig,
    *,
    group_size: int = 1,
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    width: int | None = None,
) -> RankedThoughts:
    """Thoughts of a batch of contexts and the ranked list after each; ``temperature`` 0 is greedy."""
    bundle = builder.bundle
    with torch.autocast(next(bundle.model.parameters()).device.type, enabled=False):
        return think_then_rank(
            bundle.model,
            [builder.prompt(c, "think") for c in contexts],
            trie,
            width=width or config.width,
            group_size=group_size,
            max_tokens=config.think_tokens,
            close_id=bundle.close_id,
            forbidden=forbidden_in_thoughts(bundle),
            temperature=temperature,
            generator=generator,
        )


def batches(contexts: Sequence[Context], size: int) -> Iterator[tuple[int, Sequence[Context]]]:
    """Consecutive batches with the position of their first context."""
    for start in range(0, len(contexts), size):
        yield start, contexts[start : start + size]


def answer_thinking(
    builder: TreeBuilder, contexts: Sequence[Context], trie: Trie, config: DecodeConfig, width: int | None = None
) -> list[Answer]:
    """Greedy thought, then a beam; one answer per context, in order."""
    out: list[Answer] = []
    for _, batch in batches(contexts, config.batch):
        ranked = think(builder, batch, trie, config, width=width)
        out += [
            _answer(
                ranked.rows_BGK[b, 0],
                ranked.scores_BGK[b, 0],
                len(builder.prompt(context, "think")),
                ranked.thoughts[b][0],
                bool(ranked.closed_BG[b, 0]),
            )
            for b, context in enumerate(batch)
        ]
    return out


def answer_directly(
    builder: TreeBuilder, contexts: Sequence[Context], trie: Trie, config: DecodeConfig, width: int | None = None
) -> list[Answer]:
    """A beam at once, without a thought; one answer per context, in order."""
    out: list[Answer] = []
    model = builder.bundle.model
    for _, batch in batches(contexts, config.batch):
        prompts = [builder.prompt(c, "direct") for c in batch]
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            rows_BK, scores_BK = beam_search(model, prompts, trie, width=width or config.width)
        out += [_answer(*found) for found in zip(rows_BK, scores_BK, map(len, prompts), strict=True)]
    return out


def answer_after(
    builder: TreeBuilder,
    contexts: Sequence[Context],
    thoughts: Sequence[Sequence[int]],
    trie: Trie,
    config: DecodeConfig,
    width: int | None = None,
) -> list[Answer]:
    """A beam after thoughts that are given; one answer per context, in order.

    Args:
        thoughts: token ids between the tags, one per context; may be empty.
    """
    out: list[Answer] = []
    model, close_id = builder.bundle.model, builder.bundle.close_id
    for start, batch in batches(contexts, config.batch):
        given = thoughts[start : start + len(batch)]
        prompts = [[*builder.prompt(c, "think"), *t, close_id] for c, t in zip(batch, given, strict=True)]
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            rows_BK, scores_BK = beam_search(model, prompts, trie, width=width or config.width)
        read = (len(prompt) - len(thought) - 1 for prompt, thought in zip(prompts, given, strict=True))
        out += [_answer(*found) for found in zip(rows_BK, scores_BK, read, given, strict=True)]
    return out


def answer_both_ways(
    builder: TreeBuilder, contexts: Sequence[Context], trie: Trie, config: DecodeConfig, width: int | None = None
) -> list[Answer]:
    """The lists after a greedy thought and without one, fused: items by the mean of their two probabilities.

    Where the thought names the wrong kind of item, the answer without it still counts. Costs one more beam from the
    same context. Source: details: this project (the paper ranks after the thought only).
    """
    width = width or config.width
    out: list[Answer] = []
    model = builder.bundle.model
    for _, batch in batches(contexts, config.batch):
        ranked = think(builder, batch, trie, config, width=2 * width)
        prompts = [builder.prompt(c, "direct") for c in batch]
        with torch.autocast(next(model.parameters()).device.type, enabled=False):
            rows_BK, scores_BK = beam_search(model, prompts, trie, width=2 * width)
        rows_BGK = torch.cat([ranked.rows_BGK, rows_BK[:, None]], dim=1)
        scores_BGK = torch.cat([ranked.scores_BGK, scores_BK[:, None]], dim=1)
        fused_rows_BK, fused_scores_BK = fuse_thoughts(rows_BGK, scores_BGK, width)
        out += [
            _answer(
                fused_rows_BK[b],
                fused_scores_BK[b],
                len(prompts[b]) + len(builder.prompt(context, "think")),
                ranked.thoughts[b][0],
                bool(ranked.closed_BG[b, 0]),
            )
            for b, context in enumerate(batch)
        ]
    return out


def _answer(
    rows_K: torch.Tensor, scores_K: torch.Tensor, read: int, thought: Sequence[int] = (), is_closed: bool = True
) -> Answer:
    found = int((rows_K >= 0).sum())
    rows, scores = tuple(int(r) for r in rows_K[:found].tolist()), tuple(scores_K[:found].tolist())
    return Answer(rows, scores, tuple(thought), is_closed, read)
