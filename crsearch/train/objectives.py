"""From rewards to a loss: advantages within a group, the clipped objective, and its named variants.

    reward_BG ─► group_advantage ─► loss_mask ─► policy_loss ─► scalar to minimise, numbers for the log

One set of tensors serves GRPO, R-GRPO, Dr. GRPO, DAPO and GSPO: they are rows of settings (``VARIANTS``). Sequences
come padded as ``S T`` with S = B x G in group order (trajectory g of context b is row b * G + g) and a mask.

Source: CRS §3.3.2, Eq. 8, for the objective; the variants follow their papers as recalled (details: this project).
"""

import difflib
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from crsearch.config import RlConfig
from crsearch.errors import ConfigError, ModelError

MAX_LOG_RATIO = 20.0
"""Log-ratios are cut at +-20 before ``exp``: beyond, float32 overflows and the gradient becomes NaN."""

_GRPO: dict[str, Any] = {
    "aggregate": "first",
    "normalise_std": True,
    "length_norm": "sequence",
    "ratio": "token",
    "clip_low": 0.2,
    "clip_high": 0.2,
    "constant_groups": "keep",
    "kl": 0.04,
}

VARIANTS: dict[str, dict[str, Any]] = {
    "grpo": _GRPO,
    "r-grpo": {**_GRPO, "aggregate": "rank_aware"},
    "dr-grpo": {**_GRPO, "normalise_std": False, "length_norm": "constant", "kl": 0.0},
    "dapo": {**_GRPO, "length_norm": "token", "clip_high": 0.28, "constant_groups": "drop", "kl": 0.0},
    "gspo": {**_GRPO, "ratio": "sequence", "clip_low": 3e-4, "clip_high": 4e-4, "kl": 0.0},
}
"""Name -> fields of ``RlConfig``. DAPO draws new groups for constant ones; here they are dropped from the mean."""


def variant(config: RlConfig, name: str) -> RlConfig:
    """``config`` with the row of a named variant over it.

    Raises:
        ConfigError: unknown name.

    >>> variant(RlConfig(), "gspo").ratio
    'sequence'
    """
    if name not in VARIANTS:
        near = difflib.get_close_matches(name, VARIANTS, n=1, cutoff=0.3)
        raise ConfigError(
            f"RL variant {name!r}: there are {', '.join(VARIANTS)}" + (f"; did you mean {near[0]}?" if near else "")
        )
    return RlConfig.model_validate({**config.model_dump(), **VARIANTS[name]})


# ---------------------------------------------------------------- advantages


def is_constant(reward_BG: Float[Tensor, "B G"]) -> Bool[Tensor, " B"]:
    """Groups whose rewards are equal up to rounding (a millionth of the largest): nothing to learn from them.

    >>> is_constant(torch.tensor([[0.3, 0.3, 0.3], [0.3, 0.3, 0.4]]))
    tensor([ True, False])
    """
    spread_B = reward_BG.amax(-1) - reward_BG.amin(-1)
    return spread_B <= 1e-6 * reward_BG.abs().amax(-1)


def group_advantage(
    reward_BG: Float[Tensor, "B G"], config: RlConfig
) -> tuple[Float[Tensor, "B G"], Bool[Tensor, " B"]]:
    """How much better each trajectory is than the others of its context.

        A_bg = (r_bg - mean_g r_bg) / (std_g r_bg + eps)

    Sums to 0 over a group (before the clamp). Adding a constant to a group's rewards changes nothing; nor does
    scaling them, with ``normalise_std`` and eps 0. A constant group has advantage 0, never NaN.

    Args:
        reward_BG: one reward per trajectory; the G trajectories of a context in one row.
        config: ``normalise_std``, ``std``, ``eps``, ``constant_groups``, ``advantage_clamp`` are read.

    Returns:
        Advantages, and which contexts take part in the loss (all but constant ones, or all with ``keep``).

    Raises:
        ConfigError: fewer than 2 trajectories.
        ModelError: a reward is not finite.

    Source: CRS Eq. 8. The paper leaves std (sample or population) and eps open.

    >>> group_advantage(torch.tensor([[1.0, 0.0, 0.0, 0.0]]), RlConfig(eps=0.0))
    (tensor([[ 1.5000, -0.5000, -0.5000, -0.5000]]), tensor([True]))
    """
    group_size = reward_BG.shape[-1]
    if group_size < 2:
        raise ConfigError(f"rl.group_size = {group_size}: trajectories of one context are compared; give at least 2")
    reward_BG = reward_BG.detach().float()
    is_finite_B = reward_BG.isfinite().all(-1)
    if not is_finite_B.all():
        b = int((~is_finite_B).nonzero()[0, 0])
        raise ModelError(
            f"rewards of context {b} of the batch are {reward_BG[b].tolist()}: the model's log-probabilities are no "
            "longer finite; go back to the last checkpoint and lower rl.optim.lr"
        )
    is_constant_B = is_constant(reward_BG)
    advantage_BG = reward_BG - reward_BG.mean(-1, keepdim=True)
    if config.normalise_std:
        std_B1 = reward_BG.std(-1, correction=1 if config.std == "sample" else 0, keepdim=True)
        advantage_BG = advantage_BG / (std_B1 + config.eps)
    advantage_BG = advantage_BG.masked_fill(is_constant_B[:, None], 0.0)  # also 0 / 0 where eps = 0
    if config.advantage_clamp is not None:
        advantage_BG = advantage_BG.clamp(-config.advantage_clamp, config.advantage_clamp)
    is_kept_B = ~is_constant_B if config.constant_groups == "drop" else torch.ones_like(is_constant_B)
    return advantage_BG, is_kept_B


