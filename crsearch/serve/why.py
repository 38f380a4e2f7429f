"""Why an item stands in a list: what of the context it shares. Facts only, no guess about the user.

Source: details: this project.
"""

from collections.abc import Iterator
from functools import lru_cache

from crsearch.encoders.words import words
from crsearch.records.store import Catalogue
from crsearch.records.types import Context, Item
from crsearch.serve.contract import Matched

WORDS_KEPT = 20_000
"""Items whose words are kept."""
MOST_EVENTS = 3
"""Events named per item, the newest."""


class Explainer:
    """Matches items with contexts.

    Args:
        catalogue: to look items of the history up.
    """

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.known = catalogue, frozenset(catalogue.ids)
        self._words = lru_cache(maxsize=WORDS_KEPT)(self._split)

    def __call__(self, item: Item, context: Context, thought: str = "") -> tuple[Matched, ...]:
        """What the item shares with query, history and thought, in this order.

        An event counts where the user chose, or skipped, an item of its brand or of its category (whole path).
        """
        own = self._words(item.item_id)
        found: list[Matched] = []
        for where, text in (("query", context.query), ("thought", thought)):
            shared = tuple(dict.fromkeys(w for w in words(text) if w in own))
            if shared:
                found.append(Matched(where=where, words=shared))  # type: ignore[arg-type]
        events = list(self._events(item, context))
        return (*found[:1], *events[:MOST_EVENTS], *found[1:])

    def _split(self, item_id: str) -> frozenset[str]:
        item = self.catalogue[self.catalogue.row(item_id)]
        return frozenset(words(f"{item.title} {item.brand or ''} {' '.join(item.category)}"))

    def _events(self, item: Item, context: Context) -> Iterator[Matched]:
        for at in range(len(context.history) - 1, -1, -1):
            search = context.history[at]
            for where, ids in (("clicked", search.chosen), ("skipped", search.skipped)):
                for item_id in ids:
                    shared = self._shared(item, item_id)
                    if shared:
                        yield Matched(where=where, words=shared, event=at, item_id=item_id)  # type: ignore[arg-type]
                        break

    def _shared(self, item: Item, item_id: str) -> tuple[str, ...]:
        if item_id not in self.known:
            return ()
        other = self.catalogue[self.catalogue.row(item_id)]
        brand = (item.brand,) if item.brand and item.brand == other.brand else ()
        category = (item.category[-1],) if item.category and item.category == other.category else ()
        return tuple(word.lower() for word in (*brand, *category))
