"""Reinforcement learning on what the model gets wrong: R-GRPO and its relatives (CRS §3.3.1-3.3.2).

One step: G thoughts per context and a ranked list after each -> rewards -> advantages within the group -> one
forward pass over trees in which the G rollouts of a context share its tokens -> clipped objective + anchors.
Appendix A of the project's method notes spells the step out; details the paper leaves open are in docs/paper.md.
"""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from crsearch.config import MixtureConfig, RlConfig
from crsearch.decode.trie import Trie
from crsearch.records.types import Example
from crsearch.train.answer import think
from crsearch.train.examples import TreeBuilder, clicked_loss, device_of, draw, kind_loss
from crsearch.train.objectives import group_advantage, loss_mask, policy_loss
from crsearch.train.rewards import choose_beam, distinct_ngrams, list_reward, score, structure_reward
from crsearch.train.supervised import Thoughts, Workbench
from crsearch.train.trainer import Losses, generator
from crsearch.train.tree import Branch, Packed, Tree, pack, target_logprobs


@dataclass(frozen=True, slots=True)
class Rollout:
    """G thoughts of each of B contexts, the ranked lists after them, and what they are worth."""

    examples: Sequence[Example]
    thoughts: Sequence[Sequence[Sequence[int]]]
    """Token ids between the tags, per context and trajectory."""
    closed_BG: Bool[Tensor, "B G"]
    """The policy closed the thought itself."""
    rows_BGK: Int[Tensor, "B G K"]
    target_B: Int[Tensor, " B"]
    parts: dict[str, Tensor]
    """Rewards by name, before they are folded."""
    reward_BG: Float[Tensor, "B G"]
    """r* of each trajectory (Eq. 7, or what ``rl.rank_reward`` says)."""
    chosen_BG: Int[Tensor, "B G"]
    """Beam that completes o*."""
    advantage_BG: Float[Tensor, "B G"]
    kept_B: Bool[Tensor, " B"]
    """Contexts that carry loss."""

    def numbers(self) -> dict[str, float]:
        """What to log of it."""
        hit_BGK = self.rows_BGK == self.target_B[:, None, None]
        hit_BG = hit_BGK.any(-1)
        near_miss = ~hit_BG & (self.advantage_BG > 0)
        flat = [t for group in self.thoughts for t in group]
        return {
            "r_star": float(self.reward_BG.mean()),
            **{f"reward_{n}": float(self.parts[n].mean()) for n in ("structure", "length", "accuracy", "validity")},
            "constant_groups": 1.0 - float(self.kept_B.float().mean()),
            "target_in_beam": float(hit_BG.float().mean()),
            "target_in_any_beam": float(hit_BG.any(-1).float().mean()),
            "hit_at_1": float(hit_BGK[..., 0].float().mean()),
            "near_miss_pushed_up": float(near_miss.float().mean()),
            "thought_tokens": sum(map(len, flat)) / len(flat),
            "forced_closings": 1.0 - float(self.closed_BG.float().mean()),
            "distinct_4grams": sum(map(distinct_ngrams, flat)) / len(flat),
        }


def roll_out(
    builder: TreeBuilder, examples: Sequence[Example], trie: Trie, bench: Workbench, gen: torch.Generator
) -> Rollout:
    """Sample thoughts, rank after each, and judge (no gradient).

    Args:
        examples: contexts with their targets.
        gen: source of randomness of the thoughts.
    """
    config, bundle = bench.settings.rl, builder.bundle
    bundle.model.eval()
    ranked = think(
        builder, [e.context for e in examples], trie, bench.settings.decode, group_size=config.group_size,
        temperature=config.temperature, generator=gen, width=config.beam,
    )  # fmt: skip
    codes_NL = torch.from_numpy(builder.codes_NL)
    target_B = torch.tensor([builder.catalogue.row(e.target) for e in examples])
    rows_BGK = ranked.rows_BGK.cpu()
    closed_BG = ranked.closed_BG.cpu()
    flat = [t for group in ranked.thoughts for t in group]
    structure = structure_reward(
        flat, closed_BG.flatten().tolist(), think_id=bundle.think_id, close_id=bundle.close_id
    ).view_as(closed_BG)
    parts = score(
        config.reward,
        structure_BG=structure,
        length_BG=torch.tensor([len(t) for t in flat]).view(closed_BG.shape),
        is_closed_BG=closed_BG,
        distinct_BG=torch.tensor([distinct_ngrams(t) for t in flat]).view(closed_BG.shape),
        think_tokens=bench.settings.decode.think_tokens,
        rows_BGK=rows_BGK,
        codes_BGKL1=codes_NL[rows_BGK.clamp(min=0)],
        target_BL1=codes_NL[target_B],
    )
    target_logprob_BG = None
    if config.rank_reward == "prob":
        target_logprob_BG = _target_logprob(builder, examples, ranked.thoughts, target_B)
    reward_BG = list_reward(config, parts, rows_BGK=rows_BGK, target_B=target_B, target_logprob_BG=target_logprob_BG)
    total_BGK = parts["total"]
    if config.shuffle_rewards:
        reward_BG, total_BGK = shuffled(reward_BG, gen), shuffled(total_BGK, gen)
    advantage_BG, kept_B = group_advantage(reward_BG, config)
    best_BG = choose_beam(total_BGK)
    chosen_BG = torch.zeros_like(best_BG) if config.aggregate == "first" else best_BG
    return Rollout(
        examples, ranked.thoughts, closed_BG, rows_BGK, target_B, parts, reward_BG, chosen_BG, advantage_BG, kept_B
    )


