from pathlib import Path
from typing import Any

import pytest
import torch
from hf_like import llama_model, llama_tokenizer, qwen_model, qwen_tokenizer

from crsearch.config import ModelConfig
from crsearch.errors import ModelError
from crsearch.models import extend_vocabulary, generable, load_folder, tiny_model
from crsearch.sids.book import SidBook

TINY = ModelConfig(width=16, layers=2, heads=2, kv_heads=1, head_dim=8, feed_forward=24)
MODELS = {
    "qwen": (qwen_tokenizer, lambda rows: qwen_model(rows)),
    "qwen, untied": (qwen_tokenizer, lambda rows: qwen_model(rows, tied=False)),
    "llama": (llama_tokenizer, llama_model),
}


def weights(model: torch.nn.Module) -> list[torch.Tensor]:
    return [p.detach().clone() for p in model.parameters()]


@torch.no_grad()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits[0]


# -- tiny model -------------------------------------------------------------------------------------------------------
def test_the_same_seed_gives_the_same_weights_and_another_seed_others() -> None:
    one, two, three = (weights(tiny_model(TINY, 300, seed)) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, three, strict=True))


def test_building_leaves_the_global_random_state_alone() -> None:
    before = torch.get_rng_state()
    tiny_model(TINY, 300, 5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_tiny_model_is_qwen3_with_tied_embeddings() -> None:
    model = tiny_model(TINY, 300, 0, pad_id=7, end_id=8)
    assert type(model).__name__ == "Qwen3ForCausalLM"
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert model.get_input_embeddings().weight.shape == (300, 16)
    assert (model.config.pad_token_id, model.config.eos_token_id) == (7, 8)
    assert len(model.model.layers) == 2


# -- new vocabulary ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("spare", [0, 8, 100], ids=["no spare rows", "some spare rows", "more than enough"])
@pytest.mark.parametrize("kind", MODELS)
def test_old_logits_stay_and_new_rows_are_near_the_mean(kind: str, spare: int, sids: SidBook) -> None:
    make_tokenizer, make_model = MODELS[kind]
    tokenizer = make_tokenizer()
    old = len(tokenizer)
    model = make_model(old + spare)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[old:] = 9.0  # rows without a token must not count as old
    tied = model.get_input_embeddings().weight is model.get_output_embeddings().weight
    prompt = tokenizer("red phone case").input_ids
    before = logits(model, prompt)
    new = ["<think>", "</think>", *sids.vocabulary()]
    state = torch.get_rng_state()

    ids = extend_vocabulary(model, tokenizer, new, torch.Generator().manual_seed(0))

    assert torch.equal(torch.get_rng_state(), state)
    assert [tokenizer.convert_ids_to_tokens(i) for i in ids] == new
    after = logits(model, prompt)
    assert torch.allclose(after[:, :old], before[:, :old], atol=1e-5)
    weight = model.get_input_embeddings().weight
    assert (weight is model.get_output_embeddings().weight) == tied
    assert len(weight) == max(old + spare, len(tokenizer)) == model.config.vocab_size
    for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
        rows, mean = layer.weight[old : len(tokenizer)], layer.weight[:old].mean(0)
        assert (rows - mean).abs().max() < 0.4 * layer.weight[:old].std()
        assert len(rows.unique(dim=0)) == len(rows), "new rows differ from each other"
    probability = after[-1, old : len(tokenizer)].softmax(0)
    assert probability.max() < 2 * probability.min(), "new tokens start about equally likely"


def test_tokens_that_are_there_keep_their_rows() -> None:
    tokenizer = qwen_tokenizer()
    model = qwen_model(len(tokenizer))
    before = weights(model)
    ids = extend_vocabulary(model, tokenizer, ["<think>", "</think>"], torch.Generator())
    assert ids == tokenizer.convert_tokens_to_ids(["<think>", "</think>"])
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model), strict=True))


def test_rows_without_a_token_are_named() -> None:
    tokenizer = qwen_tokenizer()
    model = qwen_model(len(tokenizer) + 10)
    extend_vocabulary(model, tokenizer, ["<a_0>", "<a_1>"], torch.Generator())
    mask = generable(model, tokenizer)
    assert mask.sum() == len(tokenizer) and mask[: len(tokenizer)].all() and len(mask) - len(tokenizer) == 8


# -- folders ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", MODELS)
def test_a_hugging_face_folder_loads(kind: str, tmp_path: Path) -> None:
    make_tokenizer, make_model = MODELS[kind]
    tokenizer = make_tokenizer()
    model = make_model(len(tokenizer))
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    loaded, same = load_folder(tmp_path)
    ids = tokenizer("red phone case</think>").input_ids
    assert same("red phone case</think>").input_ids == ids
    assert torch.equal(logits(loaded, ids), logits(model, ids))
    assert not loaded.training


def test_unusable_folders_say_why(tmp_path: Path) -> None:
    def refused(match: str) -> None:
        with pytest.raises(ModelError, match=match):
            load_folder(tmp_path)

    with pytest.raises(ModelError, match=r"no config\.json"):
        load_folder(tmp_path / "absent")
    pickled = tmp_path / "model.pt"
    pickled.write_bytes(b"\x80\x04.")
    with pytest.raises(ModelError, match="a file, not a model folder"):
        load_folder(pickled)
    (tmp_path / "config.json").write_text('{"model_type": "qwen3"}')
    refused(r"model\.pt, a pickle, which is never loaded")
    (tmp_path / "model.safetensors").write_bytes(b"rubbish")
    refused("cannot load this qwen3 model")
    (tmp_path / "config.json").write_text('{"model_type": "mt5", "is_encoder_decoder": true}')
    refused(r"mt5 is an encoder-decoder, and a run trains causal models.*crsearch\.decode\.beam_search")
    (tmp_path / "config.json").write_text('{"model_type": "own", "auto_map": {"AutoModelForCausalLM": "x.Y"}}')
    refused("needs code of its own")
    (tmp_path / "config.json").write_text("{")
    refused("not valid JSON")
