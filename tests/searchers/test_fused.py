"""Fusion by reciprocal rank, on lists that can be fused by hand."""

import pytest

from crsearch.encoders import LsaEncoder
from crsearch.records.types import Context, Item, RankedList, Search
from crsearch.searchers.bm25 import Bm25Searcher
from crsearch.searchers.dense import DenseSearcher
from crsearch.searchers.fused import DEPTH, FusedSearcher
from crsearch.searchers.text import item_text


class Listed:
    """Gives every context one list, and keeps how many items it was asked for."""

    def __init__(self, name, items):
        self.name, self.items, self.asked = name, items, []

    def search(self, contexts, k):
        self.asked.append(k)
        ids = tuple(self.items[:k])
        return [RankedList(search_id=c.search_id, item_ids=ids, scores=tuple(-1.0 for _ in ids)) for c in contexts]


def context(search_id="s", history=()):
    return Context(search_id=search_id, user_id="u", query="red dress", history=history)


def fuse(first, second, k=10):
    (answer,) = FusedSearcher(Listed("one", first), Listed("two", second)).search([context()], k)
    return answer


def test_the_scores_are_those_worked_out_by_hand():
    """a: 1/61 = .016393; b: 1/62 + 1/61 = .032522; c: 1/63 + 1/62 = .032002; d: 1/63 = .015873."""
    answer = fuse("abc", "bcd")
    assert answer.item_ids == ("b", "c", "a", "d")
    assert answer.scores == pytest.approx((0.032522, 0.032002, 0.016393, 0.015873), abs=5e-7)


def test_a_first_place_counts_less_than_two_tenth_places():
    """1/61 = .0164 against 2/70 = .0286: with k = 60 agreement wins."""
    assert fuse("abcdefghij", "ABCDEFGHIj").item_ids[:3] == ("j", "a", "A")


def test_equal_scores_go_by_the_first_searcher():
    assert fuse("ab", "xy").item_ids == ("a", "x", "b", "y")
    assert fuse("ab", "ba").item_ids == ("a", "b")


def test_where_one_finds_nothing_the_other_answers():
    assert fuse("", "xy").item_ids == fuse("xy", "").item_ids == ("x", "y")
    assert fuse("", "").item_ids == ()


def test_a_short_list_is_the_beginning_of_a_longer_one():
    """Both are asked to one depth: else an item deep in both lists would be missed by short answers."""
    first, second = [f"i{n}" for n in range(100)], [f"i{n}" for n in range(99, -1, -1)]
    assert fuse(first, second, 100).item_ids[:3] == fuse(first, second, 3).item_ids


def test_more_items_than_the_depth_are_asked_for_where_more_are_wanted():
    one, two = Listed("one", "ab"), Listed("two", "cd")
    FusedSearcher(one, two).search([context()], 3)
    FusedSearcher(one, two).search([context()], DEPTH + 1)
    assert one.asked == two.asked == [DEPTH, DEPTH + 1]


def test_every_context_gets_its_own_list_in_order():
    searcher = FusedSearcher(Listed("one", "a"), Listed("two", "b"))
    assert [a.search_id for a in searcher.search([context("x"), context("y")], 1)] == ["x", "y"]
    assert searcher.search([], 5) == []


def test_without_a_history_the_dense_partner_that_reads_it_is_the_one_that_does_not():
    """So ``hybrid`` needs no second index for a new user."""
    items = [
        Item(item_id="i0", title="red dress"), Item(item_id="i1", title="blue dress"), Item(item_id="i2", title="shoe"),
    ]  # fmt: skip
    encoder, bm25 = LsaEncoder.fit([item_text(item) for item in items], 4, seed=0), Bm25Searcher(items)
    with_history = FusedSearcher(DenseSearcher(encoder, items, history=2), bm25)
    without = FusedSearcher(DenseSearcher(encoder, items), bm25)
    earlier = (Search(search_id="e", user_id="u", time=0, query="shoe", clicked=("i2",)),)
    assert with_history.search([context()], 3) == without.search([context()], 3)
    assert with_history.search([context(history=earlier)], 3) != without.search([context(history=earlier)], 3)
