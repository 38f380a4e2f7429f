from collections import Counter
from math import log, log2, sqrt

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.encoders.words import SPLITS, bigrams, words
from crsearch.errors import ConfigError, DataError
from crsearch.evaluate.evaluation import evaluate
from crsearch.records.types import Context, Example, Item, Search
from crsearch.searchers.bm25 import Bm25Searcher, tune
from crsearch.searchers.ranking import top_rows
from crsearch.searchers.tfidf import TfidfSearcher

TITLES = ["red dress red", "blue dress", "red shoe leather men"]
WORDS = st.lists(st.sampled_from(["red", "blue", "dress", "shoe", "手机", "壳", "15"]), max_size=5)
SHOPS = st.lists(WORDS, min_size=1, max_size=8).filter(any)
KINDS = pytest.mark.parametrize("kind", [Bm25Searcher, TfidfSearcher])


def shop(titles):
    return [Item(item_id=f"i{row}", title=title) for row, title in enumerate(titles)]


def ask(searcher, query, k=10):
    (answer,) = searcher.search([Context(search_id="s", user_id="u", query=query)], k)
    return answer


def scores_by_row(searcher, query, num_items):
    answer = ask(searcher, query, num_items)
    found = dict(zip(answer.item_ids, answer.scores, strict=True))
    return [found.get(f"i{row}", 0.0) for row in range(num_items)]


def bm25_by_hand(docs, query, k1, b):
    """The textbook formula without the factor k1 + 1, word by word."""
    n, mean_length = len(docs), sum(map(len, docs)) / len(docs)
    scores = []
    for doc in docs:
        score = 0.0
        for word in query:
            df = sum(word in other for other in docs)
            tf = doc.count(word)
            if tf:
                score += log(1 + (n - df + 0.5) / (df + 0.5)) * tf / (tf + k1 * (1 - b + b * len(doc) / mean_length))
        scores.append(score)
    return scores


def tfidf_by_hand(docs, query):
    """Cosines, word by word."""
    idf = {w: log((1 + len(docs)) / (1 + sum(w in d for d in docs))) + 1 for d in docs for w in d}

    def vector(words):
        weights = {w: n * idf[w] for w, n in Counter(words).items() if w in idf}
        norm = sqrt(sum(x * x for x in weights.values())) or 1.0
        return {w: x / norm for w, x in weights.items()}

    asked = vector(query)
    return [sum(x * asked.get(w, 0.0) for w, x in vector(doc).items()) for doc in docs]


def test_bm25_of_three_items_is_what_was_worked_out_by_hand():
    got = scores_by_row(Bm25Searcher(shop(TITLES)), "red dress", 3)
    assert [2.2 * s for s in got] == pytest.approx([1.116259, 0.544215, 0.413603], abs=1e-6)


def test_tfidf_of_three_items_is_what_was_worked_out_by_hand():
    assert scores_by_row(TfidfSearcher(shop(TITLES)), "red dress", 3) == pytest.approx(
        [0.948683, 0.428046, 0.284285], abs=1e-6
    )


@given(SHOPS, WORDS, st.sampled_from([0.0, 1.2, 3.0]), st.sampled_from([0.0, 0.75, 1.0]))
def test_bm25_equals_the_formula(docs, query, k1, b):
    searcher = Bm25Searcher(shop(map(" ".join, docs)), k1=k1, b=b)
    got = scores_by_row(searcher, " ".join(query), len(docs))
    assert got == pytest.approx(bm25_by_hand(docs, query, k1, b))


@given(SHOPS, WORDS)
def test_tfidf_equals_the_formula(docs, query):
    got = scores_by_row(TfidfSearcher(shop(map(" ".join, docs))), " ".join(query), len(docs))
    assert got == pytest.approx(tfidf_by_hand(docs, query))


def test_without_length_normalisation_a_longer_item_scores_the_same():
    first, second = scores_by_row(Bm25Searcher(shop(["red", "red shoe leather men"]), b=0.0), "red", 2)
    assert first == pytest.approx(second)


def test_unknown_query_words_change_no_order_and_no_bm25_score():
    for kind in (Bm25Searcher, TfidfSearcher):
        searcher = kind(shop(TITLES))
        assert ask(searcher, "red dress xyzzy").item_ids == ask(searcher, "red dress").item_ids
    searcher = Bm25Searcher(shop(TITLES))
    assert ask(searcher, "red dress xyzzy").scores == ask(searcher, "red dress").scores


@KINDS
@pytest.mark.parametrize("query", ["xyzzy 手机", "", "?!", "  "])
def test_a_query_without_a_known_word_gets_an_empty_list(kind, query):
    answer = ask(kind(shop(TITLES)), query)
    assert (answer.search_id, answer.item_ids, answer.scores) == ("s", (), ())


@KINDS
def test_equal_scores_go_by_row(kind):
    searcher = kind(shop(["blue hat", "red hat", "blue hat", "red hat", "red hat"]))
    assert ask(searcher, "red").item_ids == ("i1", "i3", "i4")
    assert ask(searcher, "red", k=2).item_ids == ("i1", "i3")


