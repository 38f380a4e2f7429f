"""LatentR3: a thought that is one vector and not words, learned by SFT and then by noise and reward.

    pass 1   prompt               -> last states H -> attention layer -> latent thought z
    pass 2   prompt, z, SID, end  -> log-probabilities of the answer

z takes the place of the embedding of a thought token, whose own row would never be read, so the vocabulary has none.
Pass 2 sees the prompt's keys and values of pass 1: what comes after a prompt changes nothing in it.

Source: LatentR3 as METHODS describes it; mixture of stages by tokens and what is marked so: details of this project.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from crsearch.config import LatentPolicyConfig, OptimConfig, RlConfig
from crsearch.models.causal import keeps
from crsearch.models.latent import LatentAttention, attention_file, save_attention
from crsearch.records.types import Context, Example
from crsearch.train.examples import TreeBuilder, clicked_loss, device_of, draw
from crsearch.train.objectives import policy_loss
from crsearch.train.supervised import Workbench
from crsearch.train.trainer import Losses, generator
from crsearch.train.tree import ROW_STEP, Tree, pack, rounded_up, state_logprobs, target_logprobs

EPS = 1e-6
"""Added to the length of the advantages before dividing by it."""


class LatentReasoner(nn.Module):
    """A causal model with the attention layer that thinks for it.

    Args:
        model: a causal language model of transformers.
        attention: as wide as the model.
    """

    def __init__(self, model: Any, attention: LatentAttention) -> None:
        super().__init__()
        self.model, self.attention = model, attention

    @classmethod
    def fresh(cls, model: Any, base: float, gen: torch.Generator) -> "LatentReasoner":
        """With a new attention layer, drawn as the model's own weights are."""
        attention = LatentAttention(model.get_input_embeddings().weight.shape[1], base)
        attention.initialise(model.config.get_text_config().initializer_range, gen)
        return cls(model, attention.to(device_of(model)))

    def get_output_embeddings(self) -> Any:
        """Of the model; optimisers treat it as a table."""
        return self.model.get_output_embeddings()

    def read(self, prompts: Sequence[Sequence[int]]) -> "Read":
        """Pass 1: the last states of each prompt, and its keys and values."""
        from transformers import DynamicCache

        device = device_of(self.model)
        width = rounded_up(max(map(len, prompts)), ROW_STEP)
        ids_BT = torch.zeros(len(prompts), width, dtype=torch.int64)
        for row, prompt in zip(ids_BT, prompts, strict=True):
            row[: len(prompt)] = torch.as_tensor(prompt)
        # filling lies on the right, where no real token looks
        cache = DynamicCache()
        body = getattr(self.model, str(self.model.base_model_prefix))
        hidden_BTD = body(input_ids=ids_BT.to(device), **keeps(body, cache)).last_hidden_state
        memory = tuple((layer.keys, layer.values) for layer in cache.layers)
        return Read(hidden_BTD, torch.tensor([len(p) for p in prompts], device=device), memory)

    def think(self, read: "Read") -> Float[Tensor, "B D"]:
        """The latent thought of each prompt."""
        return self.attention(read.hidden_BTD, read.lengths_B)

    def answer(
        self, read: "Read", thought_BGD: Float[Tensor, "B G D"], answer_BA: Int64[Tensor, "B A"]
    ) -> Float[Tensor, "B G A"]:
        """Pass 2: log-probability (float32, full vocabulary) of each token of the answer after prompt and thought.

        Args:
            read: the prompts.
            thought_BGD: latent thoughts of each prompt; they do not see one another.
            answer_BA: token ids, the same for all thoughts of a prompt.
        """
        from transformers import DynamicCache

        B, G, D = thought_BGD.shape
        A = answer_BA.shape[1]
        before_BAD = self.model.get_input_embeddings()(answer_BA[:, :-1])  # the thought stands for the first
        rows_BGAD = torch.cat([thought_BGD[:, :, None], before_BAD[:, None].expand(-1, G, -1, -1)], dim=2)
        position_BA = read.lengths_B[:, None] + torch.arange(A, device=answer_BA.device)
        body = getattr(self.model, str(self.model.base_model_prefix))
        hidden_BND = body(
            inputs_embeds=rows_BGAD.reshape(B, G * A, D),
            attention_mask=sight(read, G, A)[:, None],
            position_ids=position_BA.repeat(1, G),
            **keeps(body, DynamicCache(read.memory)),
        ).last_hidden_state
        target_BN = answer_BA.repeat(1, G)
        return state_logprobs(self.model, hidden_BND.flatten(0, 1), target_BN.flatten()).view(B, G, A)

    @torch.no_grad()
    def embedded(self, prompts: Sequence[Sequence[int]]) -> list[Float[Tensor, "_ D"]]:
        """Each prompt with its noise-free thought at the end, as input embeddings; one position longer."""
        thought_BD = self.think(self.read(prompts))
        table = self.model.get_input_embeddings()
        device = thought_BD.device
        return [
            torch.cat([table(torch.as_tensor(prompt, device=device)), thought_BD[b : b + 1]])
            for b, prompt in enumerate(prompts)
        ]


