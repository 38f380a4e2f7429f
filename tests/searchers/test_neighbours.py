"""What others chose beside the history."""

from math import sqrt

import pytest

from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Context, Item, Search, User
from crsearch.searchers.neighbours import ItemNeighbourSearcher

ITEMS = Catalogue([Item(item_id=i, title=i) for i in "abcdef"])
CHOICES = {"t1": "abf", "t2": "abf", "t3": "acf", "t4": "f", "v": "ae", "x": "ade"}
"""User -> items chosen; ``v`` validates and ``x`` tests."""


def bought(user: str, items: str) -> list[Search]:
    return [Search(search_id=f"{user}{n}", user_id=user, time=n, query="*", bought=(i,)) for n, i in enumerate(items)]


@pytest.fixture
def searcher() -> ItemNeighbourSearcher:
    searches = tuple(s for user, items in CHOICES.items() for s in bought(user, items))
    parts = {"v": "valid", "x": "test"}
    targets = {f"{u}{len(i) - 1}": (i[-1], parts.get(u, "train")) for u, i in CHOICES.items()}
    return ItemNeighbourSearcher(ITEMS, Dataset(ITEMS, {u: User(user_id=u) for u in CHOICES}, searches, targets))


def ask(searcher: ItemNeighbourSearcher, user: str, history: str, k: int = 6) -> str:
    context = Context(search_id="s", user_id=user, query="*", history=tuple(bought(user, history)))
    (answer,) = searcher.search([context], k)
    assert list(answer.scores) == [float(n) for n in range(len(answer.item_ids), 0, -1)]
    return "".join(answer.item_ids)


def test_items_chosen_beside_the_history_come_first_then_the_most_chosen(searcher):
    """Beside a: f 3, b 2, c 1 of three users; then f 4 > a 3 > b 2 > c 1 > d, e of nobody who trains."""
    assert ask(searcher, "new", "a") == "fbcade"
    assert ask(searcher, "new", "a", k=2) == "fb"


def test_shares_of_several_items_are_added(searcher):
    """b and c: a and f stand beside both, b beside c never; f 2 / sqrt(3) + 1 / sqrt(2) as a, by row."""
    assert 2 / sqrt(3) + 1 / sqrt(2) > 1
    assert ask(searcher, "new", "bc")[:2] == "af"


def test_the_user_who_asks_is_not_counted(searcher):
    """Without t3 nobody chose c beside a."""
    assert ask(searcher, "t3", "a")[:2] == "bf"


def test_without_a_history_it_is_popularity(searcher):
    assert ask(searcher, "new", "") == "fabcde"
    assert ask(searcher, "new", "?") == "fabcde", "an item that the catalogue lacks says nothing"
