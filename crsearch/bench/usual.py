"""The usual way: Hugging Face ``generate`` with a trie of Python dicts; and the toy models and catalogues for both."""

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

FIRST_SID = 2_000
"""Smaller ids stand for words."""


def installed(package: str) -> bool:
    """Whether a peer that is not needed can be imported."""
    return importlib.util.find_spec(package) is not None


def toy_qwen3(vocabulary: int, *, width: int = 128, layers: int = 3, sharp: float = 4.0, seed: int = 0) -> Any:
    """A Qwen3 with random weights, by default so sharp that ranked lists are not a matter of rounding.

    Args:
        vocabulary: rows of the embedding.
        width: of the hidden state; 128 and 3 layers have 0.6 M parameters without embeddings.
        layers: of it.
        sharp: factor on the matrices.
        seed: of the weights.
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=width, intermediate_size=3 * width, num_hidden_layers=layers,
        num_attention_heads=width // 32, num_key_value_heads=max(1, width // 64), head_dim=32,
        max_position_embeddings=2048, tie_word_embeddings=True, bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(sharp)
    return model


def qwen3_06b(device: torch.device, dtype: torch.dtype) -> Any:
    """Qwen3-0.6B's architecture with random weights.

    Source: config.json of Qwen/Qwen3-0.6B (sizes; positions, which cost the same, are the library's default).
    """
    from transformers import Qwen3Config, Qwen3ForCausalLM

    config = Qwen3Config(
        vocab_size=151_936, hidden_size=1024, intermediate_size=3072, num_hidden_layers=28, num_attention_heads=16,
        num_key_value_heads=8, head_dim=128, max_position_embeddings=40_960, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=None, pad_token_id=0,
    )  # fmt: skip
    with torch.random.fork_rng(), device:
        torch.manual_seed(0)
        model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return model.to(dtype).eval()


def toy_catalogue(items: int, codes: int, rng: np.random.Generator) -> np.ndarray:
    """SIDs of three random codes and a deduplication code, as vocabulary ids from ``FIRST_SID`` on."""
    codes_NL = rng.integers(0, codes, (items, 3))
    key_N = codes_NL @ np.array([codes**2, codes, 1])
    order_N = np.argsort(key_N, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(key_N[order_N]) > 0])
    dedup_N = np.empty(items, dtype=np.int64)
    dedup_N[order_N] = np.arange(items) - np.repeat(starts, np.diff(np.r_[starts, items]))
    return np.column_stack([codes_NL, dedup_N]) + FIRST_SID + codes * np.arange(4)


def toy_prompts(count: int, length: int, *seed: int) -> list[list[int]]:
    """Random words, the same for the same seed."""
    return np.random.default_rng(seed).integers(0, FIRST_SID, (count, length)).tolist()


class DictTrie:
    """Valid SIDs as dicts in dicts, the last one holding the row of the item."""

    def __init__(self, tokens_NL: np.ndarray) -> None:
        self.root: dict[int, Any] = {}
        self.rows = 0
        self.append(tokens_NL)

    def append(self, tokens_NL: np.ndarray) -> None:
        """Add items."""
        for *prefix, last in tokens_NL.tolist():
            node = self.root
            for token in prefix:
                node = node.setdefault(token, {})
            node[last] = self.rows
            self.rows += 1

    def below(self, prefix: Sequence[int]) -> Any:
        """What follows a prefix: a dict, or the row after a whole SID."""
        node = self.root
        for token in prefix:
            node = node[token]
        return node

    @property
    def nbytes(self) -> int:
        """Memory of the dicts; the integers are not counted."""
        total, waiting = 0, [self.root]
        while waiting:
            node = waiting.pop()
            total += node.__sizeof__()
            waiting += [child for child in node.values() if isinstance(child, dict)]
        return total


class HuggingFace:
    """``num_beams`` and ``prefix_allowed_tokens_fn``."""

    def __init__(self, model: Any, tokens_NL: np.ndarray) -> None:
        self.model, self.depth, self.trie = model, tokens_NL.shape[1], DictTrie(tokens_NL)

    @torch.inference_mode()
    def search(self, prompts: Sequence[Sequence[int]], width: int) -> tuple[Tensor, Tensor]:
        """Rows, best first, and their scores, of prompts of one length: each ``B K``."""
        start = len(prompts[0])
        ids = torch.tensor(prompts, device=self.model.device)
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), num_beams=width, num_return_sequences=width,
            max_new_tokens=self.depth, do_sample=False, length_penalty=0.0, early_stopping=False, pad_token_id=0,
            eos_token_id=None, output_scores=True, return_dict_in_generate=True,
            prefix_allowed_tokens_fn=lambda _, text: list(self.trie.below(text[start:].tolist())),
        )  # fmt: skip
        rows = [self.trie.below(sid) for sid in out.sequences[:, start:].tolist()]
        return torch.tensor(rows).view(len(prompts), width), out.sequences_scores.view(len(prompts), width).cpu()

    @torch.inference_mode()
    def think(self, prompts: Sequence[Sequence[int]], group: int, tokens: int, barred: Sequence[int]) -> Tensor:
        """The most probable thought of a fixed length after prompts of one length, each repeated: ``B*G T``."""
        ids = torch.tensor(prompts, device=self.model.device).repeat_interleave(group, 0)
        out = self.model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=tokens, do_sample=False, pad_token_id=0,
            eos_token_id=None, suppress_tokens=list(barred),
        )  # fmt: skip
        return out[:, ids.shape[1] :].cpu()


def same_lists(ours: tuple[Tensor, Tensor], usual: tuple[Tensor, Tensor]) -> bool:
    """Whether ranked lists hold the same rows in the same order, with scores equal to a thousandth."""
    count = len(usual[0])  # the usual way may have had fewer prompts: the first ones
    return torch.equal(ours[0][:count], usual[0]) and torch.allclose(ours[1][:count], usual[1], atol=1e-3, rtol=0)
