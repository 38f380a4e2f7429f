"""One splitter for all: folded characters, Chinese by a dictionary or in pairs."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.encoders.words import SPLITS, bigrams, normalise, words

BOTH = pytest.mark.parametrize("split", SPLITS.values(), ids=SPLITS)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" \t…!?_-", []),
        ("Red DRESS, size-10", ["red", "dress", "size", "10"]),
        ("ＩＰＨＯＮＥ　１５", ["iphone", "15"]),
        ("Crème brûlée", ["crème", "brûlée"]),
        ("Straße", ["strasse"]),
        ("50ml SPF50+", ["50ml", "spf50"]),
        ("手机壳", ["手机", "壳"]),
        ("苹果手机", ["苹果", "手机"]),
        ("真丝连衣裙", ["真丝", "连衣", "衣裙", "连衣裙"]),
        ("iPhone15手机壳", ["iphone15", "手机", "壳"]),
        ("红dress裙", ["红", "dress", "裙"]),
        ("中华人民共和国", ["中华", "华人", "人民", "共和", "共和国", "中华人民共和国"]),
        ("さくら", ["さく", "くら"]),
        ("の", ["の"]),
        ("📱case📱", ["case"]),
    ],
)
def test_words_of_a_text(text, expected):
    assert words(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("真丝连衣裙", ["真丝", "丝连", "连衣", "衣裙"]),
        ("红dress裙", ["红", "dress", "裙"]),
        ("ＩＰＨＯＮＥ１５手机", ["iphone15", "手机"]),
        ("壳 手机", ["壳", "手机"]),
        ("red dress", ["red", "dress"]),
    ],
)
def test_pairs_of_characters_take_the_place_of_the_dictionary(text, expected):
    assert bigrams(text) == expected


def test_a_title_is_found_by_pairs_where_the_dictionary_cuts_it_otherwise():
    title, query = "南京市长江大桥", "市长"
    assert not set(words(query)) & set(words(title))
    assert set(bigrams(query)) <= set(bigrams(title))


def test_decomposed_and_composed_characters_are_the_same_word():
    assert words("cafe\u0301") == words("caf\u00e9")


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once


@BOTH
def test_no_text_breaks_the_words_and_none_is_empty(split):
    @given(st.text())
    def holds(text):
        assert all(word and not word.isspace() for word in split(text))

    holds()


@BOTH
def test_words_have_no_space_or_punctuation_and_cover_every_letter(split):
    @given(st.text(st.sampled_from("aB1 ,手机壳红色Ａ、éの"), max_size=30))
    def holds(text):
        found = split(text)
        assert all(word.isalnum() and word == normalise(word) for word in found)
        assert {c for c in normalise(text) if c.isalnum()} == set("".join(found))

    holds()


@BOTH
def test_a_word_of_many_characters_takes_no_longer_than_many_words(split):
    assert split("a" * 100_000) == ["a" * 100_000]
    assert len("".join(split("好" * 10_000))) >= 10_000
