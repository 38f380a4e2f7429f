"""Verdicts and the paper's numbers."""

from hypothesis import given
from hypothesis import strategies as st

from crsearch.evaluate.intervals import Interval
from crsearch.report import paper
from crsearch.report.values import signed
from crsearch.report.verdict import Verdict

ENDS = st.floats(-1, 1)


@given(ENDS, ENDS, st.none() | st.floats(0, 1))
def test_a_system_is_above_only_where_interval_and_corrected_p_both_say_so(a: float, b: float, p: float | None) -> None:
    low, high = sorted((a, b))
    word = Verdict(Interval(mean=(low + high) / 2, low=low, high=high), p).word
    counts = p is None or p < 0.05
    assert (word == "above") == (counts and low > 0)
    assert (word == "below") == (counts and high < 0)


@given(ENDS, ENDS, st.none() | st.floats(0, 1))
def test_turning_a_comparison_around_turns_its_verdict_around(a: float, b: float, p: float | None) -> None:
    low, high = sorted((a, b))
    turned = {"above": "below", "below": "above", "not distinguishable from": "not distinguishable from"}
    here = Verdict(Interval(mean=(low + high) / 2, low=low, high=high), p).word
    there = Verdict(Interval(mean=-(low + high) / 2, low=-high, high=-low), p).word
    assert there == turned[here]


def test_a_difference_that_rounds_to_nothing_has_no_sign() -> None:
    assert str(signed(Interval(mean=-0.0001, low=-0.0004, high=0.0002))) == "0.000 [0.000, 0.000]"


def test_the_papers_gains_agree_with_each_other() -> None:
    """sft0 is worked out from the gain of figure 2 and the end of table 2; both must meet."""
    end = dict(zip(paper.DATASETS, paper.NDCG_10["crs"], strict=True))["All-50K"]
    assert abs(end / paper.STAGES_50K["sft0"] - 1 - paper.LOOP_GAIN["All-50K"]) < 1e-3
    assert list(paper.STAGES_50K.values()) == sorted(paper.STAGES_50K.values())


def test_table_two_of_the_paper_is_won_by_crs_on_every_data_set() -> None:
    assert all(gain > 0 for gain in paper.best_other_gain().values())
    assert {name for name, _ in paper.IMPOSSIBLE} <= paper.NDCG_10.keys()