def shuffled(values: Float[Tensor, "..."], gen: torch.Generator) -> Float[Tensor, "..."]:
    """The same values in random places of the same shape."""
    order = torch.randperm(values.numel(), generator=gen, device=gen.device).to(values.device)
    return values.flatten()[order].view_as(values)


def _target_logprob(
    builder: TreeBuilder,
    examples: Sequence[Example],
    thoughts: Sequence[Sequence[Sequence[int]]],
    target_B: Int[Tensor, " B"],
) -> Float[Tensor, "B G"]:
    """log p(SID of the target | context, thought), by teacher forcing."""
    trees = []
    for example, group, row in zip(examples, thoughts, target_B.tolist(), strict=True):
        prompt, sid = builder.prompt(example.context, "think"), builder.sid(row)
        branches = [
            Branch([*t, builder.bundle.close_id, *sid], [0.0] * (len(t) + 1) + [1.0] * len(sid), len(prompt), "sid")
            for t in group
        ]
        trees.append(Tree(prompt, branches))
    model = builder.bundle.model
    with torch.no_grad():
        packed = pack(trees).to(device_of(model))
        logprob_M = target_logprobs(model, packed)
    out = logprob_M.new_zeros(len(examples) * len(thoughts[0])).index_add(0, packed.branch_M, logprob_M)
    return out.view(len(examples), -1).cpu()


@dataclass(frozen=True, slots=True)
class Update:
    """A rollout laid out for the forward pass, and which of its tokens learn. S = B x G in group order."""

    packed: Packed
    is_policy_M: Bool[Tensor, " M"]
    written_ST: Bool[Tensor, "S T"]
    sid_ST: Bool[Tensor, "S T"]
    forced_ST: Bool[Tensor, "S T"]

    def by_sequence(self, logprob_M: Float[Tensor, " M"]) -> Float[Tensor, "S T"]:
        """Log-probabilities of the rollouts' tokens, padded with 0."""
        out = logprob_M.new_zeros(self.written_ST.shape)
        return out.masked_scatter(self.written_ST, logprob_M[self.is_policy_M])


def lay_out(builder: TreeBuilder, rollout: Rollout, extra: Sequence[Tree], anchors: bool) -> Update:
    """o* of every trajectory as a branch of its context, direct answers as anchors, item trees beside them."""
    bundle = builder.bundle
    trees, written, sid, forced = [], [], [], []
    for b, example in enumerate(rollout.examples):
        encoded = builder.trunk(example.context)
        prompt = builder.prompt(example.context, "think")
        branches = []
        for g, thought in enumerate(rollout.thoughts[b]):
            row = int(rollout.rows_BGK[b, g, rollout.chosen_BG[b, g]])
            answer = builder.sid(row) if row >= 0 else []
            ids = [*thought, bundle.close_id, *answer]
            branches.append(Branch(ids, [1.0] * len(ids), len(prompt), "policy"))
            written.append([True] * len(ids))
            sid.append([False] * (len(thought) + 1) + [True] * len(answer))
            forced.append([i == len(thought) and not bool(rollout.closed_BG[b, g]) for i in range(len(ids))])
        if anchors:
            row, at = int(rollout.target_B[b]), len(encoded.ids)
            branches += [builder.direct(row, at), builder.name(row, at)]
        trunk_loss = [*clicked_loss(encoded), *[0.0] * (len(prompt) - len(encoded.ids))] if anchors else []
        trees.append(Tree(prompt, branches, trunk_loss, "item_words"))
    device = device_of(bundle.model)
    packed = pack([*trees, *extra]).to(device)
    kind = packed.kinds.index("policy")
    return Update(
        packed, packed.kind_M == kind, _padded(written).to(device), _padded(sid).to(device), _padded(forced).to(device)
    )


def _padded(rows: Sequence[Sequence[bool]]) -> Bool[Tensor, "S T"]:
    return nn.utils.rnn.pad_sequence([torch.tensor(r) for r in rows], batch_first=True)


