"""Queries: one form, nothing invisible, bounded without cutting a character in two."""

import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.serve.problems import Problem
from crsearch.serve.text import clean_id, clean_query, clean_words, cut_text

FAMILY = "👨\u200d👩\u200d👧\u200d👦"


def cleaned(text, chars=256, size=1_024):
    return clean_query(text, chars, size)


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_equal_queries_become_one_form(form):
    assert cleaned(unicodedata.normalize(form, "Café Ångström 한국어")).text == "Café Ångström 한국어"


def test_full_width_letters_stay_what_they_are():
    assert cleaned("ｉｐｈｏｎｅ　１５").text == "ｉｐｈｏｎｅ １５"


@pytest.mark.parametrize(
    ("text", "clean", "sanitized"),
    [
        ("a\0b", "ab", 1),
        ("\x1b[31mred\x1b[0m", "[31mred[0m", 2),
        ("a\u202eb\u200bc\U000e0041", "abc", 3),
        ("line\nbreak\r\n\ttab\u2028end", "line break tab end", 0),
        ("  many   spaces　here ", "many spaces here", 0),
        ("a\ud800b\ufffe", "ab", 2),
        ("\ufeffcase", "case", 1),
        ("<a\u200b_23>", "<a_23>", 1),
        ("\u200b a \u200b b", "a b", 2),
    ],
)
def test_what_cannot_be_seen_is_removed_and_counted(text, clean, sanitized):
    found = cleaned(text)
    assert (found.text, found.sanitized) == (clean, sanitized)


@pytest.mark.parametrize("text", ["", "   ", "\n\t", "\0\x01\x02", "\u200b\u202e", "\ud800"])
def test_a_query_of_nothing_is_refused(text):
    with pytest.raises(Problem) as refused:
        cleaned(text)
    assert (refused.value.code, refused.value.field) == ("empty_query", "query")


@pytest.mark.parametrize("text", ["!?", "...", "？！", "*", "👟", "\u0301"])
def test_punctuation_only_is_allowed_and_told(text):
    assert cleaned(text).is_wordless
    assert not cleaned(f"{text} a").is_wordless
    assert not cleaned(f"{text} 壳").is_wordless


@pytest.mark.parametrize("text", ["𠀀" * 256, "a" + "\u0301" * 255, FAMILY * 32, "x" * 1_024])
def test_the_byte_limit_decides_what_is_refused_and_the_rest_is_cut(text):
    found = cleaned(text)
    assert len(found.text) <= 256 and len(found.text) + found.cut + found.sanitized in (len(text), len(text) - 1)


@pytest.mark.parametrize(
    "text", ["x" * 1_025, "𠀀" * 257, "a" + "\u0301" * 60_000, "x" * 100_000, "\u0316\u0301" * 50_000]
)
def test_a_query_of_too_many_bytes_is_refused_fast(text):
    begin = time.thread_time()
    with pytest.raises(Problem) as refused:
        cleaned(text)
    assert refused.value.code == "query_too_long"
    assert time.thread_time() - begin < 0.05


@pytest.mark.parametrize(
    ("text", "chars", "kept"),
    [
        ("abcd", 4, "abcd"),
        ("abcd", 3, "abc"),
        ("ae\u0323\u0302b", 2, "a"),
        ("a👍🏽", 2, "a"),
        ("a🇫🇷🇩🇪", 2, "a"),
        ("a🇫🇷🇩🇪", 3, "a🇫🇷"),
        ("a🇫🇷🇩🇪", 4, "a🇫🇷"),
        (f"a{FAMILY}", 4, "a"),
        ("e\u0323\u0302", 2, "e\u0323"),
        ("a❤\ufe0f", 2, "a"),
    ],
)
def test_text_is_not_cut_inside_a_grapheme(text, chars, kept):
    assert cut_text(text, chars) == kept


def test_no_space_is_left_where_a_query_is_cut():
    assert cleaned("ab cd", chars=3).text == "ab"


@given(st.text(max_size=400), st.integers(1, 64))
def test_cleaning_is_bounded_and_done_once(text, chars):
    try:
        found = cleaned(text, chars, 256)
    except Problem as e:
        assert e.code in ("empty_query", "query_too_long")
        return
    assert 0 < len(found.text) <= chars
    assert found.text.encode() and found.text == found.text.strip()
    again = cleaned(found.text, chars, 256)
    assert (again.text, again.cut, again.sanitized) == (found.text, 0, 0)


@given(st.text(max_size=100))
def test_cuts_of_words_never_fail(text):
    assert len(clean_words(text, 8).text) <= 8


def test_words_may_be_empty_and_long_ones_are_cut():
    assert clean_words("", 4).text == ""
    assert clean_words("a" * 100_000, 4).cut == 99_996


@pytest.mark.parametrize("text", ["", "a\0", "a\n", "\u202ea", "a\u200b", "x" * 257, "\ud800"])
def test_ids_with_what_cannot_be_seen_are_refused(text):
    with pytest.raises(Problem) as refused:
        clean_id(text, "user_id")
    assert (refused.value.code, refused.value.field) == ("invalid_request", "user_id")


@pytest.mark.parametrize("text", ["u1", "../../x", "a b", "商品-1", "x" * 256, "<b>"])
def test_ids_come_back_unchanged(text):
    assert clean_id(text, "item_id") == text
