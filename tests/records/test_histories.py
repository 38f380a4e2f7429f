"""Histories of others, or none: what stays, what moves, and that nothing is known too early."""

from collections import Counter
from datetime import timedelta

import pytest

from crsearch.config import SimulateConfig, SplitConfig
from crsearch.records.histories import with_shuffled_histories, without_histories
from crsearch.records.leaks import assert_no_leaks
from crsearch.records.simulator import simulate

PARTS = ("train", "valid", "test")


@pytest.fixture(scope="module")
def data():
    config = SimulateConfig(users=80, items=40, departments=1, brands=2, cold_users=0.2)
    return simulate(config, SplitConfig(test=0.3, valid=0.2), seed=0).dataset


def examples(data):
    return {e.context.user_id: e for part in PARTS for e in data.examples(part, 100)}


def clicks(example):
    return [s.chosen for s in example.context.history]


@pytest.mark.parametrize("change", [without_histories, lambda data: with_shuffled_histories(data, 3)])
def test_queries_targets_profiles_and_parts_stay(data, change):
    before, after = examples(data), examples(change(data))
    assert before.keys() == after.keys()
    for user_id, was in before.items():
        now = after[user_id]
        assert (now.context.query, now.target, now.part) == (was.context.query, was.target, was.part)
        assert (now.context.profile, now.context.time) == (was.context.profile, was.context.time)
    assert_no_leaks(change(data))


def test_without_histories_nothing_is_before_an_example(data):
    assert not any(e.context.history for e in examples(without_histories(data)).values())
    assert any(e.context.history for e in examples(data).values())


def test_everybody_gets_the_history_of_another_user_of_their_part_and_each_is_used_once(data):
    before, after = examples(data), examples(with_shuffled_histories(data, 3))
    owner = {s.search_id: user_id for user_id, e in before.items() for s in e.context.history}
    for part in PARTS:
        users = [u for u, e in before.items() if e.part == part]
        assert len(users) > 2
        givers = {u: {owner[s.search_id] for s in after[u].context.history} for u in users}
        assert all(len(given) <= 1 and given <= set(users) - {u} for u, given in givers.items())
        assert Counter(str(clicks(before[u])) for u in users) == Counter(str(clicks(after[u])) for u in users)


def test_a_history_ends_as_long_before_its_example_as_it_did(data):
    def gaps(example):
        return [example.context.time - s.time for s in example.context.history]

    before, after = examples(data), examples(with_shuffled_histories(data, 3))
    assert Counter(map(str, map(gaps, before.values()))) == Counter(map(str, map(gaps, after.values())))
    assert all(gap > timedelta(0) for e in after.values() for gap in gaps(e))


def test_the_circle_follows_the_seed(data):
    first, again, other = (with_shuffled_histories(data, seed).fingerprint() for seed in (3, 3, 4))
    assert first == again != other
    assert first != data.fingerprint()
