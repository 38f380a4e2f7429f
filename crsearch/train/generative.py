"""What the generative baselines share: training pairs, prompts that hold the query alone, losses, token budgets.

GENRE, DSI and LTRGR differ from CRS in what they read (the query, no context) and in how they learn; identifiers,
trie, decoder, model and number of trained tokens are the same.

Source: CRS §4.1.2 (baselines); what stands open there: details: this project.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from crsearch.config import Settings
from crsearch.context.prompts import token_id
from crsearch.decode.beam import beam_search
from crsearch.decode.prefix import padded
from crsearch.decode.trie import Trie
from crsearch.encoders import build_encoder
from crsearch.errors import ModelError, SidError
from crsearch.records.store import Catalogue
from crsearch.records.types import Context, Example
from crsearch.sids.recursive import ENDED, recursive_kmeans
from crsearch.sids.text import item_text
from crsearch.train.examples import TreeBuilder, device_of
from crsearch.train.tree import Branch, Packed, Tree, pack, target_logprob, target_logprobs

Tokens = Int64[np.ndarray, "N L"]
"""Vocabulary ids of every item's identifier."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A query and the catalogue row of an item that was chosen after it."""

    query: str
    row: int


def training_pairs(catalogue: Catalogue, examples: Iterable[Example], *, history: bool = True) -> list[Pair]:
    """The choices that CRS learns from: the target of each example, and what was chosen in its history.

    CRS reads the history of a training example with a loss on the chosen items, so a baseline may learn from these
    queries too. It gets no others: neither events older than ``context.max_events`` nor users of other parts. A pair
    stands as often as it happened, so that what is chosen often counts often.

    Args:
        examples: training examples; the order of the pairs follows theirs.
        history: whether the history counts; items that have left the catalogue are passed over.
    """
    known = frozenset(catalogue.ids)
    pairs = []
    for example in examples:
        earlier = example.context.history if history else ()
        pairs += [Pair(s.query, catalogue.row(i)) for s in earlier for i in s.chosen if i in known]
        pairs.append(Pair(example.context.query, catalogue.row(example.target)))
    return pairs


def query_prompts(builder: TreeBuilder, queries: Iterable[str]) -> dict[str, list[int]]:
    """Prompt of each distinct query: that of a direct answer to a context of which only the query is known."""
    distinct = list(dict.fromkeys(queries))
    trunks = builder.prompts.trunks([Context(search_id="", user_id="", query=query) for query in distinct])
    suffix = builder.prompts.suffix("direct")
    return {query: [*trunk.ids, *suffix] for query, trunk in zip(distinct, trunks, strict=True)}


# -- identifiers ------------------------------------------------------------------------------------------------------
def identifiers(builder: TreeBuilder, settings: Settings, name: str) -> Tokens:
    """Vocabulary ids of the identifier of every item, in row order; what the trie of a baseline is made of.

    Args:
        builder: of a model of the run.
        settings: of the run.
        name: ``genre``, ``dsi`` or ``ltrgr``; only ``dsi`` may have identifiers of its own.

    Raises:
        SidError: the catalogue has fewer tokens for semantic IDs than the paths have digits.
    """
    if name == "dsi" and settings.baselines.dsi.identifiers == "recursive":
        return recursive_identifiers(builder, settings)
    return builder.bundle.sid_ids_NL


def recursive_identifiers(builder: TreeBuilder, settings: Settings) -> Tokens:
    """DSI's own identifiers: paths of recursive k-means over the item embeddings that the semantic IDs come from.

    The digits are written with the first tokens of the semantic IDs, which mean nothing before training; shorter
    paths are filled up with the end token.

    Raises:
        SidError: there are fewer such tokens than digits.
    """
    config, catalogue = settings.baselines.dsi, builder.catalogue
    texts = [item_text(item) for item in catalogue]
    embeddings_ND = build_encoder(settings.encoder, texts, settings.seed).encode(texts, kind="item")
    iterations = settings.sids.iterations
    codes_NL = recursive_kmeans(embeddings_ND, config.branching, config.leaf_size, iterations, settings.seed)
    pieces = builder.prompts.serialiser.sids.vocabulary()
    digits = int(codes_NL.max()) + 1
    if digits > len(pieces):
        raise SidError(
            f"paths of recursive k-means have {digits} digits, the semantic IDs only {len(pieces)} tokens: lower "
            "baselines.dsi.branching and baselines.dsi.leaf_size"
        )
    ids = np.array([token_id(builder.bundle.tokenizer, piece) for piece in pieces[:digits]], dtype=np.int64)
    return np.where(codes_NL == ENDED, builder.bundle.end_id, ids[codes_NL])


