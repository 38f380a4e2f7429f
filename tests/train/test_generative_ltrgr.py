"""LTRGR: margins by hand, which pairs compete, an exact resume, and that ranking is learned."""

import copy
from dataclasses import replace

import pytest
import torch
from generative_shop import FAST, as_new, hits_at_1, one_query_per_item, with_baselines
from hypothesis import given
from hypothesis import strategies as st

from crsearch.config import LtrgrConfig
from crsearch.decode.trie import Trie
from crsearch.runs import RunDirectory
from crsearch.train.generative import Pair, answer_logprobs, answer_tree, branch_scores, identifiers
from crsearch.train.genre import RetrievalTask
from crsearch.train.ltrgr import Contest, RankingTask, contests, margin_loss, stage_steps, train_ltrgr


@pytest.fixture
def shop(request):
    return as_new(request)


def ranking_task(bench, examples, key="key"):
    identifiers_NL = identifiers(bench.builder, bench.settings, "ltrgr")
    return RankingTask(
        bench, "ltrgr", key, RetrievalTask(bench, examples, identifiers_NL), Trie.from_tokens(identifiers_NL)
    )


# -- margins ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("right", "wrong", "loss", "slope"), [(-2.0, -2.5, 0.5, -1.0), (-1.0, -3.0, 0.0, 0.0), (-3.0, -1.0, 3.0, -1.0)]
)
def test_margin_loss_and_its_gradient_by_hand(right, wrong, loss, slope):
    right_P = torch.tensor([right], requires_grad=True)
    wrong_P = torch.tensor([wrong], requires_grad=True)
    found_P = margin_loss(right_P, wrong_P, 1.0)
    found_P.sum().backward()
    assert found_P.tolist() == [loss]
    assert (right_P.grad.item(), wrong_P.grad.item()) == (slope, -slope)


# -- contests ---------------------------------------------------------------------------------------------------------
def found(rows, scores, own, *, row=1, right=(1,), **config):
    """The contests of one pair (q, row) with this list."""
    return contests(
        [Pair("q", row)], {"q": set(right)}, torch.tensor([rows]), torch.tensor([scores]), torch.tensor([own]),
        LtrgrConfig(**{"margin": 1.0, "margin_random": 1.0} | config),
    )  # fmt: skip


def test_the_best_right_item_meets_the_wrong_items_of_the_list():
    assert found([7, 3, 1, 8, -1], [-1.0, -1.2, -2.0, -4.0, -float("inf")], -2.0, right=(1, 3)) == [
        Contest(Pair("q", 1), (3, 1), (7, 8))
    ]


def test_a_right_item_outside_the_list_is_scored_by_teacher_forcing():
    assert found([7, 8], [-1.0, -2.0], -9.0) == [Contest(Pair("q", 1), (1,), (7, 8))]


def test_a_list_of_right_items_only_is_left_out():
    assert found([1, 2], [-1.0, -1.0], -1.0, right=(1, 2)) == []


def test_a_pair_that_is_safe_by_both_margins_is_left_out():
    assert found([1, 7], [-1.0, -2.5], -1.0) == []
    assert len(found([1, 7], [-1.0, -2.5], -1.0, margin=2.0)) == 1
    assert len(found([1, 7], [-1.0, -2.5], -1.0, margin_random=2.0)) == 1
    assert found([3, 7, 1], [-1.0, -2.5, -4.0], -4.0, right=(1, 3)) != []  # the other right item is behind


@given(
    scores=st.lists(st.floats(-9, 0, width=32), min_size=1, max_size=6), own=st.floats(-9, 0, width=32),
    right=st.sets(st.integers(0, 6)), margins=st.tuples(st.floats(0, 4), st.floats(0, 4)),
)  # fmt: skip
def test_what_is_left_out_has_no_gradient(scores, own, right, margins):
    scores = sorted(scores, reverse=True)
    right = right | {99}
    kept = found(
        list(range(len(scores))), scores, own, row=99, right=tuple(right), margin=margins[0], margin_random=margins[1]
    )
    wrong = [s for row, s in enumerate(scores) if row not in right]
    good = [s for row, s in enumerate(scores) if row in right] or [own]
    hinges = [max(0.0, wrong[0] - good[0] + margins[0])] if wrong else []
    hinges += [max(0.0, bad - score + margins[1]) for bad in wrong for score in good]
    assert bool(kept) == any(h > 0 for h in hinges)


