"""DSI: indexing and retrieval learn what they are for, are mixed as asked and logged apart."""

from collections import Counter
from dataclasses import replace

import pytest
from generative_shop import FAST, as_new, hits_at_1, one_query_per_item, with_baselines

from crsearch.decode.beam import beam_search
from crsearch.decode.trie import Trie
from crsearch.records.types import Item
from crsearch.train.dsi import BEYOND_TEXT, INDEXING, PSEUDO, IndexingTask, mixture, pseudo_queries, shares, train_dsi
from crsearch.train.generative import identifiers
from crsearch.train.genre import RETRIEVAL, RetrievalTask


@pytest.fixture
def shop(request):
    return as_new(request)


def share_indexed(shop, settings):
    """Share of items whose record leads to their identifier first."""
    builder = shop.builder
    trie = Trie.from_tokens(identifiers(builder, settings, "dsi"))
    prompts = [builder.prompts.item_to_sid(item, BEYOND_TEXT)[0] for item in shop.dataset.catalogue]
    rows_BK, _ = beam_search(builder.bundle.model.eval(), prompts, trie)
    return sum(row == n for n, row in enumerate(rows_BK[:, 0].tolist())) / len(prompts)


def code_names(shop):
    """A query per item that shares no word with it."""
    return [
        replace(e, context=replace(e.context, query=f"{n // 7} {n % 7}"))
        for n, e in enumerate(one_query_per_item(shop))
    ]


# -- learning ---------------------------------------------------------------------------------------------------------
def test_indexing_memorises_items_and_only_retrieval_answers_queries(shop, run):
    bench = with_baselines(shop, run, dsi={"batch": 40, "max_steps": 60, "optim": FAST})
    examples = code_names(shop)
    train_dsi(bench, "index", "key", [], 1e9)
    assert share_indexed(shop, bench.settings) >= 0.95
    assert hits_at_1(shop, examples, name="dsi") < 0.2
    assert "loss_retrieval" not in run.numbers()[-1]
    train_dsi(bench, "dsi", "key", examples, 1e9)
    assert hits_at_1(shop, examples, name="dsi") >= 0.95
    assert share_indexed(shop, bench.settings) >= 0.95
    assert {"loss_indexing", "loss_retrieval"} <= set(run.numbers()[-1])


def test_recursive_identifiers_are_learned_too(shop, run):
    own = {"identifiers": "recursive", "branching": 4, "leaf_size": 3}
    bench = with_baselines(shop, run, dsi={"batch": 40, "max_steps": 60, "optim": FAST} | own)
    train_dsi(bench, "dsi", "key", [], 1e9)
    assert share_indexed(shop, bench.settings) >= 0.95


def test_pseudo_queries_alone_teach_what_the_items_are_called(shop, run):
    examples = one_query_per_item(shop)  # the title is among the pseudo-queries
    own = {"batch": 64, "max_steps": 60, "optim": FAST, "pseudo_queries": 7}
    bench = with_baselines(shop, run, dsi=own)
    train_dsi(bench, "dsi", "key", [], 1e9)
    assert hits_at_1(shop, examples, name="dsi") > 0.6
    assert {"loss_indexing", "loss_pseudo_query"} <= set(run.numbers()[-1])


# -- the mixture ------------------------------------------------------------------------------------------------------
def tasks(shop, run, **own):
    """Settings and both tasks of DSI."""
    bench = with_baselines(shop, run, dsi=own)
    identifiers_NL = identifiers(shop.builder, bench.settings, "dsi")
    retrieval = RetrievalTask(bench, shop.examples, identifiers_NL)
    return bench.settings.baselines.dsi, retrieval, IndexingTask(bench, identifiers_NL)


@pytest.mark.parametrize(("ratio", "indexed"), [(1.0, 8), (2.5, 20), (0.0, 0)])
def test_the_ratio_sets_how_many_items_come_with_the_queries(shop, run, ratio, indexed):
    trees = mixture(*tasks(shop, run, batch=8, ratio=ratio), "dsi", 0)
    assert Counter(b.kind for t in trees for b in t.branches) == Counter({RETRIEVAL: 8, INDEXING: indexed})
    assert sum(shares(trees).values()) == 1.0
    assert shares(trees)[RETRIEVAL] == 8 / (8 + indexed)


def test_every_item_and_every_pseudo_query_is_indexed_once_per_pass(shop, run):
    _, _, indexing = tasks(shop, run, pseudo_queries=3)
    count = len(indexing.examples)
    assert count > 3 * len(shop.dataset.catalogue)
    shown = [t for step in range(count) for t in indexing.trees("dsi", 1, step)]
    assert sorted(map(repr, shown)) == sorted(map(repr, indexing.examples))
    assert {b.kind for t in shown for b in t.branches} == {INDEXING, PSEUDO}


def test_a_full_record_tells_the_price_and_a_short_one_does_not(shop, run):
    decode = shop.bundle.tokenizer.decode
    short, full = (tasks(shop, run, record=r)[2].examples[0].trunk for r in ("short", "full"))
    assert '"price"' in decode(full)
    assert '"price"' not in decode(short)
    assert shop.dataset.catalogue[0].title in decode(short)


def test_the_budget_is_in_tokens_of_both_tasks(shop, run):
    bench = with_baselines(shop, run, dsi={"batch": 8, "ratio": 2.0})
    seen = train_dsi(bench, "dsi", "key", shop.examples, 8_000.0)["tokens_sum"]
    assert seen == pytest.approx(8_000.0, rel=0.05)


def test_nothing_to_learn_changes_nothing(shop, run):
    assert train_dsi(with_baselines(shop, run, dsi={"ratio": 0.0}), "dsi", "key", [], 1e9) == {}


# -- pseudo-queries ---------------------------------------------------------------------------------------------------
def test_pseudo_queries_hold_only_words_of_the_item(catalogue):
    for item in catalogue:
        words = set(" ".join([item.title, item.brand or "", *item.category]).split())
        for count in range(8):
            made = pseudo_queries(item, count)
            assert len(made) == len(set(made)) <= count
            assert all(set(query.split()) <= words for query in made)


def test_an_item_without_brand_and_category_is_asked_for_by_its_title():
    assert pseudo_queries(Item(item_id="i", title="无线耳机"), 5) == ["无线耳机"]
    assert pseudo_queries(Item(item_id="i", title=""), 5) == []
