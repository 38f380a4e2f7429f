"""Attention in rows: by products, in blocks and in pieces it is the attention of the whole row."""

import pytest
import torch
from torch.nn import functional as F
from transformers import Gemma3ForCausalLM, Gemma3TextConfig, Qwen3Config, Qwen3ForCausalLM

from crsearch.errors import ModelError
from crsearch.train import attention
from crsearch.train.attention import RowMasks, explicit_attention, row_attention
from crsearch.train.tree import Tree, pack, target_logprobs

SIZES = {
    "vocab_size": 50, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 128,
}  # fmt: skip


def random_rows(*widths, rows=3):
    """Query, key, value of 4 and 2 heads for rows of these widths and 5 tokens of no row; a random causal mask."""
    generator = torch.Generator().manual_seed(0)
    total = sum(rows * w for w in widths) + 5
    qkv = [torch.randn(h, total, 8, generator=generator) for h in (4, 2, 2)]
    masks = [
        (torch.rand(rows, w, w, generator=generator) < 0.5).tril() | torch.eye(w, dtype=torch.bool) for w in widths
    ]
    return qkv, masks


def row_by_row(qkv, masks, scaling):
    """The slow, obvious way: torch's attention on each row by itself."""
    out, start = [], 0
    for mask in [m for width in masks for m in width]:
        query, key, value = (x[:, start : start + len(mask)] for x in qkv)
        key, value = key.repeat_interleave(2, 0), value.repeat_interleave(2, 0)
        out.append(F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=scaling).transpose(0, 1))
        start += len(mask)
    return torch.cat([*out, out[0].new_zeros(5, 4, 8)])


@pytest.mark.parametrize("scores", [1, 500, 2**20])
def test_rows_of_several_widths_equal_each_row_by_itself(monkeypatch, scores):
    monkeypatch.setattr(attention, "BLOCK", 16)
    monkeypatch.setattr(attention, "SCORES_AT_ONCE", scores)
    qkv, masks = random_rows(40, 12)
    got = RowMasks(masks, 40).attend(*qkv, 0.3)
    torch.testing.assert_close(got, row_by_row(qkv, masks, 0.3), atol=1e-6, rtol=1e-5)


def test_products_equal_torchs_attention():
    (query, key, value), masks = random_rows(9, rows=1)
    query, key, value = (x[None, :, :9] for x in (query, key, value))
    bias = torch.zeros(1, 1, 9, 9).masked_fill(~masks[0][:, None], -torch.inf)
    want = F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=0.3, enable_gqa=True)
    torch.testing.assert_close(explicit_attention(query, key, value, bias, 0.3), want, atol=1e-6, rtol=1e-5)


def test_bf16_is_the_same_but_for_rounding():
    qkv, masks = random_rows(40, 12)
    with torch.autocast("cpu", torch.bfloat16):
        got = RowMasks(masks, 40).attend(*qkv, 0.3)
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got.float(), row_by_row(qkv, masks, 0.3), atol=0.03, rtol=0.02)


def test_a_model_gets_its_own_attention_back():
    model = Qwen3ForCausalLM(Qwen3Config(**SIZES))
    before = model.config._attn_implementation
    with row_attention(model, RowMasks([torch.ones(1, 1, 1, dtype=torch.bool)], 1)):
        assert model.config._attn_implementation == attention.NAME
    assert model.config._attn_implementation == before


def test_what_rows_cannot_do_is_refused():
    trees = pack([Tree([1] * 20, trunk_loss=[1.0] * 20)])
    window = Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, sliding_window=16))
    with pytest.raises(ModelError, match="window of 16 tokens and the longest text has 20"):
        target_logprobs(window, trees)
    dropping = Qwen3ForCausalLM(Qwen3Config(**SIZES, attention_dropout=0.5)).train()
    with pytest.raises(ModelError, match=r"drops out 0\.5"):
        target_logprobs(dropping, trees)


def test_blocks_of_keys_that_nobody_sees_are_left_out(monkeypatch):
    monkeypatch.setattr(attention, "BLOCK", 4)
    mask = torch.eye(12, dtype=torch.bool)
    mask[:, 0] = True
    (blocks,) = RowMasks([mask[None]], 12).blocks(torch.float32)
    assert [keys for keys, _ in blocks] == [[0], [0, 1], [0, 2]]
    assert [tuple(bias.shape) for _, bias in blocks] == [(1, 1, 4, 4), (1, 1, 4, 8), (1, 1, 4, 8)]