@KINDS
def test_brand_category_width_and_case_are_found(kind):
    items = [
        Item(item_id="case", title="保护套", brand="Ａｃｍｅ", category=("手机配件", "手机壳")),
        Item(item_id="dress", title="Red Dress", brand="Rosa", category=("Women", "Dresses")),
        Item(item_id="bare", title="Shoe"),
    ]
    searcher = kind(items)
    assert ask(searcher, "acme 手机").item_ids == ("case",)
    assert ask(searcher, "ＲＯＳＡ women").item_ids == ("dress",)


@KINDS
def test_many_contexts_are_answered_as_one_by_one(kind):
    searcher = kind(shop(TITLES))
    contexts = [Context(search_id=q, user_id="u", query=q) for q in ("red", "nothing", "blue dress", "men")]
    assert searcher.search(contexts, 2) == [searcher.search([c], 2)[0] for c in contexts]
    assert searcher.search([], 2) == []


@KINDS
@pytest.mark.parametrize("titles", [[], ["!", "..."]])
def test_a_catalogue_without_words_is_refused(kind, titles):
    with pytest.raises(DataError, match=f"none of {len(titles)} items has a word"):
        kind(shop(titles))


@given(st.lists(st.integers(0, 5), max_size=30), st.integers(0, 35))
def test_the_top_rows_are_the_head_of_the_whole_order(scores, k):
    scores_N = np.array(scores, dtype=np.float64)
    whole = sorted(range(len(scores)), key=lambda row: (-scores[row], row))
    assert top_rows(scores_N, k).tolist() == whole[:k]


def test_both_searchers_read_the_same_words():
    titles = ["手机壳 iPhone15", "Crème-50ml", "手机"]
    bm25, tfidf = Bm25Searcher(shop(titles)), TfidfSearcher(shop(titles))
    for word in {w for title in titles for w in words(title)}:
        assert sorted(ask(bm25, word).item_ids) == sorted(ask(tfidf, word).item_ids) != []


@KINDS
def test_pairs_of_characters_find_what_the_dictionary_cuts_otherwise(kind):
    items = shop(["南京市长江大桥", "手机壳"])
    assert ask(kind(items), "市长").item_ids == ()
    assert ask(kind(items, split=bigrams), "市长").item_ids == ("i0",)


def test_without_saturation_bm25_is_the_sum_of_the_idf_of_the_words_present():
    once, twice = scores_by_row(Bm25Searcher(shop(["red dress", "red red red hat"]), k1=0.0), "red", 2)
    assert once == pytest.approx(twice) == pytest.approx(log(1 + 0.5 / 2.5))


def example(query, target, part="valid", history=()):
    context = Context(search_id=f"{query}-{target}", user_id=target, query=query, history=history)
    return Example(context=context, target=target, part=part)


STUFFED = ["red dress", "red dress red red red red red", "blue hat long name of no use at all", "hat"]
"""The second item repeats a word to be found, the third is merely long."""


def test_tuning_beats_the_default_where_titles_are_stuffed():
    found = tune(shop(STUFFED), [example("red", "i0")])
    assert (found.default.k1, found.default.b) == (1.2, 0.75)
    assert found.default.metrics["NDCG@10"] == pytest.approx(1 / log2(3))
    assert found.best.metrics["NDCG@10"] == 1
    assert len(found.trials) == 26 and found.trials[0] == found.default
    assert [(t.k1, t.b) for t in found.trials if t.k1 == 0] == [(0.0, 0.0)], "b does nothing there"
    tuned = Bm25Searcher(shop(STUFFED), found.best.k1, found.best.b)
    assert ask(tuned, "red").item_ids[0] == "i0"


def test_every_trial_is_what_a_searcher_of_that_setting_reaches():
    examples = [example("red", "i0"), example("hat", "i2"), example("red dress", "i1")]
    for split in SPLITS.values():
        for trial in tune(shop(STUFFED), examples, grid_k1=(0.0, 2.0), grid_b=(0.0, 1.0), split=split).trials:
            searcher = Bm25Searcher(shop(STUFFED), trial.k1, trial.b, split=split)
            done = evaluate(searcher, examples, ["i0", "i1", "i2", "i3"]).per_query()
            assert trial.metrics == {metric: values.mean() for metric, values in done.items()}


def test_the_default_stays_where_nothing_beats_it():
    found = tune(shop(STUFFED), [example("blue", "i2")])
    assert found.best == found.default


def test_tuning_leaves_out_what_was_chosen_before_when_the_table_does():
    before = (Search(search_id="h", user_id="u", time=1, query="red", clicked=("i1",)),)
    examples = [example("red", "i0", history=before)]
    assert tune(shop(STUFFED), examples, exclude_history=True).default.metrics["HR@1"] == 1
    assert tune(shop(STUFFED), examples).default.metrics["HR@1"] == 0


@pytest.mark.parametrize("part", ["train", "test"])
def test_k1_and_b_are_never_chosen_on_other_than_validation_users(part):
    with pytest.raises(DataError, match=f"is of a {part} user"):
        tune(shop(STUFFED), [example("red", "i0"), example("hat", "i3", part=part)])


def test_an_unknown_metric_is_refused():
    with pytest.raises(ConfigError, match=r"metric = 'MRR'.*NDCG@10"):
        tune(shop(STUFFED), [example("red", "i0")], metric="MRR")
