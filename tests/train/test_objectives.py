"""Advantages, the mask, the clipped loss and its variants; and whether they teach a bandit."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crsearch.config import RlConfig
from crsearch.errors import ConfigError, ModelError
from crsearch.train.objectives import (
    VARIANTS,
    group_advantage,
    is_constant,
    k3,
    loss_mask,
    policy_loss,
    token_weights,
    variant,
)
from crsearch.train.rewards import rank_weighted, sid_accuracy

seeds = st.integers(0, 2**31)
NAMES = sorted(VARIANTS)


def random_batch(seed: int, sequences: int = 6, tokens: int = 5, spread: float = 0.5) -> dict[str, Tensor]:
    """Log-probabilities of three models, advantages, a mask with at least one token per sequence, kept sequences."""
    g = torch.Generator().manual_seed(seed)
    old = -torch.rand(sequences, tokens, generator=g) * 3
    mask = torch.rand(sequences, tokens, generator=g) < 0.7
    mask[:, 0] = True
    kept = torch.rand(sequences, generator=g) < 0.8
    kept[0] = True
    return {
        "new": old + spread * torch.randn(sequences, tokens, generator=g),
        "old": old,
        "ref": old + spread * torch.randn(sequences, tokens, generator=g),
        "advantage": torch.randn(sequences, generator=g),
        "mask": mask,
        "kept": kept,
    }


def loss_of(batch: dict[str, Tensor], config: RlConfig, **more: Tensor) -> tuple[Tensor, dict[str, float]]:
    args = (batch["new"], batch["old"], batch["advantage"], batch["mask"], batch["ref"])
    return policy_loss(*args, config=config, is_kept_S=batch["kept"], **more)


def slow_loss(batch: dict[str, Tensor], c: RlConfig) -> float:
    """Eq. 8 and its variants, one token after the other."""
    per_sequence, lengths = [], []
    for s in range(len(batch["new"])):
        if not batch["kept"][s]:
            continue
        tokens = [t for t in range(batch["new"].shape[1]) if batch["mask"][s, t]]
        a = float(batch["advantage"][s])
        difference = {t: float(batch["new"][s, t] - batch["old"][s, t]) for t in tokens}
        mean_ratio = math.exp(sum(difference.values()) / len(tokens))
        total = 0.0
        for t in tokens:
            rho = math.exp(difference[t]) if c.ratio == "token" else mean_ratio
            clipped = min(max(rho, 1 - c.clip_low), 1 + c.clip_high)
            d = float(batch["ref"][s, t] - batch["new"][s, t])
            total += min(rho * a, clipped * a) - c.kl * (math.exp(d) - d - 1)
        per_sequence.append(total)
        lengths.append(len(tokens))
    if c.length_norm == "sequence":
        return -sum(x / n for x, n in zip(per_sequence, lengths, strict=True)) / len(lengths)
    if c.length_norm == "token":
        return -sum(per_sequence) / sum(lengths)
    return -sum(per_sequence) / (len(lengths) * c.length_constant)


# ---------------------------------------------------------------- advantages

groups = st.lists(st.floats(-5, 5, width=32).map(lambda x: round(x, 2)), min_size=2, max_size=8)


def advantage_of(rewards: list[float], **config: object) -> Tensor:
    return group_advantage(torch.tensor([rewards]), RlConfig(**config))[0][0]


@settings(max_examples=50)
@given(groups, st.sampled_from(["sample", "population"]), st.booleans())
def test_advantages_are_finite_and_sum_to_zero(rewards, std, normalise):
    a = advantage_of(rewards, std=std, normalise_std=normalise, eps=0.0)
    assert a.isfinite().all()
    assert abs(a.sum().item()) < 1e-3


@settings(max_examples=50)
@given(groups, st.floats(-10, 10, width=32))
def test_adding_a_constant_to_all_rewards_changes_nothing(rewards, c):
    torch.testing.assert_close(advantage_of([r + c for r in rewards]), advantage_of(rewards), atol=2e-3, rtol=1e-3)


@settings(max_examples=50)
@given(groups, st.floats(0.01, 100))
def test_scaling_all_rewards_changes_nothing_without_eps(rewards, c):
    scaled = advantage_of([r * c for r in rewards], eps=0.0)
    torch.testing.assert_close(scaled, advantage_of(rewards, eps=0.0), atol=1e-3, rtol=1e-3)


@settings(max_examples=50)
@given(groups)
def test_a_better_reward_never_has_a_lower_advantage(rewards):
    a = advantage_of(rewards)
    order = sorted(range(len(rewards)), key=rewards.__getitem__)
    assert all(a[i] <= a[j] + 1e-6 for i, j in itertools.pairwise(order))


@pytest.mark.parametrize("value", [0.0, 0.1, 0.3, 1 / 3, -7.7, 1e6])
@pytest.mark.parametrize("eps", [0.0, 1e-6])
def test_a_constant_group_has_no_advantage_and_is_dropped_or_kept(value, eps):
    reward = torch.tensor([[value] * 7, [0.0, 1.0, 0, 0, 0, 0, 0]])
    for constant_groups, kept in (("drop", [False, True]), ("keep", [True, True])):
        a, is_kept = group_advantage(reward, RlConfig(eps=eps, constant_groups=constant_groups))
        assert a[0].tolist() == [0.0] * 7
        assert is_kept.tolist() == kept


def test_equal_up_to_rounding_is_constant():
    """0.1 + 0.2 and 0.3 differ in float32's last bit on some machines; that is not a signal."""
    nearly = torch.tensor([[0.3, torch.nextafter(torch.tensor(0.3), torch.tensor(1.0)).item(), 0.3]])
    assert is_constant(nearly).tolist() == [True]
    assert is_constant(torch.tensor([[0.3, 0.3001, 0.3]])).tolist() == [False]


