from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.errors import DataError
from crsearch.evaluate.groups import (
    effective_number,
    head_items,
    load_groups,
    look_alikes,
    query_groups,
    save_groups,
)
from crsearch.records.types import Context, Example, Item, Search


def example(search_id, searches, target):
    history = tuple(Search(search_id=f"{search_id}-{n}", user_id="u", time=n, query="q") for n in range(searches))
    context = Context(search_id=search_id, user_id="u", query="q", history=history)
    return Example(context=context, target=target, part="test")


def test_queries_are_grouped_by_history_target_and_kind():
    examples = [example("s1", 0, "a"), example("s2", 1, "b"), example("s3", 5, "a"), example("s4", 6, "never")]
    assert query_groups(examples, {"a": 6, "b": 5}, {"s1": "bare", "s2": "full", "s3": "full"}) == {
        "history": ("cold", "medium", "medium", "warm"),
        "target": ("head", "tail", "head", "tail"),
        "query_kind": ("bare", "full", "full", "unknown"),
    }


def test_without_kinds_there_is_no_such_column():
    assert list(query_groups([], {})) == ["history", "target"]


def test_head_items_are_the_fewest_that_hold_half_of_the_choices():
    assert head_items({"a": 2, "b": 2, "c": 2, "d": 1}) == {"a", "b"}
    assert head_items({"b": 1, "a": 1}) == {"a"}
    assert head_items({"a": 3, "b": 0}, share=1.0) == {"a"}


def item(item_id, brand="Oro", category=("shoes",), price=None):
    return Item(item_id=item_id, title="", brand=brand, category=category, price=price)


def test_an_ambiguous_query_led_to_several_categories():
    """clear: 9 + 1 of two categories are 100 / 82 = 1.22 in effect; ambiguous: 4 + 1 are 25 / 17 = 1.47, 3 + 1 1.6."""
    items = [item("a"), item("b"), item("c", category=("hats",))]
    chosen = [{}, {"a": 2, "b": 9}, {"a": 9, "c": 1}, {"a": 4, "c": 1}, {"a": 3, "c": 1}, {"gone": 3}]
    examples = [example(f"s{n}", 0, "a") for n in range(len(chosen))]
    labels = query_groups(examples, {}, chosen=chosen, items=items)["ambiguity"]
    assert labels == ("unseen", "clear", "clear", "clear", "ambiguous", "unseen")


def test_where_items_have_no_category_each_is_one():
    items = [item("a", category=()), item("b", category=())]
    groups = query_groups([example("s", 0, "a")], {}, chosen=[{"a": 1, "b": 1}], items=items)
    assert groups["ambiguity"] == ("ambiguous",)


@given(counts=st.lists(st.integers(1, 99), min_size=1, max_size=6))
def test_the_effective_number_is_that_of_equal_counts_at_most(counts):
    assert 1 <= effective_number(counts) <= len(counts) + 1e-9
    assert effective_number([7] * len(counts)) == pytest.approx(len(counts))


def alike(a, b):
    """The rule, as it is told."""
    if a.brand is None and not a.category:
        return False
    known = a.price is not None and b.price is not None
    near = not known or max(a.price, b.price) <= 1.25 * min(a.price, b.price)
    return a.brand == b.brand and a.category == b.category and near


@given(
    facts=st.lists(
        st.tuples(
            st.sampled_from(["Oro", "Lux", None]),
            st.sampled_from([("shoes",), ("shoes", "men"), ()]),
            st.sampled_from([1.0, 1.25, 1.5, 2.0, None]),
        ),
        max_size=12,
    )
)
def test_look_alikes_are_counted_as_pair_by_pair(facts):
    items = [item(f"i{n}", *own) for n, own in enumerate(facts)]
    slow = {i.item_id: 0 for i in items} | {
        a.item_id: sum(alike(a, b) for b in items if b is not a) for a, b in permutations(items, 2)
    }
    assert look_alikes(items) == slow


def test_targets_are_grouped_by_the_number_of_their_look_alikes():
    items = [
        item("lone", price=9.0),
        *(item(f"two{n}", price=1.0) for n in range(2)),
        *(item(f"ten{n}", "Lux") for n in range(10)),
        *(item(f"eleven{n}", "Ary") for n in range(11)),
    ]
    examples = [example(name, 0, name) for name in ("lone", "two1", "ten9", "eleven0")]
    assert query_groups(examples, {}, items=items)["look_alikes"] == ("alone", "few", "few", "crowded")


def test_labels_come_back_in_the_order_of_the_searches(tmp_path):
    assert load_groups(tmp_path, ["s1"]) is None
    save_groups(tmp_path, ["s1", "s2"], {"history": ("cold", "warm"), "target": ("head", "tail")})
    assert load_groups(tmp_path, ["s2", "s1"]) == {"history": ("warm", "cold"), "target": ("tail", "head")}
    assert load_groups(tmp_path, ["s2", "s3"]) is None, "labels of other queries"
    (tmp_path / "groups.parquet").write_bytes(b"no table")
    with pytest.raises(DataError, match=r"groups\.parquet: not readable .* writes it again"):
        load_groups(tmp_path, ["s1"])
