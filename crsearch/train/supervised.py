"""The stages that learn from given answers: alignment, first reasoning, consolidation, and the direct control.

Source: CRS §3.1.2 (alignment), §3.2 (first reasoning), §3.3 (SFT of the loop); mixtures and weights: this project.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from crsearch.config import OptimConfig, Settings
from crsearch.records.types import Example
from crsearch.runs import Progress, RunDirectory, silent
from crsearch.train.examples import TreeBuilder, device_of, draw, kind_loss
from crsearch.train.trainer import Losses, Trainer, stream
from crsearch.train.tree import Tree, pack, target_logprobs

TreesOf = Callable[[int], Sequence[Tree]]
"""The trees of a step (0-based), a function of the number alone."""


@dataclass(frozen=True, kw_only=True)
class Workbench:
    """What every stage works with: the model being trained, and where its numbers go."""

    run: RunDirectory
    settings: Settings
    builder: TreeBuilder
    loop_seed: int = 0
    progress: Progress = silent

    @property
    def seed(self) -> int:
        """Seed of the run; in the loop another one where ``loop.seed`` asks for it."""
        return self.settings.seed + 1_000_003 * self.loop_seed

    def trainer(self, stage: str, key: str, optim: OptimConfig) -> Trainer:
        """A trainer of this bench's model for one stage."""
        return Trainer(
            run=self.run,
            stage=stage,
            key=key,
            model=self.builder.bundle.model,
            optim=optim,
            precision=self.settings.model,
            pretrained=self.settings.model.path is not None,
            progress=self.progress,
            save_every=self.settings.checkpoint_seconds,
        )

    def item_trees(self, stage: str, count: int, step: int, *, both: bool) -> list[Tree]:
        """``count`` items of the catalogue for a step, each item once per pass through the catalogue."""
        rows = draw(self.seed, f"{stage}.items", len(self.builder.catalogue), count, step)
        rng = np.random.default_rng(stream(self.seed, stage, "masks", step))
        return [tree for row in rows for tree in self.builder.item(row, rng, both=both)]

    def supervised(
        self, stage: str, key: str, optim: OptimConfig, steps: int, trees_of: TreesOf, weights: Mapping[str, float]
    ) -> dict[str, float]:
        """Train ``steps`` steps on the trees of each step."""
        model = self.builder.bundle.model
        model.train()

        def losses(step: int) -> Losses:
            packed = pack(trees_of(step)).to(device_of(model))
            loss, numbers = kind_loss(target_logprobs(model, packed), packed, weights)
            yield loss, {**numbers, "tokens_sum": float(packed.tokens)}

        return self.trainer(stage, key, optim).train(steps, losses)


def steps_for(examples: int, batch: int, epochs: int, max_steps: int | None) -> int:
    """Optimiser steps that ``epochs`` passes over ``examples`` take.

    >>> steps_for(100, 16, 2, None), steps_for(100, 16, 2, 5)
    (14, 5)
    """
    steps = epochs * math.ceil(examples / batch)
    return steps if max_steps is None else min(steps, max_steps)


def align(bench: Workbench, stage: str, key: str, examples: Sequence[Example]) -> dict[str, float]:
    """Teach what identifiers mean and who chooses what: base -> align (CRS §3.1.2).

    Each epoch shows every user once and every item of the catalogue once in both directions, so that items
    nobody chose can be generated too.

    Args:
        examples: training examples that alignment may see.
    """
    config = bench.settings.align
    steps = steps_for(len(examples), config.batch, config.epochs, config.max_steps)
    items = math.ceil(len(bench.builder.catalogue) / math.ceil(len(examples) / config.batch))

    def trees(step: int) -> list[Tree]:
        users = draw(bench.seed, stage, len(examples), config.batch, step)
        return [
            *(
                bench.builder.user(examples[u], name=config.name_item > 0, history=config.history_targets)
                for u in users
            ),
            *bench.item_trees(stage, items, step, both=True),
        ]

    weights = {
        "item_words": config.item_words, "direct": 1.0, "name": config.name_item,
        "item_to_sid": 1.0, "sid_to_item": 1.0,
    }  # fmt: skip
    return bench.supervised(stage, key, config.optim, steps, trees, weights)


Thoughts = Sequence[tuple[Example, Sequence[int]]]
"""Examples with the token ids of a thought."""


