from dataclasses import replace

import pytest

from crsearch.config import SplitConfig
from crsearch.errors import DataError
from crsearch.records.leaks import assert_no_leaks, find_leaks
from crsearch.records.sales import training_sales, with_training_sales
from crsearch.records.split import choose_targets, part_of
from crsearch.records.statistics import statistics
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Item, Search, User

SPLIT = SplitConfig(test=0.3, valid=0.1)
TRAIN = [u for u in map(str, range(100)) if part_of(u, SPLIT) == "train"][:4]
TEST = [u for u in map(str, range(100)) if part_of(u, SPLIT) == "test"][:2]


def shop(*, sales: dict[str, float] | None = None, price: float | None = 2.0) -> Dataset:
    """Training users bought a and b, test users b and c; nobody d."""
    catalogue = Catalogue(
        Item(item_id=i, title=i, price=price, sales=None if sales is None else float(sales.get(i, 0))) for i in "abcd"
    )
    bought = dict.fromkeys(TRAIN, ("a", "b")) | dict.fromkeys(TEST, ("b", "c"))
    searches = tuple(
        Search(search_id=f"{u}-{n}", user_id=u, time=n, query=f"q{n}", bought=(item,))
        for u, items in bought.items()
        for n, item in enumerate(items)
    )
    users = {u: User(user_id=u) for u in bought}
    return Dataset(catalogue, users, searches, choose_targets(searches, SPLIT, catalogue))


def rules(data: Dataset) -> list[str]:
    return [problem.rule for problem in find_leaks(data)]


def test_a_clean_shop_has_no_leaks_and_passes():
    assert rules(shop()) == []
    assert_no_leaks(shop())


class TestSales:
    def test_sales_count_training_users_only(self):
        assert training_sales(shop()) == {"a": 4, "b": 4}
        assert [i.sales for i in with_training_sales(shop()).catalogue] == [4, 4, 0, 0]

    def test_clicks_count_where_the_source_has_no_purchases(self):
        data = shop()
        clicks = tuple(replace(s, clicked=s.bought, bought=()) for s in data.searches)
        assert training_sales(replace(data, searches=clicks)) == {"a": 4, "b": 4}

    @pytest.mark.parametrize(
        "sales",
        [
            {"a": 4, "b": 6, "c": 2},  # a count
            {"a": 8, "b": 12, "c": 4},  # revenue at the price of 2
            {"a": 0.2, "b": 7.0, "c": 0.1},  # any unit: above 0 exactly where anybody bought
        ],
    )
    def test_sales_that_count_the_test_users_are_a_leak(self, sales):
        assert rules(shop(sales=sales)) == ["sales-know-the-test"]
        with pytest.raises(DataError, match=r"count the purchases of all users.*with_training_sales"):
            assert_no_leaks(shop(sales=sales))

    @pytest.mark.parametrize("sales", [{"a": 4, "b": 4}, {"a": 8, "b": 8}, {"a": 5, "d": 3}, {}, None])
    def test_sales_of_training_users_or_of_elsewhere_are_none(self, sales):
        assert rules(shop(sales=sales)) == []


class TestHistory:
    def test_the_same_purchase_logged_twice_is_a_leak(self):
        data = shop()
        last = data.searches_of(TEST[0])[-1]
        twice = (*data.searches, replace(last, search_id="again"))
        leaky = replace(data, searches=twice, targets=choose_targets(twice, SPLIT, data.catalogue))
        assert rules(leaky) == ["target-in-history"]
        with pytest.raises(DataError, match=r"'again'.*'c' was chosen in.*at the same time"):
            assert_no_leaks(leaky)

    def test_a_repeat_purchase_at_an_earlier_time_is_none(self):
        data = shop()
        repeat = tuple(replace(s, bought=("a",)) for s in data.searches)
        again = replace(data, searches=repeat, targets=choose_targets(repeat, SPLIT, data.catalogue))
        assert rules(again) == [] and statistics(again)["repeated_targets"] == 1.0


class TestSides:
    def test_a_user_in_two_parts_is_a_leak(self):
        data = shop()
        first = data.searches_of(TRAIN[0])[0]
        leaky = replace(data, targets={**data.targets, first.search_id: ("a", "test")})
        assert rules(leaky) == ["user-on-both-sides"]

    def test_two_writings_of_one_id_are_one_user(self):
        name = next(f"é{n}" for n in range(100) if part_of(f"é{n}", SPLIT) != part_of(f"e\u0301{n}", SPLIT))
        other = "e\u0301" + name[1:]
        searches = tuple(
            Search(search_id=u, user_id=u, time=1, query="q", bought=(i,)) for u, i in ((name, "a"), (other, "b"))
        )
        catalogue = shop().catalogue
        data = Dataset(
            catalogue,
            {u: User(user_id=u) for u in (name, other)},
            searches,
            choose_targets(searches, SPLIT, catalogue),
        )
        assert rules(data) == ["user-on-both-sides"]


class TestStatistics:
    def test_table_1_by_hand(self):
        numbers = statistics(shop())
        assert {k: numbers[k] for k in ("users", "items", "queries", "queries_per_user", "clicks_per_user")} == {
            "users": 6, "items": 4, "queries": 2, "queries_per_user": 2.0, "clicks_per_user": 0.0,
        }  # fmt: skip
        assert (numbers["purchases_per_user"], numbers["train_users"], numbers["test_users"]) == (2.0, 4, 2)
        assert (numbers["first_time"], numbers["last_time"]) == (0, 1)

    def test_nothing_has_numbers_too(self):
        numbers = statistics(Dataset(Catalogue([]), {}, (), {}))
        assert numbers["users"] == 0 and numbers["queries_per_user"] == 0.0 and numbers["first_time"] is None