# -- a step -----------------------------------------------------------------------------------------------------------
def test_a_step_is_the_sum_of_its_parts_scored_one_answer_at_a_time(shop, run):
    bench = with_baselines(
        shop, run, ltrgr={"batch": 6, "margin": 1.0, "margin_random": 3.0, "generation": 0.5, "candidates": 10}
    )
    task = ranking_task(bench, shop.examples)
    drawn = task.drawn(3)
    assert len(drawn) == 6
    ((loss, numbers),) = task.losses(3)

    def score(query, row):
        tree = answer_tree(task.retrieval.prompts[query], [task.retrieval.answers[row]], "x")
        with torch.no_grad():
            return float(branch_scores(*answer_logprobs(shop.bundle.model, [tree])))

    top = [max(0.0, score(c.pair.query, c.wrong[0]) - score(c.pair.query, c.right[0]) + 1.0) for c, _, _ in drawn]
    other = [max(0.0, score(c.pair.query, w) - score(c.pair.query, r) + 3.0) for c, r, w in drawn]
    generation = -sum(score(c.pair.query, c.pair.row) for c, _, _ in drawn) / (6 * shop.bundle.sid_ids_NL.shape[1])
    assert numbers["loss_rank_top"] == pytest.approx(sum(top) / 6, abs=1e-4)
    assert numbers["loss_rank_random"] == pytest.approx(sum(other) / 6, abs=1e-4)
    assert numbers["loss_retrieval"] == pytest.approx(generation, abs=1e-4)
    assert float(loss.detach()) == pytest.approx(sum(top) / 6 + sum(other) / 6 + 0.5 * generation, abs=1e-4)
    assert numbers["active_top"] == sum(h > 0 for h in top) / 6


def test_wrong_items_are_items_that_no_training_user_chose_after_the_query(shop, run):
    task = ranking_task(with_baselines(shop, run), shop.examples)
    mined = task.contests(0)
    assert mined
    for contest in mined:
        right = {p.row for p in task.retrieval.pairs if p.query == contest.pair.query}
        assert not right & set(contest.wrong)
        assert {*contest.right, contest.pair.row} <= right


@pytest.mark.parametrize(("every", "rounds"), [(1, [0, 0, 1, 1, 2]), (2, [0, 0, 0, 0, 1]), (0, [0] * 5)])
def test_candidates_are_searched_anew_after_so_many_passes(shop, run, every, rounds):
    examples = one_query_per_item(shop)[:8]
    task = ranking_task(with_baselines(shop, run, ltrgr={"batch": 4, "mine_every": every}), examples)
    assert [task.round_of(step) for step in range(5)] == rounds


# -- the stage --------------------------------------------------------------------------------------------------------
def test_ltrgr_overfits_a_query_per_item_and_hardly_anything_is_left_to_rank(shop, run):
    examples = one_query_per_item(shop)
    bench = with_baselines(shop, run, ltrgr={"batch": 40, "max_steps": 60, "mine_every": 4, "optim": FAST})
    train_ltrgr(bench, "ltrgr", "key", examples, 1e9)
    assert hits_at_1(shop, examples, name="ltrgr") == 1.0
    assert len(list(run.path.glob("traces/mined/ltrgr.*.json"))) == 5  # 18 steps of ranking, each a pass
    assert len(ranking_task(bench, examples, "now").contests(99)) < 0.2 * len(examples)


@pytest.mark.parametrize(("every", "least", "most"), [(1, 0.8, 1.0), (0, 0.0, 0.5)])
def test_ranking_alone_finds_the_right_items_unless_its_candidates_go_stale(shop, run, every, least, most):
    examples = one_query_per_item(shop)
    alone = {"margin": 2.0, "margin_random": 2.0, "generation": 0.0, "share": 1.0, "mine_every": every}
    bench = with_baselines(shop, run, ltrgr={"batch": 40, "max_steps": 40, "optim": FAST} | alone)
    assert len(ranking_task(bench, examples, "start").contests(0)) == len(examples)
    assert hits_at_1(shop, examples, name="ltrgr") < 0.2
    train_ltrgr(bench, "ltrgr", "key", examples, 1e9)
    assert least <= hits_at_1(shop, examples, name="ltrgr") <= most


