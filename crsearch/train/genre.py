"""GENRE: the query in, the identifier of the item out.

    L = sum_t (1 - s) (-log p(y_t)) + s mean_v (-log p(v)),   v over the whole vocabulary

Source: De Cao et al. 2021 (GENRE); CRS §4.1.2 puts semantic IDs in the place of titles. Mean over tokens, training
pairs and budget: details: this project.
"""

from collections.abc import Sequence

from crsearch.records.types import Example
from crsearch.train.examples import draw, kind_loss
from crsearch.train.generative import (
    Tokens,
    answer_logprobs,
    answer_tree,
    identifiers,
    mean_length,
    query_prompts,
    steps_within,
    training_pairs,
)
from crsearch.train.supervised import Workbench
from crsearch.train.trainer import Losses
from crsearch.train.tree import Tree

RETRIEVAL = "retrieval"
"""Kind of the loss of query -> identifier."""


class RetrievalTask:
    """Pairs of query and item as trees, a step at a time.

    Args:
        bench: what is trained.
        examples: training examples; see ``training_pairs`` for what counts of them.
        identifiers_NL: vocabulary ids to write for each item.
    """

    def __init__(self, bench: Workbench, examples: Sequence[Example], identifiers_NL: Tokens) -> None:
        history = bench.settings.baselines.history_pairs
        self.seed = bench.seed
        self.answers = identifiers_NL.tolist()
        self.pairs = training_pairs(bench.builder.catalogue, examples, history=history)
        self.prompts = query_prompts(bench.builder, (pair.query for pair in self.pairs))
        length = len(self.answers[0]) if self.pairs else 0
        self.tokens = mean_length(self.prompts[pair.query] for pair in self.pairs) + length
        """Tokens of an average pair; 0 without pairs."""

    def trees(self, stage: str, size: int, step: int) -> list[Tree]:
        """``size`` pairs for a step, each pair once per pass through them."""
        pairs = [self.pairs[p] for p in draw(self.seed, stage, len(self.pairs), size, step)]
        return [answer_tree(self.prompts[pair.query], [self.answers[pair.row]], RETRIEVAL) for pair in pairs]


def train_genre(bench: Workbench, stage: str, key: str, examples: Sequence[Example], tokens: float) -> dict[str, float]:
    """Train query -> identifier: base -> genre. Without an example nothing changes.

    Args:
        bench: with the untrained model.
        stage: name of the stage.
        key: digest of what it depends on.
        examples: training examples.
        tokens: how many to train on, prompts counted; the number of steps follows.

    Returns:
        Sums over the stage (``tokens_sum``).
    """
    config = bench.settings.baselines.genre
    task = RetrievalTask(bench, examples, identifiers(bench.builder, bench.settings, "genre"))
    if not task.pairs:
        return {}
    model = bench.builder.bundle.model

    def losses(step: int) -> Losses:
        model.train()
        logprob_M, packed = answer_logprobs(model, task.trees(stage, config.batch, step), config.smoothing)
        loss, numbers = kind_loss(logprob_M, packed, {RETRIEVAL: 1.0})
        yield loss, {**numbers, "tokens_sum": float(packed.tokens)}

    steps = steps_within(tokens, config.batch * task.tokens, config.max_steps)
    return bench.trainer(stage, key, config.optim).train(steps, losses)