def test_the_clamp_bounds_advantages():
    assert advantage_of([1.0] + [0.0] * 31, advantage_clamp=2.0).max() == 2.0


def test_one_trajectory_cannot_be_compared():
    with pytest.raises(ConfigError, match="group_size = 1"):
        group_advantage(torch.tensor([[1.0]]), RlConfig())


@pytest.mark.parametrize("broken", [math.nan, math.inf])
def test_a_broken_reward_stops_with_the_context(broken):
    with pytest.raises(ModelError, match="context 1"):
        group_advantage(torch.tensor([[0.0, 1.0], [broken, 0.0]]), RlConfig())


# ---------------------------------------------------------------- mask


def test_sid_tokens_learn_as_the_setting_says_and_forced_tokens_never():
    #                        thought, forced tag, sid, sid, padding
    written = torch.tensor([[True, True, True, True, False]] * 3)
    sid = torch.tensor([[False, False, True, True, False]] * 3)
    forced = torch.tensor([[False, True, False, False, False]] * 3)
    advantage = torch.tensor([1.0, -1.0, 0.0])

    def mask(mode: str) -> list[list[int]]:
        return loss_mask(written, sid, forced, advantage, RlConfig(sid_token_loss=mode)).int().tolist()

    full, thought = [1, 0, 1, 1, 0], [1, 0, 0, 0, 0]
    assert mask("all") == [full, full, full]
    assert mask("positive") == [full, thought, full]
    assert mask("none") == [thought, thought, thought]


# ---------------------------------------------------------------- loss


@settings(max_examples=50)
@given(seeds, st.sampled_from(NAMES), st.sampled_from(["sequence", "token", "constant"]), st.sampled_from([0.0, 0.1]))
def test_the_loss_equals_the_loop(seed, name, norm, kl):
    batch = random_batch(seed)
    config = variant(RlConfig(length_constant=7), name).model_copy(update={"length_norm": norm, "kl": kl})
    assert loss_of(batch, config)[0].item() == pytest.approx(slow_loss(batch, config), abs=1e-5)


