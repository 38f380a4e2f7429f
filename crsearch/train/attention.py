"""Attention within rows of several widths that lie one behind the other, through transformers' attention interface.

A body called on one long sequence does everything that works token by token at once; only attention has to know where
rows begin and what a token may look at. So item trees of 30 tokens and user trees of 300 share a pass, and neither
pays for the other.

Source: details: this project.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from crsearch.decode.attention import attention_of, refuse_other_scores
from crsearch.errors import ModelError

NAME = "crsearch_rows"
"""Name of the attention function in transformers' table."""

QUERY_BLOCK = 128
"""Queries attended at a time on a CPU: keys behind the last of them are hidden from all, and are left out."""

SCORES_AT_ONCE = 2**20
"""Scores held at a time on a CPU: what its cache holds."""

_ACTIVE: ContextVar["RowMasks | None"] = ContextVar("crsearch_row_masks", default=None)


class RowMasks:
    """What the tokens of each row may look at, as a bias on the scores; made once for all layers.

    Args:
        allowed: ``B T T`` for each width in the order of the rows, which token (last axis) each token of a row
            (second axis) may see; never one behind it, and at least one.
        longest: tokens of the longest text in a row.
    """

    def __init__(self, allowed: Sequence[Bool[Tensor, "_ _ _"]], longest: int) -> None:
        self.allowed, self.longest = allowed, longest
        self._bias: dict[torch.dtype, list[Tensor]] = {}

    def bias(self, dtype: torch.dtype) -> list[Tensor]:
        """For each width: ``B 1 T T``, 0 where visible, -inf where hidden."""
        if dtype not in self._bias:
            self._bias[dtype] = [
                torch.zeros(a.shape, dtype=dtype, device=a.device).masked_fill_(~a, -torch.inf)[:, None]
                for a in self.allowed
            ]
        return self._bias[dtype]

    def attend(self, query_HND: Tensor, key_hND: Tensor, value_hND: Tensor, scaling: float) -> Tensor:
        """Attention of every token within its row, ``N H D``; 0 for tokens of no row."""
        device = query_HND.device.type
        if torch.is_autocast_enabled(device):  # else positions, turned in float32, decide
            dtype = torch.get_autocast_dtype(device)
            query_HND, key_hND, value_hND = query_HND.to(dtype), key_hND.to(dtype), value_hND.to(dtype)
        biases = self.bias(query_HND.dtype)
        sizes = [b.shape[0] * b.shape[-1] for b in biases]
        rest = query_HND.shape[1] - sum(sizes)
        parts = zip(*(x.split([*sizes, rest], dim=1) for x in (query_HND, key_hND, value_hND)), strict=True)
        outs = []
        for part, bias in zip(parts, biases, strict=False):  # the rest has no bias
            query, key, value = (x.unflatten(1, (bias.shape[0], -1)).transpose(0, 1) for x in part)
            outs.append(_in_blocks(query, key, value, bias, scaling).transpose(1, 2).flatten(0, 1))
        return F.pad(torch.cat(outs), (0, 0, 0, 0, 0, rest))


def _in_blocks(query_BHTD: Tensor, key_BhTD: Tensor, value_BhTD: Tensor, bias_B1TT: Tensor, scaling: float) -> Tensor:
    """Attention of rows of one width; on a CPU in pieces, by queries and by rows."""
    if query_BHTD.device.type != "cpu":
        return _fused(query_BHTD, key_BhTD, value_BhTD, bias_B1TT, scaling)
    # torch's CPU kernel is slow in bf16: its backward pass takes 3 times that of products in bf16, small rows 10 times
    attend = explicit_attention if query_BHTD.dtype == torch.bfloat16 else _fused
    H, T = query_BHTD.shape[1:3]
    blocks = []
    for start in range(0, T, QUERY_BLOCK):
        stop = min(start + QUERY_BLOCK, T)
        rows = max(1, SCORES_AT_ONCE // (H * (stop - start) * stop))
        pieces = zip(
            query_BHTD[:, :, start:stop].split(rows),
            key_BhTD[:, :, :stop].split(rows),
            value_BhTD[:, :, :stop].split(rows),
            bias_B1TT[:, :, start:stop, :stop].split(rows),
            strict=True,
        )
        blocks.append(torch.cat([attend(q, k, v, bias, scaling) for q, k, v, bias in pieces]))
    return torch.cat(blocks, dim=2)


def _fused(query_BHTD: Tensor, key_BhTD: Tensor, value_BhTD: Tensor, bias_B1TT: Tensor, scaling: float) -> Tensor:
    gqa = query_BHTD.shape[1] != key_BhTD.shape[1]
    return F.scaled_dot_product_attention(
        query_BHTD, key_BhTD, value_BhTD, attn_mask=bias_B1TT, scale=scaling, enable_gqa=gqa
    )


def explicit_attention(
    query_BHTD: Float[Tensor, "B H T D"],
    key_BhSD: Float[Tensor, "B h S D"],
    value_BhSD: Float[Tensor, "B h S D2"],
    bias_B1TS: Float[Tensor, "B 1 T S"],
    scaling: float,
) -> Float[Tensor, "B H T D2"]:
    """softmax(scaling q k^T + bias) v as two products; query heads are a multiple of key heads."""
    split = (key_BhSD.shape[1], query_BHTD.shape[1] // key_BhSD.shape[1])
    query = (query_BHTD * scaling).unflatten(1, split).flatten(2, 3)
    score = (query @ key_BhSD.transpose(-1, -2)).unflatten(2, (split[1], -1)).add_(bias_B1TS[:, :, None])
    out = score.softmax(-1).flatten(2, 3) @ value_BhSD
    return out.unflatten(2, (split[1], -1)).flatten(1, 2)


def _row_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """The attention function that transformers' layers call; finds its masks in the running context."""
    masks = _ACTIVE.get()
    assert masks is not None, "a forward pass with the attention of rows, but outside row_attention"
    refuse_other_scores(module, kwargs, "training on packed trees cannot do")
    if dropout:
        raise ModelError(f"{type(module).__name__} drops out {dropout} of its attention: set it to 0 in config.json")
    if sliding_window is not None and masks.longest > sliding_window:
        raise ModelError(
            f"{type(module).__name__} has a window of {sliding_window} tokens and the longest text has "
            f"{masks.longest}: lower context.token_budget"
        )
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    return masks.attend(query[0], key[0], value[0], scaling)[None], None


@contextmanager
def row_attention(model: nn.Module, masks: RowMasks) -> Iterator[None]:
    """Forward passes of a transformers model within take one sequence of rows that these masks describe."""
    token = _ACTIVE.set(masks)
    try:
        with attention_of(model, NAME, _row_attention):
            yield
    finally:
        _ACTIVE.reset(token)
