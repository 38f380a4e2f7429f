"""What the baselines read of an item, the same for all of them.

Source: CRS §4.1 names no item text for its baselines; details: this project.
"""

from crsearch.records.types import Item


def item_text(item: Item) -> str:
    """What the lexical and dense systems read of an item: title, brand, category path.

    The title stands first, so that an encoder with a short window cuts the category.

    >>> item_text(Item(item_id="i1", title="Red case", brand="Acme", category=("Phones", "Cases")))
    'Red case Acme Phones Cases'
    """
    return " ".join((item.title, *([item.brand] if item.brand else []), *item.category))
