"""Why an item stands in a list: what of the context it shares. Facts only, no guess about the user.

Source: details: this project.
"""

from collections.abc import Iterator, Sequence
from functools import lru_cache

from crsearch.encoders.words import words
from crsearch.records.store import Catalogue
from crsearch.records.types import Context, Item, Search
from crsearch.serve.contract import Matched

WORDS_KEPT = 20_000
"""Items whose words are kept."""
MOST_EVENTS = 3
"""Events named per item, the newest."""
KINDS_KEPT = 256
"""Pairs of brand and category of which is kept what they share with a history."""


class Explainer:
    """Matches items with contexts.

    Args:
        catalogue: to look items of the history up.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.known = catalogue, frozenset(catalogue.ids)
        self.words = lru_cache(maxsize=WORDS_KEPT)(self._split)
        """Words of an item."""

    def __call__(self, context: Context, thought: str = "", events: "Events | None" = None) -> "Explanation":
        """What matches items with a context.

        Args:
            context: that was read.
            thought: after it; "" = none.
            events: of its history, where they are at hand.
        """
        return Explanation(self, context.query, thought, events or Events(self, context.history))

    def _split(self, item_id: str) -> frozenset[str]:
        item = self.catalogue[self.catalogue.row(item_id)]
        return frozenset(words(f"{item.title} {item.brand or ''} {' '.join(item.category)}"))


class Explanation:
    """What items share with one context."""

    def __init__(self, explainer: Explainer, query: str, thought: str, events: "Events") -> None:
        self._explainer, self._events = explainer, events
        self._query, self._thought = (tuple(dict.fromkeys(words(text))) for text in (query, thought))

    def __call__(self, item: Item) -> tuple[Matched, ...]:
        """What the item shares with query, history and thought, in this order; without the query, the thought first.

        An event counts where the user chose, or skipped, an item of its brand or of its category (whole path).
        """
        own = self._explainer.words(item.item_id)
        found: list[Matched] = []
        if asked := tuple(word for word in self._query if word in own):
            found.append(Matched(where="query", words=asked))
        if thought := tuple(word for word in self._thought if word in own):
            found.append(Matched(where="thought", words=thought))
        return (*found[:1], *self._events(item), *found[1:])


class Events:
    """What items share with one history: depends on their brand and category only, and is kept by these.

    Args:
        explainer: knows the items.
        history: oldest first.
    """

    def __init__(self, explainer: Explainer, history: Sequence[Search]) -> None:
        self._done = [*_done(explainer, history)]
        self._found: dict[tuple[str | None, tuple[str, ...]], tuple[Matched, ...]] = {}

    def __call__(self, item: Item) -> tuple[Matched, ...]:
        """The newest events that an item shares something with."""
        kind = (item.brand, item.category)
        found = self._found.get(kind)
        if found is None:
            if len(self._found) >= KINDS_KEPT:
                self._found.clear()
            found = self._found[kind] = tuple(self._matched(item))[:MOST_EVENTS]
        return found

    def _matched(self, item: Item) -> Iterator[Matched]:
        for at, where, others in self._done:
            for other in others:
                if shared := _shared(item, other):
                    yield Matched(where=where, words=shared, event=at, item_id=other.item_id)  # type: ignore[arg-type]
                    break


def _done(explainer: Explainer, history: Sequence[Search]) -> Iterator[tuple[int, str, list[Item]]]:
    """Place of an event, what was done, and with which items of the catalogue, the newest event first."""
    for at in range(len(history) - 1, -1, -1):
        for where, ids in (("clicked", history[at].chosen), ("skipped", history[at].skipped)):
            catalogue = explainer.catalogue
            yield at, where, [catalogue[catalogue.row(item_id)] for item_id in ids if item_id in explainer.known]


def _shared(item: Item, other: Item) -> tuple[str, ...]:
    brand = (item.brand,) if item.brand and item.brand == other.brand else ()
    category = (item.category[-1],) if item.category and item.category == other.category else ()
    return tuple(word.lower() for word in (*brand, *category))
