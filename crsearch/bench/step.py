"""A whole RL step, ours against TRL's ``GRPOTrainer``: rollout, reward and update of the same model.

Samples are each side's own, so there are no equal results to ask for. Equal are the model and its first weights, the
lengths of prompts, the group, the tokens written (counted: ResultsDiffer where they differ by more than 5 %) and the
optimiser. Ours does more for its time: after each thought it ranks K items; TRL's trainer samples tokens that need not
be one.
"""

import importlib
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext, redirect_stdout
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crsearch.bench.figures import Measured, NotMeasured, Ratio
from crsearch.bench.timing import ResultsDiffer
from crsearch.bench.train import by_sequence, packed_rollout
from crsearch.bench.usual import FIRST_SID, installed, toy_catalogue, toy_prompts, toy_qwen3
from crsearch.config import RlConfig
from crsearch.decode import Trie, think_then_rank
from crsearch.train.objectives import group_advantage, policy_loss
from crsearch.train.trainer import bf16_is_native
from crsearch.train.tree import target_logprobs

USUAL = "TRL GRPOTrainer"
CLOSE = FIRST_SID - 1
RATE = 1e-5
SAME_FLOOR, BEST_FLOOR = 3.0, 5.0
"""Ratio at the same precision (float32), and of each at its best."""


@dataclass(frozen=True, kw_only=True)
class StepSizes:
    """How much is measured."""

    runs: int = 5
    prompts: int = 16
    group: int = 8
    length: int = 128
    written: int = 16
    """Tokens of a trajectory: thought, closing tag and SID."""
    width: int = 10
    items: int = 1_000
    codes: int = 64

    @property
    def floors(self) -> tuple[float | None, float | None]:
        """At the sizes of the promise."""
        full = (self.prompts, self.group, self.length, self.written) == (16, 8, 128, 16)
        return (SAME_FLOOR, BEST_FLOOR) if full else (None, None)


class OurStep:
    """A model that thinks, ranks, and learns from the rank of a target."""

    def __init__(self, sizes: StepSizes, *, bf16: bool) -> None:
        self.sizes, self.bf16 = sizes, bf16
        rng = np.random.default_rng(0)
        tokens_NL = toy_catalogue(sizes.items, sizes.codes, rng)
        self.trie, self.tokens_NL = Trie.from_tokens(tokens_NL), tokens_NL
        self.model = toy_qwen3(FIRST_SID + 4 * sizes.codes, sharp=1.0)
        self.optimiser = torch.optim.AdamW(self.model.parameters(), lr=RATE, weight_decay=0.0)
        self.written = 0

    def __call__(self, number: int) -> None:
        """One step; remembers how many tokens were written."""
        sizes, config = self.sizes, RlConfig(kl=0.0)
        prompts = toy_prompts(sizes.prompts, sizes.length, 11, number)
        # 1) thoughts, and a list after each
        self.model.eval()
        ranked = think_then_rank(
            self.model, prompts, self.trie, close_id=CLOSE, width=sizes.width, group_size=sizes.group,
            max_tokens=sizes.written - 1 - self.trie.depth, forbidden=range(FIRST_SID, FIRST_SID + 4 * sizes.codes),
            temperature=1.0, generator=torch.Generator().manual_seed(number),
        )  # fmt: skip
        # 2) rewards: the discounted rank of a target
        target_B = torch.tensor([(17 * b + number) % sizes.items for b in range(sizes.prompts)])
        hit_BGK = ranked.rows_BGK == target_B[:, None, None]
        gain_K = 1 / torch.log2(torch.arange(sizes.width) + 2.0)
        noise_BG = torch.rand(hit_BGK.shape[:2], generator=torch.Generator().manual_seed(number))
        advantage_BG, _ = group_advantage((hit_BGK * gain_K).sum(-1) + 0.1 * noise_BG, config)
        # 3) one update on trees
        trajectories = [
            [*thought, CLOSE, *self.tokens_NL[int(ranked.rows_BGK[b, g, 0])].tolist()]
            for b, group in enumerate(ranked.thoughts)
            for g, thought in enumerate(group)
        ]
        self.written = sum(map(len, trajectories))
        self.model.train()
        with torch.autocast("cpu", dtype=torch.bfloat16) if self.bf16 else nullcontext():
            logprob_M = target_logprobs(self.model, packed_rollout(prompts, trajectories))
            new_ST = by_sequence(logprob_M, trajectories)
            mask_ST = by_sequence(torch.ones_like(logprob_M), trajectories) > 0
            loss, _ = policy_loss(new_ST, new_ST.detach(), advantage_BG.flatten(), mask_ST, config=config)
        self.optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()


