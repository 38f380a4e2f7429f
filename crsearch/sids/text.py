"""The text of an item from which its semantic ID comes."""

import math
from collections.abc import Sequence

from crsearch.records.types import Item
from crsearch.runs import digest


def item_text(item: Item, lexical: bool = False) -> str:
    """What makes items alike, most telling first: title, brand, category, price and sales level, attributes.

    Price and sales are written as one word each for their level (1-2-5 steps for prices, powers of ten for
    sales), since a lexical encoder sees two numbers that differ at all as unrelated. The description is left out:
    it is long, and shops fill it with what is said of every item. What the item lacks leaves no trace.

    Args:
        item: of the catalogue.
        lexical: for an encoder that sees single words only. It cannot know that "phone case" is no phone, so the
            category is said twice as one word; sales, which say nothing of what an item is, are left out.

    Source: CRS §3.1.1 embeds the item's text; its form is a detail of this project.

    >>> item = Item(item_id="i1", title="red dress", brand="Lova", category=("women", "dress"), price=54.9)
    >>> item_text(item)
    'red dress | Lova | women / dress | price50'
    >>> item_text(item, lexical=True)
    'red dress | Lova | women / dress | price50 | cataddd3761 cataddd3761'
    """
    parts = [item.title, item.brand or "", " / ".join(item.category)]
    if item.price is not None and item.price > 0:
        parts.append(f"price{price_level(item.price):g}")
    if item.sales is not None and item.sales > 0 and not lexical:
        parts.append(f"sales{10.0 ** math.floor(math.log10(item.sales)):g}")
    parts += [f"{name}: {value}" for name, value in sorted(item.attributes.items())]
    if lexical and item.category:
        parts.append(f"{category_word(item.category)} {category_word(item.category)}")
    return " | ".join(part for part in parts if part)


def category_word(category: Sequence[str]) -> str:
    """One word for a whole category path, in any script."""
    return f"cat{digest(list(category))[:8]}"


def price_level(price: float) -> float:
    """The nearest of ..., 1, 2, 5, 10, 20, 50, 100, ... on the logarithmic scale, the lower one on a tie.

    >>> [price_level(price) for price in (0.99, 14.0, 15.0, 54.9, 70.0, 71.0)]
    [1.0, 10.0, 20.0, 50.0, 50.0, 100.0]
    """
    power = 10.0 ** math.floor(math.log10(price))
    return power * min((1.0, 2.0, 5.0, 10.0), key=lambda step: abs(math.log(price / power / step)))
