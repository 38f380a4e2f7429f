"""The stages on a shop of 40 items: they learn, keep their abilities, and select what the paper says."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from crsearch.config import MixtureConfig, OptimConfig, RlConfig
from crsearch.train.answer import (
    answer_both_ways,
    answer_directly,
    answer_thinking,
    forbidden_in_thoughts,
    think,
)
from crsearch.train.examples import RECORD_FIELDS, clicked_loss, draw, kind_loss, split_users
from crsearch.train.rl import anchor_weights, lay_out, policy_stage, roll_out
from crsearch.train.select import correct, incorrect
from crsearch.train.supervised import (
    align,
    consolidate,
    continue_directly,
    first_reasoning,
    start_tags,
    steps_for,
)
from crsearch.train.trainer import generator
from crsearch.train.tree import Tree, pack, target_logprobs

FAST = OptimConfig(lr_matrix=0.02, lr=1e-2, schedule="constant", warmup=0.0)


def quiet(done: int, total: int) -> None:
    """A tick that says nothing."""


def learn_to_think(shop, run, count=12, steps=120):
    """Overfit a few traces, so that thoughts close and items are named."""
    distill = shop.settings.distill.model_copy(
        update={"epochs": 400, "batch": 4, "max_steps": steps, "optim": FAST, "repeats": 1}
    )
    bench = shop.bench(run)
    bench = copy.copy(bench)
    object.__setattr__(bench, "settings", bench.settings.model_copy(update={"distill": distill}))
    numbers = first_reasoning(bench, "sft0", "key", shop.traces(count))
    return bench, numbers


# -- trees of examples ------------------------------------------------------------------------------------------------
def test_a_user_tree_asks_every_task_of_one_trunk(shop):
    example = shop.examples[0]
    thought = shop.builder.prompts.thought("Wants a case.")
    tree = shop.builder.user(example, name=True, thought=thought)
    assert [b.kind for b in tree.branches] == ["direct", "name", "think"]
    assert all(b.at == len(tree.trunk) for b in tree.branches)
    row = shop.dataset.catalogue.row(example.target)
    sid = [int(t) for t in shop.bundle.sid_ids_NL[row]]
    direct, _, think_ = ([t for t, w in zip(b.ids, b.loss, strict=True) if w] for b in tree.branches)
    assert direct == [*sid, shop.bundle.end_id]
    assert think_ == [*thought, shop.bundle.close_id, *sid, shop.bundle.end_id]


def test_the_semantic_id_after_a_thought_weighs_what_is_asked_for(shop):
    example, end = shop.examples[0], len(shop.builder.sid(0)) + 1
    thought = shop.builder.prompts.thought("Wants a case for a phone, in red.")
    for answer, total in ((0.0, end), (2.0, end + 2.0 * (len(thought) + 1 + end))):
        branch = shop.builder.user(example, thought=thought, answer=answer).branches[-1]
        said = [w for w in branch.loss[:-end] if w]
        assert said == [1.0] * (len(thought) + 1)
        assert sum(branch.loss[-end:]) == pytest.approx(total) and len(set(branch.loss[-end:])) == 1


@pytest.mark.parametrize("answer", [0.0, 0.5])
def test_an_answer_that_weighs_more_is_added_to_the_loss_of_its_thought(shop, run, answer):
    """Oracle: the loss of the first step by hand, from the log-probabilities of both parts."""
    (example, thought), *_ = traces = shop.traces(1)
    alone = {"item_words": 0.0, "direct": 0.0, "items": 0.0, "name": 0.0}
    changes = {
        "mixture": shop.settings.mixture.model_copy(update={**alone, "answer": answer}),
        "distill": shop.settings.distill.model_copy(update={"max_steps": 1, "batch": 1}),
    }
    bench = copy.copy(shop.bench(run))
    object.__setattr__(bench, "settings", bench.settings.model_copy(update=changes))
    packed = pack([shop.builder.user(example, thought=thought)])
    with torch.no_grad():
        logprob_M = target_logprobs(shop.bundle.model, packed)[packed.kind_M == packed.kinds.index("think")]
    by_hand = -(logprob_M.mean() + answer * logprob_M[len(thought) + 1 :].mean())
    first_reasoning(bench, "sft0", "key", traces)
    logged = json.loads((run.path / "metrics.jsonl").read_text().splitlines()[0])
    assert logged["loss"] == pytest.approx(float(by_hand), rel=1e-4)


def test_the_thought_of_an_anchor_weighs_as_much_whatever_its_answer_weighs(shop):
    thought = shop.builder.prompts.thought("she bought red cases before")

    def pull(answer):
        packed = pack([shop.builder.user(shop.examples[0], direct=False, thought=thought, answer=answer)])
        logprob_M = torch.zeros(len(packed.kind_M), requires_grad=True)
        weights = anchor_weights(RlConfig(anchor_think=0.3), MixtureConfig(answer=answer))
        kind_loss(logprob_M, packed, weights)[0].backward()
        of_trace_M = -logprob_M.grad[packed.kind_M == packed.kinds.index("think")]
        return of_trace_M[: len(thought) + 1], of_trace_M[len(thought) + 1 :]

    (said, sid), (said_too, heavier) = pull(0.0), pull(1.0)
    torch.testing.assert_close(said, said_too)
    assert float(heavier.sum() - sid.sum()) == pytest.approx(0.3)


def test_the_words_of_clicked_items_and_nothing_else_carry_loss_in_the_trunk(shop):
    example = next(e for e in shop.examples if any(s.clicked for s in e.context.history))
    encoded = shop.builder.trunk(example.context)
    kept = [t for t, w in zip(encoded.ids, clicked_loss(encoded), strict=True) if w]
    text = shop.bundle.tokenizer.decode(kept)
    clicked = [i for s in example.context.history for i in s.chosen]
    assert all(shop.dataset.catalogue[shop.dataset.catalogue.row(i)].title in text for i in clicked)
    assert not [field for field in ("query", "time", "skipped", "profile", "now") if f'"{field}"' in text]
    assert len(kept) < len(encoded.ids) / 2


def test_history_targets_see_the_context_only_up_to_their_query(shop):
    example = next(e for e in shop.examples if any(s.clicked for s in e.context.history))
    tree = shop.builder.user(example, history=True)
    early = tree.branches[1]
    text = shop.bundle.tokenizer.decode(tree.trunk[: early.at])
    first = next(s for s in example.context.history if s.clicked)
    assert text.endswith(f'"query":"{first.query}')
    assert '"now"' not in text


def test_item_trees_are_those_of_the_prompts_whether_kept_or_new(shop):
    prompts, fields = shop.builder.prompts, [f for f in RECORD_FIELDS if getattr(shop.dataset.catalogue[3], f)]
    wanted = [prompts.item_to_sid(shop.dataset.catalogue[3], fields[n : n + 1]) for n in range(len(fields) + 1)]
    seen = set()
    for seed in range(60):
        named, described = shop.builder.with_model(shop.bundle).item(3, np.random.default_rng(seed))
        pair = (named.trunk, named.branches[0].ids)
        assert pair == wanted[np.random.default_rng(seed).integers(len(wanted))]
        assert (described.trunk, described.branches[0].ids) == prompts.sid_to_item(3)
        seen.add(tuple(named.trunk))
    assert len(seen) == len(wanted)


def test_every_number_is_drawn_once_an_epoch_and_epochs_differ():
    steps = [draw(3, "a", 10, 4, s) for s in range(5)]
    flat = [i for s in steps for i in s]
    assert sorted(flat[:10]) == sorted(flat[10:]) == list(range(10))
    assert flat[:10] != flat[10:]
    assert draw(3, "a", 0, 4, 0) == []


def test_kind_loss_is_the_weighted_sum_of_the_mean_of_each_kind(shop):
    example = shop.examples[0]
    packed = pack([shop.builder.user(example, name=True)])
    logprob = -torch.arange(1.0, len(packed.target_M) + 1)
    loss, numbers = kind_loss(logprob, packed, {"direct": 2.0, "name": 0.5})
    by_hand = {kind: float(-logprob[packed.kind_M == i].mean()) for i, kind in enumerate(packed.kinds)}
    assert numbers == pytest.approx({f"loss_{k}": v for k, v in by_hand.items()})
    assert float(loss) == pytest.approx(2 * by_hand["direct"] + 0.5 * by_hand["name"])


def test_split_of_users_does_not_depend_on_their_order(shop):
    a, b = split_users(shop.examples, 0.5)
    c, d = split_users(shop.examples[::-1], 0.5)
    assert (a, b) == (c, d)
    assert not {e.context.user_id for e in a} & {e.context.user_id for e in b}


# -- stages -----------------------------------------------------------------------------------------------------------
def test_alignment_learns_items_and_choices(shop, run):
    bench = shop.bench(run)
    config = shop.settings.align.model_copy(update={"epochs": 100, "batch": 8, "max_steps": 60, "optim": FAST})
    object.__setattr__(bench, "settings", bench.settings.model_copy(update={"align": config}))
    numbers = align(bench, "align", "key", shop.examples[:8])
    lines = run.numbers()
    assert lines[-1]["loss_direct"] < 0.4 * lines[0]["loss_direct"]
    assert lines[-1]["loss_item_to_sid"] < 0.6 * lines[0]["loss_item_to_sid"]
    assert numbers["tokens_sum"] > 0
    shop.bundle.model.eval()
    contexts = [e.context for e in shop.examples[:8]]
    answers = answer_directly(shop.builder, contexts, shop.trie, shop.settings.decode)
    rows = [shop.dataset.catalogue.row(e.target) for e in shop.examples[:8]]
    assert sum(a.rows[0] == r for a, r in zip(answers, rows, strict=True)) >= 6


def test_first_reasoning_overfits_twelve_traces_and_thoughts_close(shop, run):
    object.__setattr__(shop.settings.decode, "think_tokens", 60)
    bench, _ = learn_to_think(shop, run)
    shop.bundle.model.eval()
    examples = shop.examples[:12]
    answers = answer_thinking(shop.builder, [e.context for e in examples], shop.trie, bench.settings.decode)
    assert sum(a.is_closed for a in answers) >= 11
    rows = [shop.dataset.catalogue.row(e.target) for e in examples]
    assert sum(a.rows[0] == r for a, r in zip(answers, rows, strict=True)) >= 9
    # selection: right and wrong partition the examples; a kept thought is one that puts the target first
    wrong = incorrect(bench, examples, shop.trie, quiet)
    first = {e.context.search_id for e, a, r in zip(examples, answers, rows, strict=True) if a.rows[0] == r}
    assert set(wrong) == {e.context.search_id for e in examples} - first
    found = correct(bench, "sft1", examples, shop.trie, quiet)
    assert len(found) >= 8
    assert correct(bench, "sft1", examples, shop.trie, quiet) == found
    # consolidation takes them; without any nothing changes
    assert consolidate(bench, "none", "key", []) == {}
    by_search = {e.context.search_id: e for e in examples}
    right = [(by_search[s], t) for s, t in found]
    assert consolidate(bench, "sft1", "key", right)["tokens_sum"] > 0


@pytest.mark.parametrize("history", [False, True])
def test_the_direct_control_sees_as_many_tokens_as_it_is_given(shop, run, history):
    bench, wanted = shop.bench(run), 20_000.0
    align = bench.settings.align.model_copy(update={"history_targets": history})
    bench = replace(bench, settings=bench.settings.model_copy(update={"align": align}))
    seen = continue_directly(bench, "direct", "key", shop.examples, wanted, FAST)["tokens_sum"]
    assert seen == pytest.approx(wanted, rel=0.08)


def test_the_fused_list_is_the_mean_of_thinking_and_answering_at_once(shop):
    shop.bundle.model.eval()
    contexts, config = [e.context for e in shop.examples[:3]], shop.settings.decode
    everything = len(shop.dataset.catalogue)
    parts = [
        answer(shop.builder, contexts, shop.trie, config, everything) for answer in (answer_thinking, answer_directly)
    ]
    fused = answer_both_ways(shop.builder, contexts, shop.trie, config, everything)
    for thinking, direct, both in zip(*parts, fused, strict=True):
        first, second = (dict(zip(a.rows, a.scores, strict=True)) for a in (thinking, direct))
        mean = {row: (math.exp(first[row]) + math.exp(second[row])) / 2 for row in first}
        assert [math.exp(s) for s in both.scores] == pytest.approx([mean[row] for row in both.rows], rel=1e-4)
        assert sorted(both.rows) == list(range(everything))
        assert both.thought == thinking.thought


# -- reinforcement learning -------------------------------------------------------------------------------------------
def test_a_thought_never_holds_an_identifier_or_a_control_token(shop):
    contexts = [e.context for e in shop.examples[:4]]
    gen = generator(0, "x")
    ranked = think(
        shop.builder, contexts, shop.trie, shop.settings.decode, group_size=4, temperature=3.0, generator=gen
    )
    barred = set(forbidden_in_thoughts(shop.bundle)) | {shop.bundle.close_id}
    assert not barred & {t for group in ranked.thoughts for thought in group for t in thought}
    assert bool((ranked.rows_BGK >= 0).all())


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_the_first_update_after_a_rollout_has_ratio_one(shop, run, temperature):
    bench = shop.bench(run, temperature=temperature)
    rollout = roll_out(shop.builder, shop.examples[:4], shop.trie, bench, generator(0, "r"))
    update = lay_out(shop.builder, rollout, [], anchors=True)
    tempered = torch.where(update.is_policy_M, temperature, 1.0)
    ranked = think(
        shop.builder, [e.context for e in shop.examples[:4]], shop.trie, bench.settings.decode, group_size=4,
        temperature=temperature, generator=generator(0, "r"), width=bench.settings.rl.beam,
    )  # fmt: skip
    with torch.no_grad():
        new_ST = update.by_sequence(target_logprobs(shop.bundle.model, update.packed, tempered))
    for s, (b, g) in enumerate((b, g) for b in range(4) for g in range(4)):
        n = len(ranked.thoughts[b][g])
        assert ranked.thoughts[b][g] == rollout.thoughts[b][g]
        torch.testing.assert_close(new_ST[s, :n], ranked.logprob_BGT[b, g, :n], atol=1e-5, rtol=1e-5)


def test_rollout_trees_equal_repeated_prompts(shop, run):
    bench = shop.bench(run)
    rollout = roll_out(shop.builder, shop.examples[:2], shop.trie, bench, generator(0, "r"))
    update = lay_out(shop.builder, rollout, [], anchors=True)
    with torch.no_grad():
        packed_ST = update.by_sequence(target_logprobs(shop.bundle.model, update.packed))
        for b, example in enumerate(rollout.examples):
            prompt = shop.builder.prompt(example.context, "think")
            for g, thought in enumerate(rollout.thoughts[b]):
                row = int(rollout.rows_BGK[b, g, rollout.chosen_BG[b, g]])
                answer = [*thought, shop.bundle.close_id, *shop.builder.sid(row)]
                logits = shop.bundle.model(torch.tensor([[*prompt, *answer]])).logits[0].float().log_softmax(-1)
                alone = logits[len(prompt) - 1 : -1].gather(1, torch.tensor(answer)[:, None])[:, 0]
                torch.testing.assert_close(packed_ST[b * 4 + g, : len(answer)], alone, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("change", [{}, {"kl": 0.04}, {"updates": 2}, {"rank_reward": "prob"}, {"aggregate": "first"}])
def test_every_objective_runs_and_logs_what_a_reader_needs(shop, run, change):
    bench = shop.bench(run, steps=2, **change)
    numbers = policy_stage(bench, "rl0", "key", shop.examples[:8], shop.trie)
    assert numbers["tokens_sum"] > 0
    line = run.numbers()[-1]
    wanted = {
        "r_star", "reward_accuracy", "reward_structure", "constant_groups", "target_in_beam", "hit_at_1",
        "thought_tokens", "forced_closings", "distinct_4grams", "near_miss_pushed_up", "policy_kl", "gradient_norm",
    }  # fmt: skip
    assert wanted <= set(line)
    rows = [json.loads(r) for r in (run.path / "traces/rollouts/rl0.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [1, 2]
    assert len(rows[0]["trajectories"]) == 4


def test_rl_without_examples_changes_nothing(shop, run):
    before = [p.clone() for p in shop.bundle.model.parameters()]
    assert policy_stage(shop.bench(run), "rl0", "key", [], shop.trie) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, shop.bundle.model.parameters(), strict=True))


@pytest.mark.slow
def test_r_grpo_raises_the_reward_of_a_small_shop_and_shuffled_targets_do_not(shop, run):
    object.__setattr__(shop.settings.decode, "think_tokens", 40)
    learn_to_think(shop, run, count=28, steps=150)
    start = copy.deepcopy(shop.bundle.model.state_dict())
    examples = shop.examples[:8]
    optim = OptimConfig(lr_matrix=0.005, lr=2e-3, schedule="constant", warmup=0.0)
    bench = shop.bench(
        run, steps=15, prompts=8, group_size=8, anchor_direct=0.0, anchor_items=0.0, anchor_item_words=0.0, optim=optim
    )

    def first_hits():
        rollout = roll_out(shop.builder, examples, shop.trie, bench, generator(0, "judge"))
        return rollout.numbers()["hit_at_1"]

    def gain(stage, shown):
        shop.bundle.model.load_state_dict(start)
        before = first_hits()
        policy_stage(bench, stage, stage, shown, shop.trie)
        return first_hits() - before

    others = [*examples[3:], *examples[:3]]
    shuffled = [replace(e, target=o.target) for e, o in zip(examples, others, strict=True)]
    learned, control = gain("rl0", examples), gain("rl1", shuffled)
    assert learned > 0.1
    assert control < learned / 3


def test_steps_are_whole_passes():
    assert steps_for(10, 4, 3, None) == 9


def test_a_tree_without_targets_is_not_scored(shop):
    packed = pack([Tree([1, 2, 3])])
    assert len(packed.target_M) == 0


def test_with_started_tags_the_model_goes_on_after_a_thought_as_after_the_token_before_an_answer(shop):
    ids = shop.builder.prompts.suffix("direct")
    start_tags(shop.builder)
    for tag in (shop.bundle.think_id, shop.bundle.close_id):
        logits = shop.bundle.model(torch.tensor([[*ids[:-1], tag], ids])).logits[:, -1]
        assert logits[0].equal(logits[1])


@pytest.mark.parametrize("wanted", [False, True])
def test_tags_start_anew_only_where_the_settings_say_so(shop, run, wanted):
    distill = shop.settings.distill.model_copy(
        update={"max_steps": 1, "start_tags": wanted, "optim": FAST.model_copy(update={"lr": 1e-9, "lr_matrix": 1e-9})}
    )
    bench = replace(shop.bench(run), settings=shop.settings.model_copy(update={"distill": distill}))
    first_reasoning(bench, "sft0", "key", shop.traces(4))
    rows_VD = shop.bundle.model.get_input_embeddings().weight
    answer = shop.builder.prompts.suffix("direct")[-1]
    assert torch.allclose(rows_VD[shop.bundle.close_id], rows_VD[answer], atol=1e-6) == wanted
