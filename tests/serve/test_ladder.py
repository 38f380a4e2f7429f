"""Which rung is taken, from costs that are known."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.serve.admin import pays
from crsearch.serve.contract import Rung
from crsearch.serve.ladder import AROUND_MS, MARGIN, Costs, Measured, plan


def costs(read: float = 10.0, step: float = 2.0, beam: float = 10.0, thought: float = 20.0) -> Costs:
    return Costs(Measured(read), Measured(step), Measured(beam), Measured(thought))


ANSWER = AROUND_MS + MARGIN * 20
"""What ``costs()`` need without a thought."""
THOUGHT = ANSWER + MARGIN * 2 * 20


@pytest.mark.parametrize(
    ("mode", "remaining", "cached", "rung", "degraded"),
    [
        ("auto", THOUGHT + 1, False, Rung.FRESH, None),
        ("auto", THOUGHT - 1, False, Rung.DIRECT, "think_budget"),
        ("think", THOUGHT - 1, False, Rung.DIRECT, "think_budget"),
        ("think", ANSWER + 1, False, Rung.DIRECT, "think_budget"),
        ("auto", ANSWER + 1, True, Rung.CACHED, None),
        ("fast", THOUGHT + 1, True, Rung.DIRECT, None),
        ("auto", ANSWER - 1, True, None, "deadline"),
        ("think", -5.0, False, None, "deadline"),
    ],
)
def test_the_rung_is_the_best_that_keeps_the_deadline(mode, remaining, cached, rung, degraded):
    found = plan(mode, remaining, costs(), 1, 48, cached=cached)
    assert (found.rung, found.degraded) == (rung, degraded)


def test_a_thought_is_begun_only_to_be_cut_where_cuts_pay():
    room = 10 * MARGIN * 2
    assert plan("think", ANSWER + room + 0.1, costs(), 1, 48, cached=False, cuts_pay=True).think_tokens == 10
    assert plan("auto", ANSWER + room + 0.1, costs(), 1, 48, cached=False, cuts_pay=True).rung is Rung.DIRECT
    assert plan("think", ANSWER + room + 0.1, costs(), 1, 48, cached=False, cuts_pay=False).rung is Rung.DIRECT


def test_auto_answers_at_once_where_thoughts_do_not_pay_and_think_thinks_all_the_same():
    found = plan("auto", 1e6, costs(), 1, 48, cached=True, thoughts_pay=False)
    assert (found.rung, found.degraded) == (Rung.DIRECT, None) and "better without a thought" in found.why
    assert plan("think", 1e6, costs(), 1, 48, cached=False, thoughts_pay=False).rung is Rung.FRESH


@pytest.mark.parametrize(("own", "none", "unknown", "expected"), [
    (0.5, 0.4, False, True), (0.4, 0.4, True, False), (None, 0.4, True, True), (0.5, None, False, False),
])  # fmt: skip
def test_whether_a_thought_pays_is_read_off_the_results(own, none, unknown, expected):
    means = {"L0": own, "L3": none}
    rungs = {rung: {"NDCG@10": {"mean": mean}} for rung, mean in means.items() if mean is not None}
    assert pays({"rungs": rungs}, Rung.FRESH, unknown=unknown) is expected


def test_a_thought_gets_no_more_tokens_than_the_limit():
    assert plan("think", 1e6, costs(), 1, 48, cached=False).think_tokens == 48


def test_the_longest_of_the_newest_thoughts_must_fit():
    slow = costs()
    for tokens in (10.0, 40.0, 12.0):
        slow.thought.add(1, tokens)
    assert plan("auto", THOUGHT + 1, slow, 1, 48, cached=False).rung is Rung.DIRECT
    assert plan("auto", ANSWER + MARGIN * 2 * 40 + 1, slow, 1, 48, cached=False).rung is Rung.FRESH


def test_a_full_batch_costs_more_than_one_request():
    slower = costs()
    for n, ms in ((1, 10.0), (16, 100.0)):
        slower.read.add(n, ms)
    left = ANSWER + 5
    assert plan("fast", left, slower, 1, 48, cached=False).rung is Rung.DIRECT
    assert plan("fast", left, slower, 16, 48, cached=False).rung is None


@given(st.lists(st.tuples(st.integers(1, 64), st.floats(0.1, 1e3)), min_size=1, max_size=20), st.integers(1, 64))
def test_a_measured_cost_never_falls_with_the_batch_and_is_never_below_the_cheapest(seen, batch):
    cost = Measured(5.0)
    for n, ms in seen:
        cost.add(n, ms)
    assert cost(batch) >= min(ms for _, ms in seen)
    assert cost(batch + 1) >= cost(batch) - 1e-9


def test_a_cost_can_be_read_while_it_is_measured():
    """The engine's thread measures, the event loop reads."""
    cost = Measured(5.0)
    stop = threading.Event()

    def measure() -> None:
        while not stop.is_set():
            cost.add(3, 7.0)

    thread = threading.Thread(target=measure)
    thread.start()
    try:
        assert {cost(n) for n in range(1, 2_000)} <= {5.0, 7.0}
    finally:
        stop.set()
        thread.join()
