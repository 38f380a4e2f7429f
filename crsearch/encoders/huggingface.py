"""Encoders in Hugging Face folders: BGE (CLS), MiniLM (mean), Qwen3-Embedding (last token) and their like."""

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from crsearch.encoders.bars import without_bars
from crsearch.encoders.base import Kind
from crsearch.errors import ModelError

Pooling = Literal["auto", "cls", "mean", "last"]

_POOLING_OF_KEY: dict[str, Literal["cls", "mean", "last"]] = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_cls": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean",  # the mean in another length; all vectors here have length 1
    "pooling_mode_lasttoken": "last",
}
"""Both spellings of sentence-transformers: one flag per pooling, or the name in ``pooling_mode``."""

_ITEM_PROMPTS = ("document", "passage", "corpus")
"""Names under which a folder may keep what stands before items; the first that is not empty counts.

sentence-transformers documents the same, but its own empty "document" hides the other two.
"""


class HuggingFaceEncoder:
    """A transformers encoder with the pooling and the prompts that its folder names.

    The folder is one that sentence-transformers writes, or a plain one with ``pooling`` given. Its vectors are those
    of sentence-transformers, made length 1. Nothing is downloaded and no code of the folder runs. Computes in
    float32; a text alone and in a batch give the same vector to 1e-5. Control tokens written out in a text
    (``[SEP]``, ``<|im_end|>``) are read as plain characters.

    Source: the model cards (BGE: first token; Qwen3-Embedding: last token, instructions before queries only).
    """

    def __init__(
        self,
        path: Path,
        *,
        pooling: Pooling = "auto",
        query_instruction: str | None = None,
        truncate_dim: int | None = None,
        batch_size: int = 64,
        device: str = "cpu",
    ) -> None:
        """Load the encoder.

        Args:
            path: folder with config, weights and tokenizer.
            pooling: how token states become one vector; ``auto`` = as the folder's pooling file says.
            query_instruction: put before queries; none = the folder's own ``query`` prompt, ``""`` = nothing.
            truncate_dim: keep this many first numbers, normalised again (Matryoshka models); none = all.
            batch_size: texts per forward pass.
            device: torch device.

        Raises:
            ModelError: no such folder or no readable model in it; ``auto`` without a pooling file; a module after
                pooling that changes vectors otherwise than by normalising; ``truncate_dim`` above the width.
        """
        if not path.is_dir():
            raise ModelError(f"{path}: no such folder; set encoder.path to a folder with a Hugging Face encoder")
        modules = {_kind(module): str(module.get("path", "")) for module in _read_json(path / "modules.json", [])}
        self._prefix = _prompts(path, query_instruction)
        self._pooling = _folder_pooling(path, modules, self._prefix) if pooling == "auto" else pooling
        at = path / modules.get("Transformer", "")
        self._tokenizer, self._model = _load(at)
        self._model.to(device)
        self._plain = control_token_breaker(self._tokenizer)
        limits = _read_json(at / "sentence_bert_config.json", {})
        self._lower = bool(limits.get("do_lower_case"))
        self._max_tokens = _max_tokens(self._tokenizer, self._model.config, limits)
        self._batch_size = batch_size
        self._device = device
        width = int(self._model.config.hidden_size)
        if truncate_dim is not None and truncate_dim > width:
            raise ModelError(f"encoder.truncate_dim = {truncate_dim}: the vectors of {path} have {width} numbers")
        self.name = path.name
        self.dim = truncate_dim or width

    def encode(self, texts: Sequence[str], kind: Kind = "item") -> Float32[np.ndarray, "N D"]:
        """One vector of length 1 per text, the zero vector for a text without tokens.

        Texts longer than the model's window are cut at their end.
        """
        vectors_ND = np.empty((len(texts), self.dim), dtype=np.float32)
        # Texts of like length share a batch, so that little of it is padding.
        by_length = sorted(range(len(texts)), key=lambda row: len(texts[row]))
        for start in range(0, len(texts), self._batch_size):
            rows = by_length[start : start + self._batch_size]
            vectors_ND[rows] = self._encode_batch([self._prefix[kind] + self._plain(texts[row]) for row in rows])
        return vectors_ND

    def _encode_batch(self, texts: list[str]) -> Float32[np.ndarray, "B D"]:
        if self._lower:
            texts = [text.lower() for text in texts]
        batch = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self._max_tokens, return_tensors="pt"
        ).to(self._device)
        if not batch["attention_mask"].any():
            return np.zeros((len(texts), self.dim), dtype=np.float32)
        return self.embed(batch["input_ids"], batch["attention_mask"]).cpu().numpy()

    @torch.inference_mode()
    def embed(self, ids_BT: Int[Tensor, "B T"], mask_BT: Int[Tensor, "B T"]) -> Float32[Tensor, "B D"]:
        """Vectors of length 1 of tokenised texts; the zero vector for a text without tokens.

        Args:
            ids_BT: tokens; at least one in all.
            mask_BT: 1 at tokens, 0 at padding. Padding stands on the right; for models with rotary positions
                (Qwen3) it may stand on the left too.
        """
        states_BTD = self._model(input_ids=ids_BT, attention_mask=mask_BT).last_hidden_state
        has_tokens_B1 = mask_BT.any(dim=1, keepdim=True)
        vectors_BD = pool(states_BTD, mask_BT, self._pooling)[:, : self.dim]  # cut first, then length 1
        return torch.where(has_tokens_B1, torch.nn.functional.normalize(vectors_BD, dim=-1), 0)


