from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from shop import contexts

from crsearch.config import ContextConfig
from crsearch.context import Serialiser
from crsearch.context.prompts import CONTROL
from crsearch.models import train_tokenizer
from crsearch.records.store import Catalogue
from crsearch.sids.book import SidBook


@given(text=st.text())
def test_every_text_survives(text: str, tokenizer: Any) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert tokenizer.decode(ids) == text
    assert tokenizer.unk_token_id is None


@pytest.mark.parametrize(
    "text",
    ["a , b .", " two  spaces ", "防晒 衣iPhone15", "हिन्दी", "I 'm n't", "\u2028\t\n", "e\u0301", "\x00", "👩‍👩‍👧"],
)
def test_hard_texts_survive(text: str, tokenizer: Any) -> None:
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False).input_ids) == text


def test_control_tokens_and_semantic_ids_are_one_token_each(tokenizer: Any, sids: SidBook) -> None:
    words = [*CONTROL, *sids.vocabulary()]
    ids = tokenizer(words, add_special_tokens=False).input_ids
    first = len(tokenizer) - len(words)
    assert ids == [[first + n] for n in range(len(words))], "they come last, in order"
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|pad|>", "<|end|>")


def test_json_glue_is_one_token(tokenizer: Any) -> None:
    text = '{"title":"red case","sid":"<a_1><b_0><c_0><d_0>"}],"skip":[{"title":"blue lamp"'
    tokens = [tokenizer.decode([i]) for i in tokenizer(text, add_special_tokens=False).input_ids]
    assert tokens[2:-3] == [" case", '","sid":"', "<a_1>", "<b_0>", "<c_0>", "<d_0>", '"}],"skip":[{"title":"']


def test_a_context_of_eight_searches_costs_one_token_per_word_code_and_glue(
    catalogue: Catalogue, sids: SidBook, tokenizer: Any
) -> None:
    """Three items of five words and four codes per search: nine tokens each are the least there can be."""
    config = ContextConfig(time="month", token_budget=10_000)
    s = Serialiser(catalogue, sids, config, tokenizer)
    for context in contexts(catalogue, 20):
        encoded = s.context(context)
        items = sum(len(search.shown) for search in context.history)
        glue = items * 2 + len(context.history) * 2 + 4  # around each title, each query; profile and now
        words = items * (5 + 4) + len(context.history) * (2 + 1) + 10
        assert len(encoded.ids) <= glue + words


def test_the_vocabulary_is_no_larger_than_asked_and_the_same_each_time(catalogue: Catalogue, sids: SidBook) -> None:
    texts = list(Serialiser(catalogue, sids, ContextConfig()).texts(contexts(catalogue, 20)))
    one, two = (train_tokenizer(iter(texts), 400, sids.vocabulary()) for _ in range(2))
    assert len(one) == 400 + len(CONTROL) + len(sids.vocabulary())
    assert one.get_vocab() == two.get_vocab()


def test_control_tokens_in_the_texts_teach_nothing(sids: SidBook) -> None:
    learned = train_tokenizer(["<think><a_1></think>" * 50] * 50, 400, sids.vocabulary())
    assert not [t for t in learned.get_vocab() if "think" in t and t not in CONTROL]


def test_numbers_are_cut_into_short_groups_and_chinese_from_latin(tokenizer: Any) -> None:
    def pieces(text: str) -> list[str]:
        found = tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)
        return [text[a:b] for _, (a, b) in found]

    assert pieces("iPhone15手机壳 2025-06-01 1999.50") == [
        *("iPhone", "15", "手机壳", " 2025-06", "-", "01", " 19", "99", ".", "50"),
    ]
    assert pieces('"},{"title":"a","x') == ['"},{"title":"', "a", '","', "x"]
    assert pieces('a \\u003cb \\"c') == ["a", " \\u003c", "b", ' \\"', "c"]


def test_a_word_is_the_same_token_at_the_start_of_a_string_and_within(tokenizer: Any) -> None:
    first = tokenizer('{"title":"blue lamp"}').input_ids
    within = tokenizer("Wants blue lamp").input_ids
    blue = tokenizer(" blue").input_ids
    assert len(blue) == 1
    assert blue[0] in first
    assert blue[0] in within
    assert blue[0] in tokenizer('["lamp","blue"]').input_ids
