"""Beam search over the SIDs of a trie: every result is an item of the catalogue, by construction.

Source: CRS §3.4. Scores are those of Hugging Face's constrained beam search (log-softmax over the whole
vocabulary, then the mask), which the tests hold.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from crsearch.decode.graphs import Graphs, graphs_of
from crsearch.decode.prefix import PrefixTree, Prompt, check_prompts, decoding, device_of, stepper
from crsearch.decode.store import Owners, PrefixStore, per_owner
from crsearch.decode.trie import Trie, TrieMask
from crsearch.decode.walk import Normalise, search, whole
from crsearch.errors import ConfigError, DataError

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
    graphs: bool | None = None,
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
        graphs: record the steps as CUDA graphs and replay them (`crsearch.decode.graphs`): as many prompts of about
            the same length, without filters, start no kernels one by one. None = where the model is on a GPU.

    Returns:
        Rows of the trie, best first, and their log-probabilities (float32). Ties: the smaller row first (between
        prefixes the smaller token ids). Where fewer than ``width`` items were reached: row -1, score -inf.

    Raises:
        DataError: an empty prompt; ids beside embeddings; a mask of another state of the trie, or not one per prompt;
            not one owner per prompt.
        ModelError: the model cannot share or keep a prefix, or its logits are not numbers.
        ConfigError: width below 1; a store without a cache; graphs without a GPU or a cache.
    """
    if width < 1 or batch < 1:
        raise ConfigError(f"width = {width}, batch = {batch}: both are at least 1")
    if store is not None and not cache:
        raise ConfigError("a store with cache=False: what reads everything anew can keep nothing; drop one of the two")
    recorded = _recorded(model, cache, graphs)
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
            asked = [masks[i] for i in part]
            if recorded and isinstance(source, PrefixTree) and not any(asked):
                found = whole(recorded.search(source, trie.state, width, normalise))
            else:
                found = search(source, trie, width, asked, normalise)
            rows[part], scores[part] = (x.cpu() for x in found)
    return rows, scores


def _recorded(model: nn.Module, cache: bool, graphs: bool | None) -> Graphs | None:
    """Where the recordings of a model are kept, if searches are to be recorded."""
    usable = cache and device_of(model).type == "cuda"
    if graphs and not usable:
        raise ConfigError("graphs=True: CUDA graphs need a model on a GPU and cache=True; leave graphs out")
    if graphs is False or not usable:
        return None
    return graphs_of(model)


def per_prompt(mask: Masks, count: int, trie: Trie) -> list[TrieMask | None]:
    """One mask or None per prompt, all of the trie's present state."""
    masks = [mask] * count if mask is None or isinstance(mask, TrieMask) else list(mask)
    if len(masks) != count:
        raise DataError(f"{len(masks)} masks for {count} prompts: give one per prompt, or a single one for all")
    if any(m is not None and m.state is not trie.state for m in masks):
        raise DataError("a mask belongs to another trie, or to this one before append or remove: make it again")
    return masks
