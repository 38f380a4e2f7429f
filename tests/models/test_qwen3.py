"""Our Qwen3 = that of transformers with the same weights, and what it is not is left to transformers."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_like import qwen_model

from crsearch.config import ModelConfig
from crsearch.decode import PrefixStore, Trie, beam_search, think_then_rank
from crsearch.errors import ModelError
from crsearch.models import tiny_model
from crsearch.models.qwen3 import Qwen3, load_qwen3

WIDER = ModelConfig(width=32, layers=3, heads=4, kv_heads=2, head_dim=16, feed_forward=48)
PROMPTS = [list(range(5, 45)), [7, 3], list(range(9, 90))]
TRIE = Trie.from_tokens(np.array([[a, 100 + b, 200 + (a * b) % 7] for a in range(20, 30) for b in range(6)]))


def folder_with(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder, safe_serialization=True)
    return folder


def ours_of(model: Any, folder: Path) -> Qwen3:
    found = load_qwen3(folder_with(model, folder))
    assert found is not None
    return found


MODELS = {
    "tied": lambda: tiny_model(WIDER, 300, 1).eval(),
    "untied": lambda: qwen_model(300, tied=False).eval(),
    "bfloat16": lambda: tiny_model(WIDER, 300, 2).bfloat16().eval(),
}


@pytest.mark.parametrize("kind", MODELS)
@torch.no_grad()
def test_logits_and_parameters_are_those_of_transformers(kind: str, tmp_path: Path) -> None:
    usual = MODELS[kind]()
    ours = ours_of(usual, tmp_path)
    named = {name: tuple(p.shape) for name, p in usual.named_parameters()}
    assert {name: tuple(p.shape) for name, p in ours.named_parameters()} == named
    assert {p.dtype for p in ours.parameters()} == {p.dtype for p in usual.parameters()}
    ids = torch.tensor([PROMPTS[0], PROMPTS[0][::-1]])
    near = {"rtol": 0, "atol": 1e-2 if kind == "bfloat16" else 1e-5}
    torch.testing.assert_close(ours(ids).logits, usual(ids).logits, **near)
    vectors = usual.get_input_embeddings()(ids)
    torch.testing.assert_close(ours(inputs_embeds=vectors, logits_to_keep=1).logits, usual(ids).logits[:, -1:], **near)


@pytest.mark.parametrize("kind", ["tied", "untied"])
@pytest.mark.parametrize("cache", [True, False])
def test_beams_and_thoughts_are_those_of_transformers(kind: str, cache: bool, tmp_path: Path) -> None:
    usual = MODELS[kind]()
    ours = ours_of(usual, tmp_path)
    for width in (1, 7):
        (rows, scores), (theirs, told) = (beam_search(m, PROMPTS, TRIE, width, cache=cache) for m in (ours, usual))
        assert torch.equal(rows, theirs)
        torch.testing.assert_close(scores, told, rtol=0, atol=1e-5)
    here, there = (think_then_rank(m, PROMPTS, TRIE, close_id=4, max_tokens=12) for m in (ours, usual))
    assert here.thoughts == there.thoughts and torch.equal(here.rows_BGK, there.rows_BGK)


def test_prompts_that_a_store_holds_give_the_same_lists(tmp_path: Path) -> None:
    usual = MODELS["tied"]()
    ours, store = ours_of(usual, tmp_path), PrefixStore(1 << 20)
    expected = beam_search(usual, PROMPTS, TRIE, 5)[0]
    assert all(torch.equal(beam_search(ours, PROMPTS, TRIE, 5, store=store)[0], expected) for _ in range(2))
    assert store.stats.tokens_reused > 0
    assert ours.attention is None


@pytest.mark.parametrize(
    "changes",
    [
        {"architectures": ["Qwen3MoeForCausalLM"]},
        {"model_type": "llama"},
        {"hidden_act": "gelu"},
        {"attention_bias": True},
        {"layer_types": ["full_attention", "sliding_attention", "full_attention"]},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0}},
        {"quantization_config": {"bits": 8}},
        {"dtype": "bfloat16"},
        {"vocab_size": 301},
        {"num_hidden_layers": 2},
    ],
    ids=str,
)
def test_another_model_is_left_to_transformers(changes: dict[str, Any], tmp_path: Path) -> None:
    folder_with(MODELS["tied"](), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert load_qwen3(tmp_path) is not None
    (tmp_path / "config.json").write_text(json.dumps({**config, **changes}))
    assert load_qwen3(tmp_path) is None


def test_weights_in_several_files_are_left_to_transformers(tmp_path: Path) -> None:
    MODELS["tied"]().save_pretrained(tmp_path, max_shard_size="20KB")
    assert load_qwen3(tmp_path) is None


@torch.no_grad()
def test_weights_have_memory_of_their_own(tmp_path: Path) -> None:
    ours = ours_of(MODELS["tied"](), tmp_path)
    before = ours(torch.tensor([PROMPTS[0]])).logits
    with (tmp_path / "model.safetensors").open("r+b") as file:
        file.seek(-4000, 2)
        file.write(b"\x7f" * 4000)
    assert torch.equal(ours(torch.tensor([PROMPTS[0]])).logits, before)


def test_a_folder_that_may_not_be_loaded_is_refused(tmp_path: Path) -> None:
    folder_with(MODELS["tied"](), tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModel": "own.Model"}}))
    with pytest.raises(ModelError, match="code of its own"):
        load_qwen3(tmp_path)
