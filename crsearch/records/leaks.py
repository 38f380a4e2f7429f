"""Leak checks: nothing that a test should find out is known beforehand. They fail the build.

Source: CRS §4.1 (split by user, the target interaction never in the history, popularity of the training
users only); the signatures by which popularity is recognised are this project's.
"""

import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable

from crsearch.records.problems import Problem, refuse
from crsearch.records.store import Dataset
from crsearch.records.types import Part, Search


def assert_no_leaks(data: Dataset, source: str = "data set") -> None:
    """Refuse a data set that gives test answers away.

    Args:
        data: the records.
        source: what messages call it.

    Raises:
        DataError: a target in its own history, a user on both sides (leave-one-out: something held out in a training
            history), popularity that knows the test users.
    """
    refuse(find_leaks(data, source))


def find_leaks(data: Dataset, source: str = "data set") -> list[Problem]:
    """All leaks of a data set, in the order of the three rules.

    * ``target-in-history``: an earlier search with the same clock time chose the target already: the same
      event, logged twice. A choice at an earlier time is a real repeat and stays.
    * ``user-on-both-sides``: a user has examples in two parts, also when only the writing of the id differs.
      Split by leave-one-out: ``held-out-before-training``, a choice that is held out stands before a training
      example of the same user, so that it is in the history of the latter.
    * ``sales-know-the-test``: the items' sales are what counting all users gives, not the training users.
    """
    sides = _users_on_both_sides if data.split_mode == "user" else _held_out_before_training
    return [*_targets_in_history(data, source), *sides(data, source), *_sales_of_tests(data, source)]


def _targets_in_history(data: Dataset, source: str) -> Iterable[Problem]:
    for search_id, (target, _) in data.targets.items():
        context = data.context(search_id, max_events=len(data.searches))
        for before in reversed(context.history):
            if before.time != context.time:
                break
            if target in before.chosen:
                yield Problem(
                    file=source,
                    line=None,
                    rule="target-in-history",
                    message=f"search {search_id!r}: its target {target!r} was chosen in {before.search_id!r} "
                    f"at the same time ({before.time}), so its history holds the answer",
                    fix="keep one of the two searches",
                )


def _users_on_both_sides(data: Dataset, source: str) -> Iterable[Problem]:
    parts: dict[str, set[str]] = defaultdict(set)
    names: dict[str, set[str]] = defaultdict(set)
    for search in data.searches:
        if search.search_id in data.targets:
            person = unicodedata.normalize("NFC", search.user_id).strip()
            parts[person].add(data.targets[search.search_id][1])
            names[person].add(search.user_id)
    for person, its_parts in parts.items():
        if len(its_parts) > 1:
            yield Problem(
                file=source,
                line=None,
                rule="user-on-both-sides",
                message=f"user {' = '.join(map(repr, sorted(names[person])))} is in {' and '.join(sorted(its_parts))}",
                fix="split by user: take the part from a hash of the user id (records.split.part_of)",
            )


_ORDER: dict[Part, int] = {"train": 0, "valid": 1, "test": 2}


def _held_out_before_training(data: Dataset, source: str) -> Iterable[Problem]:
    latest: dict[str, tuple[Part, str]] = {}
    for search in data.searches:
        if search.search_id not in data.targets:
            continue
        part = data.targets[search.search_id][1]
        before, its_id = latest.get(search.user_id, ("train", ""))
        if _ORDER[part] < _ORDER[before] or (part == before != "train"):
            yield Problem(
                file=source,
                line=None,
                rule="held-out-before-training",
                message=f"user {search.user_id!r}: search {search.search_id!r} is in {part}, but {its_id!r} before it "
                f"is in {before}",
                fix="leave one out: the last choice is test, the one before valid (records.split.choose_targets)",
            )
        latest[search.user_id] = (part, search.search_id)


_COUNTED: dict[str, Callable[[Search], tuple[str, ...]]] = {
    "purchases": lambda search: search.bought,
    "clicks": lambda search: search.clicked,
    "choices": lambda search: search.chosen,
}


def _sales_of_tests(data: Dataset, source: str) -> Iterable[Problem]:
    sales = {item.item_id: item.sales for item in data.catalogue if item.sales is not None}
    if not any(sales.values()):
        return
    price = {item.item_id: item.price or 0.0 for item in data.catalogue}
    for name, chosen in _COUNTED.items():
        everybody = Counter(i for s in data.searches for i in chosen(s))
        training = Counter(i for s in data.training_searches for i in chosen(s))
        if any(
            _same(sales, {i: measure(everybody[i], price[i]) for i in sales})
            and not _same(sales, {i: measure(training[i], price[i]) for i in sales})
            for measure in (_count, _revenue)
        ) or _marks_exactly(sales, everybody, training):
            yield Problem(
                file=source,
                line=None,
                rule="sales-know-the-test",
                message=f"the sales of the items count the {name} of all users, valid and test users too",
                fix="count training users only (records.sales.with_training_sales)",
            )
            return


def _count(count: int, price: float) -> float:
    return float(count)


def _revenue(count: int, price: float) -> float:
    return count * price


def _same(one: dict[str, float], other: dict[str, float]) -> bool:
    return all(abs(one[i] - other[i]) <= 1e-6 * max(1.0, abs(other[i])) for i in one)


def _marks_exactly(sales: dict[str, float], everybody: Counter[str], training: Counter[str]) -> bool:
    """Sales above 0 for exactly the items that anybody chose, some by valid and test users alone.

    This holds in any unit (revenue, logarithms). Items without sales are needed, else it says nothing.
    """
    sold = {i for i, amount in sales.items() if amount > 0}
    chosen = {i for i in sales if everybody[i]}
    return sold == chosen and len(sold) < len(sales) and any(not training[i] for i in chosen)
