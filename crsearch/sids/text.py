"""The text of an item from which its semantic ID comes."""

import math
import sys

from crsearch.records.types import Item


def item_text(item: Item) -> str:
    """What makes items alike, most telling first: title, brand, category, price and sales level, attributes.

    Price and sales are written as one word each for their level (1-2-5 steps for prices, powers of ten for
    sales), since a lexical encoder sees two numbers that differ at all as unrelated. The description is left out:
    it is long, and shops fill it with what is said of every item. What the item lacks leaves no trace.

    Source: CRS §3.1.1 embeds the item's text; its form is a detail of this project.

    >>> item_text(Item(item_id="i1", title="red dress", brand="Lova", category=("women", "dress"), price=54.9))
    'red dress | Lova | women / dress | price50'
    """
    parts = [item.title, item.brand or "", " / ".join(item.category)]
    if item.price is not None and item.price > 0:
        parts.append(f"price{price_level(item.price):g}")
    if item.sales is not None and item.sales > 0:
        parts.append(f"sales{10.0 ** math.floor(math.log10(item.sales)):g}")
    parts += [f"{name}: {value}" for name, value in sorted(item.attributes.items())]
    return " | ".join(part for part in parts if part)


def price_level(price: float) -> float:
    """The nearest of ..., 1, 2, 5, 10, 20, 50, 100, ... on the logarithmic scale, the lower one on a tie.

    >>> [price_level(price) for price in (0.99, 14.0, 15.0, 54.9, 70.0, 71.0)]
    [1.0, 10.0, 20.0, 50.0, 50.0, 100.0]
    """
    power = max(10.0 ** math.floor(math.log10(price)), sys.float_info.min)  # 5e-324 is a float above 0, too
    return power * min((1.0, 2.0, 5.0, 10.0), key=lambda step: abs(math.log(price / power / step)))