def first_reasoning(bench: Workbench, stage: str, key: str, traces: Thoughts) -> dict[str, float]:
    """Teach form and habit of thinking from few traces: align -> sft0 (CRS §3.2).

    Direct answers and items stay in the mixture, or the no-thought mode is forgotten.
    """
    config = bench.settings.distill
    if config.start_tags and bench.settings.model.path is None:
        start_tags(bench.builder)
    steps = steps_for(len(traces) * config.repeats, config.batch, config.epochs, config.max_steps)
    return _reason(bench, stage, key, config.optim, traces, config.batch, steps, names=False)


def start_tags(builder: TreeBuilder) -> None:
    """Give ``<think>`` and ``</think>`` the row of the token after which a direct answer is written.

    Alignment reads neither tag, it only learns to write neither, so their rows point away from everything. After a
    thought a model that has never read ``</think>`` names items at random; with this row it goes on as if it answered
    at once. For models from scratch: a pretrained one may know its tags.

    Source: details: this project (docs/log.md).
    """
    bundle = builder.bundle
    rows_VD = bundle.model.get_input_embeddings().weight
    with torch.no_grad():
        rows_VD[[bundle.think_id, bundle.close_id]] = rows_VD[builder.prompts.suffix("direct")[-1]].clone()


def consolidate(
    bench: Workbench, stage: str, key: str, correct: Thoughts, others: Sequence[Example] = ()
) -> dict[str, float]:
    """SFT on what the model got right: rl_i -> sft_i+1 (CRS §3.3, Eq. 2). Without a correct trace nothing changes.

    Args:
        correct: examples with a thought that led to their target.
        others: training examples without one; they stay in the mixture with direct answers and names.
    """
    config = bench.settings.sft
    steps = steps_for(len(correct), config.batch, config.epochs, config.max_steps)
    if not correct:
        return {}
    return _reason(bench, stage, key, config.optim, correct, config.batch, steps, others, names=config.names)


def _reason(
    bench: Workbench,
    stage: str,
    key: str,
    optim: OptimConfig,
    traces: Thoughts,
    batch: int,
    steps: int,
    others: Sequence[Example] = (),
    *,
    names: bool,
) -> dict[str, float]:
    mixture = bench.settings.mixture
    beside = min(2 * batch, math.ceil(batch * len(others) / len(traces)))  # a step stays small where few were correct

    def trees(step: int) -> list[Tree]:
        users = [traces[u] for u in draw(bench.seed, stage, len(traces), batch, step)]
        unthought = [others[u] for u in draw(bench.seed, f"{stage}.others", len(others), beside, step)]
        return [
            *(bench.builder.user(e, name=names, thought=thought, answer=mixture.answer) for e, thought in users),
            *(bench.builder.user(e, name=names) for e in unthought),
            *bench.item_trees(stage, batch, step, both=False),
        ]

    weights = {
        "think": 1.0 + mixture.answer, "item_words": mixture.item_words, "direct": mixture.direct,
        "name": mixture.name, "item_to_sid": mixture.items,
    }  # fmt: skip
    return bench.supervised(stage, key, optim, steps, trees, weights)


def continue_directly(
    bench: Workbench, stage: str, key: str, examples: Sequence[Example], tokens: float, optim: OptimConfig
) -> dict[str, float]:
    """The control ``crs-direct``: alignment goes on without thoughts.

    Args:
        examples: all training examples, those of the loop too.
        tokens: how many to train on, to the nearest step of mean size.
        optim: rates and schedule.
    """
    config = bench.settings.align
    per_user = sum(len(bench.builder.user(e, history=config.history_targets)) for e in examples) / len(examples)
    probe = sum(len(t) for t in bench.item_trees(stage, config.batch, 0, both=False))
    steps = max(1, round(tokens / (config.batch * per_user + probe)))
    if config.max_steps is not None:
        steps = min(steps, config.max_steps)

    def trees(step: int) -> list[Tree]:
        users = draw(bench.seed, stage, len(examples), config.batch, step)
        return [
            *(bench.builder.user(examples[u], history=config.history_targets) for u in users),
            *bench.item_trees(stage, config.batch, step, both=False),
        ]

    weights = {"item_words": config.item_words, "direct": 1.0, "item_to_sid": bench.settings.mixture.items}
    return bench.supervised(stage, key, optim, steps, trees, weights)