@dataclass(frozen=True, slots=True)
class Read:
    """Prompts after pass 1.

    Attributes:
        hidden_BTD: last states, filled up on the right.
        lengths_B: real tokens of each.
        memory: (keys, values) of each layer.
    """

    hidden_BTD: Float[Tensor, "B T D"]
    lengths_B: Int64[Tensor, " B"]
    memory: tuple[tuple[Tensor, Tensor], ...]


def sight(read: Read, copies: int, tokens: int) -> Bool[Tensor, "B N S"]:
    """What each position of pass 2 may look at: its prompt, and its own copy up to itself."""
    B, T = read.hidden_BTD.shape[:2]
    device = read.hidden_BTD.device
    prompt_BT = torch.arange(T, device=device) < read.lengths_B[:, None]
    own = torch.ones(tokens, tokens, dtype=torch.bool, device=device).tril()
    own_NN = torch.block_diag(*[own] * copies).bool()
    N = copies * tokens
    return torch.cat([prompt_BT[:, None].expand(-1, N, -1), own_NN.expand(B, -1, -1)], dim=2)


# -- reward and advantage ---------------------------------------------------------------------------------------------
def perplexity_reward(logprob_BGA: Float[Tensor, "B G A"]) -> Float[Tensor, "B G"]:
    """- exp(mean negative log-probability of the target): dense, and nothing is decoded.

    >>> perplexity_reward(torch.full((1, 1, 4), 0.1).log())
    tensor([[-10.]])
    """
    return -(-logprob_BGA.detach().mean(-1)).exp()


def noise_free_advantage(reward_BG: Float[Tensor, "B G"], baseline: str = "batch") -> Float[Tensor, "B G"]:
    """How much better each copy is than thoughts without noise, over the length of all these differences.

        A = (r - b) / (||r - b||_2 + 1e-6)

    Args:
        reward_BG: of each copy; the first of a context has no noise.
        baseline: ``batch``: b is the mean over the noise-free copies of the batch, as published; contexts that are
            easier than others then have advantages even without noise. ``context``: b is the copy of the own context.

    >>> noise_free_advantage(torch.tensor([[-10.0, -8.0, -12.0, -9.0]])).round(decimals=4)
    tensor([[ 0.0000,  0.6667, -0.6667,  0.3333]])
    """
    clean_B1 = reward_BG[:, :1]
    above_BG = reward_BG - (clean_B1.mean() if baseline == "batch" else clean_B1)
    return above_BG / (above_BG.norm() + EPS)


def noise_of(
    thought_BD: Float[Tensor, "B D"], table_VD: Float[Tensor, "V D"], config: LatentPolicyConfig, gen: torch.Generator
) -> Float[Tensor, "B G D"]:
    """Gaussian noise for every copy, none for the first; its length is ``config.noise`` mean lengths of the unit."""
    B, D = thought_BD.shape
    unit = table_VD if config.noise_unit == "embedding" else thought_BD
    scale = config.noise * unit.detach().float().norm(dim=-1).mean() / D**0.5
    noise_BGD = torch.randn(B, config.copies, D, generator=gen, device=gen.device).to(thought_BD.device) * scale
    noise_BGD[:, 0] = 0.0
    return noise_BGD


