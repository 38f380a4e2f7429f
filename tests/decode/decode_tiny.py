"""Small real models and catalogues for the tests of decoding."""

from functools import cache
from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

VOCABULARY = 64


@st.composite
def catalogues(draw: st.DrawFn, min_items: int = 1, max_items: int = 50) -> np.ndarray:
    """Distinct SIDs of one length, in any order, within the vocabulary of the tiny models."""
    depth = draw(st.integers(1, 4))
    codes = draw(st.integers(2, 8))
    if codes**depth < min_items:
        codes = min_items
    sid = st.tuples(*[st.integers(8 + 12 * level, 8 + 12 * level + codes - 1) for level in range(depth)])
    sids = draw(st.lists(sid, min_size=min_items, max_size=min(max_items, codes**depth), unique=True))
    return np.array(sids)


@cache
def model(family: str = "qwen3", seed: int = 0, scale: float = 6.0) -> Any:
    """A random causal model with grouped heads; larger weights make its choices sharp."""
    size: dict[str, Any] = {
        "vocab_size": VOCABULARY, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made: Any
        if family == "qwen3":
            made = Qwen3ForCausalLM(Qwen3Config(**size, head_dim=8))
        else:
            made = LlamaForCausalLM(LlamaConfig(**size))
    with torch.no_grad():
        for weight in made.parameters():
            if weight.ndim > 1:
                weight.mul_(scale)
    return made.eval()


def random_prompts(seed: int, lengths: tuple[int, ...]) -> list[list[int]]:
    """Prompts of given lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, n).tolist() for n in lengths]


@torch.no_grad()
def score_all(model: Any, prompt: list[int], tokens_NL: np.ndarray) -> torch.Tensor:
    """Log-probability of every item after a prompt, each in a plain forward pass of the whole text."""
    ids = torch.tensor([prompt + sid for sid in tokens_NL.tolist()])
    logprob = model(ids).logits.float().log_softmax(-1)[:, len(prompt) - 1 : -1]
    return logprob.gather(2, ids[:, len(prompt) :, None]).squeeze(2).sum(1)
