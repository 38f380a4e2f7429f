"""Encoder-decoders (T5 type) through the same trie and beam."""

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from decode_tiny import VOCABULARY, random_prompts
from transformers import T5Config, T5ForConditionalGeneration

from crsearch.decode import Trie, beam_search
from crsearch.errors import ModelError

TOKENS = np.unique(np.random.default_rng(0).integers(8, 13, (60, 3)), axis=0)


@cache
def t5() -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        size: dict[str, Any] = {"vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2}
        config = T5Config(**size, num_heads=4, decoder_start_token_id=0, tie_word_embeddings=False)
        model = T5ForConditionalGeneration(config)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(2)
    return model.eval()


@torch.no_grad()
def score_all(prompt: list[int]) -> torch.Tensor:
    """Log-probability of every item, each by itself."""
    sids = torch.from_numpy(TOKENS)
    begin = torch.cat([torch.zeros(len(sids), 1, dtype=torch.int64), sids[:, :-1]], dim=1)
    logits = t5()(input_ids=torch.tensor([prompt]).expand(len(sids), -1), decoder_input_ids=begin).logits
    return logits.log_softmax(-1).gather(2, sids[..., None]).squeeze(2).sum(1)


def test_a_wide_beam_equals_scoring_every_item_for_prompts_of_different_lengths():
    prompts, N = random_prompts(0, (5, 12, 1)), len(TOKENS)
    rows_BK, scores_BK = beam_search(t5(), prompts, Trie.from_tokens(TOKENS), width=N)
    for prompt, rows, scores in zip(prompts, rows_BK, scores_BK, strict=True):
        truth = score_all(prompt)
        assert sorted(rows.tolist()) == list(range(N))
        torch.testing.assert_close(scores, truth[rows], atol=1e-4, rtol=0)


def test_same_list_as_hugging_face_at_the_same_width():
    trie, row_of = Trie.from_tokens(TOKENS), {tuple(s): r for r, s in enumerate(TOKENS.tolist())}
    for prompt in random_prompts(1, (4, 9)):
        out = t5().generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt), dtype=torch.int64), num_beams=4,
            num_return_sequences=4, max_new_tokens=3, do_sample=False, length_penalty=0.0, early_stopping=False,
            eos_token_id=None, prefix_allowed_tokens_fn=lambda _, ids: trie.allowed(ids[1:].tolist()).tolist(),
        )  # fmt: skip
        rows_1K, _ = beam_search(t5(), [prompt], trie, width=4)
        assert rows_1K[0].tolist() == [row_of[tuple(s)] for s in out[:, 1:].tolist()]


def test_a_missing_start_token_is_an_error(monkeypatch):
    monkeypatch.setattr(t5().config, "decoder_start_token_id", None)
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        beam_search(t5(), [[1]], Trie.from_tokens(TOKENS))