# -- the stage --------------------------------------------------------------------------------------------------------
def train_latent_r3(
    bench: Workbench, stage: str, key: str, examples: Sequence[Example], tokens: float
) -> dict[str, float]:
    """Both parts of LatentR3: SFT of all parameters with the latent thought, then RL of the attention layer alone.

    The model of ``bench`` is trained in place; the layer is written to ``attention_file(models/<stage>)`` of the run.
    Either part resumes from its own checkpoint; a crash in the second repeats what the first did after its last one.

    Args:
        examples: training examples.
        tokens: to train on, both parts together; a prompt counts once per step, each copy's answer too.

    Returns:
        Sums over both parts (``tokens_sum``).
    """
    config = bench.settings.baselines.latent_r3
    gen = generator(bench.seed, stage, "weights")
    reasoner = LatentReasoner.fresh(bench.builder.bundle.model, config.base, gen)
    task = LatentTask(bench, stage, key, examples, reasoner)
    sums = task.supervised(tokens * (1 - config.share))
    for name, value in task.reinforced(tokens * config.share).items():
        sums[name] = sums.get(name, 0.0) + value
    save_attention(reasoner.attention, reasoner.model, attention_file(bench.run.path / "models" / stage))
    return sums


@dataclass(frozen=True, slots=True)
class LatentTask:
    """What both parts share."""

    bench: Workbench
    stage: str
    key: str
    examples: Sequence[Example]
    reasoner: LatentReasoner

    def supervised(self, tokens: float) -> dict[str, float]:
        """Cross-entropy of the answer after prompt and latent thought, with anchors beside; all parameters learn."""
        config = self.bench.settings.baselines.latent_r3
        self.reasoner.train()

        def losses(step: int) -> Losses:
            batch, prompts, answer_BA = self._batch("sft", config.batch, step)
            read = self.reasoner.read(prompts)
            thought_BD = self.reasoner.think(read)
            answer = -self.reasoner.answer(read, thought_BD[:, None], answer_BA).mean()
            anchors, seen = self.anchors(batch, prompts, read, step)
            numbers = {f"loss_{name}": float(loss.detach()) for name, (_, loss) in anchors.items()}
            numbers |= {"loss_answer": float(answer.detach()), "latent_norm": _mean_norm(thought_BD)}
            total = answer + sum(weight * loss for weight, loss in anchors.values())
            yield total, {**numbers, "tokens_sum": float(read.lengths_B.sum() + answer_BA.numel() + seen)}

        anchor = sum(len(t) for t in self._items(0))
        return self._train("sft", config.optim, self._steps(tokens, config.batch, 1, anchor), losses)

    def _items(self, step: int) -> list[Tree]:
        config = self.bench.settings.baselines.latent_r3
        return self.bench.item_trees(self.stage, config.batch, step, both=False) if config.items else []

    def anchors(
        self, batch: Sequence[Example], prompts: Sequence[Sequence[int]], read: Read, step: int
    ) -> tuple[dict[str, tuple[float, Tensor]], int]:
        """Losses that teach a model from scratch what items are: kind -> (weight, loss); and the tokens they took."""
        config, builder = self.bench.settings.baselines.latent_r3, self.bench.builder
        found: dict[str, tuple[float, Tensor]] = {}
        weights = [clicked_loss(builder.trunk(e.context)) for e in batch]
        words = [(b, t) for b, row in enumerate(weights) for t, weight in enumerate(row) if weight and t]
        if config.item_words and words:  # pass 1 has their states already
            row_M, place_M = torch.tensor(words, device=read.hidden_BTD.device).T
            target_M = torch.tensor([prompts[b][t] for b, t in words], device=row_M.device)
            logprob_M = state_logprobs(self.reasoner.model, read.hidden_BTD[row_M, place_M - 1], target_M)
            found["item_words"] = config.item_words, -logprob_M.mean()
        trees = self._items(step)
        if trees:
            packed = pack(trees).to(device_of(self.reasoner.model))
            found["item_to_sid"] = config.items, -target_logprobs(self.reasoner.model, packed).mean()
        return found, sum(map(len, trees))

    def reinforced(self, tokens: float) -> dict[str, float]:
        """Noise on the latent thought; the attention layer learns which way the target becomes likelier."""
        config = self.bench.settings.baselines.latent_r3.policy
        self.reasoner.eval()

        def losses(step: int) -> Losses:
            _, prompts, answer_BA = self._batch("rl", config.batch, step)
            gen = generator(self.bench.seed, self.stage, "noise", step)
            yield from latent_updates(self.reasoner, prompts, answer_BA, config, gen)

        with frozen(self.reasoner.model):
            return self._train("rl", config.optim, self._steps(tokens, config.batch, config.copies), losses)

    def _train(self, part: str, optim: OptimConfig, steps: int, losses: Any) -> dict[str, float]:
        trainer = self.bench.trainer(f"{self.stage}/{part}", self.key, optim)
        return replace(trainer, model=self.reasoner).train(steps, losses) if steps else {}

    def _batch(self, part: str, size: int, step: int) -> tuple[list[Example], list[list[int]], Int64[Tensor, "B A"]]:
        """Examples of a step, what is read before the thought, and the answers."""
        chosen = draw(self.bench.seed, f"{self.stage}.{part}", len(self.examples), size, step)
        builder, batch = self.bench.builder, [self.examples[i] for i in chosen]
        answers = [[*builder.sid(builder.catalogue.row(e.target)), builder.bundle.end_id] for e in batch]
        answer_BA = torch.tensor(answers, device=device_of(self.reasoner.model))
        return batch, latent_prompts(builder, [e.context for e in batch]), answer_BA

    def _steps(self, tokens: float, batch: int, copies: int, beside: int = 0) -> int:
        """Steps that ``tokens`` pay for; a step takes ``beside`` more than its users do."""
        builder, config = self.bench.builder, self.bench.settings.baselines.latent_r3
        prompt = sum(len(p) for p in latent_prompts(builder, [e.context for e in self.examples])) / len(self.examples)
        steps = round(tokens / (batch * (prompt + copies * (len(builder.sid(0)) + 1)) + beside))
        return steps if config.max_steps is None else min(steps, config.max_steps)


