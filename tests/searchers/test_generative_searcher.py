"""The searcher of GENRE, DSI and LTRGR: reads the query alone, lists valid items, best first."""

from dataclasses import replace

import pytest
import torch
from shop import contexts

from crsearch.config import ContextConfig, DecodeConfig, ModelConfig
from crsearch.context import Serialiser
from crsearch.context.prompts import Prompts
from crsearch.decode.trie import Trie
from crsearch.evaluate.evaluation import evaluate
from crsearch.models.bundle import bundle_of
from crsearch.models.causal import tiny_model
from crsearch.records.types import Example, Searcher
from crsearch.searchers.generative import GenerativeSearcher
from crsearch.train.examples import TreeBuilder
from crsearch.train.generative import answer_logprobs, answer_tree, branch_scores, query_prompts

SIZE = ModelConfig(width=16, layers=2, heads=2, kv_heads=1, head_dim=8, feed_forward=24)


@pytest.fixture(scope="module")
def builder(catalogue, sids, tokenizer):
    model = tiny_model(SIZE, len(tokenizer), seed=0, pad_id=tokenizer.pad_token_id, end_id=tokenizer.eos_token_id)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    serialiser = Serialiser(catalogue, sids, ContextConfig(), tokenizer)
    return TreeBuilder(bundle_of(model.eval(), tokenizer, sids), Prompts(serialiser, tokenizer))


@pytest.fixture
def searcher(builder):
    trie = Trie.from_tokens(builder.bundle.sid_ids_NL)
    return GenerativeSearcher(builder, trie, DecodeConfig(width=4, batch=3), name="genre")


def asking(catalogue, *queries):
    made = contexts(catalogue, len(queries))
    return [replace(context, query=query) for context, query in zip(made, queries, strict=True)]


def test_the_list_depends_on_the_query_alone(searcher, catalogue):
    first, second, other = searcher.search(asking(catalogue, "red shoe", "red shoe", "warm coat"), 5)
    assert (first.item_ids, first.scores) == (second.item_ids, second.scores)
    assert first.search_id != second.search_id
    assert other.scores != first.scores
    assert first.thought is None


def test_the_whole_catalogue_in_the_order_of_its_probability(searcher, builder, catalogue):
    (found,) = searcher.search(asking(catalogue, "blue lamp"), 100)
    (prompt,) = query_prompts(builder, ["blue lamp"]).values()
    tree = answer_tree(prompt, [builder.sid(row) for row in range(len(catalogue))], "any")
    with torch.no_grad():
        score_N = branch_scores(*answer_logprobs(builder.bundle.model, [tree]))
    assert found.item_ids == tuple(catalogue.ids[row] for row in score_N.argsort(descending=True).tolist())
    assert found.scores == pytest.approx(score_N.sort(descending=True).values.tolist(), abs=1e-4)


@pytest.mark.parametrize(("k", "listed"), [(1, 1), (4, 4), (9, 9)])
def test_as_many_items_as_asked_for_whatever_the_beam(searcher, catalogue, k, listed):
    (found,) = searcher.search(asking(catalogue, "phone"), k)
    assert len(set(found.item_ids)) == len(found.item_ids) == len(found.scores) == listed


def test_one_by_one_equals_together(searcher, catalogue):
    asked = asking(catalogue, "red shoe", "a", "slim light cotton coat for winter", "lamp", "chair")
    together = searcher.search(asked, 5)
    alone = [searcher.search([context], 5)[0] for context in asked]
    assert [r.item_ids for r in together] == [r.item_ids for r in alone]
    for a, b in zip(together, alone, strict=True):
        assert a.scores == pytest.approx(b.scores, abs=1e-4)


def test_no_context_no_list(searcher):
    assert searcher.search([], 5) == []


def test_a_removed_item_is_not_listed(searcher, catalogue):
    (before,) = searcher.search(asking(catalogue, "phone"), 3)
    searcher.trie.remove([catalogue.row(before.item_ids[0])])
    (after,) = searcher.search(asking(catalogue, "phone"), 2)
    assert after.item_ids == before.item_ids[1:]


def test_it_is_evaluated_like_any_searcher(searcher, catalogue):
    assert isinstance(searcher, Searcher)
    asked = asking(catalogue, "phone", "lamp")
    examples = [Example(context=c, target="i3", part="test") for c in asked]
    done = evaluate(searcher, examples, catalogue.ids)
    assert done.searcher == "genre"
    assert done.invalid_items == 0
