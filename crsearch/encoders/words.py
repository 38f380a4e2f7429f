"""Words of a text, for lexical encoders and searchers alike."""

import re
import unicodedata

_RUN = re.compile(
    r"(?P<han>[\u3400-\u4dbf\u4e00-\u9fff\U00020000-\U0003ffff]+)"
    r"|(?P<unspaced>[\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]+)"  # kana, Thai, Lao, Burmese, Khmer
    r"|(?P<spaced>(?:(?![\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\U00020000-\U0003ffff])\w)+)"
)


def words(text: str) -> list[str]:
    """The words of a text in order, case and width folded; repeated words stay repeated.

    Chinese is segmented (long words also give their parts, as search engines do), other scripts written without
    spaces give pairs of characters, everything else is split where letters and digits end.

    >>> words("iPhone 15 Ｐｒｏ 手机壳")
    ['iphone', '15', 'pro', '手机', '壳']
    """
    found: list[str] = []
    for run in _RUN.finditer(unicodedata.normalize("NFKC", text).casefold()):
        if run["han"]:
            import rjieba

            found += rjieba.cut_for_search(run["han"])
        elif run["unspaced"]:
            found += [run[0][at : at + 2] for at in range(max(1, len(run[0]) - 1))]
        else:
            found.append(run[0])
    return found
