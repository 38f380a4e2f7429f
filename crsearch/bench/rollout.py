"""``crsearch bench rollout``: G thoughts of a context and a list after each, against the prompt repeated G times.

    ours:   prompt read once, G thoughts from it, K beams from each          (``think_then_rank``)
    usual:  HF generate on G copies of the prompt, then HF beams on each copy with its thought

Thoughts are greedy, so that both must write the same; the work is that of sampling. Then a whole RL step (``step``).
"""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crsearch.bench.figures import Figure, Measured, Ratio
from crsearch.bench.machine import Machine
from crsearch.bench.step import StepSizes, bench_step
from crsearch.bench.timing import Budget, alternate, one_thread
from crsearch.bench.usual import FIRST_SID, HuggingFace, same_lists, toy_catalogue, toy_prompts, toy_qwen3
from crsearch.decode import Trie, sample_thoughts, think_then_rank
from crsearch.train.tree import Branch, Tree, pack, target_logprobs

USUAL = "HF generate, prompt repeated"
CLOSE = FIRST_SID - 1
"""The closing tag: the last of the words."""


@dataclass(frozen=True, kw_only=True)
class RolloutSizes:
    """How much is measured."""

    runs: int = 5
    items: int = 10_000
    codes: int = 128
    group: int = 8
    width: int = 10
    cases: tuple[tuple[int, int, int], ...] = ((1, 128, 16), (1, 512, 16), (4, 128, 16), (4, 256, 32))
    """(prompts, their tokens, tokens of a thought)."""
    step: StepSizes = field(default_factory=StepSizes)
    """Of a whole RL step, against TRL where it is installed."""


SIZES: dict[Budget, RolloutSizes] = {
    "smoke": RolloutSizes(
        items=1_000, codes=64, group=4, cases=((1, 64, 8), (2, 128, 8)), step=StepSizes(prompts=2, group=4, length=64),
    ),
    "full": RolloutSizes(),
}  # fmt: skip


@dataclass(frozen=True)
class RolledOut:
    """What was written, one row per trajectory."""

    thoughts: list[list[int]]
    lists: tuple[Tensor, Tensor]
    """Rows and scores, ``S K``."""


def bench_rollout(sizes: RolloutSizes, machine: Machine) -> list[Measured]:
    """Measure rollouts.

    Raises:
        ResultsDiffer: a thought or a list of ours is not that of the usual way.
    """
    tokens_NL = toy_catalogue(sizes.items, sizes.codes, np.random.default_rng(0))
    model = toy_qwen3(FIRST_SID + 4 * sizes.codes)
    with torch.no_grad():
        model.get_input_embeddings().weight[CLOSE] = 0  # tied: its logit is 0 and never the largest
    trie, usual = Trie.from_tokens(tokens_NL), HuggingFace(model, tokens_NL)
    with one_thread():
        found = [_case(model, trie, usual, sizes, case) for case in sizes.cases]
        found.append(_agreement(model, sizes))
        found += bench_step(sizes.step)
    return found


def _case(model: Any, trie: Trie, usual: HuggingFace, sizes: RolloutSizes, case: tuple[int, int, int]) -> Measured:
    count, length, tokens = case
    group, width = sizes.group, sizes.width
    barred = list(range(FIRST_SID, FIRST_SID + 4 * sizes.codes))

    def run_ours(number: int) -> RolledOut:
        ranked = think_then_rank(
            model, toy_prompts(count, length, 6, *case, number), trie, close_id=CLOSE, width=width, group_size=group,
            max_tokens=tokens, forbidden=barred,
        )  # fmt: skip
        thoughts = [t for of_prompt in ranked.thoughts for t in of_prompt]
        return RolledOut(thoughts, (ranked.rows_BGK.flatten(0, 1), ranked.scores_BGK.flatten(0, 1)))

    def run_usual(number: int) -> RolledOut:
        prompts = toy_prompts(count, length, 6, *case, number)
        thoughts = usual.think(prompts, group, tokens, barred).tolist()
        lists = [
            usual.search([[*prompt, *t, CLOSE] for t in thoughts[b * group : (b + 1) * group]], width)
            for b, prompt in enumerate(prompts)
        ]
        rows, scores = (torch.cat(part) for part in zip(*lists, strict=True))
        return RolledOut(thoughts, (rows, scores))

    what = f"{count} x {group} thoughts of {tokens} tokens and {width} beams each, prompt {length}"
    took = alternate(what, {"ours": run_ours, USUAL: run_usual}, same_rollout, sizes.runs)
    return Ratio(
        key="rollout",
        what=what,
        ours=1e3 * took["ours"],
        usual=1e3 * took[USUAL],
        unit="CPU ms",
        usual_way=USUAL,
        how=f"median of {sizes.runs}",
    )


def same_rollout(ours: RolledOut, usual: RolledOut) -> bool:
    """Equal thoughts and equal lists after them."""
    return ours.thoughts == usual.thoughts and same_lists(ours.lists, usual.lists)


def _agreement(model: Any, sizes: RolloutSizes) -> Measured:
    """Sampled log-probabilities beside those of the training forward on the same tokens."""
    count, length, tokens = sizes.cases[0]
    prompts = toy_prompts(count, length, 7)
    sampled = sample_thoughts(
        model, prompts, close_id=CLOSE, group_size=sizes.group, max_tokens=tokens, temperature=1.0,
        generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    trees, ours = [], []
    for b, prompt in enumerate(prompts):
        written = [[*t, CLOSE] for t in sampled.thoughts[b]]
        trees.append(Tree(prompt, [Branch(t, [1.0] * len(t), len(prompt), "policy") for t in written]))
        ours += [sampled.logprob_BGT[b, g, : len(t)] for g, t in enumerate(written)]
    with torch.no_grad():
        trained_M = target_logprobs(model, pack(trees))
    return Figure(
        key="rollout",
        what="sampled log-probabilities, largest distance from those of the training forward",
        value=float((torch.cat(ours) - trained_M).abs().max()),
        unit="nats",
        how=f"{len(trained_M)} tokens, float32",
    )
