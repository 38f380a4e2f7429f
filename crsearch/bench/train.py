"""``crsearch bench train``: an RL update on packed trees against the prompt repeated for every trajectory.

    ours:   prompt + G trajectories of it in one tree        usual: G rows of prompt + trajectory, padded

Forward, clipped objective, backward and optimiser of both, in turns on the same rollouts. Log-probabilities and
gradients must be equal (in bfloat16: as far as its seven bits go).
"""

import copy
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from crsearch.bench.figures import Figure, Measured, NotMeasured, Ratio
from crsearch.bench.machine import Machine, forward_flops
from crsearch.bench.timing import Budget, alternate, one_thread
from crsearch.bench.usual import toy_prompts, toy_qwen3
from crsearch.config import RlConfig
from crsearch.train.objectives import policy_loss
from crsearch.train.trainer import bf16_is_native
from crsearch.train.tree import Branch, Packed, Tree, pack, target_logprobs

USUAL = "repeated prompts"
FLOORS = {(128, 16, 16): 4.0, (256, 32, 32): 2.9}
"""(prompt tokens, shortest and longest trajectory) -> ratio, for 16 prompts and 8 trajectories of each."""


@dataclass(frozen=True, kw_only=True)
class TrainSizes:
    """How much is measured."""

    runs: int = 5
    prompts: int = 16
    group: int = 8
    cases: tuple[tuple[int, int, int], ...] = ((128, 16, 16), (128, 16, 32), (256, 32, 32), (512, 64, 64))
    """(prompt tokens, shortest trajectory, longest)."""
    model: tuple[int, int] = (128, 3)
    """(width, layers)."""
    vocabulary: int = 2_048


SIZES: dict[Budget, TrainSizes] = {
    "smoke": TrainSizes(prompts=4, cases=((64, 8, 8), (128, 16, 16))),
    "full": TrainSizes(),
}


@dataclass(frozen=True)
class Passed:
    """What an update saw and wants to change."""

    logprob_ST: Tensor
    grads: list[Tensor]


def bench_train(sizes: TrainSizes, machine: Machine) -> list[Measured]:
    """Measure RL updates, in float32 and, where the processor has it, in bfloat16 (as training does).

    Args:
        sizes: how much.
        machine: its limits.

    Raises:
        ResultsDiffer: log-probabilities or gradients differ.
    """
    width, layers = sizes.model
    model = toy_qwen3(sizes.vocabulary, width=width, layers=layers, sharp=1.0).train()
    with one_thread():
        found = []
        for case in sizes.cases:
            found += _case(model, sizes, case, machine, bf16=False)
            if bf16_is_native():
                found += _case(model, sizes, case, machine, bf16=True)
    if not bf16_is_native():
        found.append(
            NotMeasured(key="train", what="updates in bfloat16", how="this processor has no bfloat16 products")
        )
    return found


def rollout(sizes: TrainSizes, case: tuple[int, int, int], number: int) -> tuple[list[list[int]], list[list[int]]]:
    """Random prompts, and the trajectories of all of them in group order."""
    length, shortest, longest = case
    rng = np.random.default_rng([5, *case, number])
    lengths = rng.integers(shortest, longest + 1, sizes.prompts * sizes.group).tolist()
    prompts = toy_prompts(sizes.prompts, length, 4, *case, number)
    return prompts, [rng.integers(0, sizes.vocabulary, n).tolist() for n in lengths]


def packed_rollout(prompts: list[list[int]], trajectories: list[list[int]]) -> Packed:
    """One tree per prompt."""
    group = len(trajectories) // len(prompts)
    trees = []
    for b, prompt in enumerate(prompts):
        own = trajectories[b * group : (b + 1) * group]
        trees.append(Tree(prompt, [Branch(t, [1.0] * len(t), len(prompt), "policy") for t in own]))
    return pack(trees)


def by_sequence(logprob_M: Tensor, trajectories: list[list[int]]) -> Tensor:
    """Log-probabilities of packed trajectories, padded with 0: ``S T``."""
    return torch.nn.utils.rnn.pad_sequence(logprob_M.split([len(t) for t in trajectories]), batch_first=True)


