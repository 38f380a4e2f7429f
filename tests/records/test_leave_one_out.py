"""The split of sequential recommenders: each user's last choice is test, the one before valid, the rest train."""

from collections import Counter
from dataclasses import replace

import pytest

from crsearch.config import SimulateConfig, SplitConfig
from crsearch.errors import ConfigError, DataError
from crsearch.records.checks import check_folder
from crsearch.records.histories import with_shuffled_histories, without_histories
from crsearch.records.importers.common import ImportReport, assemble
from crsearch.records.importers.esci import import_esci
from crsearch.records.importers.kuaisearch import import_kuaisearch
from crsearch.records.leaks import find_leaks
from crsearch.records.simulator import simulate
from crsearch.records.statistics import statistics
from crsearch.records.store import Dataset
from crsearch.records.types import Item, Search, User
from crsearch.searchers.popularity import training_counts
from crsearch.train.examples import newest_of_windows

SPLIT = SplitConfig(mode="leave-one-out")
ITEMS = [Item(item_id=i, title=i) for i in "abcdefgh"]
BOUGHT = {"u": "abcde", "v": "abc", "w": "hg", "x": "b-d-"}
"""User -> items bought, oldest first; ``-`` is a search without a choice."""


def shop(split: SplitConfig = SPLIT, bought=BOUGHT) -> Dataset:
    searches = [
        Search(search_id=f"{user}{n}", user_id=user, time=n, query="q", bought=() if item == "-" else (item,))
        for user, items in bought.items()
        for n, item in enumerate(items)
    ]
    users = {user: User(user_id=user) for user in bought}
    return assemble(ITEMS, users, searches, split, "error", ImportReport("a shop"), count_sales=True)


def rules(data: Dataset) -> list[str]:
    return [problem.rule for problem in find_leaks(data)]


def test_the_last_choice_is_test_the_one_before_valid_the_rest_train():
    parts = {search_id: part for search_id, (_, part) in shop().targets.items()}
    assert parts == {
        "u0": "train", "u1": "train", "u2": "train", "u3": "valid", "u4": "test",
        "v0": "train", "v1": "valid", "v2": "test",
        "w0": "train", "w1": "train", "x0": "train", "x2": "train",
    }, "a user with fewer than three choices trains only"  # fmt: skip


def test_no_held_out_choice_is_in_a_training_history_or_counted():
    data = shop(bought={f"u{n}": "abcdefgh"[n % 3 :] for n in range(20)})
    held_out = {search_id for search_id, (_, part) in data.targets.items() if part != "train"}
    for example in data.examples("train", 100):
        assert held_out.isdisjoint(s.search_id for s in example.context.history)
    assert held_out.isdisjoint(s.search_id for s in data.training_searches)
    tests = {e.context.user_id: e for e in data.examples("test", 100)}
    assert len(tests) == 20 and all(e.context.history[-1].search_id in held_out for e in tests.values())


def test_what_is_a_target_in_a_later_example_is_not_an_example_again():
    """Nine training choices and windows of three events before a choice: the newest of each window stays."""
    data = shop(bought={"u": "abcdefghabc", "v": "abc"})
    examples = data.examples("train", 3)
    kept = newest_of_windows(examples)
    assert [e.context.search_id for e in kept] == ["u0", "u4", "u8", "v0"]
    learned = [s.search_id for e in kept for s in e.context.history] + [e.context.search_id for e in kept]
    assert sorted(learned) == sorted(e.context.search_id for e in examples)
    by_user = shop(SplitConfig()).examples("train", 10)
    assert newest_of_windows(by_user) == by_user


def test_sales_and_popularity_end_before_the_first_held_out_choice():
    data = shop()
    expected = Counter("abc") + Counter("a") + Counter("hg") + Counter("bd")
    assert {i.item_id: i.sales for i in data.catalogue if i.sales} == expected
    assert training_counts(data).items == expected


def test_statistics_count_the_users_of_each_part():
    found = statistics(shop())
    assert [found[f"{part}_users"] for part in ("train", "valid", "test")] == [4, 2, 2]


def test_it_is_kept_on_disk_and_passes_its_own_check(tmp_path):
    data = shop()
    data.save(tmp_path)
    assert Dataset.load(tmp_path) == data and Dataset.load(tmp_path).split_mode == "leave-one-out"
    assert check_folder(tmp_path) == []


def test_the_same_records_split_by_user_are_another_data_set():
    by_user = shop(SplitConfig())
    assert by_user.split_mode == "user" and len(by_user.targets) == 4
    loo = replace(by_user, split_mode="leave-one-out")
    assert loo.fingerprint() != by_user.fingerprint()


@pytest.mark.parametrize(
    ("search_id", "part"),
    [("u0", "valid"), ("u1", "test"), ("u3", "test"), ("u4", "valid"), ("u4", "train")],
)
def test_a_held_out_choice_before_a_training_one_is_a_leak(search_id, part):
    data = shop()
    leaky = replace(data, targets={**data.targets, search_id: (data.targets[search_id][0], part)})
    assert rules(data) == [] and rules(leaky)[0] == "held-out-before-training"


def test_sales_of_all_choices_are_a_leak():
    data = shop()
    everything = Counter("".join(BOUGHT.values()))
    items = [replace(item, sales=float(everything[item.item_id])) for item in data.catalogue]
    assert rules(replace(data, catalogue=type(data.catalogue)(items))) == ["sales-know-the-test"]


def test_the_same_targets_called_split_by_user_are_a_leak():
    assert "user-on-both-sides" in rules(replace(shop(), split_mode="user"))


def test_what_needs_one_example_per_user_is_refused(tmp_path):
    data = shop()
    for need in (lambda: data.parts, lambda: without_histories(data), lambda: with_shuffled_histories(data, 0)):
        with pytest.raises(DataError, match=r"leave-one-out.*import with split by user"):
            need()
    for make in (
        lambda: import_kuaisearch(tmp_path, SPLIT),
        lambda: import_esci(tmp_path, SPLIT),
        lambda: simulate(SimulateConfig(users=20, items=40), SPLIT, 0),
    ):
        with pytest.raises(ConfigError, match=r'split\.mode = "leave-one-out"'):
            make()