@settings(max_examples=50)
@given(seeds)
def test_the_first_step_has_the_loss_beta_kl(seed):
    """rho = 1 and per-sequence lengths: the advantages cancel, whatever the lengths, and only the KL term is left."""
    batch = random_batch(seed, sequences=8)
    reward_BG = batch["advantage"].reshape(2, 4)
    advantage_BG, _ = group_advantage(reward_BG, RlConfig())
    batch |= {"new": batch["old"], "advantage": advantage_BG.flatten(), "kept": torch.ones(8, dtype=torch.bool)}
    config = RlConfig(kl=0.04)
    loss, stats = loss_of(batch, config)
    weights_ST = token_weights(batch["mask"], batch["kept"], config)
    mean_kl = (weights_ST * k3(batch["old"], batch["ref"])).sum().item()
    assert loss.item() == pytest.approx(0.04 * mean_kl, abs=1e-6)
    assert stats["ratio_mean"] == stats["ratio_max"] == 1.0
    assert stats["clip_low"] == stats["clip_high"] == 0.0


def test_without_a_reference_the_first_step_has_no_loss_but_a_gradient():
    new = torch.tensor([[-1.0, -2.0], [-1.5, -0.5]], requires_grad=True)
    mask = torch.ones(2, 2, dtype=torch.bool)
    loss, _ = policy_loss(new, new.detach(), torch.tensor([1.0, -1.0]), mask, config=RlConfig())
    loss.backward()
    assert loss.item() == 0.0
    torch.testing.assert_close(new.grad, torch.tensor([[-0.25, -0.25], [0.25, 0.25]]))


@settings(max_examples=50)
@given(seeds, st.sampled_from(NAMES))
def test_what_stands_outside_the_mask_is_not_read(seed, name):
    """Padding full of NaN and -inf changes neither the loss nor the gradient."""
    batch = random_batch(seed)
    config = variant(RlConfig(), name)
    clean, broken = batch["new"].clone().requires_grad_(), batch["new"].clone()
    outside = ~batch["mask"]
    broken[outside] = math.nan
    broken.requires_grad_()
    loss, _ = loss_of({**batch, "new": clean}, config)
    junk = {k: batch[k].masked_fill(outside, -math.inf) for k in ("old", "ref")}
    same, stats = loss_of({**batch, **junk, "new": broken}, config)
    loss.backward()
    same.backward()
    assert same.item() == loss.item()
    assert torch.equal(broken.grad, clean.grad)
    assert (clean.grad[outside] == 0).all()
    assert all(math.isfinite(v) for v in stats.values())


@settings(max_examples=50)
@given(seeds, st.sampled_from(NAMES))
def test_parts_of_a_batch_add_up_to_the_whole(seed, name):
    batch = random_batch(seed)
    config = variant(RlConfig(), name)
    weight_ST = token_weights(batch["mask"], batch["kept"], config)
    whole, _ = loss_of(batch, config)
    parts = [
        loss_of({k: v[rows] for k, v in batch.items()}, config, weight_ST=weight_ST[rows])[0]
        for rows in (slice(0, 1), slice(1, 4), slice(4, 6))
    ]
    torch.testing.assert_close(torch.stack(parts).sum(), whole)


@settings(max_examples=50)
@given(seeds, st.sampled_from(NAMES))
def test_dropped_sequences_leave_no_trace(seed, name):
    batch = random_batch(seed)
    config = variant(RlConfig(), name)
    without = {k: v[batch["kept"]] for k, v in batch.items()}
    torch.testing.assert_close(loss_of(batch, config)[0], loss_of(without, config)[0])


def test_a_batch_of_constant_groups_has_a_zero_loss_that_can_be_propagated():
    batch = random_batch(0)
    batch |= {"new": batch["new"].requires_grad_(), "kept": torch.zeros(6, dtype=torch.bool)}
    loss, stats = loss_of(batch, RlConfig())
    loss.backward()
    assert loss.item() == 0.0
    assert (batch["new"].grad == 0).all()
    assert stats["tokens"] == stats["sequences"] == 0.0


