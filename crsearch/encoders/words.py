"""Words of a text, for lexical encoders and searchers alike."""

import re
import unicodedata

_HAN = "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = "\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"
"""Scripts without spaces that no dictionary here knows: kana, Thai, Lao, Burmese, Khmer."""
_RUN = re.compile(rf"(?P<han>[{_HAN}]+)|(?P<unspaced>[{_UNSPACED}]+)|[^\W_{_HAN}{_UNSPACED}]+")


def words(text: str) -> list[str]:
    """The words of a text in order, case and width folded; repeated words stay repeated.

    Chinese is segmented with a dictionary, long words after their parts as search engines do; other scripts written
    without spaces give pairs of characters; of the rest, every run of letters and digits is a word.

    >>> words("iPhone 15 Ｐｒｏ, 手机壳")
    ['iphone', '15', 'pro', '手机', '壳']
    """
    found: list[str] = []
    for run in _RUN.finditer(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())):
        if run["han"]:
            import rjieba

            found += rjieba.cut_for_search(run["han"])
        elif run["unspaced"]:
            found += [run[0][at : at + 2] for at in range(max(1, len(run[0]) - 1))]
        else:
            found.append(run[0])
    return found
