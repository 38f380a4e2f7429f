"""Words of a text: one splitter for lexical encoders, lexical searchers and query keys.

Source: details: this project.
"""

import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping

Split = Callable[[str], list[str]]
"""Text -> its words in order, repeats kept; no word is empty."""

_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = "\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Scripts without spaces that no dictionary here knows: kana, Thai, Lao, Burmese, Khmer."""
_RUN = re.compile(rf"(?P<han>[{_HAN}]+)|(?P<unspaced>[{_UNSPACED}]+)|[^\W_{_HAN}{_UNSPACED}]+")


def normalise(text: str) -> str:
    """One spelling of each character: full-width to half-width (NFKC), case folded.

    Doing it twice changes nothing.

    >>> normalise("ＳＰＦ５０　Ｃｒｅａｍ")
    'spf50 cream'
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())


def words(text: str) -> list[str]:
    """The words of a text in order, case and width folded; repeated words stay repeated.

    Chinese is segmented with a dictionary, long words after their parts as search engines do (so "手机壳" is found by
    "手机"); other scripts written without spaces give pairs of characters; of the rest, every run of letters and
    digits is a word. Punctuation and underscores separate words; a text without letters and digits has none.

    >>> words("红色iPhone15 Ｐｒｏ, 手机壳 0.5-Ounce")
    ['红色', 'iphone15', 'pro', '手机', '壳', '0', '5', 'ounce']
    """
    return list(_cut(text, _dictionary_words))


def bigrams(text: str) -> list[str]:
    """As ``words``, but Chinese gives pairs of neighbouring characters too; needs no dictionary.

    A character that stands alone between other scripts is a word.

    >>> bigrams("红色iPhone15 手机壳")
    ['红色', 'iphone15', '手机', '机壳']
    """
    return list(_cut(text, _pairs))


SPLITS: Mapping[str, Split] = {"words": words, "bigrams": bigrams}
"""The values of ``lexical.split``."""


def _cut(text: str, cut_han: Split) -> Iterator[str]:
    for run in _RUN.finditer(normalise(text)):
        if run["han"]:
            yield from cut_han(run["han"])
        elif run["unspaced"]:
            yield from _pairs(run["unspaced"])
        else:
            yield run[0]


def _dictionary_words(run: str) -> list[str]:
    import rjieba  # the dictionary is loaded when the first Chinese text comes

    found: list[str] = rjieba.cut_for_search(run)
    return found


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(max(1, len(run) - 1))]