# ---------------------------------------------------------------- which tokens learn


def loss_mask(
    is_written_ST: Bool[Tensor, "S T"],
    is_sid_ST: Bool[Tensor, "S T"],
    is_forced_ST: Bool[Tensor, "S T"],
    advantage_S: Float[Tensor, " S"],
    config: RlConfig,
) -> Bool[Tensor, "S T"]:
    """Tokens of o* that carry loss.

    Args:
        is_written_ST: thought, closing tag, SID, end token: all that is not prompt or padding.
        is_sid_ST: tokens of the semantic ID (and what follows it).
        is_forced_ST: tokens the policy did not choose, such as a forced ``</think>``; never trained.
        advantage_S: of each sequence.
        config: ``sid_token_loss`` is read. ``all``: as printed. ``positive``: no SID tokens where the advantage is
            negative, since o* holds the best match even then. ``none``: the thought only.

    Source: CRS Eq. 8 is ``all``; the others are this project's.
    """
    mask_ST = is_written_ST & ~is_forced_ST
    if config.sid_token_loss == "none":
        return mask_ST & ~is_sid_ST
    if config.sid_token_loss == "positive":
        return mask_ST & ~(is_sid_ST & (advantage_S < 0)[:, None])
    return mask_ST


# ---------------------------------------------------------------- loss


