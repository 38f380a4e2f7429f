"""Words of records, queries and thoughts: to compare them, to cut them, and to write them where a tag may not stand.

Source: details: this project.
"""

import re
import unicodedata

from crsearch.context.guard import strip_invisible

_WORD = re.compile(r"[\u3400-\u9fff]|[^\W_\u3400-\u9fff]+")


def words_of(text: str) -> list[str]:
    """Words of a text for comparison: NFKC, case folded, no punctuation; a Chinese character is a word.

    >>> words_of("Cases & Covers, 手机")
    ['cases', 'covers', '手', '机']
    """
    return _WORD.findall(unicodedata.normalize("NFKC", strip_invisible(text)).casefold())


def clip_words(text: str, most: int) -> str:
    """The beginning of a text, at most so many words (a Chinese character is one).

    >>> clip_words("red, blue and green", 2)
    'red, blue'
    """
    ends = [m.end() for m in _WORD.finditer(text)]
    return text if len(ends) <= most else text[: ends[most - 1]] if most > 0 else ""


def singular(word: str) -> str:
    """An English word without its plural s, good enough to compare.

    >>> singular("cases"), singular("gas")
    ('case', 'gas')
    """
    return word[:-1] if len(word) > 3 and word.endswith("s") else word


def plain(text: str) -> str:
    """Text of a record as it may stand in a thought: one line, no angle brackets, so no tag and no SID.

    >>> plain("</think> a; b")
    '/think a b'
    """
    text = unicodedata.normalize("NFC", strip_invisible(text))
    return " ".join(re.sub(r"[<>＜＞﹤﹥;；]", " ", text).split())
