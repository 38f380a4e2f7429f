from dataclasses import replace

import pytest

from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Context, Item, Search, User
from crsearch.searchers.popularity import (
    PopularityInQuerySearcher,
    PopularitySearcher,
    TrainingCounts,
    query_key,
    training_counts,
)

CASE, CABLE, HAT = ("Phones", "Cases"), ("Phones", "Cables"), ("Clothes", "Hats")
ITEMS = Catalogue(
    [
        Item(item_id="case-a", title="Red case", brand="Acme", category=CASE),
        Item(item_id="case-b", title="Blue case", brand="Bolt", category=CASE),
        Item(item_id="case-c", title="Green case", brand="Acme", category=CASE),
        Item(item_id="cable", title="Red cable", brand="Bolt", category=CABLE),
        Item(item_id="hat-a", title="Straw hat", category=HAT),
        Item(item_id="hat-b", title="Red hat", brand="Acme", category=HAT),
    ]
)
COUNTS = TrainingCounts(
    items={"case-a": 1, "case-b": 2, "cable": 4, "hat-a": 9, "hat-b": 2},
    queries={"phone case": {"case-b": 2, "cable": 1}, "gift": {"hat-a": 1}},
)


def search(search_id, user_id, query, clicked=(), bought=(), time=0):
    return Search(search_id=search_id, user_id=user_id, time=time, query=query, clicked=clicked, bought=bought)


def ask(searcher, query, k=6, chosen=()):
    history = (search("before", "u", "q", clicked=tuple(chosen)),)
    (answer,) = searcher.search([Context(search_id="s", user_id="u", query=query, history=history)], k)
    return answer.item_ids


def small_shop(test_choice="hat-a", test_query="hat"):
    searches = (
        search("t1-0", "t1", "phone case", clicked=("case-a", "case-b"), bought=("case-b",)),
        search("t1-1", "t1", "Phone  CASE!", clicked=("case-b",), time=1),
        search("t1-2", "t1", "nothing found", time=2),
        search("t2-0", "t2", "cable", bought=("cable",)),
        search("v-0", "v", "cable", bought=("cable",)),
        search("x-0", "x", test_query, clicked=(test_choice,)),
        search("x-1", "x", test_query, clicked=(test_choice,), time=1),
        search("quiet-0", "quiet", "cable"),
    )
    users = {s.user_id: User(user_id=s.user_id) for s in searches}
    targets = {
        "t1-1": ("case-b", "train"),
        "t2-0": ("cable", "train"),
        "v-0": ("cable", "valid"),
        "x-1": (test_choice, "test"),
    }
    return Dataset(ITEMS, users, searches, targets)


def test_choices_of_training_users_are_counted_once_per_search():
    counts = training_counts(small_shop())
    assert counts.items == {"case-a": 1, "case-b": 2, "cable": 1}
    assert counts.queries == {"phone case": {"case-a": 1, "case-b": 2}, "cable": {"cable": 1}}


def test_what_test_users_do_changes_no_count():
    assert training_counts(small_shop()) == training_counts(small_shop("case-c", "phone case"))


def test_items_outside_the_catalogue_are_not_counted():
    shop = small_shop()
    more = (*shop.searches, search("t1-9", "t1", "ghosts", clicked=("ghost",), time=9))
    assert training_counts(replace(shop, searches=more, unknown_items="text")) == training_counts(shop)


def test_popularity_is_one_list_for_all_ties_by_row_and_the_never_chosen_last():
    searcher = PopularitySearcher(ITEMS, COUNTS)
    contexts = [Context(search_id=s, user_id=s, query=s) for s in ("s1", "s2")]
    first, second = searcher.search(contexts, 10)
    assert first.item_ids == second.item_ids == ("hat-a", "cable", "case-b", "hat-b", "case-a", "case-c")
    assert first.scores == (9, 4, 2, 2, 1, 0)
    assert (first.search_id, second.search_id) == ("s1", "s2")
    assert searcher.search(contexts, 2)[0].item_ids == ("hat-a", "cable")


def test_in_the_query_come_its_items_then_their_categories_then_words_then_all():
    searcher = PopularityInQuerySearcher(ITEMS, COUNTS)
    assert searcher.name == "popularity-in-query"
    # chosen for it: case-b 2, cable 1; of their categories: case-a, case-c; the rest by popularity
    assert ask(searcher, "phone case") == ("case-b", "cable", "case-a", "case-c", "hat-a", "hat-b")
    # chosen for it: hat-a; category: hat-b; no word of it anywhere; the rest by popularity
    assert ask(searcher, "gift") == ("hat-a", "hat-b", "cable", "case-b", "case-a", "case-c")


def test_a_query_nobody_made_goes_by_its_words_then_by_popularity():
    searcher = PopularityInQuerySearcher(ITEMS, COUNTS)
    # two words: hat-b; one word: hat-a 9, cable 4, case-a 1; none: case-b, case-c
    assert ask(searcher, "red hat") == ("hat-b", "hat-a", "cable", "case-a", "case-b", "case-c")
    assert ask(searcher, "xyzzy") == ask(searcher, "") == ("hat-a", "cable", "case-b", "hat-b", "case-a", "case-c")


@pytest.mark.parametrize("query", ["phone case", "PHONE-case", "red hat", "gift", "xyzzy"])
@pytest.mark.parametrize("weight", [0.0, 3.0])
def test_a_shorter_list_is_the_head_of_a_longer_one_and_no_item_comes_twice(query, weight):
    searcher = PopularityInQuerySearcher(ITEMS, COUNTS, brand_bonus=weight)
    whole = ask(searcher, query, k=20, chosen=["case-a"])
    assert sorted(whole) == sorted(ITEMS.ids)
    for k in range(7):
        assert ask(searcher, query, k, chosen=["case-a"]) == whole[:k]


def test_brands_chosen_before_move_up_within_each_step():
    searcher = PopularityInQuerySearcher(ITEMS, COUNTS, brand_bonus=3.0)
    assert searcher.name == "popularity-in-query-brand"
    assert ask(searcher, "phone case", chosen=["hat-b"]) == ("case-a", "case-c", "case-b", "cable", "hat-b", "hat-a")
    assert ask(searcher, "red", chosen=["hat-b"])[:3] == ("hat-b", "case-a", "cable")


def test_a_brand_chosen_before_weighs_as_much_as_20_times_the_choices():
    for times, first in ((20, "case-a"), (21, "case-b")):
        counts = TrainingCounts(items={}, queries={"case": {"case-a": 1, "case-b": times}})
        assert ask(PopularityInQuerySearcher(ITEMS, counts, brand_bonus=3.0), "case", chosen=["hat-b"])[0] == first


@pytest.mark.parametrize("chosen", [(), ("hat-a",), ("ghost",)])
def test_without_a_known_brand_in_the_history_the_weight_changes_nothing(chosen):
    plain = PopularityInQuerySearcher(ITEMS, COUNTS)
    brand = PopularityInQuerySearcher(ITEMS, COUNTS, brand_bonus=3.0)
    for query in ("phone case", "red hat", "xyzzy"):
        assert ask(brand, query, chosen=chosen) == ask(plain, query)


def test_the_history_is_not_read_without_a_weight():
    searcher = PopularityInQuerySearcher(ITEMS, COUNTS)
    assert ask(searcher, "phone case", chosen=["hat-b"]) == ask(searcher, "phone case")


def test_queries_that_differ_in_form_only_are_one():
    assert query_key("ＰＨＯＮＥ case") == query_key("phone   Case?") != query_key("case phone")