def k3(logprob: Float[Tensor, "*shape"], ref_logprob: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Per-token estimate of KL(policy || reference): exp(d) - d - 1 with d = log ref - log policy; never negative.

    >>> k3(torch.tensor([-1.0, -2.0]), torch.tensor([-1.2, -1.0])).round(decimals=4)
    tensor([0.0187, 0.7183])
    """
    d = (ref_logprob - logprob).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return d.exp() - d - 1


def token_weights(
    mask_ST: Bool[Tensor, "S T"], is_kept_S: Bool[Tensor, " S"], config: RlConfig
) -> Float[Tensor, "S T"]:
    """Weight of each token in the mean over a rollout batch, 0 outside the mask and in dropped sequences.

    ``sequence``: 1 / (kept sequences x loss tokens of its sequence). ``token``: 1 / (loss tokens of all kept
    sequences). ``constant``: 1 / (kept sequences x ``length_constant``). When a batch is worked off in parts, or on
    several devices, take the weights of the whole batch and hand each part its rows: the parts' losses then add up.

    >>> mask = torch.tensor([[True, True, False], [True, False, False]])
    >>> token_weights(mask, torch.tensor([True, True]), RlConfig(length_norm="sequence"))
    tensor([[0.2500, 0.2500, 0.0000],
            [0.5000, 0.0000, 0.0000]])
    """
    counted_ST = (mask_ST & is_kept_S[:, None]).float()
    if config.length_norm == "token":
        return counted_ST / counted_ST.sum().clamp(min=1)
    sequences = is_kept_S.sum().clamp(min=1)
    if config.length_norm == "constant":
        return counted_ST / (sequences * config.length_constant)
    return counted_ST / (sequences * counted_ST.sum(-1, keepdim=True).clamp(min=1))


def policy_loss(
    new_logprob_ST: Float[Tensor, "S T"],
    old_logprob_ST: Float[Tensor, "S T"],
    advantage_S: Float[Tensor, " S"],
    mask_ST: Bool[Tensor, "S T"],
    ref_logprob_ST: Float[Tensor, "S T"] | None = None,
    *,
    config: RlConfig,
    is_kept_S: Bool[Tensor, " S"] | None = None,
    weight_ST: Float[Tensor, "S T"] | None = None,
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """The clipped policy objective with its KL term, negated.

        loss = - sum_st w_st { min(rho_st A_s, clip(rho_st, 1 - e_lo, 1 + e_hi) A_s) - beta KL_st }
        rho_st = exp(new - old) per token, or per sequence exp(mean_t(new - old))

    With per-sequence lengths and nothing masked away by sign, the first step after a rollout (rho = 1) has
    loss = beta * KL: if it has not, rollout and trainer disagree about log-probabilities.

    Args:
        new_logprob_ST: log-probability of each token under the policy being trained; gradient flows through it.
        old_logprob_ST: under the policy that wrote the tokens, computed by the same forward code.
        advantage_S: of each sequence.
        mask_ST: tokens that carry loss. What stands elsewhere is not read, it may be -inf or NaN.
        ref_logprob_ST: under the frozen reference; without it there is no KL term.
        config: ``ratio``, ``clip_low``, ``clip_high``, ``length_norm``, ``length_constant``, ``kl`` are read.
        is_kept_S: sequences the mean runs over; None = all.
        weight_ST: ``token_weights`` of the whole rollout batch, when this is a part of it; None = this is all.

    Returns:
        The loss (0 where nothing is kept, still with a graph), and for the log: ``loss``, ``kl`` (mean per kept
        token), ``clip_low`` and ``clip_high`` (share of kept tokens where the clip holds the gradient back),
        ``ratio_mean``, ``ratio_max``, ``tokens``, ``sequences``.

    Raises:
        ConfigError: ``kl`` above 0 without a reference.

    Source: CRS Eq. 8; k3 and the sequence ratio (GSPO) as recalled from their papers (details: this project).
    """
    if config.kl > 0 and ref_logprob_ST is None:
        raise ConfigError(f"rl.kl = {config.kl}: the KL term needs log-probabilities of the reference model")
    if is_kept_S is None:
        is_kept_S = torch.ones_like(advantage_S, dtype=torch.bool)
    if weight_ST is None:
        weight_ST = token_weights(mask_ST, is_kept_S, config)
    counted_ST = mask_ST & is_kept_S[:, None]
    new_ST = new_logprob_ST.float().where(counted_ST, 0.0)  # before exp, or padding sends NaN into the gradient
    old_ST = old_logprob_ST.detach().float().where(counted_ST, 0.0)

    # 1) ratio
    log_ratio_ST = new_ST - old_ST
    if config.ratio == "sequence":
        length_S1 = counted_ST.sum(-1, keepdim=True).clamp(min=1)
        log_ratio_ST = (log_ratio_ST.sum(-1, keepdim=True) / length_S1).expand_as(log_ratio_ST)
    ratio_ST = log_ratio_ST.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()

    # 2) clipped objective
    advantage_S1 = advantage_S.detach().float()[:, None]
    clipped_ST = ratio_ST.clamp(1 - config.clip_low, 1 + config.clip_high)
    objective_ST = torch.minimum(ratio_ST * advantage_S1, clipped_ST * advantage_S1)

    # 3) distance from the reference
    kl_ST = torch.zeros_like(new_ST)
    if ref_logprob_ST is not None:
        kl_ST = k3(new_ST, ref_logprob_ST.detach().float().where(counted_ST, 0.0))

    loss = -(weight_ST * (objective_ST - config.kl * kl_ST)).sum()
    return loss, _statistics(loss, ratio_ST, kl_ST, advantage_S1, counted_ST, is_kept_S, config)


def _statistics(
    loss: Float[Tensor, ""],
    ratio_ST: Float[Tensor, "S T"],
    kl_ST: Float[Tensor, "S T"],
    advantage_S1: Float[Tensor, "S 1"],
    counted_ST: Bool[Tensor, "S T"],
    is_kept_S: Bool[Tensor, " S"],
    config: RlConfig,
) -> dict[str, float]:
    """Numbers of ``policy_loss`` for the log, means over the counted tokens (0 where there are none)."""
    tokens = int(counted_ST.sum())

    def mean(value_ST: Tensor) -> float:
        return float(value_ST.detach().float()[counted_ST].mean()) if tokens else 0.0

    return {
        "loss": float(loss.detach()),
        "kl": mean(kl_ST),
        "clip_low": mean((ratio_ST < 1 - config.clip_low) & (advantage_S1 < 0)),
        "clip_high": mean((ratio_ST > 1 + config.clip_high) & (advantage_S1 > 0)),
        "ratio_mean": mean(ratio_ST),
        "ratio_max": float(ratio_ST.detach()[counted_ST].max()) if tokens else 0.0,
        "tokens": float(tokens),
        "sequences": float(is_kept_S.sum()),
    }