@pytest.mark.parametrize("weight", [0.5, 0.0])
def test_where_nothing_is_left_to_rank_generation_goes_on_if_it_counts(shop, run, weight):
    everything_is_right = [replace(shop.examples[0], target=item.item_id) for item in shop.dataset.catalogue]
    bench = with_baselines(shop, run, history_pairs=False, ltrgr={"generation": weight})
    task = ranking_task(bench, everything_is_right)
    assert task.contests(0) == []
    steps = list(task.losses(0))
    assert len(steps) == (weight > 0)
    for loss, numbers in steps:
        assert set(numbers) == {"loss_retrieval", "tokens_sum"}
        assert float(loss.detach()) == pytest.approx(weight * numbers["loss_retrieval"])


@pytest.mark.parametrize("stop_at", [3, 9])
def test_a_killed_stage_ends_with_the_same_bits(shop, tmp_path, stop_at):
    start = copy.deepcopy(shop.bundle.model.state_dict())
    shape = {"batch": 4, "max_steps": 12, "share": 0.7}  # 4 steps, then 8 of 4 rounds, two steps each

    def stage(folder, stop_at=None):
        def stopping(name, done, total, numbers):
            if done == stop_at:
                raise KeyboardInterrupt

        with RunDirectory(folder) as run:
            bench = replace(with_baselines(shop, run, ltrgr=shape), progress=stopping)
            object.__setattr__(bench.settings, "checkpoint_seconds", 0.0)
            return train_ltrgr(bench, "ltrgr", "key", one_query_per_item(shop)[:8], 1e9)

    sums = stage(tmp_path / "whole")
    whole = copy.deepcopy(shop.bundle.model.state_dict())
    shop.bundle.model.load_state_dict(start)
    with pytest.raises(KeyboardInterrupt):
        stage(tmp_path / "cut", stop_at)
    shop.bundle.model.load_state_dict(start)
    assert stage(tmp_path / "cut") == sums
    assert all(torch.equal(whole[name], value) for name, value in shop.bundle.model.state_dict().items())


def test_candidates_of_other_inputs_are_not_used(shop, run):
    bench = with_baselines(shop, run)
    first = ranking_task(bench, shop.examples[:4], "one").contests(0)
    second = ranking_task(bench, shop.examples[4:8], "two").contests(0)
    assert {c.pair for c in second} <= set(ranking_task(bench, shop.examples[4:8]).retrieval.pairs)
    assert first != second


def test_contests_survive_the_disk(shop, run):
    bench = with_baselines(shop, run)
    mined = ranking_task(bench, shop.examples).contests(0)
    for parameter in shop.bundle.model.parameters():
        parameter.data.zero_()
    assert ranking_task(bench, shop.examples).contests(0) == mined


def test_the_budget_of_both_stages_is_in_tokens(shop, run):
    bench = with_baselines(shop, run, ltrgr={"batch": 16, "share": 0.5})
    seen = train_ltrgr(bench, "ltrgr", "key", shop.examples, 8_000.0)["tokens_sum"]
    assert seen == pytest.approx(8_000.0, rel=0.08)


@pytest.mark.parametrize(
    ("share", "max_steps", "steps"), [(0.0, None, (20, 0)), (1.0, None, (0, 12)), (0.3, 10, (7, 3)), (0.5, 1, (1, 0))]
)
def test_shares_of_the_stages(share, max_steps, steps):
    assert stage_steps(LtrgrConfig(share=share, batch=10, max_steps=max_steps), 4e3, 20.0, 3) == steps


def test_without_an_example_nothing_happens(shop, run):
    assert train_ltrgr(with_baselines(shop, run), "ltrgr", "key", [], 1000.0) == {}
