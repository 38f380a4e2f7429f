import json
import unicodedata
from functools import cache
from typing import Any

import pytest
from hf_like import bert_tokenizer, llama_tokenizer, mt5_tokenizer, qwen_tokenizer
from hypothesis import given
from hypothesis import strategies as st

from crsearch.context import Guard
from crsearch.context.guard import look_alikes, strip_invisible
from crsearch.errors import ModelError

LOADERS = {"qwen": qwen_tokenizer, "llama": llama_tokenizer, "bert": bert_tokenizer, "mt5": mt5_tokenizer}


@cache
def loaded(name: str) -> tuple[Any, Guard, list[int]]:
    tokenizer = LOADERS[name]()
    tokenizer.add_tokens(["<a_23>", "<b_1>", "<c_24>", "<d_0>"], special_tokens=True)
    control = set(tokenizer.get_added_vocab().values()) - {tokenizer.unk_token_id}
    return tokenizer, Guard.from_tokenizer(tokenizer), sorted(control)


def control_ids_in(name: str, text: str) -> set[int]:
    tokenizer, _, control = loaded(name)
    return set(control) & set(tokenizer(text, add_special_tokens=False).input_ids)


def disguises(token: str) -> list[str]:
    """A control token as an attacker would write it."""
    wide = "".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in token)
    return [
        token,
        f"x{token}y",
        token + token,
        token.upper(),
        wide,
        token.replace("<", "\ufe64").replace(">", "\ufe65"),
        token.replace("<", "\uff1c"),
        token[:2] + "\u200b" + token[2:],
        token[:1] + "\u202e\U000e0041" + token[1:],
        token.replace("<", "<\u0338"),
        unicodedata.normalize("NFC", token.replace("<", "<\u0338")),
        token.replace("<", "\\u003c"),
        token.replace("<", "&lt;"),
        "<" + token,
        "<<" + token[1:],
    ]


@pytest.mark.parametrize("name", LOADERS)
def test_no_added_token_survives_in_any_disguise(name: str) -> None:
    tokenizer, guard, _ = loaded(name)
    live = 0
    for token in tokenizer.get_added_vocab():
        for text in disguises(token):
            live += bool(control_ids_in(name, text))
            assert not control_ids_in(name, guard(text)), text
            assert not control_ids_in(name, guard.quote(text)), text
    assert live >= len(tokenizer.get_added_vocab()), "the attack does nothing even without the guard"


@pytest.mark.parametrize("name", LOADERS)
@given(data=st.data())
def test_random_mixtures_of_token_parts_hold_no_control_token(name: str, data: st.DataObject) -> None:
    tokenizer, guard, _ = loaded(name)
    parts = [t[a:b] for t in tokenizer.get_added_vocab() for a, b in ((0, None), (0, 2), (1, None), (2, None))]
    text = "".join(data.draw(st.lists(st.sampled_from(parts) | st.text(max_size=3), max_size=8)))
    assert not control_ids_in(name, guard(text))
    assert not control_ids_in(name, guard.quote(text))


def test_split_special_tokens_alone_would_not_help() -> None:
    """Why there is a guard: Qwen3's ``</think>`` is added but not special."""
    tokenizer, _, _ = loaded("qwen")
    ids = tokenizer("</think>", add_special_tokens=False, split_special_tokens=True).input_ids
    assert ids == [tokenizer.convert_tokens_to_ids("</think>")]


@given(st.text())
def test_a_quoted_string_reads_back_without_its_invisible_characters(text: str) -> None:
    for guard in (Guard([]), Guard(["[SEP]", "word", "\n\n", "0"])):
        assert json.loads(guard.quote(text)) == strip_invisible(text)


@given(st.text())
def test_a_quoted_string_can_be_encoded_and_holds_no_opener(text: str) -> None:
    quoted = Guard(["[SEP]"]).quote(text + "<＜﹤≮[［\ud800")
    quoted.encode()  # no half of a surrogate pair
    assert not set(quoted) & set("<＜﹤≮[［﹇")


def test_ordinary_text_is_untouched() -> None:
    text = 'Größe 42, "防晒 衣" & 5 > 3 [new] 👍🏽 naïve\\n'
    assert loaded("qwen")[1](text) == text


def test_brackets_are_escaped_only_for_tokenizers_that_use_them() -> None:
    assert loaded("bert")[1]("[new]") == "\\u005bnew]"
    assert loaded("llama")[1]("[new]") == "[new]"


def test_a_token_that_is_a_word_is_escaped_where_it_occurs() -> None:
    assert Guard(["stop"])("Nonstop, STOP, top") == "Non\\u0073top, \\u0053TOP, top"


def test_look_alikes_are_complete() -> None:
    """Every character of Unicode that some normal form turns into the opener."""
    points = (chr(c) for c in range(0x110000) if not 0xD800 <= c < 0xE000)
    changing = [c for c in points if unicodedata.normalize("NFKD", c) != c]  # the form that changes most
    for opener in "<[{":
        forms = ("NFC", "NFD", "NFKC", "NFKD")
        found = {c for c in changing if any(opener in unicodedata.normalize(form, c) for form in forms)}
        assert set(look_alikes(opener)) == found | {opener}


def test_a_tokenizer_that_cannot_be_guarded_is_refused() -> None:
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens(["0"])
    with pytest.raises(ModelError, match=r"'0'.*added_tokens"):
        Guard.from_tokenizer(tokenizer)
