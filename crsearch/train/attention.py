"""Attention within rows of several widths that lie one behind the other, through transformers' attention interface.

A body called on one long sequence does everything that works token by token at once; only attention has to know where
rows begin and what a token may look at. So item trees of 30 tokens and user trees of 300 share a pass, and neither
pays for the other.

Source: details: this project.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from crsearch.decode.attention import attention_of, refuse_other_scores
from crsearch.errors import ModelError

NAME = "crsearch_rows"
"""Name of the attention function in transformers' table."""

BLOCK = 64
"""Queries attended at a time on a CPU; blocks of as many keys that are hidden from all of them are left out."""

SCORES_AT_ONCE = 2**20
"""Scores held at a time on a CPU: what its cache holds."""

BODY = {"embed_tokens", "layers", "norm", "rotary_emb"}
LAYER, LAYER_MORE = (
    {"input_layernorm", "self_attn", "post_attention_layernorm", "mlp"},
    {"pre_feedforward_layernorm", "post_feedforward_layernorm"},
)
ATTENTION, ATTENTION_MORE = {"q_proj", "k_proj", "v_proj", "o_proj"}, {"q_norm", "k_norm"}
"""Parts of bodies, layers and attentions of Llama's kind (Qwen3, Mistral, Gemma too), in which tokens meet in the
attention and nowhere else; what some of them have besides."""

Blocks = list[tuple[list[int], Tensor]]
"""For each block of queries: the blocks of keys that some of them see, and the bias on the scores of these."""

_ACTIVE: ContextVar["RowMasks | None"] = ContextVar("crsearch_row_masks", default=None)


class KeysTaken(Exception):
    """The last layer's keys and values of all tokens are there; what would follow is of use for some tokens only."""


@dataclass(frozen=True, slots=True)
class Reads:
    """The tokens whose states after the last layer are of use. Axis: R these tokens, and what fills them up.

    Attributes:
        place_R: their places among the N tokens of all rows, row by row, ascending within a row; rows are filled up
            with their first token, the whole with token 0.
        per_row: number of them in a row, for each width.
    """

    place_R: Int[Tensor, " R"]
    per_row: tuple[int, ...]


class RowMasks:
    """What the tokens of each row may look at, as a bias on the scores; made once for all layers.

    Args:
        allowed: ``B T T`` for each width in the order of the rows, which token (last axis) each token of a row
            (second axis) may see; never one behind it, and at least one.
        longest: tokens of the longest text in a row.
        reads: the tokens that `narrowed` leaves in the last layer; none = all.
    """

    def __init__(self, allowed: Sequence[Bool[Tensor, "_ _ _"]], longest: int, reads: Reads | None = None) -> None:
        self.allowed, self.longest, self.reads = allowed, longest, reads
        self._blocks: dict[torch.dtype, list[Blocks]] = {}
        self._takes_keys = False
        self._taken: tuple[Tensor, Tensor] | None = None

    def blocks(self, dtype: torch.dtype) -> list[Blocks]:
        """Blocks of the rows of each width; biases are ``B 1 T T``, 0 where visible, -inf where hidden."""
        if dtype not in self._blocks:
            self._blocks[dtype] = [_visible_blocks(a, dtype) for a in self.allowed]
        return self._blocks[dtype]

    def attend(self, query_HND: Tensor, key_hND: Tensor, value_hND: Tensor, scaling: float) -> Tensor:
        """Attention of every token within its row, ``N H D``; 0 for tokens of no row.

        After `taking_keys` once with queries of the R tokens that are read, ``R H D``, and the keys that were taken.
        """
        if self._takes_keys:
            self._taken = key_hND, value_hND
            raise KeysTaken
        taken, self._taken = self._taken, None  # other layers may be recomputed after this one
        key_hND, value_hND = taken or (key_hND, value_hND)
        device = query_HND.device.type
        if torch.is_autocast_enabled(device):  # else positions, turned in float32, decide
            dtype = torch.get_autocast_dtype(device)
            query_HND, key_hND, value_hND = query_HND.to(dtype), key_hND.to(dtype), value_hND.to(dtype)
        counts, widths = [len(a) for a in self.allowed], [a.shape[1] for a in self.allowed]
        blocks, per_row = self.blocks(query_HND.dtype), widths
        if taken and self.reads is not None:
            blocks, per_row = self.read_blocks(query_HND.dtype, self.reads), list(self.reads.per_row)
        queries = _rows(query_HND, counts, per_row)
        rows = zip(queries, *(_rows(x, counts, widths) for x in (key_hND, value_hND)), blocks, strict=True)
        outs = [_in_blocks(q, k, v, seen, scaling).transpose(1, 2).flatten(0, 1) for q, k, v, seen in rows]
        out_NHD = _joined(outs, 0)
        rest = query_HND.shape[1] - len(out_NHD)
        return F.pad(out_NHD, (0, 0, 0, 0, 0, rest)) if rest else out_NHD

    @contextmanager
    def taking_keys(self) -> Iterator[None]:
        """The attention within takes its keys and values and ends what is within; the next one attends to them."""
        self._takes_keys, self._taken = True, None
        try:
            with suppress(KeysTaken):
                yield
        finally:
            self._takes_keys = False
        if self._taken is None:
            raise ModelError("the last layer does not use transformers' attention interface, so trees cannot be packed")

    def read_blocks(self, dtype: torch.dtype, reads: Reads) -> list[Blocks]:
        """As `blocks`, with queries of the tokens that are read; biases are ``B 1 Q T``."""
        found, row_at, read_at = [], 0, 0
        for allowed_BTT, count in zip(self.allowed, reads.per_row, strict=True):
            B, T = allowed_BTT.shape[:2]
            # a place within its row: rows lie one behind the other, each T wide
            place_BQ = (reads.place_R[read_at : read_at + B * count] - row_at).view(B, count) % T
            allowed_BQT = allowed_BTT.gather(1, place_BQ[:, :, None].expand(-1, -1, T))
            found.append(_visible_blocks(allowed_BQT, dtype))
            row_at, read_at = row_at + B * T, read_at + B * count
        return found