def policy_stage(
    bench: Workbench, stage: str, key: str, examples: Sequence[Example], trie: Trie, traces: Thoughts = ()
) -> dict[str, float]:
    """``rl.steps`` rollout batches on ``examples``: sft_i -> rl_i. Without an example nothing changes.

    Args:
        examples: what is rolled out.
        trie: items that may be answered.
        traces: the teacher's, of other users; anchors of the language of the thoughts.

    Returns:
        Sums over the stage (trained tokens).
    """
    config = bench.settings.rl
    if not examples or not config.steps:
        return {}
    model = bench.builder.bundle.model
    reference = copy.deepcopy(model).eval().requires_grad_(False) if config.kl > 0 else None
    trace = f"traces/rollouts/{stage}.jsonl"
    begun = False

    def losses(step: int) -> Losses:
        nonlocal begun
        if not begun:
            bench.run.rewind(trace, stage, step)
            begun = True
        batch = [examples[i] for i in draw(bench.seed, stage, len(examples), config.prompts, step)]
        gen = generator(bench.seed, stage, "rollout", step, device=device_of(model))
        rollout = roll_out(bench.builder, batch, trie, bench, gen)
        bench.run.append(trace, describe(bench.builder, rollout, stage, step + 1))
        yield from _updates(bench, stage, step, rollout, reference, anchors_of(bench, stage, step, traces))

    return bench.trainer(stage, key, config.optim).train(config.steps, losses)


def anchors_of(bench: Workbench, stage: str, step: int, traces: Thoughts) -> list[Tree]:
    """Item trees and a few of the teacher's traces, trained beside the rollouts of a step."""
    config = bench.settings.rl
    trees = bench.item_trees(stage, config.prompts, step, both=False) if config.anchor_items else []
    if config.anchor_think:
        chosen = draw(bench.seed, f"{stage}.traces", len(traces), math.ceil(config.prompts / 4), step)
        taught, answer = [traces[u] for u in chosen], bench.settings.mixture.answer
        trees += [bench.builder.user(e, direct=False, thought=thought, answer=answer) for e, thought in taught]
    return trees


def anchor_weights(config: RlConfig, mixture: MixtureConfig) -> dict[str, float]:
    """Weights of the anchors by kind; ``mixture.answer`` comes to that of a trace, of which it takes nothing away."""
    return {
        "item_words": config.anchor_item_words, "direct": config.anchor_direct, "name": config.anchor_name,
        "think": config.anchor_think * (1.0 + mixture.answer), "item_to_sid": config.anchor_items,
    }  # fmt: skip


def _updates(
    bench: Workbench, stage: str, step: int, rollout: Rollout, reference: nn.Module | None, extra: Sequence[Tree]
) -> Losses:
    """``rl.updates`` losses on one rollout batch."""
    config, model = bench.settings.rl, bench.builder.bundle.model
    model.train()
    weights = anchor_weights(config, bench.settings.mixture)
    update = lay_out(bench.builder, rollout, extra, anchors=any(weights.values()))
    temperature_M = torch.where(update.is_policy_M, config.temperature, 1.0)
    device = device_of(model)
    advantage_S = rollout.advantage_BG.flatten().to(device)
    kept_S = rollout.kept_B.repeat_interleave(rollout.advantage_BG.shape[1]).to(device)
    mask_ST = loss_mask(update.written_ST, update.sid_ST, update.forced_ST, advantage_S, config)
    old_ST: Tensor | None = None
    ref_ST = None
    if reference is not None:
        with torch.no_grad():
            ref_ST = update.by_sequence(target_logprobs(reference, update.packed, temperature_M))
    for _ in range(config.updates):
        logprob_M = target_logprobs(model, update.packed, temperature_M)
        new_ST = update.by_sequence(logprob_M)
        old_ST = new_ST.detach() if old_ST is None else old_ST  # same forward code as the update: ratio 1 at first
        loss, stats = policy_loss(new_ST, old_ST, advantage_S, mask_ST, ref_ST, config=config, is_kept_S=kept_S)
        anchor, anchor_numbers = kind_loss(logprob_M, update.packed, weights)
        numbers = {f"policy_{n}": v for n, v in stats.items()} | anchor_numbers | rollout.numbers()
        yield loss + anchor, {**numbers, "tokens_sum": float(update.packed.tokens)}


def describe(builder: TreeBuilder, rollout: Rollout, stage: str, step: int) -> dict[str, object]:
    """The first context of a rollout in words: what the model read, thought, ranked; rewards and advantages."""
    example, decode = rollout.examples[0], builder.bundle.tokenizer.decode
    return {
        "stage": stage,
        "step": step,
        "search_id": example.context.search_id,
        "context": builder.trunk(example.context).text,
        "target": example.target,
        "trajectories": [
            {
                "thought": decode(thought),
                "closed": bool(rollout.closed_BG[0, g]),
                "items": [builder.catalogue[r].item_id for r in rollout.rows_BGK[0, g].tolist() if r >= 0],
                "rewards": [round(r, 4) for r in rollout.parts["total"][0, g].tolist()],
                "r_star": round(float(rollout.reward_BG[0, g]), 4),
                "advantage": round(float(rollout.advantage_BG[0, g]), 4),
            }
            for g, thought in enumerate(rollout.thoughts[0])
        ],
    }
