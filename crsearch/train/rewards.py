"""Rewards of a rollout: what a trajectory and each item of its ranked list are worth.

    trajectory ─► structure (0 / -1), length [0, 1]          one number per thought        B G
    its beams  ─► accuracy, validity                         one number per candidate      B G K
    total      =  structure + length + accuracy + validity   kept apart by name for the log
    list       ─► r* = rank_weighted(total)                  one number per thought (Eq. 7)

Pure functions on tensors and token lists; nothing here knows a model, a tokenizer or a shop.
A missing beam (row -1) is worth a total miss: no accuracy, no validity.

Source: CRS §3.3.1-3.3.2, Eq. 3-7; the readings chosen where the paper is silent are named at each function.
"""

import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from crsearch.config import RewardConfig, RlConfig
from crsearch.errors import ConfigError

# ---------------------------------------------------------------- structure

Token = TypeVar("Token", bound=Hashable)
"""A token id or a piece of text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Structure:
    """What holds of an answer ``<think> thought </think> SID``; all five must."""

    one_open: bool
    """Exactly one ``<think>``."""
    one_close: bool
    """Exactly one ``</think>``."""
    in_order: bool
    """The first ``<think>`` stands before the first ``</think>``."""
    non_empty: bool
    """Something stands between the two."""
    only_sid_after: bool
    """After the first ``</think>`` stands one whole semantic ID and nothing else (an end token may follow)."""

    @property
    def is_well_formed(self) -> bool:
        """All five hold."""
        return self.one_open and self.one_close and self.in_order and self.non_empty and self.only_sid_after

    @property
    def reward(self) -> float:
        """0 where the answer is well formed, else -1 (CRS Eq. 3)."""
        return 0.0 if self.is_well_formed else -1.0


def structure_of(
    answer: Sequence[Token],
    *,
    think: Token,
    close: Token,
    is_sid: Callable[[Token], bool],
    sid_length: int,
    end: Token | None = None,
) -> Structure:
    """The definition: which parts of the required form an answer has.

    Args:
        answer: tokens (ids or strings) of the whole answer, from ``<think>`` on.
        think: opening tag. close: closing tag.
        is_sid: tells a token of a semantic ID from any other.
        sid_length: tokens of a semantic ID, the deduplication code counted.
        end: end-of-answer token, allowed once at the very end.

    Source: CRS §3.3.1, Eq. 3; what "well formed" asks for: this project.

    >>> structure_of([7, 1, 2, 8, 50, 51], think=7, close=8, is_sid=lambda t: t >= 50, sid_length=2).is_well_formed
    True
    """
    tokens = list(answer)
    opened = tokens.index(think) if think in tokens else None
    closed = tokens.index(close) if close in tokens else None
    in_order = opened is not None and closed is not None and opened < closed
    after = tokens[closed + 1 :] if closed is not None else []
    if end is not None and after and after[-1] == end:
        after = after[:-1]
    return Structure(
        one_open=tokens.count(think) == 1,
        one_close=tokens.count(close) == 1,
        in_order=in_order,
        non_empty=opened is not None and closed is not None and closed - opened > 1,
        only_sid_after=len(after) == sid_length and all(is_sid(t) for t in after),
    )


_PIECE = re.compile(r"</?think>|<[a-z]_\d+>|[^<\s]+|<")


def structure_of_text(text: str, *, sid_length: int) -> Structure:
    """``structure_of`` an answer as text; white space does not count.

    >>> structure_of_text("<think>a case</think><a_1><b_2><c_3><d_0>", sid_length=4).reward
    0.0
    >>> structure_of_text("<think> </think><a_1><b_2><c_3><d_0>", sid_length=4).reward
    -1.0
    """
    return structure_of(
        _PIECE.findall(text),
        think="<think>",
        close="</think>",
        is_sid=lambda piece: re.fullmatch(r"<[a-z]_\d+>", piece) is not None,
        sid_length=sid_length,
    )


def structure_reward(
    thoughts: Sequence[Sequence[int]], is_closed: Sequence[bool], *, think_id: int, close_id: int
) -> Float[Tensor, " S"]:
    """Structure reward of sampled thoughts, when the opening tag and the SID come from the decoder.

    Args:
        thoughts: token ids the policy wrote after ``<think>``, without the final ``</think>``.
        is_closed: the policy wrote the final ``</think>`` itself; False where it was forced at the budget.
        think_id: token id of ``<think>``. close_id: of ``</think>``.

    Returns:
        0 or -1 for each thought, on the CPU.

    Source: CRS Eq. 3. A forced ``</think>`` counts as missing (details: this project).

    >>> structure_reward([[5, 6], [], [5, 6]], [True, True, False], think_id=1, close_id=2)
    tensor([ 0., -1., -1.])
    """
    sid = -1  # stands for the beam, which the trie makes a whole SID by construction
    answers = (
        [think_id, *thought, *([close_id] if closed else []), sid]
        for thought, closed in zip(thoughts, is_closed, strict=True)
    )
    return torch.tensor(
        [
            structure_of(a, think=think_id, close=close_id, is_sid=lambda t: t == sid, sid_length=1).reward
            for a in answers
        ],
        dtype=torch.float32,
    )


# ---------------------------------------------------------------- length


def length_reward(length_BG: Int[Tensor, "B G"], limit: int, is_closed_BG: Bool[Tensor, "B G"]) -> Float[Tensor, "B G"]:
    """Reward longer thoughts: min(1, len / limit), and 0 where the closing tag is missing.

    Args:
        length_BG: tokens strictly between the tags.
        limit: tokens from which on the reward is 1.
        is_closed_BG: the policy closed the thought itself.

    Raises:
        ConfigError: ``limit`` below 1.

    Source: CRS Eq. 4. The paper writes len(ans); we count the thought (details: this project). Padding a thought with
    repetitions earns this reward: see ``distinct_ngrams``.

    >>> length_reward(torch.tensor([[0, 50, 100, 250]]), 100, torch.tensor([[True] * 4]))
    tensor([[0.0000, 0.5000, 1.0000, 1.0000]])
    """
    if limit < 1:
        raise ConfigError(f"decode.think_tokens = {limit}: the length reward needs a limit of at least 1 token")
    return (length_BG.float() / limit).clamp(max=1.0) * is_closed_BG


def overlong_penalty(length_BG: Int[Tensor, "B G"], limit: int, soft: int) -> Float[Tensor, "B G"]:
    """Punish thoughts near the budget: 0 up to ``limit - soft`` tokens, then linearly down to -1 at ``limit``.

    ``soft`` = 0 switches it off.

    Source: the soft over-long punishment of DAPO, as recalled (details: this project).

    >>> overlong_penalty(torch.tensor([[30, 35, 40, 99]]), limit=40, soft=10)
    tensor([[ 0.0000, -0.5000, -1.0000, -1.0000]])
    """
    if soft == 0:
        return torch.zeros_like(length_BG, dtype=torch.float32)
    return ((limit - soft - length_BG).float() / soft).clamp(-1.0, 0.0)


def distinct_ngrams(tokens: Sequence[int], n: int = 4) -> float:
    """Share of a thought's n-grams that are different from each other, in (0, 1]; 1 where there are none.

    The guard against length earned by repetition (details: this project).

    >>> distinct_ngrams([1, 2, 1, 2, 1, 2, 1, 2], n=4)
    0.4
    """
    grams = [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 1.0


# ---------------------------------------------------------------- items


def sid_accuracy(
    pred_BGKL1: Int[Tensor, "B G K L1"],
    target_BL1: Int[Tensor, "B L1"],
    weights: Sequence[float],
    exact_weight: float = 0.0,
    prefix_only: bool = False,
) -> Float[Tensor, "B G K"]:
    """How much of the target's semantic ID a candidate has right.

        r = sum_l w_l [pred_l = target_l]  +  w_exact [all codes and the deduplication code equal]

    Args:
        pred_BGKL1: codes of each candidate, layer by layer, the deduplication code last; -1 where there is none.
        target_BL1: codes of the target.
        weights: w_l of the L layers (not of the deduplication code).
        exact_weight: w_exact.
        prefix_only: a layer counts only when all layers before it match.

    Raises:
        ConfigError: not one weight per layer.

    Source: CRS Eq. 5, which is ``exact_weight=0, prefix_only=False``. Printed like that it pays for later layers under
    a wrong prefix and for other items of the same collision group; ``prefix_only`` and ``exact_weight`` are this
    project's mend (see ``RewardConfig``).

    >>> pred = torch.tensor([[[[1, 5, 9, 4], [7, 5, 9, 0]]]])
    >>> sid_accuracy(pred, torch.tensor([[1, 5, 9, 0]]), (0.5, 0.3, 0.2))
    tensor([[[1.0000, 0.5000]]])
    >>> sid_accuracy(pred, torch.tensor([[1, 5, 9, 0]]), (0.1, 0.2, 0.2), exact_weight=0.5, prefix_only=True)
    tensor([[[0.5000, 0.0000]]])
    """
    layers = pred_BGKL1.shape[-1] - 1
    if len(weights) != layers:
        raise ConfigError(
            f"rl.reward.layer_weights has {len(weights)} weights, but semantic IDs have {layers} layers: "
            "give one weight per layer"
        )
    is_equal_BGKL1 = pred_BGKL1 == target_BL1[:, None, None, :]
    hits_BGKL = is_equal_BGKL1[..., :layers].float()
    if prefix_only:
        hits_BGKL = hits_BGKL.cumprod(dim=-1)
    weight_L = torch.tensor(list(weights), dtype=torch.float32, device=pred_BGKL1.device)
    return (hits_BGKL * weight_L).sum(-1) + exact_weight * is_equal_BGKL1.all(-1)


def validity(rows_BGK: Int[Tensor, "B G K"]) -> Float[Tensor, "B G K"]:
    """1 where the candidate is an item of the catalogue, 0 where it is not or is missing (row -1).

    Under the trie this is 1 for every beam and cancels in the advantage; it matters where lists are short.

    Source: CRS Eq. 6.
    """
    return (rows_BGK >= 0).float()


def score(
    config: RewardConfig,
    *,
    structure_BG: Float[Tensor, "B G"],
    length_BG: Int[Tensor, "B G"],
    is_closed_BG: Bool[Tensor, "B G"],
    distinct_BG: Float[Tensor, "B G"],
    think_tokens: int,
    rows_BGK: Int[Tensor, "B G K"],
    codes_BGKL1: Int[Tensor, "B G K L1"],
    target_BL1: Int[Tensor, "B L1"],
) -> dict[str, Tensor]:
    """All rewards of a rollout by name, and their weighted sum.

    Args:
        config: weights and options.
        structure_BG: 0 or -1, from ``structure_reward``.
        length_BG: tokens of each thought. is_closed_BG: the policy closed it itself.
        distinct_BG: share of distinct 4-grams of each thought, from ``distinct_ngrams``.
        think_tokens: budget of a thought.
        rows_BGK: catalogue row of each beam, best first, -1 where there is none.
        codes_BGKL1: codes of each beam; where the row is -1 they are not read.
        target_BL1: codes of the target.

    Returns:
        ``structure``, ``length``, ``overlong`` ("B G") and ``accuracy``, ``validity`` ("B G K"), each before its
        weight; ``base`` ("B G"), the weighted part of the trajectory, and ``total`` ("B G K"). A missing beam's
        total is the base.

    Source: CRS Eq. 3-6, "plain sum"; the weights are this project's (1 = as printed).
    """
    parts = {
        "structure": structure_BG,
        "length": length_reward(length_BG, think_tokens, is_closed_BG),
        "overlong": overlong_penalty(length_BG, think_tokens, config.overlong_tokens),
        "accuracy": validity(rows_BGK)
        * sid_accuracy(codes_BGKL1, target_BL1, config.layer_weights, config.exact_weight, config.prefix_only),
        "validity": validity(rows_BGK),
    }
    if config.length_repetition:
        parts["length"] = parts["length"] * distinct_BG
    parts["base"] = config.structure * parts["structure"] + config.length * parts["length"] + parts["overlong"]
    parts["total"] = parts["base"][..., None] + parts["accuracy"] + config.validity * parts["validity"]
    return parts


# ---------------------------------------------------------------- lists


def rank_weights(width: int, base: str = "e") -> Float[Tensor, " K"]:
    """w_n = 1 / (1 + log n) for n = 1..width.

    Args:
        width: length of the list.
        base: of the logarithm, ``e`` or ``2``.

    Raises:
        ConfigError: another base.

    >>> rank_weights(4)
    tensor([1.0000, 0.5906, 0.4765, 0.4191])
    """
    logs = {"e": torch.log, "2": torch.log2}
    if base not in logs:
        raise ConfigError(f'rl.rank_log = {base!r}: the logarithm of Eq. 7 has base "e" or "2"')
    return 1 / (1 + logs[base](torch.arange(1, width + 1, dtype=torch.float32)))


def rank_weighted(reward_BGK: Float[Tensor, "B G K"], base: str = "e") -> Float[Tensor, "B G"]:
    """Fold the rewards of a trajectory's ranked list into one, lower ranks counting less.

        r*_bg = sum_n w_n r_bgn / sum_n w_n,   w_n = 1 / (1 + log n),   n = 1..K

    A list of equal rewards keeps its value, whatever K is; r* lies between the least and the largest reward.

    Args:
        reward_BGK: reward of each beam candidate, by beam score, best first (not sorted by reward).
        base: of the logarithm, ``e`` or ``2``.

    Returns:
        Reward of each trajectory, in the unit of the input.

    Raises:
        ConfigError: another base.

    Source: CRS §3.3.2, Eq. 7. The paper leaves the base of the logarithm open; we take e.

    >>> rank_weighted(torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])).round(decimals=3)
    tensor([[0.6290, 0.3710]])
    """
    weight_K = rank_weights(reward_BGK.shape[-1], base).to(reward_BGK.device)
    return (reward_BGK.float() * weight_K).sum(-1) / weight_K.sum()


def ndcg_reward(rows_BGK: Int[Tensor, "B G K"], target_B: Int[Tensor, " B"]) -> Float[Tensor, "B G"]:
    """1 / log2(1 + rank of the target) in each list, 0 where the target is not in it.

    Args:
        rows_BGK: catalogue rows, best first, -1 where there is none.
        target_B: catalogue row of the target.

    Source: this project, an alternative to Eq. 7 (``rl.rank_reward = "ndcg"``).

    >>> ndcg_reward(torch.tensor([[[4, 7, -1], [4, 5, 6]]]), torch.tensor([7])).round(decimals=3)
    tensor([[0.6310, 0.0000]])
    """
    is_target_BGK = rows_BGK == target_B[:, None, None]
    rank_K = torch.arange(1, rows_BGK.shape[-1] + 1, device=rows_BGK.device)
    return (is_target_BGK / torch.log2(1.0 + rank_K)).amax(-1)


def prob_reward(target_logprob_BG: Float[Tensor, "B G"]) -> Float[Tensor, "B G"]:
    """Probability of the target's semantic ID after each thought, in [0, 1].

    Args:
        target_logprob_BG: its log-probability, summed over its tokens.

    Source: this project, an alternative to Eq. 7 that needs no beam (``rl.rank_reward = "prob"``).
    """
    return target_logprob_BG.detach().float().exp()


def list_reward(
    config: RlConfig,
    parts: Mapping[str, Tensor],
    *,
    rows_BGK: Int[Tensor, "B G K"],
    target_B: Int[Tensor, " B"],
    target_logprob_BG: Float[Tensor, "B G"] | None = None,
) -> Float[Tensor, "B G"]:
    """One reward per trajectory, as ``rl.aggregate`` and ``rl.rank_reward`` say.

    ``first``: the total of the top item (GRPO). ``rank_aware``: Eq. 7 on the totals (R-GRPO), or the trajectory's
    base plus ``ndcg_reward`` or ``prob_reward``.

    Args:
        config: ``aggregate``, ``rank_reward`` and ``rank_log`` are read.
        parts: from ``score``.
        rows_BGK: catalogue rows of the beams. target_B: row of the target.
        target_logprob_BG: needed for ``prob`` only.

    Raises:
        ConfigError: ``prob`` without log-probabilities.
    """
    if config.aggregate == "first":
        return parts["total"][..., 0]
    if config.rank_reward == "ndcg":
        return parts["base"] + ndcg_reward(rows_BGK, target_B)
    if config.rank_reward == "prob":
        if target_logprob_BG is None:
            raise ConfigError('rl.rank_reward = "prob" needs the log-probability of the target after each thought')
        return parts["base"] + prob_reward(target_logprob_BG)
    return rank_weighted(parts["total"], config.rank_log)


def choose_beam(reward_BGK: Float[Tensor, "B G K"]) -> Int[Tensor, "B G"]:
    """Position of the best rewarded candidate of each list: the one that completes o*; ties go to the first.

    Lists are filled from the front, so a missing beam is never chosen while there is any other.

    Source: CRS §3.3.2 (o*); the tie rule is this project's.

    >>> choose_beam(torch.tensor([[[0.5, 2.0, 2.0], [0.0, 0.0, 0.0]]]))
    tensor([[1, 0]])
    """
    return reward_BGK.argmax(-1)
