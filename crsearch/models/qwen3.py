"""Qwen3 in plain torch, for processes that decode only: the same parameters, names and logits as in transformers.

transformers' own class takes 2 CPU seconds and 130 MB to import. This one has what a forward pass without a gradient
needs, and the two seams that ``crsearch.decode`` uses: a cache that sees the keys and values of every layer, and an
attention function in place of the model's own.

Source: Qwen3 (arXiv 2505.09388); names and order of operations: transformers' ``Qwen3ForCausalLM``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

from crsearch.models.causal import causal_config

WEIGHTS = "model.safetensors"
Rotation = tuple[Tensor, Tensor]
"""Cosines and sines of positions, ``B T D``."""


@runtime_checkable
class Cache(Protocol):
    """Keeps keys and values; as ``transformers.Cache``."""

    def update(self, key: Tensor, value: Tensor, layer_idx: int) -> tuple[Tensor, Tensor]:
        """Store those of the tokens at hand; what they attend to."""
        ...


@dataclass(frozen=True, kw_only=True)
class Shape:
    """The numbers of a Qwen3, under the names of ``config.json``."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    rms_norm_eps: float
    rope_theta: float
    is_tied: bool
    is_encoder_decoder: bool = False

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> "Shape | None":
        """The shape of a ``config.json``; none = it asks for something that is not here."""
        rope = config.get("rope_parameters") or {}
        plain = (
            config.get("architectures") == ["Qwen3ForCausalLM"]
            and config.get("model_type") == "qwen3"
            and config.get("hidden_act") == "silu"
            and set(config.get("layer_types") or ()) == {"full_attention"}
            and set(rope) == {"rope_theta", "rope_type"}
            and rope["rope_type"] == "default"
            and not any(config.get(key) for key in ("attention_bias", "use_sliding_window", "quantization_config"))
        )
        if not plain:
            return None
        named = {name: config[name] for name in cls.__dataclass_fields__ if name in config}
        return cls(**named, rope_theta=rope["rope_theta"], is_tied=bool(config.get("tie_word_embeddings")))

    def get_text_config(self) -> "Shape":
        """The part that is of text: all."""
        return self


@dataclass(frozen=True, slots=True)
class Output:
    """What a forward pass gives."""

    logits: Float[Tensor, "B T V"]


class Linear(nn.Module):
    """x W^T; unlike torch's own it is not filled with random numbers first, which would import torch's compiler."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(out, width, device="meta"))

    def forward(self, x: Tensor) -> Tensor:
        """Along the last axis."""
        return F.linear(x, self.weight)


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps), in float32, then scaled."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.empty(width, device="meta")), eps

    def forward(self, x: Tensor) -> Tensor:
        """The norm along the last axis."""
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * wide.to(x.dtype)


class Attention(nn.Module):
    """Attention with fewer key heads than query heads, both normed and rotated."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        width, D = shape.hidden_size, shape.head_dim
        self.layer_idx, self.head_dim, self.scaling = layer, D, D**-0.5
        self.q_proj = Linear(width, shape.num_attention_heads * D)
        self.k_proj = Linear(width, shape.num_key_value_heads * D)
        self.v_proj = Linear(width, shape.num_key_value_heads * D)
        self.o_proj = Linear(shape.num_attention_heads * D, width)
        self.q_norm, self.k_norm = RmsNorm(D, shape.rms_norm_eps), RmsNorm(D, shape.rms_norm_eps)

    def forward(
        self, x_BTW: Tensor, rotation: Rotation, cache: Cache | None, function: Callable[..., tuple[Tensor, None]]
    ) -> Tensor:
        """What each token takes from those before it."""
        heads = (*x_BTW.shape[:-1], -1, self.head_dim)
        query = _rotated(self.q_norm(self.q_proj(x_BTW).view(heads)).transpose(1, 2), rotation)
        key = _rotated(self.k_norm(self.k_proj(x_BTW).view(heads)).transpose(1, 2), rotation)
        value = self.v_proj(x_BTW).view(heads).transpose(1, 2)
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
        out, _ = function(self, query, key, value, None, scaling=self.scaling, sliding_window=None)
        mixed: Tensor = self.o_proj(out.reshape(*x_BTW.shape[:-1], -1).contiguous())
        return mixed


