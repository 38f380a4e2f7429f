"""Text to words, the same way for every lexical system.

Source: details: this project.
"""

import re
import unicodedata
from functools import cache
from typing import Any

from crsearch.records.types import Item

_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_RUN = re.compile(rf"(?P<han>[{_HAN}]+)|[^\W_{_HAN}]+")


def normalise(text: str) -> str:
    """One spelling of each character: full-width to half-width (NFKC), then lower case.

    Doing it twice changes nothing.

    >>> normalise("ＳＰＦ５０　Ｃｒｅａｍ")
    'spf50 cream'
    """
    return unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())


def tokenise(text: str) -> list[str]:
    """Words of a text in their order, repeats kept.

    Chinese is segmented with a dictionary, long words followed after their parts (``cut_for_search``), so that
    "手机壳" is found by "手机". Every other run of letters and digits is one word. Punctuation and underscores
    separate words. A text without letters and digits has no words.

    >>> tokenise("红色iPhone15 手机壳, 0.5-Ounce")
    ['红色', 'iphone15', '手机', '壳', '0', '5', 'ounce']
    """
    words: list[str] = []
    for run in _RUN.finditer(normalise(text)):
        if run["han"]:
            words += _segmenter().cut_for_search(run["han"])
        else:
            words.append(run[0])
    return words


@cache
def _segmenter() -> Any:
    """The dictionary, loaded when the first Chinese text comes."""
    import rjieba

    return rjieba


def item_text(item: Item) -> str:
    """What the lexical systems read of an item: title, brand, category path.

    >>> item_text(Item(item_id="i1", title="Red case", brand="Acme", category=("Phones", "Cases")))
    'Red case Acme Phones Cases'
    """
    return " ".join((item.title, *([item.brand] if item.brand else []), *item.category))