def test_an_enormous_ratio_stays_finite():
    new = torch.tensor([[-1.0]], requires_grad=True)
    for a in (1.0, -1.0):
        loss, _ = policy_loss(
            new, torch.tensor([[-200.0]]), torch.tensor([a]), torch.tensor([[True]]), config=RlConfig()
        )
        loss.backward()
        assert loss.isfinite()
        assert new.grad.isfinite().all()


def test_bf16_log_probabilities_are_worked_on_in_float32():
    batch = random_batch(3)
    half = {k: v.bfloat16() if v.is_floating_point() else v for k, v in batch.items()}
    exact = {k: v.float() if v.is_floating_point() else v for k, v in half.items()}
    assert loss_of(half, RlConfig(kl=0.1))[0].item() == loss_of(exact, RlConfig(kl=0.1))[0].item()


def test_clip_shares_count_tokens_whose_gradient_is_held_back():
    new = torch.log(torch.tensor([[1.5, 0.5, 1.0, 1.5]])).repeat(2, 1)
    mask = torch.tensor([[True, True, True, False]] * 2)
    _, stats = policy_loss(new, torch.zeros(2, 4), torch.tensor([1.0, -1.0]), mask, config=RlConfig())
    assert stats["clip_high"] == pytest.approx(1 / 6)  # 1.5 with A > 0
    assert stats["clip_low"] == pytest.approx(1 / 6)  # 0.5 with A < 0
    assert stats["tokens"] == 6


def test_a_kl_weight_needs_a_reference():
    one = torch.zeros(1, 1)
    with pytest.raises(ConfigError, match=r"rl\.kl"):
        policy_loss(one, one, torch.zeros(1), one.bool(), config=RlConfig(kl=0.1))


# ---------------------------------------------------------------- variants


def test_every_variant_is_a_row_of_known_settings():
    for name in NAMES:
        config = variant(RlConfig(), name)
        assert {k: getattr(config, k) for k in VARIANTS[name]} == VARIANTS[name]


def test_r_grpo_is_grpo_with_another_aggregate():
    assert {k for k, v in VARIANTS["r-grpo"].items() if VARIANTS["grpo"][k] != v} == {"aggregate"}


def test_an_unknown_variant_names_the_nearest():
    with pytest.raises(ConfigError, match="did you mean gspo"):
        variant(RlConfig(), "gsp")


@settings(max_examples=50)
@given(seeds, st.sampled_from(["positive", "all", "none"]))
def test_with_one_beam_r_grpo_is_grpo(seed, sid_token_loss):
    """Same rollouts, lists of one: the aggregate, the advantages, the mask and the loss agree exactly."""
    batch = random_batch(seed, sequences=8)
    g = torch.Generator().manual_seed(seed)
    reward_BGK = torch.randint(0, 3, (2, 4, 1), generator=g).float()
    is_sid = torch.tensor([[False] * 3 + [True] * 2] * 8)
    losses = []
    for name in ("grpo", "r-grpo"):
        config = variant(RlConfig(sid_token_loss=sid_token_loss), name)
        reward_BG = reward_BGK[..., 0] if config.aggregate == "first" else rank_weighted(reward_BGK)
        advantage_BG, kept_B = group_advantage(reward_BG, config)
        advantage_S = advantage_BG.flatten()
        mask = loss_mask(batch["mask"], is_sid, torch.zeros(8, 5, dtype=torch.bool), advantage_S, config)
        changed = {"advantage": advantage_S, "mask": mask, "kept": kept_B.repeat_interleave(4)}
        losses.append(loss_of({**batch, **changed}, config)[0].item())
    assert losses[0] == losses[1]


# ---------------------------------------------------------------- one reward per thought


