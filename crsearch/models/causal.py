"""Causal language models: a tiny Qwen3 from scratch, any Hugging Face folder, new vocabulary.

One code path for all sizes: what works on the tiny model works on Qwen3-0.6B.
"""

import json
from collections.abc import Callable, Sequence
from functools import lru_cache
from inspect import signature
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from crsearch.config import ModelConfig
from crsearch.encoders.bars import without_bars
from crsearch.errors import ModelError


def tiny_model(config: ModelConfig, vocabulary: int, seed: int, *, pad_id: int = 0, end_id: int = 1) -> Any:
    """A small Qwen3 with random weights and tied embeddings, in float32 on the CPU.

    Args:
        config: widths and depth.
        vocabulary: rows of the embedding.
        seed: of the weights; the global random state is neither used nor changed.
        pad_id: of the tokenizer.
        end_id: of the tokenizer.

    Returns:
        A ``Qwen3ForCausalLM``; the same weights for the same arguments.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    qwen = Qwen3Config(
        vocab_size=vocabulary,
        hidden_size=config.width,
        intermediate_size=config.feed_forward,
        num_hidden_layers=config.layers,
        num_attention_heads=config.heads,
        num_key_value_heads=config.kv_heads,
        head_dim=config.head_dim,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        pad_token_id=pad_id,
        eos_token_id=end_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Qwen3ForCausalLM(qwen)


def load_folder(path: Path | str) -> tuple[Any, Any]:
    """(model, tokenizer) of a Hugging Face folder: local files, safetensors, no code of the folder.

    Raises:
        ModelError: no such folder, a pickle, a model that needs its own code, an encoder-decoder, broken files.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = Path(path)
    config = causal_config(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        with without_bars():
            model = AutoModelForCausalLM.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False, dtype="auto"
            )
    except Exception as e:  # transformers raises errors of many libraries here; each means an unusable folder
        kind = config.get("model_type")
        raise ModelError(f"{folder}: cannot load this {kind} model: {e}. Copy or download the folder again") from e
    return model.eval(), tokenizer


def checked_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder that is safe to load.

    Raises:
        ModelError: no such folder, a pickle, a model that needs its own code, a broken file.
    """
    if folder.is_file():
        raise ModelError(
            f"{folder}: a file, not a model folder. Pickled weights are never loaded; convert them to safetensors "
            "with save_pretrained in a place you trust, then give the folder"
        )
    if not (folder / "config.json").is_file():
        raise ModelError(f"{folder}: no config.json: give a folder with config.json, model.safetensors and a tokenizer")
    if not any(folder.glob("*.safetensors")):
        found = sorted(p.name for p in folder.glob("*") if p.suffix in {".bin", ".pt", ".pth", ".pkl", ".ckpt"})
        hint = f" (there is {found[0]}, a pickle, which is never loaded)" if found else ""
        raise ModelError(f"{folder}: no safetensors weights{hint}: save the model again with save_pretrained")
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except ValueError as e:
        raise ModelError(f"{folder}/config.json: not valid JSON: {e}. Copy or download the folder again") from e
    if "auto_map" in config:
        raise ModelError(f"{folder}: the model needs code of its own, which is never run: use a model of transformers")
    return config


def causal_config(folder: Path) -> dict[str, Any]:
    """``config.json`` of a folder that holds a causal model, as far as it says.

    Raises:
        ModelError: an encoder-decoder; see ``checked_config``.
    """
    config = checked_config(folder)
    if config.get("is_encoder_decoder"):
        raise ModelError(
            f"{folder}: {config.get('model_type')} is an encoder-decoder, and a run trains causal models: give the "
            "folder of one, e.g. of Qwen3-0.6B (crsearch.decode.beam_search decodes encoder-decoders)"
        )
    return config


def extend_vocabulary(
    model: Any, tokenizer: Any, tokens: Sequence[str], generator: torch.Generator, *, noise: float = 0.05
) -> list[int]:
    """Add control tokens to a model and its tokenizer.

    A new row is the mean of the old rows plus a little noise, so that a new token is at first about as likely as an
    average old one. Tied embeddings stay tied; rows of old tokens, and so their logits, do not change. Rows beyond
    the tokenizer (padding of the matrix) are reused before new ones are made; what remains of them is named by
    ``generable``.

    Args:
        model: any causal language model of transformers; changed in place.
        tokenizer: its tokenizer; changed in place.
        tokens: texts; those that the tokenizer has as one token already keep their rows.
        generator: of the noise.
        noise: standard deviation of the noise, in standard deviations of the old rows.

    Returns:
        Ids of ``tokens``, in their order.

    Source: details: this project.
    """
    from tokenizers import AddedToken

    known = tokenizer.get_vocab()
    old = len(tokenizer)
    new = [t for t in dict.fromkeys(tokens) if t not in known]
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in new], special_tokens=True)
    if len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
        with torch.random.fork_rng(devices=[]):  # transformers draws rows that are overwritten below
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    layers = [model.get_input_embeddings(), model.get_output_embeddings()]
    tensors = [t for layer in layers if layer is not None for t in (layer.weight, getattr(layer, "bias", None))]
    for tensor in {id(t): t for t in tensors if t is not None}.values():
        _fill_rows(tensor, old, len(tokenizer), generator, noise)
    return [int(tokenizer.convert_tokens_to_ids(t)) for t in tokens]


@torch.no_grad()
def _fill_rows(tensor: Tensor, old: int, new: int, generator: torch.Generator, noise: float) -> None:
    """Rows [old, new) = mean of rows [0, old) + noise in proportion to their spread."""
    if new == old:
        return
    rows = tensor[:old].float()
    draw = torch.randn(tensor[old:new].shape, generator=generator)
    tensor[old:new] = (rows.mean(0) + noise * rows.std(0) * draw.to(rows.device)).to(tensor.dtype)


def generable(model: Any, tokenizer: Any) -> Bool[Tensor, " V"]:
    """Which rows of the vocabulary are tokens: False for the padding rows of the matrix and for gaps in the ids.

    Sampling must mask the others; the trie never reaches them.
    """
    mask = torch.zeros(model.get_input_embeddings().weight.shape[0], dtype=torch.bool)
    mask[torch.tensor(sorted(tokenizer.get_vocab().values()))] = True
    return mask


def keeps(model: Any, cache: Any) -> dict[str, Any]:
    """The arguments of a model's forward pass that make it keep keys and values in a cache."""
    return {_cache_argument(type(model).forward): cache, "use_cache": True}


@lru_cache
def _cache_argument(forward: Callable[..., Any]) -> str:
    """What the cache is called: ``cache`` in transformers 5.24 and later, before that ``past_key_values``."""
    return "cache" if "cache" in signature(forward).parameters else "past_key_values"
