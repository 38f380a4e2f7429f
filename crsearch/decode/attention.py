"""Attention over a prompt that many rows share, through transformers' attention interface.

A row (a beam, a trajectory) attends to the prompt of its context, to its branch, and within the branch only to its own
path. The keys of a prompt exist once and meet the queries of all its rows in one product; the scores of both segments
go through one softmax, so the result is that of ordinary attention over the row's whole text.

Source: cascade/tree attention; layout: this project.
"""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from crsearch.errors import ModelError
from crsearch.models.qwen3 import Qwen3

NAME = "crsearch_tree"
"""Name of the attention function in transformers' table."""

BLOCK = 16
"""Tokens of a block in which keys and values of prompts are kept."""

_ACTIVE: ContextVar["TreeCache | PackedRead | None"] = ContextVar("crsearch_tree_cache", default=None)
_SWITCH = threading.RLock()
_QUERIES = 64
"""Queries that causal attention on a CPU takes at once."""


class PromptRead(Exception):
    """The last layer has its keys and values of the prompt; what would follow is of no use, so the pass ends here."""


@dataclass
class Segment:
    """Keys and values of one layer; the prompt as ``B H T D``, the branches as ``B G H T D``."""

    key: Tensor
    value: Tensor


class TreeCache:
    """Keys and values of a batch of prompts and of the branches that grow from them.

    Stands in for ``transformers.Cache``: models call `update`. Prompts are padded on the right. Branch tokens lie in
    slots that all branches fill in step; ``paths`` says which slots a row descends from.
    """

    is_compileable = False

    def __init__(self, lengths: Sequence[int], device: torch.device, layers: int, group: int, slots: int) -> None:
        """An empty cache.

        Args:
            lengths: tokens of each prompt.
            device: of the model.
            layers: of the model.
            group: branches of each prompt (G).
            slots: most tokens of a branch, those of all its rows.
        """
        self.lengths_B, self.layers = torch.tensor(lengths, dtype=torch.int64, device=device), layers
        self.group, self.slots = group, slots
        self.prompt: list[Segment] = []
        self.branch: list[Segment] = []
        self.used = self.steps = self.attended = 0
        self.longest = max(lengths)
        self.prompt_bias = self.bias_of(self.longest) if min(lengths) < self.longest else None
        self.path_bias = torch.empty(0)

    def bias_of(self, longest: int) -> Float[Tensor, "B 1 1 T"]:
        """What hides the places behind each prompt, of ``longest`` places."""
        return _bias(torch.arange(longest, device=self.lengths_B.device) >= self.lengths_B[:, None])[:, None, None]

    @property
    def reads_prompt(self) -> bool:
        """True until the prompts are read."""
        return self.longest > 0 and len(self.prompt) < self.layers

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Longest text held."""
        return self.longest + self.steps

    def open_slots(self, count: int, paths_BGMS: Bool[Tensor, "B G M S"]) -> None:
        """Make room for the next token of ``count`` rows per branch; ``paths`` covers the new slots too."""
        self.used += count
        self.steps += 1
        self.path_bias = _bias(~paths_BGMS[..., : self.used])[:, :, None, None]

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store the keys and values of the tokens at hand; called by every attention layer."""
        if self.reads_prompt:
            # models hand out views of B T H D; a product over (B, H) would copy those at every step
            self.prompt.append(Segment(key.contiguous(), value.contiguous()))
            if not self.reads_prompt:
                raise PromptRead
            return key, value
        if len(self.branch) <= layer_idx:
            B, H, D = key.shape[0], key.shape[1], key.shape[3]
            size = (B, self.group, H, self.slots)
            # zeros, not empty: a slot that a branch never filled is hidden from it, and 0 x NaN would still be NaN
            self.branch.append(Segment(key.new_zeros(*size, D), value.new_zeros(*size, value.shape[-1])))
        for stored, new in ((self.branch[layer_idx].key, key), (self.branch[layer_idx].value, value)):
            rows = new.unflatten(2, (self.group, -1)).transpose(1, 2)
            stored[..., self.used - rows.shape[3] : self.used, :] = rows
        return key, value

    def subset(self, context_B: Int64[Tensor, " b"], branch_BG: Int64[Tensor, "b g"], slots: int) -> "TreeCache":
        """A copy that holds some contexts (ascending), of each as many branches, and ``slots`` slots."""
        part = copy(self)
        part.group, part.slots = branch_BG.shape[1], slots
        if len(context_B) < len(self.lengths_B):
            part.lengths_B = self.lengths_B[context_B]
            part.prompt_bias = None if self.prompt_bias is None else self.prompt_bias[context_B]
            part.prompt = [Segment(s.key[context_B], s.value[context_B]) for s in self.prompt]
        at = (context_B[:, None], branch_BG)
        part.branch = [Segment(s.key[..., :slots, :][at], s.value[..., :slots, :][at]) for s in self.branch]
        return part

    def put_back(self, part: "TreeCache", to: tuple[Tensor, Tensor], held_BG: Bool[Tensor, "b g"]) -> None:
        """Take over branches of a `subset`: those of ``part`` marked held, to (context, branch) of this cache."""
        for mine, theirs in zip(self.branch, part.branch, strict=True):
            mine.key[..., : part.slots, :][to] = theirs.key[held_BG]
            mine.value[..., : part.slots, :][to] = theirs.value[held_BG]

    def attend(self, layer_idx: int, query_BHRD: Tensor, scaling: float) -> Tensor:
        """Attention of all rows to prompt and own path; R = group x rows per branch."""
        self.attended += 1
        branch, used = self.branch[layer_idx], self.used
        B, Hq, R = query_BHRD.shape[:3]
        H = branch.key.shape[2]
        split = (B, H, Hq // H, self.group, R // self.group)
        # 1) the branch: rows of one branch against its slots
        query = (query_BHRD * scaling).reshape(*split, -1)
        score = query.permute(0, 3, 1, 2, 4, 5).flatten(3, 4) @ branch.key[..., :used, :].transpose(-1, -2)
        score = score.unflatten(3, (split[2], split[4])).float() + self.path_bias
        score = score.permute(0, 2, 3, 1, 4, 5).flatten(2, 4)
        # 2) the prompt: all rows of a context against the one copy of its keys
        prompt = self.prompt[layer_idx] if self.prompt else None
        if prompt is not None:
            shared = (query.flatten(2, 4) @ prompt.key.transpose(-1, -2)).float()
            if self.prompt_bias is not None:
                shared = shared + self.prompt_bias
            score = torch.cat([shared, score], dim=-1)
        # 3) one softmax over both, then the values of each
        weight = score.softmax(-1).to(query_BHRD.dtype)
        own = weight[..., -used:].unflatten(2, split[2:]).permute(0, 3, 1, 2, 4, 5).flatten(3, 4)
        out = own @ branch.value[..., :used, :]
        out = out.unflatten(3, (split[2], split[4])).permute(0, 2, 3, 1, 4, 5).flatten(2, 4)
        if prompt is not None:
            out = out + weight[..., :-used] @ prompt.value
        return out.reshape(B, Hq, R, -1)


class PackedRead:
    """Reads the rest of prompts whose beginnings are held; stands in for ``transformers.Cache`` meanwhile.

    What is new of all prompts stands in one row of M tokens, prompt after prompt, without padding. Each token attends
    to those before it in its prompt. Fills ``prompt``, as a `TreeCache` does.
    """

    is_compileable = False

    def __init__(
        self, held: Sequence[Sequence[UInt8[Tensor, " X"]]], lengths_B: Int64[Tensor, " B"], layers: int
    ) -> None:
        """Take the beginnings.

        Args:
            held: first blocks of each prompt: keys (``H T D``) and values of layer after layer, as bytes.
            lengths_B: tokens of each prompt; longer than what is held of it, or 0.
            layers: layers of the model.
        """
        self.layers, self.lengths, device = layers, lengths_B.tolist(), lengths_B.device
        self.held = [len(blocks) * BLOCK for blocks in held]
        self.prompt: list[Segment] = []
        blocks = [kv_X for group in held for kv_X in group]
        self.kv_NX = torch.stack(blocks) if blocks else None
        self.taken = 0

        def places(begin: Sequence[int], end: Sequence[int]) -> Int64[Tensor, "2 n"]:
            spans = enumerate(zip(begin, end, strict=True))
            pairs = [(b, i) for b, (first, last) in spans for i in range(first, last)]
            return torch.tensor(pairs, dtype=torch.int64, device=device).view(-1, 2).T

        self.block_at = places([0] * len(held), [len(blocks) for blocks in held])
        self.new_at = places(self.held, self.lengths)

    @property
    def position_M(self) -> Int64[Tensor, " M"]:
        """Place of each new token in its prompt."""
        return self.new_at[1]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Longest text held."""
        return max(self.lengths)

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Store the keys and values of the new tokens behind those held; called by every attention layer."""
        self.prompt.append(Segment(self._joined(key), self._joined(value)))
        if len(self.prompt) == self.layers:
            raise PromptRead
        return key, value

    def attend(self, layer_idx: int, query_1HMD: Tensor, scaling: float) -> Tensor:
        """Attention of the new tokens, prompt by prompt."""
        prompt, out, at = self.prompt[layer_idx], [], 0
        for b, (held, length) in enumerate(zip(self.held, self.lengths, strict=True)):
            query = query_1HMD[:, :, at : at + length - held]
            at += length - held
            key, value = prompt.key[b : b + 1, :, :length], prompt.value[b : b + 1, :, :length]
            if held < length:
                out.append(causal_attention(query, key, value, scaling))
        return torch.cat(out, dim=2)

    def _joined(self, new_1HMD: Tensor) -> Float[Tensor, "B H T D"]:
        """Held and new tokens of all prompts in their places; the next layer's share of the blocks is taken."""
        _, H, _, D = new_1HMD.shape
        longest = max(self.lengths)
        blocks = new_1HMD.new_zeros(len(self.lengths), H, -(-longest // BLOCK), BLOCK, D)
        if self.kv_NX is not None:
            share = self.kv_NX[:, self.taken : self.taken + H * BLOCK * D * new_1HMD.itemsize]
            self.taken += share.shape[1]
            row, block = self.block_at
            blocks[row, :, block] = share.view(new_1HMD.dtype).unflatten(1, (H, BLOCK, D))
        tokens = blocks.flatten(2, 3)
        row, place = self.new_at
        tokens[row, :, place] = new_1HMD[0].transpose(0, 1)
        return tokens[:, :, :longest]


def causal_attention(query_BHTD: Tensor, key_BhSD: Tensor, value_BhSD: Tensor, scaling: float) -> Tensor:
    """Each token attends to itself and those before it; query heads are a multiple of key heads.

    The queries are those of the last T of S tokens.
    """
    gqa, T = query_BHTD.shape[1] != key_BhSD.shape[1], query_BHTD.shape[2]
    before, on_cpu = key_BhSD.shape[2] - T, query_BHTD.device.type == "cpu"
    if not before and (not on_cpu or T <= _QUERIES):
        return F.scaled_dot_product_attention(
            query_BHTD, key_BhSD, value_BhSD, is_causal=True, scale=scaling, enable_gqa=gqa
        )
    # torch's CPU kernel computes the hidden half too; in blocks of queries only the visible keys are touched
    size = min(T, _QUERIES) if on_cpu else T
    place = torch.arange(size, device=query_BHTD.device)
    diagonal = _bias(place > place[:, None]).to(query_BHTD.dtype)
    bias = F.pad(diagonal, (before + T, 0))  # zeros for the keys before the block
    blocks = []
    for a in range(0, T, size):
        n = min(size, T - a)
        query, key, value = (
            query_BHTD[:, :, a : a + n],
            key_BhSD[:, :, : before + a + n],
            value_BhSD[:, :, : before + a + n],
        )
        seen = bias[:n, T - a : before + T + n]
        blocks.append(F.scaled_dot_product_attention(query, key, value, attn_mask=seen, scale=scaling, enable_gqa=gqa))
    return torch.cat(blocks, dim=2)


def _bias(hidden: Bool[Tensor, "..."]) -> Float[Tensor, "..."]:
    """0 where visible, -inf where hidden."""
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, -torch.inf)


def refuse_other_scores(module: nn.Module, kwargs: Mapping[str, Any], which: str) -> None:
    """Raise if a layer asks for scores that are more than a scaled product.

    Args:
        module: the layer.
        kwargs: what transformers passes to its attention function.
        which: end of the message, after "uses softcap, which".

    Raises:
        ModelError: it does.
    """
    for name in ("softcap", "s_aux", "position_bias"):
        if kwargs.get(name) is not None:
            raise ModelError(f"{type(module).__name__} uses {name}, which {which}")


def _tree_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers' layers call; finds its cache in the running context."""
    cache = _ACTIVE.get()
    assert cache is not None, "a forward pass within tree_attention, but outside reading"
    refuse_other_scores(module, kwargs, "the shared prefix cannot do: pass cache=False")
    if sliding_window is not None and cache.get_seq_length() >= sliding_window:
        raise ModelError(
            f"{type(module).__name__} has a window of {sliding_window} tokens and the text has "
            f"{cache.get_seq_length()}: pass cache=False"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    if isinstance(cache, TreeCache) and cache.reads_prompt:
        out = causal_attention(query, key, value, scaling)
    else:
        out = cache.attend(int(module.layer_idx), query, scaling)  # type: ignore[arg-type]
    return out.transpose(1, 2).contiguous(), None


@contextmanager
def tree_attention(model: nn.Module) -> Iterator[None]:
    """Give a model the attention of this module; within, forward passes need a cache (`reading`)."""
    with attention_of(model, NAME, _tree_attention):
        yield


@contextmanager
def attention_of(model: nn.Module, name: str, function: Callable[..., tuple[Tensor, None]]) -> Iterator[None]:
    """Give a model another attention function; its own comes back, also after an error.

    One thread at a time has the switch.

    Args:
        model: of transformers, or a ``Qwen3``.
        name: of the function in transformers' table.
        function: called by every attention layer in place of its own.
    """
    if isinstance(model, Qwen3):
        with _SWITCH:
            own, model.attention = model.attention, function
            try:
                yield
            finally:
                model.attention = own
        return
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    whole: Any = model.config
    text = whole.get_text_config()
    configs = [whole] if text is whole else [whole, text]
    with _SWITCH:
        before = [config._attn_implementation for config in configs]
        ALL_ATTENTION_FUNCTIONS.register(name, function)
        try:
            for config in configs:
                config._attn_implementation = name
            yield
        finally:
            for config, implementation in zip(configs, before, strict=True):
                config._attn_implementation = implementation


@contextmanager
def reading(cache: TreeCache | PackedRead) -> Iterator[None]:
    """Forward passes within read and write this cache."""
    token = _ACTIVE.set(cache)
    try:
        yield
    finally:
        _ACTIVE.reset(token)