# -- losses -----------------------------------------------------------------------------------------------------------
def answer_tree(prompt: Sequence[int], answers: Sequence[Sequence[int]], kind: str) -> Tree:
    """A prompt with identifiers as branches; every token of them carries loss."""
    return Tree(prompt, [Branch(answer, [1.0] * len(answer), len(prompt), kind) for answer in answers])


def answer_logprobs(
    model: nn.Module, trees: Sequence[Tree], smoothing: float = 0.0
) -> tuple[Float[Tensor, " M"], Packed]:
    """Log-probability of every token of the answers after their prompts, with gradient.

    Args:
        model: a causal model, or an encoder-decoder (T5 type), which reads the prompt with its encoder.
        trees: of ``answer_tree``.
        smoothing: of the labels, see ``target_logprob``.

    Returns:
        The log-probabilities, and the layout that says of which branch and kind they are.
    """
    packed = pack(trees).to(device_of(model))
    if bool(getattr(model.config, "is_encoder_decoder", False)):
        return _decoder_logprobs(model, trees, packed, smoothing), packed
    return target_logprobs(model, packed, smoothing=smoothing), packed


def _decoder_logprobs(model: nn.Module, trees: Sequence[Tree], packed: Packed, smoothing: float) -> Float[Tensor, " M"]:
    """As ``target_logprobs``, for an encoder-decoder: each prompt is encoded once, each answer is a decoder row."""
    from transformers.modeling_outputs import BaseModelOutput

    device = device_of(model)
    ids_BT, lengths_B = padded([tree.trunk for tree in trees], device)
    mask_BT = (torch.arange(ids_BT.shape[1], device=device) < lengths_B[:, None]).long()
    state_BTD = model.get_encoder()(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state  # type: ignore[operator]
    branches_B = torch.tensor([len(tree.branches) for tree in trees], device=device)
    start: Any = model.config.decoder_start_token_id  # type: ignore[union-attr]
    if start is None:
        raise ModelError(f"{type(model).__name__}: config.decoder_start_token_id is not set: set it")
    rows = [[start, *branch.ids[:-1]] for tree in trees for branch in tree.branches]
    decoder_RT, answer_R = padded(rows, device)
    logits_RTV = model(
        encoder_outputs=BaseModelOutput(last_hidden_state=state_BTD.repeat_interleave(branches_B, 0)),
        attention_mask=mask_BT.repeat_interleave(branches_B, 0),
        decoder_input_ids=decoder_RT,
        use_cache=False,
    ).logits
    real_RT = torch.arange(decoder_RT.shape[1], device=device) < answer_R[:, None]
    return target_logprob(logits_RTV[real_RT].float(), packed.target_M, smoothing)


def branch_scores(logprob_M: Float[Tensor, " M"], packed: Packed) -> Float[Tensor, " R"]:
    """Log-probability of each answer as a whole, in the order of trees and branches."""
    count = int(packed.branch_M.max()) + 1
    return logprob_M.new_zeros(count).index_add(0, packed.branch_M, logprob_M)


# -- budgets and decoding ---------------------------------------------------------------------------------------------
def steps_within(tokens: float, per_step: float, max_steps: int | None) -> int:
    """Optimiser steps that a budget of trained tokens allows; at least one.

    Args:
        tokens: the budget, prompts counted.
        per_step: tokens of an average step.
        max_steps: upper limit; none = no limit.

    >>> steps_within(1e4, 300.0, None), steps_within(1e4, 300.0, 5), steps_within(10.0, 300.0, None)
    (33, 5, 1)
    """
    steps = max(1, round(tokens / per_step))
    return steps if max_steps is None else min(steps, max_steps)


def mean_length(sequences: Iterable[Sequence[int]]) -> float:
    """Mean number of tokens; 0 of nothing."""
    lengths = [len(sequence) for sequence in sequences]
    return sum(lengths) / len(lengths) if lengths else 0.0


def rank_queries(
    builder: TreeBuilder, queries: Sequence[str], trie: Trie, width: int, batch: int
) -> tuple[Int64[Tensor, "B K"], Float[Tensor, "B K"]]:
    """The model's list for each query, as `beam_search` gives it; ``batch`` together, equal queries once."""
    if not queries:
        return torch.empty(0, width, dtype=torch.int64), torch.empty(0, width)
    prompts = query_prompts(builder, queries)
    model = builder.bundle.model
    with torch.autocast(device_of(model).type, enabled=False):
        rows_QK, scores_QK = beam_search(model, list(prompts.values()), trie, width=width, batch=batch)
    place = {query: q for q, query in enumerate(prompts)}
    index_B = torch.tensor([place[query] for query in queries])
    return rows_QK[index_B], scores_QK[index_B]