def test_beams_of_one_thought_as_their_own_samples_teach_the_thought_nothing():
    """K beams of a single thought, each a sample of the group: the shared thought's gradients cancel.

    Two thoughts with one reward each (R-GRPO) do teach it.
    """
    thought_logits = torch.zeros(4, requires_grad=True)
    sid_logits = torch.zeros(4, 8, requires_grad=True)
    g = torch.Generator().manual_seed(0)

    def thought_gradient(thoughts: list[int], sids: list[int], rewards: list[float]) -> float:
        thought_logits.grad = None
        new_ST = torch.stack(
            [thought_logits.log_softmax(-1)[thoughts], sid_logits.log_softmax(-1)[thoughts, sids]], dim=1
        )
        advantage_BG, kept_B = group_advantage(torch.tensor([rewards]), RlConfig())
        assert kept_B.all()
        mask = torch.ones_like(new_ST, dtype=torch.bool)
        policy_loss(new_ST, new_ST.detach(), advantage_BG[0], mask, config=RlConfig())[0].backward()
        return thought_logits.grad.norm().item()

    beam_rewards = torch.rand(8, generator=g).tolist()
    one_thought = thought_gradient([2] * 8, list(range(8)), beam_rewards)
    r_star = rank_weighted(torch.tensor([[beam_rewards, beam_rewards[::-1]]]))[0].tolist()
    two_thoughts = thought_gradient([2, 1], [0, 7], r_star)
    assert one_thought < 1e-6
    assert two_thoughts > 0.1


# ---------------------------------------------------------------- a bandit

ITEMS, THOUGHTS, BATCH, GROUP = 8, 4, 8, 8
CODES = torch.tensor([[i // 4, i // 2 % 2, i % 2, 0] for i in range(ITEMS)])
"""Eight items, three binary layers."""
TARGET = 5
BEAMS_TK = torch.tensor([[0, 1, 2, 3], [6, 7, 4, 2], [TARGET, 4, 6, 7], [3, 2, 1, 0]])
"""The list after each thought: only thought 2 has the target."""


def train_bandit(seed: int, *, shuffle_rewards: bool, name: str = "r-grpo", steps: int = 60) -> float:
    """P(t2) after training with the real rewards, advantages, mask and loss."""
    g = torch.Generator().manual_seed(seed)
    config = variant(RlConfig(length_constant=1), name).model_copy(update={"kl": 0.0})
    logits = torch.zeros(THOUGHTS, requires_grad=True)
    optimiser = torch.optim.SGD([logits], lr=1.0)
    for _ in range(steps):
        logprob_V = logits.log_softmax(-1)
        thought_S = torch.multinomial(logprob_V.exp().detach(), BATCH * GROUP, replacement=True, generator=g)
        codes_BGKL1 = CODES[BEAMS_TK[thought_S]].unflatten(0, (BATCH, GROUP))
        target_BL1 = CODES[[TARGET]].expand(BATCH, -1)
        reward_BGK = sid_accuracy(codes_BGKL1, target_BL1, (0.1, 0.2, 0.2), 0.5, prefix_only=True)
        if shuffle_rewards:
            reward_BGK = reward_BGK.flatten(0, 1)[torch.randperm(BATCH * GROUP, generator=g)].view_as(reward_BGK)
        reward_BG = reward_BGK[..., 0] if config.aggregate == "first" else rank_weighted(reward_BGK)
        advantage_BG, kept_B = group_advantage(reward_BG, config)
        new_ST = logprob_V[thought_S][:, None]
        mask = torch.ones_like(new_ST, dtype=torch.bool)
        loss, _ = policy_loss(
            new_ST, new_ST, advantage_BG.flatten(), mask, config=config, is_kept_S=kept_B.repeat_interleave(GROUP)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return float(logits.detach().softmax(-1)[2])


@pytest.mark.parametrize("name", NAMES)
def test_a_bandit_learns_the_thought_that_finds_the_target(name):
    assert min(train_bandit(seed, shuffle_rewards=False, name=name) for seed in range(2)) > 0.9


def test_a_bandit_with_shuffled_rewards_does_not():
    """The negative control: rewards that say nothing of the thought leave P(t2) where chance takes it."""
    reached = [train_bandit(seed, shuffle_rewards=True) for seed in range(6)]
    assert max(reached) < 0.9
    assert sum(reached) / len(reached) < 0.5
