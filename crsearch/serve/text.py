"""What a caller typed, as the search may see it: one form, nothing invisible, bounded.

Source: details: this project.
"""

import re
import unicodedata
from dataclasses import dataclass
from itertools import takewhile

from crsearch.context.guard import strip_invisible
from crsearch.serve.problems import Problem

_SPACE = re.compile(r"[\s\x1c-\x1f\x85]+")
_REMOVED = re.compile(
    "[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff\ufdd0-\ufdef"
    + "".join(chr(plane << 16 | last) for plane in range(17) for last in (0xFFFE, 0xFFFF))
    + "]+"
)
"""Control characters that are no space, halves of surrogate pairs, and code points that are no characters."""
_JOINS_LEFT = re.compile("[\u200d\U0001f3fb-\U0001f3ff]")
"""The joiner, and skin tones, which change the emoji before them."""
_FLAG = re.compile("[\U0001f1e6-\U0001f1ff]")
"""Regional indicators: two are a flag."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CleanText:
    """Text in NFC without invisible characters, single spaces between words."""

    text: str
    cut: int = 0
    """Code points that were cut off at the end."""
    sanitized: int = 0
    """Control and invisible characters that were removed."""

    @property
    def is_wordless(self) -> bool:
        """There is no letter and no digit in it: punctuation, or emoji."""
        return not any(c.isalnum() for c in self.text)


def clean_query(text: str, chars: int, bytes: int) -> CleanText:
    """A query as it is searched for.

    Args:
        text: as it was typed.
        chars: most code points; the rest is cut off, not inside a grapheme.
        bytes: most UTF-8 bytes after NFC, before the cut.

    Raises:
        Problem: ``query_too_long`` or ``empty_query``.

    >>> clean_query("  cafe\\u0301 \\u202e\\x00 case ", chars=256, bytes=1024)
    CleanText(text='café case', cut=0, sanitized=2)
    >>> clean_query("!?", chars=256, bytes=1024).is_wordless
    True
    """
    seen = _visible(text)
    # NFC makes text at most 3 times shorter, and takes quadratic time for long runs of marks: refuse those before
    if _size(seen) > 4 * bytes or _size(seen := unicodedata.normalize("NFC", seen)) > bytes:
        raise Problem(
            "query_too_long", f"the query has more than {bytes} bytes in UTF-8", field="query", hint="send fewer words"
        )
    if not seen:
        raise Problem("empty_query", "the query is empty", field="query", hint="send at least one visible character")
    return _shortened(seen, chars, _removed(text))


def clean_words(text: str, chars: int) -> CleanText:
    """Other text of a caller (a profile, a place, an earlier query): as a query, but it may be empty.

    >>> clean_words("\\u200b", chars=512)
    CleanText(text='', cut=0, sanitized=1)
    """
    seen = _visible(text)
    head = seen[: 4 * chars]
    cut = _shortened(unicodedata.normalize("NFC", head), chars, _removed(text))
    return CleanText(text=cut.text, cut=cut.cut + len(seen) - len(head), sanitized=cut.sanitized)


def clean_id(text: str, field: str) -> str:
    """An id of an item or a user, unchanged.

    Raises:
        Problem: ``invalid_request``: empty, above 256 characters, or with characters that cannot be seen.

    >>> clean_id("B07 221/é", field="user_id")
    'B07 221/é'
    """
    if not 0 < len(text) <= 256:
        raise Problem("invalid_request", "an id has 1 to 256 characters", field=field, hint="send the id as listed")
    if text != strip_invisible(text) or not text.isprintable():
        raise Problem(
            "invalid_request",
            "an id holds control or invisible characters",
            field=field,
            hint="send the id as listed",
        )
    return text


def cut_text(text: str, chars: int) -> str:
    """The beginning of ``text``, at most ``chars`` code points, not ending inside a grapheme if that is possible.

    >>> cut_text("ae\\u0323\\u0302", chars=3)
    'a'
    >>> len(cut_text("e\\u0323\\u0302", chars=2))  # one grapheme alone is longer
    2
    """
    if len(text) <= chars:
        return text
    end = chars
    while end and not _begins_grapheme(text, end):
        end -= 1
    return text[: end or chars]


def _begins_grapheme(text: str, place: int) -> bool:
    """Whether text may be cut before ``place`` (the parts of Unicode UAX 29 that matter here)."""
    character = text[place]
    if unicodedata.category(character).startswith("M") or _JOINS_LEFT.match(character):
        return False
    if text[place - 1] == "\u200d" or "\u1160" <= character <= "\u11ff":  # joiner before; Hangul vowel or final
        return False
    flags = len([*takewhile(_FLAG.match, reversed(text[:place]))]) if _FLAG.match(character) else 0
    return flags % 2 == 0


def _visible(text: str) -> str:
    """One line of what can be seen."""
    return _SPACE.sub(" ", strip_invisible(_REMOVED.sub("", text))).strip(" ")


def _removed(text: str) -> int:
    """Number of control and invisible characters."""
    return len(text) - len(strip_invisible(_REMOVED.sub("", text)))


def _shortened(text: str, chars: int, sanitized: int) -> CleanText:
    cut = cut_text(text, chars)
    return CleanText(text=cut.rstrip(" "), cut=len(text) - len(cut), sanitized=sanitized)


def _size(text: str) -> int:
    return len(text.encode("utf-8"))
