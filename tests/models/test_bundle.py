import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hf_like import llama_model, llama_tokenizer, qwen_model, qwen_tokenizer
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop import book, contexts, shop

from crsearch.config import ContextConfig, ModelConfig, Settings
from crsearch.context import Prompts, Serialiser
from crsearch.errors import ModelError
from crsearch.models import (
    Bundle,
    build_model,
    bundle_of,
    load_bundle,
    load_for_decoding,
    save_bundle,
    tiny_model,
    verify,
)
from crsearch.models.bundle import forbidden_in_thoughts
from crsearch.models.qwen3 import Qwen3
from crsearch.models.tokenizer_file import FileTokenizer
from crsearch.records.store import Catalogue
from crsearch.runs import file_digest
from crsearch.sids.book import SidBook

LOADERS = (load_bundle, load_for_decoding)
TINY = ModelConfig(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, feed_forward=24, vocabulary=600)


@pytest.fixture(scope="module")
def bundle(catalogue: Catalogue, sids: SidBook) -> Bundle:
    texts = Serialiser(catalogue, sids, ContextConfig()).texts(contexts(catalogue, 20))
    return build_model(Settings(model=TINY), texts, sids)


@pytest.fixture(scope="module")
def saved(bundle: Bundle, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    save_bundle(bundle, folder)
    return folder


@torch.no_grad()
def logits(model: Any, ids: list[int]) -> torch.Tensor:
    return model(torch.tensor([ids])).logits


def test_sid_ids_are_the_tokens_of_each_row(bundle: Bundle, sids: SidBook) -> None:
    assert bundle.sid_ids_NL.shape == (len(sids), 4) and bundle.sid_ids_NL.dtype == np.int64
    assert [bundle.tokenizer.decode(row) for row in bundle.sid_ids_NL] == [sids.sid(n) for n in range(len(sids))]


def test_control_ids_are_all_that_is_no_text(bundle: Bundle, sids: SidBook) -> None:
    names = set(bundle.tokenizer.convert_ids_to_tokens(bundle.control_ids))
    assert names == {"<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<think>", "</think>", *sids.vocabulary()}
    ids = (bundle.pad_id, bundle.end_id, bundle.think_id, bundle.close_id)
    assert bundle.tokenizer.convert_ids_to_tokens(list(ids)) == ["<|pad|>", "<|end|>", "<think>", "</think>"]


def test_a_saved_bundle_loads_unchanged(bundle: Bundle, saved: Path, sids: SidBook) -> None:
    loaded = load_bundle(saved, sids)
    ids = bundle.tokenizer('{"now":{"query":"case"}}<think>').input_ids
    assert loaded.tokenizer('{"now":{"query":"case"}}<think>').input_ids == ids
    assert torch.equal(logits(loaded.model, ids), logits(bundle.model, ids))
    assert (loaded.sid_ids_NL == bundle.sid_ids_NL).all()
    assert replace(loaded, model=0, tokenizer=0, sid_ids_NL=bundle.sid_ids_NL) == replace(
        bundle, model=0, tokenizer=0, sid_ids_NL=bundle.sid_ids_NL
    )
    assert loaded.fingerprint == bundle.fingerprint


def test_a_bundle_that_only_decodes_is_the_same_without_transformers(
    bundle: Bundle, saved: Path, sids: SidBook
) -> None:
    loaded = load_for_decoding(saved, sids)
    assert isinstance(loaded.model, Qwen3) and isinstance(loaded.tokenizer, FileTokenizer)
    assert loaded.fingerprint == bundle.fingerprint
    assert (loaded.sid_ids_NL == bundle.sid_ids_NL).all()
    assert loaded.control_ids == bundle.control_ids
    assert forbidden_in_thoughts(loaded) == forbidden_in_thoughts(bundle)
    ids = bundle.tokenizer('{"now":{"query":"case"}}<think>').input_ids
    torch.testing.assert_close(logits(loaded.model, ids), logits(bundle.model, ids), rtol=0, atol=1e-5)


def test_the_folder_is_an_ordinary_hugging_face_folder(bundle: Bundle, saved: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(saved)
    model = AutoModelForCausalLM.from_pretrained(saved)
    ids = tokenizer("red case<a_1>").input_ids
    assert ids == bundle.tokenizer("red case<a_1>").input_ids
    assert torch.equal(logits(model, ids), logits(bundle.model, ids))
    assert {p.name for p in saved.iterdir()} >= {
        *("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"),
        *("crsearch.json", "manifest.json"),
    }
    assert not [p for p in saved.iterdir() if p.suffix in {".bin", ".pt", ".pkl"}]


def test_the_fingerprint_is_of_the_family_not_of_the_weights(bundle: Bundle, sids: SidBook) -> None:
    other = tiny_model(TINY, len(bundle.tokenizer), 99)
    bundle.tokenizer(["a", "b c d"], padding=True)  # sets the padding of the tokenizer's core
    assert bundle_of(other, bundle.tokenizer, sids).fingerprint == bundle.fingerprint
    wider = tiny_model(TINY.model_copy(update={"width": 24}), len(bundle.tokenizer), 99)
    assert bundle_of(wider, bundle.tokenizer, sids).fingerprint != bundle.fingerprint


def test_a_book_that_grew_still_fits(saved: Path, sids: SidBook) -> None:
    grown = sids.append(["new"], np.zeros((1, 2), dtype=np.float32))
    assert len(load_bundle(saved, grown).sid_ids_NL) == len(sids) + 1


# -- mixtures ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("load", LOADERS)
def test_other_semantic_ids_are_refused(load: Any, saved: Path) -> None:
    with pytest.raises(ModelError, match="belongs to other semantic IDs"):
        load(saved, book(shop(30)))


def reseal(folder: Path) -> None:
    """Make the manifest of a folder right again."""
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["sha256"] = {name: file_digest(folder / name) for name in manifest["sha256"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize("load", LOADERS)
def test_another_tokenizer_or_model_in_the_folder_is_refused(
    load: Any, bundle: Bundle, sids: SidBook, catalogue: Catalogue, tmp_path: Path
) -> None:
    texts = [item.title for item in catalogue] * 3
    other = build_model(Settings(model=TINY.model_copy(update={"vocabulary": 300, "layers": 2})), texts, sids)
    for part, files in {"tokenizer": ["tokenizer.json"], "model": ["config.json", "model.safetensors"]}.items():
        save_bundle(bundle, tmp_path / part)
        save_bundle(other, tmp_path / "other")
        for name in files:
            (tmp_path / part / name).write_bytes((tmp_path / "other" / name).read_bytes())
        reseal(tmp_path / part)
        with pytest.raises(ModelError, match=f"the {part} is not the one|embedding rows"):
            load(tmp_path / part, sids)


def test_fewer_rows_than_tokens_are_refused_with_both_numbers(bundle: Bundle, sids: SidBook) -> None:
    with pytest.raises(ModelError, match=rf"300 embedding rows, the tokenizer {len(bundle.tokenizer):,} tokens"):
        bundle_of(tiny_model(TINY, 300, 0), bundle.tokenizer, sids)


def test_a_tokenizer_without_the_semantic_ids_is_refused(sids: SidBook) -> None:
    tokenizer = qwen_tokenizer()
    with pytest.raises(ModelError, match="lacks the token <a_0>"):
        bundle_of(qwen_model(len(tokenizer)), tokenizer, sids)


# -- damage -----------------------------------------------------------------------------------------------------------
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_is_noticed(data: st.DataObject, saved: Path) -> None:
    path = data.draw(st.sampled_from(sorted(saved.iterdir())))
    content = path.read_bytes()
    place, bit = data.draw(st.integers(0, len(content) - 1)), data.draw(st.integers(0, 7))
    damaged = bytearray(content)
    damaged[place] ^= 1 << bit
    path.write_bytes(damaged)
    try:
        with pytest.raises(ModelError):
            verify(saved)
    finally:
        path.write_bytes(content)
    verify(saved)


@pytest.mark.parametrize("damage", ["truncated", "empty", "missing"])
def test_every_damaged_file_is_noticed(damage: str, saved: Path) -> None:
    for path in sorted(saved.iterdir()):
        content = path.read_bytes()
        if damage == "missing":
            path.unlink()
        else:
            path.write_bytes(content[:-1] if damage == "truncated" else b"")
        with pytest.raises(ModelError, match=path.name):
            verify(saved)
        path.write_bytes(content)
    verify(saved)


def test_a_file_too_many_is_noticed(saved: Path) -> None:
    extra = saved / "model.bin"
    extra.write_bytes(b"\x80")
    with pytest.raises(ModelError, match=r"model\.bin: not part"):
        verify(saved)
    extra.unlink()


@pytest.mark.parametrize("load", LOADERS)
def test_what_is_no_bundle_is_refused(load: Any, tmp_path: Path, sids: SidBook) -> None:
    for path in (tmp_path, tmp_path / "absent", tmp_path / "x.pt"):
        if path.suffix:
            path.write_bytes(b"\x80")
        with pytest.raises(ModelError, match="not a saved model"):
            load(path, sids)


def test_an_interrupted_save_leaves_the_old_model(bundle: Bundle, sids: SidBook, tmp_path: Path) -> None:
    save_bundle(bundle, tmp_path / "m")
    broken = replace(bundle, tokenizer=None)
    with pytest.raises(AttributeError):
        save_bundle(broken, tmp_path / "m")
    assert load_bundle(tmp_path / "m", sids).fingerprint == bundle.fingerprint
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_saving_again_replaces_the_model(bundle: Bundle, sids: SidBook, tmp_path: Path) -> None:
    save_bundle(bundle, tmp_path / "m")
    other = tiny_model(TINY, len(bundle.tokenizer), 99)
    save_bundle(bundle_of(other, bundle.tokenizer, sids), tmp_path / "m")
    assert torch.equal(logits(load_bundle(tmp_path / "m", sids).model, [1, 2]), logits(other, [1, 2]))


# -- building ---------------------------------------------------------------------------------------------------------
def test_building_twice_gives_the_same_bundle(bundle: Bundle, catalogue: Catalogue, sids: SidBook) -> None:
    texts = Serialiser(catalogue, sids, ContextConfig()).texts(contexts(catalogue, 20))
    again = build_model(Settings(model=TINY), texts, sids)
    assert again.fingerprint == bundle.fingerprint
    assert torch.equal(logits(again.model, [1, 2, 3]), logits(bundle.model, [1, 2, 3]))


@pytest.mark.parametrize("kind", ["qwen", "llama"])
def test_a_pretrained_folder_becomes_a_bundle(kind: str, catalogue: Catalogue, sids: SidBook, tmp_path: Path) -> None:
    tokenizer = qwen_tokenizer() if kind == "qwen" else llama_tokenizer()
    model = (qwen_model if kind == "qwen" else llama_model)(len(tokenizer) + 200).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "given")
    tokenizer.save_pretrained(tmp_path / "given")
    settings_ = Settings(model=ModelConfig(path=str(tmp_path / "given")))
    built = build_model(settings_, [], sids)
    save_bundle(built, tmp_path / "base")
    decoding = load_for_decoding(tmp_path / "base", sids)
    assert isinstance(decoding.model, Qwen3) is (kind == "qwen")
    loaded = load_bundle(tmp_path / "base", sids)
    assert loaded.parts == built.parts == decoding.parts
    assert loaded.control_ids == decoding.control_ids
    assert next(loaded.model.parameters()).dtype == torch.float32
    assert loaded.pad_id != loaded.end_id
    prompts = Prompts(Serialiser(catalogue, sids, ContextConfig(), loaded.tokenizer), loaded.tokenizer)
    ids = prompts.trunk(contexts(catalogue, 1)[0]).ids + prompts.suffix("think")
    assert ids[-1] == loaded.think_id
    assert logits(loaded.model, ids).isfinite().all()
    dead = set(range(len(loaded.tokenizer), loaded.model.config.vocab_size))
    assert dead and dead <= set(loaded.control_ids)
