"""Data strings must never become control tokens.

Semantic IDs and ``</think>`` are tokens, so a title that contains their text would be read as control. Turning
special tokens off in the tokenizer is not enough: Qwen3 ships ``<think>`` and ``</think>`` as added tokens that
are *not* special. So the guard is built from what the loaded tokenizer adds to its vocabulary, and the same
guard is used for training, embedding and serving.

Source: details: this project.
"""

import json
import re
import unicodedata
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from crsearch.errors import ModelError

_INVISIBLE = re.compile(
    "["
    "\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f"  # soft hyphen, joiners, fillers
    "\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff"  # zero width, bidi marks, embeddings, isolates
    "\u3164\uffa0\ufff9-\ufffb"  # Hangul fillers, interlinear annotation
    "\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"  # shorthand, music, tags, variation selectors
    "]+"
)
_SURROGATE = "\ud800-\udfff"
_OPENERS = frozenset("<[{(|«‹【「『〈《")
"""Characters that open the control tokens of known tokenizers and are rare enough to escape everywhere."""


def strip_invisible(text: str) -> str:
    """``text`` without zero-width, bidirectional, tag and filler characters, which only hide or reorder text.

    >>> strip_invisible("ca\\u200bse \\u202eneo")
    'case neo'
    """
    return _INVISIBLE.sub("", text)


@lru_cache(maxsize=64)
def look_alikes(character: str) -> str:
    """``character`` and all that a Unicode normaliser (NFD, NFKC, accent stripping) may turn into it.

    >>> look_alikes("<")
    '<≮﹤＜'
    """
    candidates = (chr(c) for c in range(0x80, 0x20000) if unicodedata.decomposition(chr(c)))
    return character + "".join(c for c in candidates if character in unicodedata.normalize("NFKD", c))


class Guard:
    """Makes any data string safe for a tokenizer: ``guard(text)``.

    The opening character of a control token (``<`` of ``<think>``, ``[`` of ``[SEP]``) and its look-alikes are
    written as JSON escapes (``\\u003c``), so inside a JSON string nothing is lost: reading the JSON gives the
    text back. Invisible characters are removed. Tokens that open with an ordinary character are escaped where
    they occur. Half of a surrogate pair, which no tokenizer accepts, is escaped too.

    Args:
        tokens: texts of the control tokens.

    >>> Guard(["<think>", "[SEP]"])("a </think> <a_1>, [SEP]")
    'a \\\\u003c/think> \\\\u003ca_1>, \\\\u005bSEP]'
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        words = {t for t in tokens if t}
        openers = {"<"} | {t[0] for t in words if t[0] in _OPENERS}
        characters = "".join(look_alikes(c) for c in sorted(openers))
        plain = sorted((t for t in words if t[0] not in openers), key=lambda t: (-len(t), t))
        occurrence = f"|(?=(?i:{'|'.join(map(re.escape, plain))}))." if plain else ""
        self._unsafe = re.compile(f"[{re.escape(characters)}{_SURROGATE}]{occurrence}", re.DOTALL)

    @classmethod
    def from_tokenizer(cls, tokenizer: Any) -> "Guard":
        """The guard for a loaded tokenizer.

        Raises:
            ModelError: a token of the tokenizer survives its own escape (e.g. an added token ``0``).
        """
        added: dict[str, int] = tokenizer.get_added_vocab()
        guard = cls([*added, *tokenizer.all_special_tokens])
        texts = sorted(added)
        control = set(added.values()) - {tokenizer.unk_token_id}
        guarded = tokenizer([guard(t) for t in texts], add_special_tokens=False).input_ids if texts else []
        for text, ids in zip(texts, guarded, strict=True):
            if control & set(ids):
                raise ModelError(
                    f"the tokenizer adds the token {text!r}, which cannot be kept out of data strings: "
                    "remove it from added_tokens in tokenizer.json, or use another tokenizer"
                )
        return guard

    def __call__(self, text: str) -> str:
        """``text`` as it may stand in any model input outside JSON."""
        return self._unsafe.sub(lambda m: _escape(m[0]), strip_invisible(text))

    def quote(self, text: str) -> str:
        """``text`` as a JSON string with its quotes.

        >>> Guard([]).quote('a "<b>"')
        '"a \\\\"\\\\u003cb>\\\\""'
        """
        text = strip_invisible(text)
        pieces, end = [], 0
        for match in self._unsafe.finditer(text):
            pieces += [json.dumps(text[end : match.start()], ensure_ascii=False)[1:-1], _escape(match[0])]
            end = match.end()
        return f'"{"".join(pieces)}{json.dumps(text[end:], ensure_ascii=False)[1:-1]}"'


def _escape(character: str) -> str:
    """One character as a JSON escape (two for characters beyond U+FFFF)."""
    return f"\\u{ord(character):04x}" if ord(character) < 0x80 else json.dumps(character)[1:-1]
