"""The beam itself: from level to level of a trie, at each the best prefixes of every branch.

Scores are those of Hugging Face's constrained beam search (log-softmax over the whole vocabulary, then the mask),
which the tests hold.

Source: CRS §3.4.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from crsearch.decode.placed import DeviceLevels, levels_on, mask_on
from crsearch.decode.prefix import Stepper
from crsearch.decode.trie import Levels, Trie, TrieMask
from crsearch.errors import ModelError

Normalise = Literal["full", "sid"]


def search(
    source: Stepper, trie: Trie, width: int, masks: Sequence[TrieMask | None], normalise: Normalise
) -> tuple[Int64[Tensor, "n K"], Float[Tensor, "n K"]]:
    """The beam itself, for all branches of a stepper at once; as `beam_search` says."""
    return whole(walk(source, trie.state, width, masks, normalise))


def whole(found: tuple[Tensor, Tensor]) -> tuple[Int64[Tensor, "n K"], Float[Tensor, "n K"]]:
    """What `walk` found, once it is known to be numbers; the first look at it, for which the host has to wait."""
    if bool(found[1].isnan().any()):
        raise ModelError("the model's logits are not numbers (NaN): its weights or the precision are broken")
    return found


def walk(
    source: Stepper, state: Levels, width: int, masks: Sequence[TrieMask | None], normalise: Normalise
) -> tuple[Int64[Tensor, "n K"], Float[Tensor, "n K"]]:
    """Rows and scores of each branch; scores are NaN where the model's logits were.

    Shapes follow from the trie, the filters and the width alone, and no value is looked at on the way: the host never
    waits for the device, and the steps can be recorded (`crsearch.decode.graphs`). Beams that are dead go on with -inf.
    """
    logits_nMV = source.start()
    n, device = len(logits_nMV), logits_nMV.device
    levels, filters, most = levels_on(state, device), _filters(masks, device), _live(state, masks)
    node_nM = torch.zeros(n, 1, dtype=torch.int64, device=device)
    score_nM = torch.zeros(n, 1, device=device)
    broken_n = torch.zeros(n, dtype=torch.bool, device=device)
    for level in range(state.depth):
        # 1) the children of every beam, and which of them may be entered
        child_nMC, valid_nMC = _children(levels, level, node_nM, state.widest[level])
        valid_nMC &= (score_nM != -torch.inf)[..., None]
        _filter(valid_nMC, child_nMC, levels, level, filters)
        token_nMC = levels.token[level][child_nMC].long()
        # 2) their scores, only gathered on children
        logprob_nMC = _logprob(logits_nMV, token_nMC, valid_nMC, normalise)
        score_nX = (score_nM[..., None] + logprob_nMC).masked_fill(~valid_nMC, -torch.inf).flatten(1)
        broken_n = broken_n | score_nX.isnan().any(1)
        # 3) the best, at most as many as there are
        is_last = level == state.depth - 1
        key_nX = (levels.row[child_nMC].long() if is_last else child_nMC).flatten(1)
        count = min(width, score_nX.shape[1], most[level])
        if count == 0:
            break
        best_nM = best(score_nX, key_nX, count)
        score_nM, node_nM = score_nX.gather(1, best_nM), child_nMC.flatten(1).gather(1, best_nM)
        if not is_last:
            parents_nM = best_nM // child_nMC.shape[2]
            logits_nMV = source.step(parents_nM, token_nMC.flatten(1).gather(1, best_nM))
    rows = torch.full((n, width), -1, device=device)
    scores = torch.full((n, width), -torch.inf, device=device)
    if count:
        alive = score_nM > -torch.inf
        rows[:, :count] = levels.row[node_nM].long().masked_fill(~alive, -1)
        scores[:, :count] = score_nM
    return rows, scores.masked_fill(broken_n[:, None], torch.nan)


def _live(state: Levels, masks: Sequence[TrieMask | None]) -> list[int]:
    """Per level: prefixes that the branch with the most of them may enter."""
    live = {id(m): state.live if m is None else m.live for m in masks}
    return [max(level) for level in zip(*live.values(), strict=True)]


def _filters(masks: Sequence[TrieMask | None], device: torch.device) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
    """Each filter with the branches it stands for."""
    distinct = {id(m): m for m in masks if m is not None}.values()
    return [
        (torch.tensor([i for i, m in enumerate(masks) if m is mask], device=device), mask_on(mask, device))
        for mask in distinct
    ]


def _children(
    levels: DeviceLevels, level: int, node_nM: Int64[Tensor, "n M"], widest: int
) -> tuple[Int64[Tensor, "n M C"], Bool[Tensor, "n M C"]]:
    """Children of each node, padded to the largest family of the level, and which are real."""
    first = levels.first[level]
    begin, end = first[node_nM].long(), first[node_nM + 1].long()
    child = begin[..., None] + torch.arange(widest, device=begin.device)
    valid = child < end[..., None]
    return torch.where(valid, child, begin[..., None]), valid


def _filter(
    valid: Tensor, child: Tensor, levels: DeviceLevels, level: int, filters: Sequence[tuple[Tensor, tuple[Tensor, ...]]]
) -> None:
    """Strike the children without an allowed item below them, in place."""
    if levels.alive is not None:
        valid &= levels.alive[level][child]
    for rows, allowed in filters:
        valid[rows] &= allowed[level][child[rows]]


def _logprob(logits_nMV: Tensor, token_nMC: Tensor, valid_nMC: Tensor, normalise: Normalise) -> Float[Tensor, "n M C"]:
    """Log-probability of each child."""
    if normalise == "full":
        return logits_nMV.log_softmax(-1).gather(2, token_nMC)
    chosen = logits_nMV.gather(2, token_nMC).masked_fill(~valid_nMC, -torch.inf)
    return chosen.log_softmax(-1).masked_fill(chosen == -torch.inf, -torch.inf)


def best(score_nX: Tensor, key_nX: Tensor, count: int) -> Int64[Tensor, "n K"]:
    """Positions of the ``count`` highest scores (float32), equal ones by key (from 0, below 2^31)."""
    bits_nX = score_nX.view(torch.int32)
    ordered_nX = bits_nX ^ ((bits_nX >> 31) & 0x7FFFFFFF)  # whole numbers in the order of the numbers
    # one number for both, since a look at whether scores are equal would make the host wait
    return ((ordered_nX.long() << 32) - key_nX).topk(count).indices