class Mlp(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.gate_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.up_proj = Linear(shape.hidden_size, shape.intermediate_size)
        self.down_proj = Linear(shape.intermediate_size, shape.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        """For each token by itself."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))
        return out


class Layer(nn.Module):
    """Attention and MLP, each added to what comes in."""

    def __init__(self, shape: Shape, layer: int) -> None:
        super().__init__()
        self.self_attn, self.mlp = Attention(shape, layer), Mlp(shape)
        self.input_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)
        self.post_attention_layernorm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)

    def forward(
        self, x_BTW: Tensor, rotation: Rotation, cache: Cache | None, function: Callable[..., tuple[Tensor, None]]
    ) -> Tensor:
        """One layer."""
        x_BTW = x_BTW + self.self_attn(self.input_layernorm(x_BTW), rotation, cache, function)
        out: Tensor = x_BTW + self.mlp(self.post_attention_layernorm(x_BTW))
        return out


class Body(nn.Module):
    """Embeddings, layers and the last norm."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        table = torch.empty(shape.vocab_size, shape.hidden_size, device="meta")
        self.embed_tokens = nn.Embedding(shape.vocab_size, shape.hidden_size, _weight=table)
        self.layers = nn.ModuleList(Layer(shape, n) for n in range(shape.num_hidden_layers))
        self.norm = RmsNorm(shape.hidden_size, shape.rms_norm_eps)


class Qwen3(nn.Module):
    """A causal model that decodes; stands in for transformers' ``Qwen3ForCausalLM`` in ``crsearch.decode``.

    Args:
        shape: of the model.

    Its weights have no values until ``load_state_dict(..., assign=True)`` gives them.
    """

    _supports_attention_backend = True
    attention: Callable[..., tuple[Tensor, None]] | None = None
    """In place of the model's own; set by ``crsearch.decode.attention``."""

    frequency_D: Tensor

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.config = shape
        self.model = Body(shape)
        self.lm_head = Linear(shape.hidden_size, shape.vocab_size)
        exponent_D = torch.arange(0, shape.head_dim, 2, dtype=torch.float) / shape.head_dim
        self.register_buffer("frequency_D", 1.0 / (shape.rope_theta**exponent_D), persistent=False)

    def get_input_embeddings(self) -> nn.Embedding:
        """The vectors of tokens."""
        return self.model.embed_tokens

    def get_output_embeddings(self) -> Linear:
        """The vectors that make logits; where the model is tied, those of the tokens."""
        return self.lm_head

    def forward(
        self,
        input_ids: Int64[Tensor, "B T"] | None = None,
        *,
        inputs_embeds: Float[Tensor, "B T W"] | None = None,
        position_ids: Int64[Tensor, "_ T"] | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
        logits_to_keep: int = 0,
    ) -> Output:
        """Logits after each token.

        Args:
            input_ids: the text; either this or ``inputs_embeds``.
            inputs_embeds: vectors in place of tokens.
            position_ids: place of each token; none = 0, 1, 2, ...
            past_key_values: sees keys and values; none = the text is all there is.
            use_cache: as in transformers; ``past_key_values`` decides.
            logits_to_keep: of how many last tokens; 0 = all.
        """
        x_BTW = self.model.embed_tokens(input_ids) if inputs_embeds is None else inputs_embeds
        if position_ids is None:
            position_ids = torch.arange(x_BTW.shape[1], device=x_BTW.device)[None]
        rotation, function = self._rotation(position_ids, x_BTW.dtype), self.attention or _causal
        for layer in self.model.layers:
            x_BTW = layer(x_BTW, rotation, past_key_values, function)
        return Output(self.lm_head(self.model.norm(x_BTW)[:, -logits_to_keep:]))

    def _rotation(self, position_BT: Tensor, dtype: torch.dtype) -> Rotation:
        angle_BTD = position_BT[..., None].float() * self.frequency_D.to(device=position_BT.device, dtype=torch.float)
        angle_BTD = torch.cat((angle_BTD, angle_BTD), dim=-1)
        return angle_BTD.cos().to(dtype), angle_BTD.sin().to(dtype)


def load_qwen3(folder: Path) -> Qwen3 | None:
    """The model of a folder of a saved bundle; none = it is another than a plain Qwen3 in one file and one precision.

    Raises:
        ModelError: no model of a kind that may be loaded at all; see ``causal_config``.
    """
    from safetensors.torch import load_file

    config = causal_config(folder)
    shape = Shape.of(config)
    if shape is None or [file.name for file in folder.glob("*.safetensors")] != [WEIGHTS]:
        return None
    # memory of their own: a file that somebody writes to would change tensors that are mapped
    weights = {name: tensor.clone() for name, tensor in load_file(folder / WEIGHTS).items()}
    if {str(tensor.dtype) for tensor in weights.values()} != {f"torch.{config.get('dtype')}"}:
        return None
    model = Qwen3(shape)
    if shape.is_tied:
        weights.setdefault("lm_head.weight", weights.get("model.embed_tokens.weight", torch.empty(0)))
    sizes = {name: tensor.shape for name, tensor in model.state_dict().items()}
    if sizes != {name: tensor.shape for name, tensor in weights.items()}:
        return None
    model.load_state_dict(weights, assign=True)
    if shape.is_tied:
        table = model.model.embed_tokens.weight
        assert isinstance(table, nn.Parameter)
        model.lm_head.weight = table
    return model.requires_grad_(False).eval()


def _rotated(x_BHTD: Tensor, rotation: Rotation) -> Tensor:
    """Pairs of numbers, half a head apart, turned by the angles of their position."""
    cos, sin = (part[:, None] for part in rotation)
    left, right = x_BHTD.chunk(2, dim=-1)
    return (x_BHTD * cos) + (torch.cat((-right, left), dim=-1) * sin)


def _causal(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, mask: None, *, scaling: float, **_: Any
) -> tuple[Tensor, None]:
    """Each token attends to itself and those before it."""
    out = F.scaled_dot_product_attention(query, key, value, is_causal=True, scale=scaling, enable_gqa=True)
    return out.transpose(1, 2), None
