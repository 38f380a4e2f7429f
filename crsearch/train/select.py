"""What the loop trains on: Incorrect(D, M) for RL, Correct(D, M) for SFT (CRS §3.3, Eq. 2).

The paper leaves both open; here wrong = the target is not first after a greedy thought, and correct = a sampled,
well-formed thought puts the target first (the surest such thought per example is kept). Details: this project.
"""

from collections.abc import Callable, Sequence

from crsearch.decode.trie import Trie
from crsearch.records.types import Example
from crsearch.train.answer import answer_thinking, batches, think
from crsearch.train.examples import TreeBuilder, device_of
from crsearch.train.supervised import Workbench
from crsearch.train.trainer import generator

Tick = Callable[[int, int], None]
"""Called as (done, total)."""


def incorrect(bench: Workbench, examples: Sequence[Example], trie: Trie, tick: Tick) -> list[str]:
    """search_ids of the examples whose target is not first after a greedy thought, in the order given."""
    builder: TreeBuilder = bench.builder
    builder.bundle.model.eval()
    wrong = []
    for start, contexts in batches([e.context for e in examples], bench.settings.decode.batch):
        batch = examples[start : start + len(contexts)]
        answers = answer_thinking(builder, contexts, trie, bench.settings.decode)
        wrong += [
            e.context.search_id
            for e, a in zip(batch, answers, strict=True)
            if not a.rows or a.rows[0] != builder.catalogue.row(e.target)
        ]
        tick(start + len(batch), len(examples))
    return wrong


def correct(
    bench: Workbench, stage: str, examples: Sequence[Example], trie: Trie, tick: Tick
) -> list[tuple[str, list[int]]]:
    """(search_id, thought) of the examples for which one of ``sft.samples`` thoughts puts the target first.

    Per example the thought with the highest log-probability of the target is kept; unclosed thoughts never are.
    """
    config, builder = bench.settings.sft, bench.builder
    builder.bundle.model.eval()
    found = []
    for start, contexts in batches([e.context for e in examples], max(1, bench.settings.decode.batch // 4)):
        batch = examples[start : start + len(contexts)]
        ranked = think(
            builder,
            contexts,
            trie,
            bench.settings.decode,
            group_size=config.samples,
            temperature=config.temperature if config.samples > 1 else 0.0,
            generator=generator(bench.seed, stage, "correct", start, device=device_of(builder.bundle.model)),
        )
        for b, example in enumerate(batch):
            row = builder.catalogue.row(example.target)
            right = [
                (float(ranked.scores_BGK[b, g, 0]), -g)
                for g, thought in enumerate(ranked.thoughts[b])
                if int(ranked.rows_BGK[b, g, 0]) == row and bool(ranked.closed_BG[b, g]) and len(thought)
            ]
            if right:
                found.append((example.context.search_id, [int(t) for t in ranked.thoughts[b][-max(right)[1]]]))
        tick(start + len(batch), len(examples))
    return found