def _rows(x_HND: Tensor, counts: Sequence[int], widths: Sequence[int]) -> list[Tensor]:
    """``B H T D`` for each width; what is left of N belongs to no row."""
    sizes = [count * width for count, width in zip(counts, widths, strict=True)]
    parts = x_HND.split([*sizes, x_HND.shape[1] - sum(sizes)], dim=1)
    return [part.unflatten(1, (count, -1)).transpose(0, 1) for part, count in zip(parts, counts, strict=False)]


def _visible_blocks(allowed_BQT: Bool[Tensor, "B Q T"], dtype: torch.dtype) -> Blocks:
    """Which keys the queries of rows of one width need; one block of everything if not on a CPU."""
    size = BLOCK if allowed_BQT.device.type == "cpu" else max(allowed_BQT.shape)
    if size >= max(allowed_BQT.shape[1:]):
        needed = [[0]]
    else:
        some_QT = torch.from_numpy(allowed_BQT.numpy().any(0))  # torch's own takes 40 times as long
        needed = [[j for j, k in enumerate(q.split(size, dim=1)) if k.any()] for q in some_QT.split(size)]
    found = []
    for seen, some in zip(allowed_BQT.split(size, dim=1), needed, strict=True):
        keys = seen.split(size, dim=2)
        seen = _joined([keys[j] for j in some], 2)
        bias = torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -torch.inf)
        found.append((some, bias[:, None]))
    return found


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    """As ``torch.cat``; a single part is not copied."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts), dim=dim)


def _in_blocks(query_BHQD: Tensor, key_BhTD: Tensor, value_BhTD: Tensor, blocks: Blocks, scaling: float) -> Tensor:
    """Attention of rows of one width, in pieces by queries and by rows."""
    on_cpu, H = query_BHQD.device.type == "cpu", query_BHQD.shape[1]
    size = BLOCK if on_cpu else max(query_BHQD.shape[2], key_BhTD.shape[2])
    # torch's CPU kernel is slow in bf16: its backward pass takes 3 times that of products in bf16, small rows 10 times
    attend = explicit_attention if on_cpu and query_BHQD.dtype == torch.bfloat16 else _fused
    keys, values = key_BhTD.split(size, dim=2), value_BhTD.split(size, dim=2)
    outs = []
    for query, (seen, bias) in zip(query_BHQD.split(size, dim=2), blocks, strict=True):
        key, value = _joined([keys[j] for j in seen], 2), _joined([values[j] for j in seen], 2)
        rows = max(1, SCORES_AT_ONCE // (H * bias[0].numel())) if on_cpu else len(query)
        pieces = zip(query.split(rows), key.split(rows), value.split(rows), bias.split(rows), strict=True)
        outs.append(_joined([attend(*piece, scaling) for piece in pieces], 0))
    return _joined(outs, 2)


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
    return masks.attend(query.squeeze(0), key.squeeze(0), value.squeeze(0), scaling)[None], None


@contextmanager
def row_attention(model: nn.Module, masks: RowMasks) -> Iterator[None]:
    """Forward passes of a transformers model within take one sequence of rows that these masks describe.

    With ``masks.reads``, states come out of them for its R tokens only (`narrowed`). Layers with gradient checkpointing
    find the masks again when the backward pass recomputes them.
    """
    with _masked(model, masks), _masked_again(model, masks), narrowed(model, masks):
        yield


@contextmanager
def _masked(model: nn.Module, masks: RowMasks) -> Iterator[None]:
    """Within, layers attend by these masks."""
    token = _ACTIVE.set(masks)
    try:
        with attention_of(model, NAME, _row_attention):
            yield
    finally:
        _ACTIVE.reset(token)


@contextmanager
def _masked_again(model: nn.Module, masks: RowMasks) -> Iterator[None]:
    """What checkpointed layers compute within, they compute by these masks, also when the backward pass asks again."""
    layers: list[Any] = [m for m in model.modules() if getattr(m, "gradient_checkpointing", False)]
    before = [layer._gradient_checkpointing_func for layer in layers]

    def remembering(checkpoint: Callable[..., Any]) -> Callable[..., Any]:
        def checkpointed(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
            def masked(*args: Any, **kwargs: Any) -> Any:
                with _masked(model, masks):
                    return function(*args, **kwargs)

            return checkpoint(masked, *args, **kwargs)

        return checkpointed

    for layer, checkpoint in zip(layers, before, strict=True):
        layer._gradient_checkpointing_func = remembering(checkpoint)
    try:
        yield
    finally:
        for layer, checkpoint in zip(layers, before, strict=True):
            layer._gradient_checkpointing_func = checkpoint


def last_layer(model: nn.Module) -> nn.Module | None:
    """The last layer of a model in which tokens are known to meet in the attention only; none = not known."""
    body: Any = getattr(model, str(model.base_model_prefix))
    if not _has(body, BODY, {"rotary_emb_local"}):
        return None
    layer: Any = body.layers[body.config.num_hidden_layers - 1]
    known = _has(layer, LAYER, LAYER_MORE) and _has(layer.self_attn, ATTENTION, ATTENTION_MORE)
    return layer if known else None


def _has(module: nn.Module, parts: set[str], more: set[str]) -> bool:
    """Whether a module has these parts, perhaps some more, and no others."""
    names = {name for name, _ in module.named_children()}
    return parts <= names <= parts | more


@contextmanager
def narrowed(model: nn.Module, masks: RowMasks) -> Iterator[None]:
    """Within, the last layer works out keys and values of all tokens, and the rest for ``masks.reads`` only.

    The layer's own code runs twice: for all tokens as far as its attention, where keys and values are taken; then for
    the tokens that are read, whose queries attend to these. So no layer is written anew here. The price: queries of
    all tokens and keys of those that are read are computed (forward only) and not used. The layer is not checkpointed:
    it would be recomputed first, while all that a checkpoint frees is still held.
    """
    if masks.reads is None:
        yield
        return
    layer: Any = last_layer(model)
    place_R = masks.reads.place_R
    assert layer is not None, "reads for a model whose last layer is not known: ask last_layer"

    def begin(layer: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, ...]:
        with masks.taking_keys():
            layer.forward(*args, **kwargs)
        hidden_1ND, *rest = args
        cos_sin = tuple(x[:, place_R] for x in kwargs["position_embeddings"])
        own = {"position_embeddings": cos_sin, "position_ids": kwargs["position_ids"][:, place_R]}
        return (hidden_1ND[:, place_R], *rest), kwargs | own

    handle = layer.register_forward_pre_hook(begin, with_kwargs=True)
    checkpointed, layer.gradient_checkpointing = getattr(layer, "gradient_checkpointing", False), False
    try:
        yield
    finally:
        layer.gradient_checkpointing = checkpointed
        handle.remove()
