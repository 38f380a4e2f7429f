"""What GENRE, DSI and LTRGR share, and GENRE itself: pairs, prompts, losses, budgets, learning."""

import math
from dataclasses import replace
from datetime import UTC, datetime

import numpy as np
import pytest
import torch
from generative_shop import FAST, as_new, hits_at_1, one_query_per_item, settings_with, with_baselines
from transformers import T5Config, T5ForConditionalGeneration

from crsearch.decode.beam import beam_search
from crsearch.decode.trie import Trie
from crsearch.errors import ModelError, SidError
from crsearch.models.bundle import bundle_of
from crsearch.records.types import Context, Example, Search
from crsearch.train.examples import TreeBuilder, kind_loss
from crsearch.train.generative import (
    Pair,
    answer_logprobs,
    answer_tree,
    branch_scores,
    identifiers,
    mean_length,
    query_prompts,
    rank_queries,
    training_pairs,
)
from crsearch.train.genre import train_genre
from crsearch.train.tree import target_logprob, target_logprobs


@pytest.fixture
def shop(request):
    return as_new(request)


def t5_shop(shop):
    """The shop's builder around a random encoder-decoder of the T5 type."""
    config = T5Config(
        vocab_size=len(shop.bundle.tokenizer), d_model=32, d_kv=8, d_ff=48, num_layers=2, num_heads=4, dropout_rate=0.0,
        decoder_start_token_id=shop.bundle.pad_id, tie_word_embeddings=False,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
    return TreeBuilder(bundle_of(model, shop.bundle.tokenizer, shop.sids), shop.builder.prompts)


# -- pairs and prompts ------------------------------------------------------------------------------------------------
def test_pairs_are_targets_and_what_was_chosen_in_the_history(catalogue):
    day = datetime(2025, 1, 1, tzinfo=UTC)

    def search(n, query, clicked, bought=()):
        return Search(
            search_id=f"s{n}", user_id="u", time=day, query=query, shown=("i1", "i2", "i3"), clicked=clicked,
            bought=bought,
        )  # fmt: skip

    history = (search(0, "lamp", ("i2", "i1"), ("i1",)), search(1, "chair", ()), search(2, "coat", ("gone", "i3")))
    context = Context(search_id="s3", user_id="u", query="shoe", history=history)
    example = Example(context=context, target="i5", part="train")
    expected = [Pair("lamp", 2), Pair("lamp", 1), Pair("coat", 3), Pair("shoe", 5)]
    assert training_pairs(catalogue, [example]) == expected
    assert training_pairs(catalogue, [example], history=False) == expected[-1:]
    assert training_pairs(catalogue, [example, example]) == expected * 2


def test_no_pair_is_of_a_user_outside_training(shop):
    pairs = training_pairs(shop.dataset.catalogue, shop.examples)
    users = {e.context.user_id for e in shop.examples}
    logged = [s for s in shop.dataset.searches if s.user_id in users]
    possible = {(s.query, shop.dataset.catalogue.row(i)) for s in logged for i in s.chosen}
    assert {(p.query, p.row) for p in pairs} <= possible
    assert len(pairs) > 3 * len(shop.examples)


def test_a_prompt_holds_the_query_and_nothing_else_of_the_context(shop):
    example = shop.examples[0]
    prompts = query_prompts(shop.builder, [example.context.query, "<a_1> </think>", example.context.query])
    assert list(prompts) == [example.context.query, "<a_1> </think>"]
    text = shop.bundle.tokenizer.decode(prompts[example.context.query])
    assert f'{{"now":{{"query":"{example.context.query}"}}}}' in text
    hostile = set(prompts["<a_1> </think>"]) - set(shop.builder.prompts.suffix("direct"))
    assert not hostile & {*shop.bundle.sid_ids_NL.ravel().tolist(), shop.bundle.close_id}


# -- losses -----------------------------------------------------------------------------------------------------------
def test_label_smoothing_by_hand():
    logits = torch.tensor([[0.7, 0.2, 0.1], [0.25, 0.25, 0.5]]).log() + 3.0
    target = torch.tensor([0, 2])
    even = -(math.log(0.7) + math.log(0.2) + math.log(0.1)) / 3
    first = 0.9 * -math.log(0.7) + 0.1 * even
    second = 0.9 * math.log(2) + 0.1 * (2 * math.log(4) + math.log(2)) / 3
    assert (-target_logprob(logits, target, 0.1)).tolist() == pytest.approx([first, second], abs=1e-5)
    assert (-target_logprob(logits, target)).tolist() == pytest.approx([-math.log(0.7), math.log(2)], abs=1e-5)


def test_label_smoothing_is_that_of_torch_over_the_whole_vocabulary(shop):
    prompts = list(query_prompts(shop.builder, ["phone", "laptop case", "case"]).values())
    trees = [answer_tree(p, [shop.builder.sid(row)], "retrieval") for row, p in enumerate(prompts)]
    with torch.no_grad():
        logprob_M, packed = answer_logprobs(shop.bundle.model, trees, smoothing=0.1)
        loss, _ = kind_loss(logprob_M, packed, {"retrieval": 1.0})
        logits, targets = [], []
        for row, prompt in enumerate(prompts):
            ids = [*prompt, *shop.builder.sid(row)]
            logits.append(shop.bundle.model(torch.tensor([ids])).logits[0, len(prompt) - 1 : -1])
            targets += ids[len(prompt) :]
    truth = torch.nn.functional.cross_entropy(torch.cat(logits), torch.tensor(targets), label_smoothing=0.1)
    assert float(loss) == pytest.approx(float(truth), rel=1e-5)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_an_encoder_decoder_scores_answers_as_transformers_does_one_at_a_time(shop, smoothing):
    builder = t5_shop(shop)
    model = builder.bundle.model.eval()
    prompts = list(query_prompts(builder, ["phone", "a much longer laptop case", "case"]).values())
    rows = [[0, 5], [7], [1, 2, 3]]
    trees = [
        answer_tree(p, [builder.sid(r) for r in asked], "retrieval") for p, asked in zip(prompts, rows, strict=True)
    ]
    with torch.no_grad():
        logprob_M, packed = answer_logprobs(model, trees, smoothing)
        scores = branch_scores(logprob_M, packed)
        alone = []
        for prompt, asked in zip(prompts, rows, strict=True):
            for row in asked:
                labels = torch.tensor([builder.sid(row)])
                logits = model(input_ids=torch.tensor([prompt]), labels=labels).logits[0]
                loss = torch.nn.functional.cross_entropy(logits, labels[0], label_smoothing=smoothing, reduction="sum")
                alone.append(-float(loss))
    assert scores.tolist() == pytest.approx(alone, rel=1e-4)


def test_an_encoder_decoder_without_start_token_is_an_error(shop):
    builder = t5_shop(shop)
    builder.bundle.model.config.decoder_start_token_id = None
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        answer_logprobs(builder.bundle.model, [answer_tree([5, 6], [builder.sid(0)], "retrieval")])


def test_teacher_forced_scores_are_those_of_the_beam(shop):
    shop.bundle.model.eval()
    queries = ["phone", "laptop case"]
    prompts = query_prompts(shop.builder, queries)
    everything = len(shop.dataset.catalogue)
    rows_BK, scores_BK = rank_queries(shop.builder, queries, shop.trie, everything, 8)
    for query, rows, scores in zip(queries, rows_BK.tolist(), scores_BK, strict=True):
        tree = answer_tree(prompts[query], [shop.builder.sid(row) for row in rows], "retrieval")
        with torch.no_grad():
            forced = branch_scores(*answer_logprobs(shop.bundle.model, [tree]))
        torch.testing.assert_close(forced, scores, atol=1e-4, rtol=1e-4)


def test_equal_queries_are_ranked_once_and_listed_for_each(shop, monkeypatch):
    asked = []

    def counted(model, prompts, *arguments, **options):
        asked.append(len(prompts))
        return beam_search(model, prompts, *arguments, **options)

    monkeypatch.setattr("crsearch.train.generative.beam_search", counted)
    rows_BK, scores_BK = rank_queries(shop.builder, ["case", "phone", "case"], shop.trie, 5, 8)
    assert asked == [2]
    assert torch.equal(rows_BK[0], rows_BK[2])
    assert torch.equal(scores_BK[0], scores_BK[2])
    assert not torch.equal(scores_BK[0], scores_BK[1])
    assert rank_queries(shop.builder, [], shop.trie, 5, 8)[0].shape == (0, 5)


# -- identifiers ------------------------------------------------------------------------------------------------------
def test_only_dsi_has_identifiers_of_its_own(shop):
    settings = settings_with(shop, dsi={"identifiers": "recursive", "branching": 3, "leaf_size": 2})
    for name in ("genre", "ltrgr"):
        assert np.array_equal(identifiers(shop.builder, settings, name), shop.bundle.sid_ids_NL)
    own = identifiers(shop.builder, settings, "dsi")
    assert len(Trie.from_tokens(own)) == len(shop.dataset.catalogue)
    digits = [shop.bundle.tokenizer.convert_tokens_to_ids(f"<a_{d}>") for d in range(3)]
    assert set(np.unique(own).tolist()) == {*digits, shop.bundle.end_id}
    assert np.array_equal(identifiers(shop.builder, shop.settings, "dsi"), shop.bundle.sid_ids_NL)


def test_more_digits_than_tokens_are_an_error(shop):
    settings = settings_with(shop, dsi={"identifiers": "recursive", "branching": 39, "leaf_size": 1})
    assert len(shop.sids.vocabulary()) < 39
    with pytest.raises(SidError, match=r"lower baselines\.dsi\.branching"):
        identifiers(shop.builder, settings, "dsi")


# -- GENRE ------------------------------------------------------------------------------------------------------------
def test_genre_overfits_a_query_per_item(shop, run):
    examples = one_query_per_item(shop)
    assert hits_at_1(shop, examples) < 0.2
    bench = with_baselines(shop, run, genre={"batch": 40, "max_steps": 60, "optim": FAST})
    assert train_genre(bench, "genre", "key", examples, 1e9)["tokens_sum"] > 0
    assert hits_at_1(shop, examples) == 1.0
    lines = run.numbers()
    assert lines[-1]["loss_retrieval"] < lines[0]["loss_retrieval"]
    # smoothing keeps the loss above 0: its least is the entropy of the smoothed target
    V, s = shop.bundle.model.config.vocab_size, 0.1
    top, rest = 1 - s + s / V, s / V
    assert lines[-1]["loss_retrieval"] > -top * math.log(top) - (V - 1) * rest * math.log(rest)


def test_genre_on_an_encoder_decoder_overfits_too(shop, run):
    builder = t5_shop(shop)
    examples = one_query_per_item(shop)[:10]
    bench = replace(with_baselines(shop, run, genre={"batch": 10, "max_steps": 40, "optim": FAST}), builder=builder)
    train_genre(bench, "genre", "key", examples, 1e9)
    assert hits_at_1(shop, examples, builder=builder) == 1.0


def test_the_budget_is_in_tokens_prompts_counted(shop, run):
    bench = with_baselines(shop, run, genre={"batch": 16})
    seen = train_genre(bench, "genre", "key", shop.examples, 8_000.0)["tokens_sum"]
    assert seen == pytest.approx(8_000.0, rel=0.05)


def test_without_an_example_nothing_changes(shop, run):
    before = [p.clone() for p in shop.bundle.model.parameters()]
    assert train_genre(with_baselines(shop, run), "genre", "key", [], 1000.0) == {}
    assert all(torch.equal(a, b) for a, b in zip(before, shop.bundle.model.parameters(), strict=True))


def test_mean_length_of_nothing_is_zero():
    assert mean_length([]) == 0.0


def test_a_smoothed_pass_in_chunks_equals_one_pass(shop, monkeypatch):
    _, packed = answer_logprobs(
        shop.bundle.model, [answer_tree([5, 6, 7], [shop.builder.sid(r)], "x") for r in range(9)]
    )
    whole = target_logprobs(shop.bundle.model, packed, smoothing=0.1)
    monkeypatch.setattr("crsearch.train.tree.LOGITS_AT_ONCE", 7 * shop.bundle.model.config.vocab_size)
    torch.testing.assert_close(target_logprobs(shop.bundle.model, packed, smoothing=0.1), whole)
