"""Read back what a thought states, so that its truth can be measured apart from the ranking.

Works with any catalogue whose items carry a category, a brand and the attributes ``level`` and ``style``; needs no
knowledge of the world. Texts of a model that is still learning are expected: missing, repeated or misplaced words
give ``None`` for a field, never an error.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from crsearch.records.simulator.words import LANGUAGES
from crsearch.records.store import Catalogue

FieldName = Literal["category", "brand", "price", "style"]
FIELDS: tuple[FieldName, ...] = ("category", "brand", "price", "style")
"""The fields a thought states, in the order of a title; ``price`` is the price word."""

_MARKER = re.compile("|".join(re.escape(language.sentences.item) for language in LANGUAGES.values()))


@dataclass(frozen=True)
class Lexicon:
    """The words that name a field: word -> (field, the word as the catalogue spells it)."""

    words: Mapping[str, tuple[FieldName, str]]
    pattern: re.Pattern[str]

    @classmethod
    def from_catalogue(cls, catalogue: Catalogue) -> "Lexicon":
        """Collect the words of all items; an item without a field adds none for it.

        >>> from crsearch.records.types import Item
        >>> attributes = {"level": "premium", "style": "elegant"}
        >>> item = Item(item_id="a", title="", brand="Kilumo", category=("toys", "puzzle kit"), attributes=attributes)
        >>> lexicon = Lexicon.from_catalogue(Catalogue([item]))
        >>> stated_fields("Wants puzzle kit. Item: puzzle kit Kilumo premium", lexicon)
        {'category': 'puzzle kit', 'brand': 'Kilumo', 'price': 'premium', 'style': None}
        """
        words: dict[str, tuple[FieldName, str]] = {}
        for item in catalogue:
            category = item.category[-1] if item.category else None
            values = (category, item.brand, item.attributes.get("level"), item.attributes.get("style"))
            words |= {_spell(value): (name, value) for name, value in zip(FIELDS, values, strict=True) if value}
        longest_first = sorted(words, key=lambda word: (-len(word), word))
        # only words of Latin letters need ends: Chinese ones stand without blanks between them
        alternatives = "|".join(rf"(?<![a-z0-9]){re.escape(w)}(?![a-z0-9])" for w in longest_first)
        return cls(words, re.compile(alternatives or r"(?!)"))


def _spell(text: str) -> str:
    return " ".join(text.casefold().split())


def stated_fields(thought: str, lexicon: Lexicon) -> dict[FieldName, str | None]:
    """Category, brand, price word and style that a thought states for the wanted item.

    What stands after the last "Item:" counts, the first word of each field. A field that is missing there is taken
    from the sentences before it: the first category, else the last word of the field. Upper and lower case and
    runs of blanks do not matter.

    Args:
        thought: any text.
        lexicon: words of the catalogue.

    Returns:
        All four fields, in the order of ``FIELDS``; ``None`` where the thought names none.
    """
    parts = _MARKER.split(thought)
    before, item = ("".join(parts[:-1]), parts[-1]) if len(parts) > 1 else (thought, "")
    stated: dict[FieldName, str | None] = dict.fromkeys(FIELDS)
    for name, value in _mentions(before, lexicon):
        if name != "category" or stated[name] is None:
            stated[name] = value
    for name, value in reversed(_mentions(item, lexicon)):  # the first one wins
        stated[name] = value
    return stated


def _mentions(text: str, lexicon: Lexicon) -> list[tuple[FieldName, str]]:
    return [lexicon.words[match.group()] for match in lexicon.pattern.finditer(_spell(text))]