def repeated_logprobs(model: Any, prompts: list[list[int]], trajectories: list[list[int]]) -> Tensor:
    """The usual way: one row per trajectory, its prompt before it; logits of trajectories only."""
    group, longest = len(trajectories) // len(prompts), max(map(len, trajectories))
    rows = [prompts[s // group] + t for s, t in enumerate(trajectories)]
    full = max(map(len, rows))
    ids = torch.tensor([row + [0] * (full - len(row)) for row in rows])
    seen = torch.tensor([[1] * len(row) + [0] * (full - len(row)) for row in rows])
    logits = model(input_ids=ids, attention_mask=seen, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
    target = ids[:, -longest:]
    logprob_ST = logits.float().log_softmax(-1).gather(-1, target[..., None])[..., 0]
    return logprob_ST * seen[:, -longest:]


class Updater:
    """A model of its own and an optimiser; its rate is 0, so that every round begins with the same weights."""

    def __init__(self, model: Any, precision: Callable[[], Any]) -> None:
        self.model, self.precision = copy.deepcopy(model), precision
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=0.0, weight_decay=0.0)

    def step(self, logprobs: Callable[[Any], Tensor], trajectories: list[list[int]]) -> Passed:
        """One update on trajectories whose advantages alternate."""
        longest = max(map(len, trajectories))
        mask_ST = torch.tensor([[True] * len(t) + [False] * (longest - len(t)) for t in trajectories])
        advantage_S = torch.tensor([1.0, -0.7]).repeat(len(trajectories))[: len(trajectories)]
        with self.precision():
            new_ST = logprobs(self.model)
            loss, _ = policy_loss(new_ST, new_ST.detach(), advantage_S, mask_ST, config=RlConfig(kl=0.0))
        self.optimiser.zero_grad()
        loss.backward()
        self.optimiser.step()
        return Passed(new_ST.detach(), [w.grad for w in self.model.parameters() if w.grad is not None])


def _case(model: Any, sizes: TrainSizes, case: tuple[int, int, int], machine: Machine, *, bf16: bool) -> list[Measured]:
    name, rate = ("bfloat16", machine.bfloat16_gflops) if bf16 else ("float32", machine.float32_gflops)

    def precision() -> Any:
        return torch.autocast("cpu", dtype=torch.bfloat16) if bf16 else nullcontext()

    ours, usual = Updater(model, precision), Updater(model, precision)

    def run_ours(number: int) -> Passed:
        prompts, trajectories = rollout(sizes, case, number)
        return ours.step(
            lambda m: by_sequence(target_logprobs(m, packed_rollout(prompts, trajectories)), trajectories),
            trajectories,
        )

    def run_usual(number: int) -> Passed:
        prompts, trajectories = rollout(sizes, case, number)
        return usual.step(lambda m: repeated_logprobs(m, prompts, trajectories), trajectories)

    length, shortest, longest = case
    tokens = f"{shortest}" if shortest == longest else f"{shortest}..{longest}"
    what = f"update, {sizes.prompts} x {sizes.group}, prompt {length}, trajectories of {tokens}, {name}"
    sides = {"ours": run_ours, USUAL: run_usual}
    took = alternate(what, sides, close_in_bf16 if bf16 else close, sizes.runs)
    reached = _flops(model.config, sizes, case) / took["ours"] / 1e9
    return [
        Ratio(
            key="train",
            what=what,
            ours=1e3 * took["ours"],
            usual=1e3 * took[USUAL],
            unit="CPU ms",
            usual_way=USUAL,
            floor=FLOORS.get(case) if (sizes.prompts, sizes.group) == (16, 8) else None,
            how=f"median of {sizes.runs}",
        ),
        Figure(
            key="train",
            what=f"{what}: share of the matmul rate",
            value=100 * reached / rate,
            unit="%",
            better="higher",
            how=f"{reached:.0f} of {rate:.0f} GFLOP/s",
        ),
        Figure(
            key="train",
            what=f"{what}: first step, largest |policy / old policy - 1|",
            value=_first_ratio(ours, sizes, case),
            unit="",
            floor=1e-5,
            how="old log-probabilities from a pass of their own",
        ),
    ]


def close(ours: Passed, usual: Passed) -> bool:
    """Log-probabilities to 1e-4, gradients to a thousandth of their length."""
    return torch.allclose(ours.logprob_ST, usual.logprob_ST, atol=1e-4, rtol=0) and _apart(ours, usual) < 1e-3


def close_in_bf16(ours: Passed, usual: Passed) -> bool:
    """The same for numbers of seven bits: log-probabilities to 0.1, gradients to a twentieth of their length."""
    return torch.allclose(ours.logprob_ST, usual.logprob_ST, atol=0.1, rtol=0) and _apart(ours, usual) < 0.05


def _apart(ours: Passed, usual: Passed) -> float:
    """Distance of two gradients, relative to their length."""
    a, b = (torch.cat([g.flatten() for g in side.grads]) for side in (ours, usual))
    return float((a - b).norm() / b.norm())


def _first_ratio(ours: Updater, sizes: TrainSizes, case: tuple[int, int, int]) -> float:
    """Largest distance of the first step's ratios from 1."""
    packed = packed_rollout(*rollout(sizes, case, 0))
    with ours.precision():
        new_M = target_logprobs(ours.model, packed).detach()
        with torch.no_grad():
            old_M = target_logprobs(ours.model, packed)
    return float(((new_M - old_M).exp() - 1).abs().max())


def _flops(config: Any, sizes: TrainSizes, case: tuple[int, int, int]) -> float:
    """Of an update on trees: forward and twice that backward; rows that only fill up are not counted.

    Nor is what the last layer leaves out: of tokens that predict nothing it needs keys and values.
    """
    length, shortest, longest = case
    mean = (shortest + longest) / 2
    written = sizes.prompts * sizes.group * mean
    tokens = sizes.prompts * length + written
    pairs = sizes.prompts * length * (length + 1) / 2 + written * (length + (mean + 1) / 2)
    # read: the last token of each prompt, and all but the last of each trajectory
    inner = sizes.prompts * sizes.group * (mean - 1)
    read = sizes.prompts + inner
    read_pairs = sizes.prompts * length + inner * (length + mean / 2)
    share = 1 / config.num_hidden_layers
    body = (1 - share) * forward_flops(config, int(tokens), int(pairs))
    last = share * forward_flops(config, int(read), int(read_pairs))
    keys = 2 * config.hidden_size * 2 * config.num_key_value_heads * config.head_dim * (tokens - read)
    return 3 * (body + last + keys + 2 * written * config.hidden_size * config.vocab_size)
