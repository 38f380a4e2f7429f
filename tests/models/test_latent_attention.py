"""The attention layer of a latent thought: against its formula, its invariances, and its file."""

import math

import pytest
import torch
from hf_like import qwen_model
from torch import nn

from crsearch.errors import ModelError
from crsearch.models.latent import LatentAttention, load_attention, rotate, save_attention, weights_digest


def layer(width: int = 8, seed: int = 0) -> LatentAttention:
    return LatentAttention(width).initialise(0.5, torch.Generator().manual_seed(seed))


def states(*shape: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def turned(vector: torch.Tensor, position: int, base: float = 1_000.0) -> torch.Tensor:
    """Rotary positions one pair at a time, as complex numbers."""
    D = len(vector)
    out = torch.empty(D)
    for i in range(D // 2):
        angle = position * base ** (-2 * i / D)
        turn = complex(float(vector[i]), float(vector[i + D // 2])) * complex(math.cos(angle), math.sin(angle))
        out[i], out[i + D // 2] = turn.real, turn.imag
    return out


@torch.no_grad()
def test_a_thought_is_the_softmax_mean_of_values_seen_from_the_last_position():
    attention, hidden_TD = layer(), states(5, 8)
    query = turned(attention.query(hidden_TD[4]), 4)
    scores = torch.stack([query @ turned(attention.key(h), t) for t, h in enumerate(hidden_TD)]) / math.sqrt(8)
    by_hand = scores.softmax(0) @ attention.value(hidden_TD)
    torch.testing.assert_close(attention(hidden_TD[None], torch.tensor([5]))[0], by_hand, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_fills_a_row_up_is_not_seen():
    attention, hidden_BTD = layer(), states(2, 6, 8)
    padded = torch.cat([hidden_BTD, 100 * states(2, 3, 8, seed=2)], dim=1)
    short = attention(padded, torch.tensor([4, 6]))
    torch.testing.assert_close(short[0], attention(hidden_BTD[:1, :4], torch.tensor([4]))[0])
    torch.testing.assert_close(short[1], attention(hidden_BTD[1:], torch.tensor([6]))[0])


def test_the_product_of_turned_vectors_depends_on_their_distance_only():
    a, b = states(1, 8, seed=3), states(1, 8, seed=4)
    product = [
        float((rotate(a, torch.tensor([p]), 1_000.0) * rotate(b, torch.tensor([p + 3]), 1_000.0)).sum())
        for p in (0, 5, 40)
    ]
    assert product == pytest.approx([product[0]] * 3, abs=1e-4)
    assert torch.equal(rotate(a, torch.tensor([0]), 1_000.0), a)


def test_an_odd_width_is_refused():
    with pytest.raises(ModelError, match="latent thought over 7 numbers"):
        LatentAttention(7)


def test_a_saved_layer_comes_back_bit_by_bit_for_its_own_model_only(tmp_path):
    model, attention = qwen_model(40), LatentAttention(32, base=500.0)
    file = tmp_path / "m.attention.safetensors"
    save_attention(attention, model, file)
    loaded = load_attention(file, model)
    assert loaded.base == 500.0
    assert all(torch.equal(a, b) for a, b in zip(attention.parameters(), loaded.parameters(), strict=True))
    with torch.no_grad():
        model.get_input_embeddings().weight[3, 3] += 1e-3
    with pytest.raises(ModelError, match="trained on another model"):
        load_attention(file, model)


def test_a_missing_or_broken_file_says_what_to_do(tmp_path):
    model, file = qwen_model(40), tmp_path / "m.attention.safetensors"
    with pytest.raises(ModelError, match="train latent-r3 first"):
        load_attention(file, model)
    save_attention(LatentAttention(32), model, file)
    file.write_bytes(file.read_bytes()[:-5])
    with pytest.raises(ModelError, match="broken attention layer"):
        load_attention(file, model)


def test_the_digest_of_weights_tells_values_types_and_names_apart():
    a, b = nn.Linear(2, 2), nn.Linear(2, 2)
    b.load_state_dict(a.state_dict())
    assert weights_digest(a) == weights_digest(b)
    assert weights_digest(a) != weights_digest(a.to(torch.bfloat16))
    assert weights_digest(nn.Sequential(b)) != weights_digest(b)