def latent_prompts(builder: TreeBuilder, contexts: Sequence[Context]) -> list[list[int]]:
    """What is read before the thought: the context with the instruction to answer at once."""
    return [builder.prompt(c, "direct") for c in contexts]


def latent_updates(
    reasoner: LatentReasoner,
    prompts: Sequence[Sequence[int]],
    answer_BA: Int64[Tensor, "B A"],
    config: LatentPolicyConfig,
    gen: torch.Generator,
) -> Losses:
    """``config.updates`` losses of the modified GRPO on one batch of noise.

    The ratio is that of the target's tokens under the new and the old layer, with the same noise; there is no KL term.
    Mind the sign: a copy below the baseline has its target made less likely. After a good SFT noise mostly hurts, so
    the sum of the updates does too unless the learning rate is small.
    """
    with torch.no_grad():
        read = reasoner.read(prompts)
        noise_BGD = noise_of(reasoner.think(read), reasoner.model.get_input_embeddings().weight, config, gen)
    clipped = RlConfig(clip_low=config.clip_low, clip_high=config.clip_high, constant_groups="keep")
    old_ST: Tensor | None = None
    advantage_BG, numbers = torch.empty(0), {}
    for _ in range(config.updates):
        thought_BD = reasoner.think(read)
        logprob_BGA = reasoner.answer(read, thought_BD[:, None] + noise_BGD, answer_BA)
        if old_ST is None:  # same forward code as the update: ratio 1 at first
            old_ST = logprob_BGA.detach().flatten(0, 1)
            reward_BG = perplexity_reward(logprob_BGA)
            advantage_BG = noise_free_advantage(reward_BG, config.baseline)
            numbers = _described(reward_BG, thought_BD, noise_BGD)
        mask_ST = torch.ones_like(old_ST, dtype=torch.bool)
        new_ST = logprob_BGA.flatten(0, 1)
        loss, stats = policy_loss(new_ST, old_ST, advantage_BG.flatten(), mask_ST, config=clipped)
        tokens = float(read.lengths_B.sum() + old_ST.numel())
        yield loss, {**{f"policy_{n}": v for n, v in stats.items()}, **numbers, "tokens_sum": tokens}


def _described(
    reward_BG: Float[Tensor, "B G"], thought_BD: Float[Tensor, "B D"], noise_BGD: Float[Tensor, "B G D"]
) -> dict[str, float]:
    """Numbers for the log: perplexities, what noise does to them, and how long it is beside the thought."""
    noisy_BG = reward_BG[:, 1:]
    return {
        "perplexity_clean": -float(reward_BG[:, 0].mean()),
        "perplexity_noisy": -float(noisy_BG.mean()),
        "noise_helps": float((noisy_BG > reward_BG[:, :1]).float().mean()),
        "latent_norm": _mean_norm(thought_BD),
        "noise_norm": _mean_norm(noise_BGD[:, 1:]),
    }


def _mean_norm(vector: Float[Tensor, "*B D"]) -> float:
    return float(vector.detach().float().norm(dim=-1).mean())


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Parameters of a model without a gradient; those that had one have it again at the end."""
    learning = [p for p in model.parameters() if p.requires_grad]
    for parameter in learning:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in learning:
            parameter.requires_grad_(True)
