"""The tokenizer without transformers gives what transformers gives, or is not used."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from shop import contexts

from crsearch.config import ContextConfig, ModelConfig, Settings
from crsearch.context import Prompts, Serialiser
from crsearch.errors import ModelError
from crsearch.models import build_model, load_folder, save_bundle
from crsearch.models.tokenizer_file import FileTokenizer, load_tokenizer, read_tokenizer

TINY = ModelConfig(width=16, layers=1, heads=2, kv_heads=1, head_dim=8, feed_forward=24, vocabulary=600)
TEXTS = [
    "", "a", '{"now":{"query":"phone case"}}', '{"now":{"query":"防晒 衣"}}<think>', "冰袖👩‍👩‍👧 🇨🇳 e\u0301 é",
    "<a_1><b_0> </think><|end|><|pad|> <|user|>", "\\u003cthink> \ud7ff \x00 \t\n  x ", "<A_1> < a_1> <think", "½ ﬁ Ⅷ",
]  # fmt: skip


@pytest.fixture(scope="module")
def saved(catalogue: Any, sids: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "base"
    texts = Serialiser(catalogue, sids, ContextConfig()).texts(contexts(catalogue, 20))
    save_bundle(build_model(Settings(model=TINY), texts, sids), folder)
    return folder


@pytest.fixture(scope="module")
def both(saved: Path) -> tuple[FileTokenizer, Any]:
    ours = load_tokenizer(saved)
    assert isinstance(ours, FileTokenizer)
    return ours, load_folder(saved)[1]


def test_it_says_of_itself_what_transformers_says(both: tuple[FileTokenizer, Any]) -> None:
    ours, usual = both
    names = ("bos", "eos", "unk", "pad")
    for name in (*(f"{n}_token" for n in names), *(f"{n}_token_id" for n in names), "chat_template", "is_fast"):
        assert getattr(ours, name) == getattr(usual, name), name
    assert set(ours.all_special_tokens) == set(usual.all_special_tokens)
    assert ours.get_vocab() == usual.get_vocab() and ours.get_added_vocab() == usual.get_added_vocab()
    assert len(ours) == len(usual)
    for token in ("<think>", "<a_1>", "no such token"):
        assert ours.convert_tokens_to_ids(token) == usual.convert_tokens_to_ids(token)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text())
def test_ids_and_texts_are_those_of_transformers(both: tuple[FileTokenizer, Any], text: str) -> None:
    ours, usual = both
    for tried in (text, *TEXTS):
        ids = usual(tried, add_special_tokens=False).input_ids
        assert ours(tried, add_special_tokens=False).input_ids == ids
        assert ours(tried).input_ids == usual(tried).input_ids
        assert ours.decode(ids) == usual.decode(ids)
    assert ours(TEXTS, add_special_tokens=False).input_ids == usual(TEXTS, add_special_tokens=False).input_ids


def test_prompts_of_guarded_contexts_are_the_same(both: tuple[FileTokenizer, Any], catalogue: Any, sids: Any) -> None:
    made = [Prompts(Serialiser(catalogue, sids, ContextConfig(), t), t, language="zh") for t in both]
    asked = contexts(catalogue, 30)
    hostile = "</think><a_1> ＜think＞ 防晒衣👩‍👩‍👧 \u202e <|end|>"
    asked += [type(asked[0])(search_id="x", user_id="", query=hostile, profile={hostile: hostile})]
    ours, usual = ([p.trunk(c).ids for c in asked] for p in made)
    assert ours == usual
    assert [made[0].suffix(t) for t in ("think", "direct", "name")] == [
        made[1].suffix(t) for t in ("think", "direct", "name")
    ]
    assert made[0].thought(hostile) == made[1].thought(hostile)


def test_a_chat_template_or_other_rules_are_left_to_transformers(saved: Path, tmp_path: Path) -> None:
    def changed(name: str, text: str) -> Path:
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        for file in saved.iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
        (folder / name).write_text(text)
        return folder

    config = json.loads((saved / "tokenizer_config.json").read_text())
    assert read_tokenizer(changed("chat_template.jinja", "{{ messages }}")) is None
    assert read_tokenizer(changed("tokenizer_config.json", json.dumps({**config, "eos_token": "<|user|>"}))) is None
    rules = json.loads((saved / "tokenizer.json").read_text())
    other = changed("tokenizer.json", json.dumps({**rules, "normalizer": None}))
    assert read_tokenizer(other) is None
    with pytest.raises(ModelError, match="not the one this model was saved with"):
        load_tokenizer(other)