def bench_step(sizes: StepSizes) -> list[Measured]:
    """Measure whole steps, where TRL is installed.

    Raises:
        ResultsDiffer: the sides did not write as many tokens.
    """
    if not installed("trl"):
        why = "not installed (pip install trl)"
        return [NotMeasured(key="rollout", what=f"a whole RL step against {USUAL}", how=why)]
    took = {"float32": _pair(sizes, bf16=False)}
    if bf16_is_native():
        took["bfloat16"] = _pair(sizes, bf16=True)
    ours, usual = (min(pair[side] for pair in took.values()) for side in (0, 1))
    same, best = sizes.floors
    what = f"RL step, {sizes.prompts} x {sizes.group}, prompt {sizes.length}, {sizes.written} tokens"
    how = f"ours ranks {sizes.width} items for each; medians of {sizes.runs}"
    both = (("float32", *took["float32"], same), ("each at its best precision", ours, usual, best))
    return [
        Ratio(
            key="rollout",
            what=f"{what}, {name}",
            ours=1e3 * mine,
            usual=1e3 * theirs,
            unit="CPU ms",
            usual_way=USUAL,
            floor=floor,
            how=how,
        )
        for name, mine, theirs, floor in both
    ]


def refuse_unequal(counted: list[tuple[int, int]]) -> None:
    """Raise a ResultsDiffer unless both sides wrote about as many tokens in every step."""
    for mine, theirs in counted:
        if abs(mine - theirs) > 0.05 * theirs:
            raise ResultsDiffer(f"RL step: ours wrote {mine} tokens and {USUAL} {theirs}: nothing to compare")


def _pair(sizes: StepSizes, *, bf16: bool) -> tuple[float, float]:
    """Median CPU seconds of a step of ours and of TRL's, one of each in turns; the first pair warms up."""
    from transformers import TrainerCallback

    trl, datasets = (importlib.import_module(name) for name in ("trl", "datasets"))
    step = OurStep(sizes, bf16=bf16)
    ours: list[float] = []
    usual: list[float] = []
    counted: list[tuple[int, int]] = []
    lengths: list[int] = []

    class Turns(TrainerCallback):
        """Times a step of TRL, then takes one of ours."""

        begun = 0.0

        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            self.begun = time.process_time()

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            usual.append(time.process_time() - self.begun)
            begun = time.process_time()
            step(len(ours))
            ours.append(time.process_time() - begun)
            counted.append((step.written, sum(lengths)))
            lengths.clear()

    def reward(completion_ids: list[list[int]], **_: Any) -> list[float]:
        lengths.extend(map(len, completion_ids))
        return [float(ids[0] % 7) for ids in completion_ids]

    model = toy_qwen3(FIRST_SID + 4 * sizes.codes, sharp=1.0)
    steps = 1 + sizes.runs
    words = toy_prompts(steps * sizes.prompts, sizes.length, 12)
    prompts = [" ".join(f"w{i}" for i in prompt) for prompt in words]
    with tempfile.TemporaryDirectory(prefix="crsearch-bench-") as folder:
        arguments = trl.GRPOConfig(
            output_dir=folder, use_cpu=True, bf16=bf16, fp16=False, max_steps=steps, learning_rate=RATE,
            weight_decay=0.0, per_device_train_batch_size=sizes.prompts * sizes.group, num_generations=sizes.group,
            max_completion_length=sizes.written, temperature=1.0, beta=0.0, report_to=[], save_strategy="no",
            logging_strategy="no", disable_tqdm=True, gradient_checkpointing=False, seed=0,
        )  # fmt: skip
        trainer = trl.GRPOTrainer(
            model=model, reward_funcs=reward, args=arguments, processing_class=_words(model.config.vocab_size),
            train_dataset=datasets.Dataset.from_dict({"prompt": prompts}), callbacks=[Turns()],
        )  # fmt: skip
        with redirect_stdout(sys.stderr):  # it prints a summary
            trainer.train()
    refuse_unequal(counted)
    return statistics.median(ours[1:]), statistics.median(usual[1:])


def _words(vocabulary: int) -> Any:
    """A tokenizer of one word for each id: w0 w1 w2 ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.WordLevel({f"w{i}": i for i in range(vocabulary)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="w0", pad_token="w0", eos_token="w1", padding_side="left"
    )
