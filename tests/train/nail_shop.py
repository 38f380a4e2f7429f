"""A shop of eight items, and users who chose some of them."""

from crsearch.records.types import Context, Example, Item, Search

NAILS = ("Beauty", "Makeup", "Nails", "Nail Polish")
SHOP = {
    item.item_id: item
    for item in (
        Item(item_id="B01", title="OPI Nail Lacquer, Simmer and Shimmer", brand="OPI", category=NAILS, price=9.5),
        Item(item_id="B02", title="Essie Ballet Slippers 0.46 oz", brand="Essie", category=NAILS, price=8.0),
        Item(item_id="B03", title="OPI Top Coat", brand="OPI", category=(*NAILS[:3], "Top Coats"), price=11.0),
        Item(
            item_id="B04", title="Dove Shampoo 12 oz", brand="Dove", category=("Beauty", "Hair", "Shampoos"), price=5.0
        ),
        Item(item_id="B05", title="Zoya Polish, Pink", brand="Zoya", category=NAILS, price=90.0),
        Item(item_id="B06", title="mystery thing without fields"),
        Item(item_id="C01", title="福利金钻绒床边地毯防尘免洗", brand="金粟兰", category=("家纺", "地毯地垫", "地毯")),
        Item(item_id="C02", title="北欧客厅地毯 加厚", brand="金粟兰", category=("家纺", "地毯地垫", "地毯")),
    )
}


def example(query: str, target: str, *chosen: str) -> Example:
    history = tuple(
        Search(search_id=f"h{n}", user_id="u", time=n, query="x", shown=(i,), clicked=(i,))
        for n, i in enumerate(chosen)
    )
    context = Context(search_id="s1", user_id="u", query=query, time=99, history=history)
    return Example(context=context, target=target, part="train")


HEM = "beauty makeup nails nail polish"
"""The query that the HEM protocol makes of the category path."""