def pool(
    states_BTD: Float[Tensor, "B T D"], mask_BT: Int[Tensor, "B T"], pooling: Literal["cls", "mean", "last"]
) -> Float[Tensor, "B D"]:
    """One vector per text from the states of its tokens; padding may stand on either side.

    Args:
        states_BTD: last hidden states.
        mask_BT: 1 at tokens, 0 at padding; every text has at least one token.
        pooling: the state of the first token, of the last one, or the mean of all.
    """
    if pooling == "mean":
        weight_BT1 = mask_BT[..., None].to(states_BTD.dtype)
        return (states_BTD * weight_BT1).sum(1) / weight_BT1.sum(1)
    # argmax gives the first of equal values: the first token, or the last one in the mirrored mask
    place_B = mask_BT.argmax(1) if pooling == "cls" else mask_BT.shape[1] - 1 - mask_BT.flip(1).argmax(1)
    return states_BTD[torch.arange(len(states_BTD), device=states_BTD.device), place_B]


def control_token_breaker(tokenizer: Any) -> Callable[[str], str]:
    """A function that puts a space into every control token written out in a text, so that it is plain text.

    All added tokens count, those that are not "special" too (Qwen3's ``</think>``). Built from the tokenizer as
    loaded, so that no list has to be kept.

    >>> class Tokenizer:
    ...     added_tokens_decoder = {2: "[SEP]"}
    >>> control_token_breaker(Tokenizer())("red [SEP] dress")
    'red [ SEP] dress'
    """
    names = sorted(
        {str(token) for token in tokenizer.added_tokens_decoder.values()}, key=lambda name: (-len(name), name)
    )
    # A lookahead finds overlapping names too; a name of one character cannot be broken and is dropped.
    control = re.compile("(" + "|".join(f"(?={re.escape(name)})" for name in names) + ")(.)", re.DOTALL)
    single = {name for name in names if len(name) == 1}

    def plain(text: str) -> str:
        return control.sub(lambda found: "" if found[2] in single else f"{found[2]} ", text)

    return plain if names else str


def _load(folder: Path) -> tuple[Any, Any]:
    """Tokenizer and model of a folder, ready to encode.

    Raises:
        ModelError: transformers cannot load it, or part of the model has no weights in the folder.
    """
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
        with without_bars():
            model, report = AutoModel.from_pretrained(
                folder, local_files_only=True, dtype=torch.float32, output_loading_info=True
            )
    except (OSError, ValueError, KeyError, SafetensorError) as e:
        raise ModelError(f"{folder}: no encoder that transformers can load ({e})") from e
    missing = sorted(name for name in report["missing_keys"] if not name.startswith("pooler."))  # which is not read
    if missing:
        raise ModelError(f"{folder}: {len(missing)} weights are missing (first: {missing[0]}); fetch the encoder again")
    tokenizer.padding_side = "right"  # positions then count from 0 in every architecture
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    return tokenizer, model.eval()


def _kind(module: dict[str, Any]) -> str:
    """``sentence_transformers.models.Pooling`` -> ``Pooling``."""
    return str(module.get("type", "")).rsplit(".", 1)[-1]


def _prompts(path: Path, query_instruction: str | None) -> dict[Kind, str]:
    """What stands before items and queries: the folder's own prompts, the one for queries unless it is given."""
    own = _read_json(path / "config_sentence_transformers.json", {}).get("prompts") or {}
    return {
        "item": next((own[name] for name in _ITEM_PROMPTS if own.get(name)), ""),
        "query": (own.get("query") or "") if query_instruction is None else query_instruction,
    }


def _folder_pooling(path: Path, modules: dict[str, str], prefix: dict[Kind, str]) -> Literal["cls", "mean", "last"]:
    """The pooling that the folder's own files name.

    Args:
        path: the folder.
        modules: kind -> folder of each module, of ``modules.json``.
        prefix: what stands before the texts.

    Raises:
        ModelError: the files name none, or one that gives other vectors than those here.
    """
    remedy = "set encoder.pooling to cls (BGE), mean (MiniLM, E5) or last (Qwen3-Embedding)"
    foreign = sorted(set(modules) - {"Transformer", "Pooling", "Normalize"})
    if foreign:
        raise ModelError(f"{path}/modules.json: module {foreign[0]} changes the vectors, which is not supported here")
    file = path / modules.get("Pooling", "1_Pooling") / "config.json"
    settings = _read_json(file, None)
    if settings is None:
        raise ModelError(f"{file}: no pooling file; {remedy}")
    if settings.get("include_prompt") is False and any(prefix.values()):
        raise ModelError(f"{file}: include_prompt = false leaves the prompt out of the vector, which is not supported")
    named = [key for key, on in settings.items() if key.startswith("pooling_mode_") and on]
    named += [f"pooling_mode_{settings['pooling_mode']}"] if "pooling_mode" in settings else []
    pooling = _POOLING_OF_KEY.get(named[0]) if len(named) == 1 else None
    if pooling is None:
        raise ModelError(f"{file}: names the pooling {named}, which is not one of cls, mean, last; {remedy}")
    return pooling


def _max_tokens(tokenizer: Any, config: Any, limits: dict[str, Any]) -> int:
    """The smallest window that tokenizer, model and folder name."""
    windows = [
        tokenizer.model_max_length,
        getattr(config, "max_position_embeddings", None),
        limits.get("max_seq_length"),
    ]
    return min(int(window) for window in windows if window)


def _read_json(file: Path, default: Any) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return default
    except ValueError as e:
        raise ModelError(f"{file}: not valid JSON ({e}); fetch the encoder again") from e
