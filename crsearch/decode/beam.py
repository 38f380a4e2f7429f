"""Beam search over the SIDs of a trie: every result is an item of the catalogue, by construction.

Source: CRS §3.4. Scores are those of Hugging Face's constrained beam search (log-softmax over the whole
vocabulary, then the mask), which the tests hold.
"""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from crsearch.decode.prefix import Prompt, Stepper, check_prompts, decoding, stepper
from crsearch.decode.store import Owners, PrefixStore, per_owner
from crsearch.decode.trie import DeviceLevels, Trie, TrieMask
from crsearch.errors import ConfigError, DataError, ModelError

Normalise = Literal["full", "sid"]
Masks = TrieMask | Sequence[TrieMask | None] | None
Prompts = Sequence[Prompt]


def beam_search(
    model: nn.Module,
    prompts: Prompts,
    trie: Trie,
    width: int = 10,
    mask: Masks = None,
    normalise: Normalise = "full",
    batch: int = 32,
    cache: bool = True,
    store: PrefixStore | None = None,
    owners: Owners = None,
) -> tuple[Int64[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Rank the items of a trie by the probability that the model writes their SID after the prompt.

        score(item | prompt) = sum_l log p(token_l | prompt, token_1 .. token_{l-1})

    Exact when no level has more live prefixes than ``width``; else the beam search of that width. A prompt is read
    once and its keys are shared by all beams.

    Args:
        model: a transformers causal model, or an encoder-decoder; its device is used.
        prompts: token ids of each context; they may differ in length. The SID follows directly. Input embeddings
            (``T D``) do as well, for positions that hold a vector of no token.
        trie: the catalogue.
        width: beams, and items returned (K). More than there are items is allowed.
        mask: items that may be found (`Trie.mask`), for all prompts or one per prompt (None = all).
        normalise: ``full``: probabilities over the whole vocabulary, which are the model's own; ``sid``: over the
            children of the prefix, so that the items of an unfiltered trie sum to 1.
        batch: prompts read together; results do not depend on it.
        cache: False = read everything anew at each step (any causal model; slow).
        store: keys and values of earlier prompts; only what is new in a prompt is read. Same results.
        owners: whose prompts they are, for ``PrefixStore.forget``: one for all, or one per prompt.

    Returns:
        Rows of the trie, best first, and their log-probabilities (float32). Ties: the smaller row first (between
        prefixes the smaller token ids). Where fewer than ``width`` items were reached: row -1, score -inf.

    Raises:
        DataError: an empty prompt; ids beside embeddings; a mask of another state of the trie, or not one per prompt;
            not one owner per prompt.
        ModelError: the model cannot share or keep a prefix, or its logits are not numbers.
        ConfigError: width below 1; a store without a cache.
    """
    if width < 1 or batch < 1:
        raise ConfigError(f"width = {width}, batch = {batch}: both are at least 1")
    if store is not None and not cache:
        raise ConfigError("a store with cache=False: what reads everything anew can keep nothing; drop one of the two")
    check_prompts(prompts)
    masks, owner_of = per_prompt(mask, len(prompts), trie), per_owner(owners, len(prompts))
    rows = torch.full((len(prompts), width), -1)
    scores = torch.full((len(prompts), width), -torch.inf)
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    slots = 1 + width * (trie.depth - 1)
    with decoding(model, cache):
        for at in range(0, len(prompts), batch):
            part = by_length[at : at + batch]
            source = stepper(model, [prompts[i] for i in part], slots, cache, store, [owner_of[i] for i in part])
            rows[part], scores[part] = (
                x.cpu() for x in search(source, trie, width, [masks[i] for i in part], normalise)
            )
    return rows, scores


def per_prompt(mask: Masks, count: int, trie: Trie) -> list[TrieMask | None]:
    """One mask or None per prompt, all of the trie's present state."""
    masks = [mask] * count if mask is None or isinstance(mask, TrieMask) else list(mask)
    if len(masks) != count:
        raise DataError(f"{len(masks)} masks for {count} prompts: give one per prompt, or a single one for all")
    if any(m is not None and m.state is not trie.state for m in masks):
        raise DataError("a mask belongs to another trie, or to this one before append or remove: make it again")
    return masks


def search(
    source: Stepper, trie: Trie, width: int, masks: Sequence[TrieMask | None], normalise: Normalise
) -> tuple[Int64[Tensor, "n K"], Float[Tensor, "n K"]]:
    """The beam itself, for all branches of a stepper at once; arguments and results as `beam_search`."""
    logits_nMV = source.start()
    n, device = len(logits_nMV), logits_nMV.device
    levels = trie.state.on(device)
    node_nM = torch.zeros(n, 1, dtype=torch.int64, device=device)
    score_nM = torch.zeros(n, 1, device=device)
    for level in range(trie.depth):
        # 1) the children of every beam, and which of them may be entered
        child_nMC, valid_nMC = _children(levels, level, node_nM)
        _filter(valid_nMC, child_nMC, levels, level, masks)
        token_nMC = levels.token[level][child_nMC].long()
        # 2) their scores, only gathered on children
        logprob_nMC = _logprob(logits_nMV, token_nMC, valid_nMC, normalise)
        score_nX = (score_nM[..., None] + logprob_nMC).masked_fill(~valid_nMC, -torch.inf).flatten(1)
        if bool(score_nX.isnan().any()):
            raise ModelError("the model's logits are not numbers (NaN): its weights or the precision are broken")
        # 3) the best, at most as many as there are
        is_last = level == trie.depth - 1
        key_nX = (levels.row[child_nMC].long() if is_last else child_nMC).flatten(1)
        count = min(width, int((score_nX > -torch.inf).sum(1).max()))
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
    return rows, scores


def _children(
    levels: DeviceLevels, level: int, node_nM: Int64[Tensor, "n M"]
) -> tuple[Int64[Tensor, "n M C"], Bool[Tensor, "n M C"]]:
    """Children of each node, padded to the largest family, and which are real."""
    first = levels.first[level]
    begin, end = first[node_nM].long(), first[node_nM + 1].long()
    child = begin[..., None] + torch.arange(int((end - begin).max()), device=begin.device)
    valid = child < end[..., None]
    return torch.where(valid, child, begin[..., None]), valid


def _filter(valid: Tensor, child: Tensor, levels: DeviceLevels, level: int, masks: Sequence[TrieMask | None]) -> None:
    """Strike the children without an allowed item below them, in place."""
    if levels.alive is not None:
        valid &= levels.alive[level][child]
    for mask in {id(m): m for m in masks if m is not None}.values():
        rows = torch.tensor([i for i, m in enumerate(masks) if m is mask], device=child.device)
        valid[rows] &= mask.on(child.device)[level][child[rows]]


def _logprob(logits_nMV: Tensor, token_nMC: Tensor, valid_nMC: Tensor, normalise: Normalise) -> Float[Tensor, "n M C"]:
    """Log-probability of each child."""
    if normalise == "full":
        return logits_nMV.log_softmax(-1).gather(2, token_nMC)
    chosen = logits_nMV.gather(2, token_nMC).masked_fill(~valid_nMC, -torch.inf)
    return chosen.log_softmax(-1).masked_fill(chosen == -torch.inf, -torch.inf)


def best(score_nX: Tensor, key_nX: Tensor, count: int) -> Int64[Tensor, "n K"]:
    """Positions of the ``count`` highest scores, equal ones by key."""
    value, index = score_nX.topk(min(count + 1, score_nX.shape[1]))
    if bool(((value[:, 1:] == value[:, :-1]) & (value[:, 1:] > -torch.inf)).any()):
        by_key = key_nX.argsort(dim=1, stable=True)
        by_score = score_nX.gather(1, by_key).argsort(dim=1, descending=True, stable=True)
        index = by_key.gather(1, by_score)
    return index[:, :count]
