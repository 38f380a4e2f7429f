import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.records.types import Item
from crsearch.searchers.text import item_text, normalise, tokenise


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", []),
        (" \t…!?_-", []),
        ("Red DRESS, size-10", ["red", "dress", "size", "10"]),
        ("ＩＰＨＯＮＥ　１５", ["iphone", "15"]),
        ("Crème brûlée", ["crème", "brûlée"]),
        ("50ml SPF50+", ["50ml", "spf50"]),
        ("手机壳", ["手机", "壳"]),
        ("苹果手机", ["苹果", "手机"]),
        ("iPhone15手机壳", ["iphone15", "手机", "壳"]),
        ("中华人民共和国", ["中华", "华人", "人民", "共和", "共和国", "中华人民共和国"]),
        ("📱case📱", ["case"]),
    ],
)
def test_words_of_a_text(text, words):
    assert tokenise(text) == words


def test_decomposed_and_composed_characters_are_the_same_word():
    assert tokenise("cafe\u0301") == tokenise("caf\u00e9")


@given(st.text(max_size=40))
def test_normalising_twice_changes_nothing(text):
    once = normalise(text)
    assert normalise(once) == once


@given(st.text(st.sampled_from("aB1 ,手机壳红色Ａ、é"), max_size=30))
def test_words_have_no_space_or_punctuation_and_cover_every_letter(text):
    words = tokenise(text)
    assert all(word.isalnum() and word == normalise(word) for word in words)
    assert {c for c in normalise(text) if c.isalnum()} == set("".join(words))


def test_a_word_of_many_characters_takes_no_longer_than_many_words():
    assert tokenise("a" * 100_000) == ["a" * 100_000]
    assert len("".join(tokenise("好" * 10_000))) >= 10_000


def test_the_text_of_an_item_has_what_the_item_has():
    assert item_text(Item(item_id="i", title="Red case")) == "Red case"
    assert item_text(Item(item_id="i", title="Red case", brand="Acme", category=("Phones", "Cases"), price=3.0)) == (
        "Red case Acme Phones Cases"
    )


def test_importing_the_lexical_searchers_loads_no_heavy_library():
    modules = ", ".join(f"crsearch.searchers.{name}" for name in ("bm25", "tfidf", "popularity", "text"))
    code = (
        f"import sys, {modules}, crsearch.evaluate.evaluation\n"
        "heavy = {'torch', 'transformers', 'sklearn', 'bm25s', 'rjieba', 'polars', 'scipy', 'faiss'}\n"
        "print(*sorted(heavy & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert loaded.stdout.split() == []
