"""The posterior is exact: it equals a slow enumeration, its probabilities come true, and nothing ranks better."""

import math
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest

from crsearch.config import SimulateConfig, SplitConfig
from crsearch.errors import DataError
from crsearch.records.simulator import BayesSearcher, build_world, ceiling, simulate
from crsearch.records.simulator.bayes import believe, probabilities, rank, rank_of
from crsearch.records.simulator.people import live
from crsearch.records.simulator.world import LEVEL_GIVEN_AGE
from crsearch.records.types import Context

SPLIT = SplitConfig()
TINY = SimulateConfig(
    users=60, items=90, departments=2, brands=2, history_weight=0.7, ambiguity=0.8, vocabulary_gap=0.3, no_click=0.3,
    cold_users=0.1, sharpness=(2.0, 1.5, 1.5),
)  # fmt: skip


def contexts_of(simulation):
    examples = [e for part in ("train", "valid", "test") for e in simulation.dataset.examples(part, 100)]
    return [e.context for e in examples], np.array([simulation.world.catalogue.row(e.target) for e in examples])


def ndcg(rank_B):
    return float(np.where(rank_B <= 10, 1 / np.log2(1 + rank_B), 0).mean())


class SlowShop:
    """The law of the shop written down once more, from the records and in plain loops."""

    def __init__(self, world):
        self.world, self.config = world, world.config
        self.items = list(world.catalogue)
        self.levels = list(world.language.levels)
        self.department_names = [d.name for d in world.language.departments]
        self.mains = [m for d in world.language.departments for m in d.mains]

    def level(self, item):
        return self.levels.index(item.attributes["level"])

    def item(self, item_id):
        return next(i for i in self.items if i.item_id == item_id)

    def choice(self, item, brand, level, style):
        """P(item | its category, wish) of CRS's simulated shop, one division at a time."""

        def weight(i):
            w_brand, w_price, w_style = self.config.sharpness
            appeal = self.world.appeal_N[self.world.catalogue.row(i.item_id)]
            utility = w_brand * (i.brand == brand) - 0.6 * w_price * abs(self.level(i) - level) + 0.6 * appeal
            return math.exp(utility + w_style * (i.attributes["style"] == style))

        same = [i for i in self.items if i.category == item.category]
        return weight(item) / sum(weight(i) for i in same)

    def style(self, department, search, profile):
        y = self.department_names.index(department)
        return self.world.language.styles(y)[self.world.wanted_style(y, search.time, search.place, profile)]

    def skips(self, search, level):
        """Skipped items, drawn one after the other from what is left of the category."""
        if not search.shown:
            return 1.0
        category = self.item(search.shown[0]).category
        left = {i.item_id: math.exp(min(abs(self.level(i) - level), 2)) for i in self.items if i.category == category}
        for item_id in search.clicked:
            del left[item_id]
        out = 1.0
        for item_id in search.skipped:
            out *= left[item_id] / sum(left.values())
            del left[item_id]
        return out

    def probabilities(self, context):
        """P(item chosen), by summing over every level, every favourite of every department, and who decides."""
        world, config = self.world, self.config
        department = self.department_of_query(context.query)
        shares = {b: s for brands in world.brands for b, s in zip(brands, world.brand_share_R, strict=True)}
        age = world.language.ages.index(context.profile["age"])
        joint = dict.fromkeys((i.item_id for i in self.items), 0.0)
        for level, *favourites in product(range(4), *world.brands[: config.departments]):
            favourite = dict(zip(self.department_names, favourites, strict=False))
            prior = LEVEL_GIVEN_AGE[age][level] * math.prod(shares[f] for f in favourites)
            likelihood, last_main = self.history(context, level, favourite)
            brand, stems = favourite[department], dict.fromkeys(range(3), 1 / 3)
            style = self.style(department, context, context.profile)
            for accessory in (False, True):
                if accessory and department in last_main:
                    last, brand = last_main[department]
                    stems = {m: 0.93 * (m == last) + 0.07 / 3 for m in range(3)}
                self.add(
                    joint, context, department, accessory, stems, {brand: 1.0}, {level: 1.0}, {style: 1.0},
                    config.history_weight * prior * likelihood,
                )  # fmt: skip
            y = self.department_names.index(department)
            plain = (1 - config.history_weight) * prior * likelihood
            for accessory in (False, True):
                self.add(
                    joint, context, department, accessory, dict.fromkeys(range(3), 1 / 3),
                    {b: shares[b] for b in world.brands[y]}, dict(enumerate(LEVEL_GIVEN_AGE.mean(axis=0))),
                    dict.fromkeys(world.language.styles(y), 0.25), plain,
                )  # fmt: skip
        total = sum(joint.values())
        return np.array([joint[i.item_id] / total for i in self.items])

    def history(self, context, level, favourite):
        """P(history | level, favourites), and the main item clicked last by department."""
        likelihood, last_main = 1.0, {}
        for search in context.history:
            department, category = self.item(search.shown[0]).category
            accessory = category not in self.mains
            wanted = last_main[department][1] if accessory and department in last_main else favourite[department]
            if self.kind(search.query) == "brand":
                likelihood *= search.query == wanted
            for item_id in search.clicked:
                item = self.item(item_id)
                likelihood *= self.choice(item, wanted, level, self.style(department, search, context.profile))
                if not accessory:
                    last_main[department] = (self.mains.index(category) % 3, item.brand)
            likelihood *= self.skips(search, level)
        return likelihood, last_main

    def kind(self, query):
        return self.world.meaning(query).kind

    def department_of_query(self, query):
        return self.department_names[self.world.meaning(query).department]

    def add(self, joint, context, department, accessory, stems, brands, levels, styles, weight):
        """Add the choices that fit the query: it is for an accessory unless it names a main category."""
        kind, y = self.kind(context.query), self.department_names.index(department)
        for stem in stems:
            names = {self.world.language.category(y, stem, accessory, synonym) for synonym in (False, True)}
            if not (context.query in names if kind == "full" else accessory):
                continue
            category = (department, self.world.language.category(y, stem, accessory))
            for brand, level, style in product(brands, levels, styles):
                if kind == "brand" and brand != context.query:
                    continue
                share = weight * stems[stem] * brands[brand] * levels[level] * styles[style]
                for item in self.items:
                    if item.category == category and share:
                        joint[item.item_id] += share * self.choice(item, brand, level, style)


@pytest.mark.parametrize("history_weight", [1.0, 0.7])
def test_the_posterior_equals_a_slow_enumeration_of_everything_hidden(history_weight):
    simulation = simulate(TINY.model_copy(update={"history_weight": history_weight, "users": 12}), SPLIT, 3)
    contexts, _ = contexts_of(simulation)
    found = probabilities(simulation.world, believe(simulation.world, contexts))
    slow = SlowShop(simulation.world)
    for context, row in zip(contexts, found, strict=True):
        np.testing.assert_allclose(row, slow.probabilities(context), atol=1e-9)


def test_the_probabilities_come_true():
    """The mean log-probability of what was chosen is what the probabilities themselves promise."""
    simulation = simulate(TINY.model_copy(update={"users": 1_000}), SPLIT, 0)
    contexts, target_B = contexts_of(simulation)
    probability_BN = probabilities(simulation.world, believe(simulation.world, contexts))
    np.testing.assert_allclose(probability_BN.sum(axis=1), 1)
    log_BN = np.log(np.maximum(probability_BN, 1e-300))
    surprise_B = (probability_BN * log_BN).sum(axis=1) - log_BN[np.arange(len(target_B)), target_B]
    assert abs(surprise_B.mean()) < 3 * surprise_B.std() / math.sqrt(len(surprise_B)) < 0.12
    promised_B = probability_BN.max(axis=1)
    hit_B = rank_of(probability_BN, target_B) == 1
    assert abs((hit_B - promised_B).mean()) < 3 * math.sqrt((promised_B * (1 - promised_B)).mean() / len(hit_B))


@pytest.fixture(scope="module")
def shop():
    return simulate(SimulateConfig(users=500, items=800, departments=3), SPLIT, 0)


def test_no_perturbed_ranking_beats_the_bayes_ranking(shop):
    contexts, target_B = contexts_of(shop)
    probability_BN = probabilities(shop.world, believe(shop.world, contexts))
    best = ndcg(rank_of(probability_BN, target_B))
    rng = np.random.default_rng(0)
    for noise in (0.5, 1.0, 2.0):
        assert ndcg(rank_of(probability_BN * np.exp(noise * rng.normal(size=probability_BN.shape)), target_B)) < best
    flattened = probabilities(replace_sharpness(shop.world), believe(shop.world, contexts))
    assert ndcg(rank_of(flattened, target_B)) <= best + 0.005


def replace_sharpness(world):
    from crsearch.records.simulator.world import choice_table

    soft = world.config.model_copy(update={"sharpness": (1.0, 4.0, 1.0)})
    fields = np.stack([world.category_N, world.brand_N, world.level_N, world.style_N], axis=1)
    return replace(world, choice_NPRS=choice_table(soft, fields, world.appeal_N))


def test_another_users_history_destroys_the_ranking(shop):
    contexts, target_B = contexts_of(shop)
    others = [replace(c, history=d.history, profile=d.profile) for c, d in pairwise(contexts)]
    right = probabilities(shop.world, believe(shop.world, contexts[:-1]))
    wrong = probabilities(shop.world, believe(shop.world, others))
    assert ndcg(rank_of(wrong, target_B[:-1])) < 0.4 * ndcg(rank_of(right, target_B[:-1]))


def test_extreme_sharpness_stays_finite_and_leaves_little_doubt():
    simulation = simulate(TINY.model_copy(update={"sharpness": (1e4, 1e4, 1e4), "history_weight": 1.0}), SPLIT, 0)
    contexts, _ = contexts_of(simulation)
    probability_BN = probabilities(simulation.world, believe(simulation.world, contexts))
    np.testing.assert_allclose(probability_BN.sum(axis=1), 1)
    assert np.median(probability_BN.max(axis=1)) > 0.9


def test_without_history_weight_only_the_query_counts():
    simulation = simulate(TINY.model_copy(update={"history_weight": 0.0}), SPLIT, 1)
    contexts, _ = contexts_of(simulation)
    bare = [Context(search_id=c.search_id, user_id=c.user_id, query=c.query) for c in contexts]
    with_history = probabilities(simulation.world, believe(simulation.world, contexts))
    np.testing.assert_allclose(with_history, probabilities(simulation.world, believe(simulation.world, bare)))


def test_the_ceiling_at_2500_items_is_that_of_the_feasibility_study():
    found = ceiling(simulate(SimulateConfig(users=700, items=2_500), SplitConfig(test=0.9), 0).truth)
    assert 0.70 < found["NDCG@10"] < 0.80 and 0.5 < found["HR@1"] < 0.65 and 0.88 < found["HR@10"] < 0.96


def test_ceiling_of_ranks_worked_out_by_hand(shop):
    truth = shop.truth.head(4).with_columns(part=shop.truth["part"].head(4).replace_strict({}, default="test"))
    truth = truth.with_columns(target_rank=truth["target_rank"].scatter([0, 1, 2, 3], [1, 3, 10, 11]))
    found = ceiling(truth)
    assert (found["HR@1"], found["HR@5"], found["HR@10"]) == (0.25, 0.5, 0.75)
    assert found["NDCG@5"] == pytest.approx((1 + 0.5) / 4)
    assert found["NDCG@10"] == pytest.approx((1 + 0.5 + 1 / math.log2(11)) / 4)
    assert ceiling(truth, "valid") == {}


def test_truth_holds_rank_and_head_of_the_ranking_of_the_whole_catalogue(shop):
    for row in shop.truth.iter_rows(named=True):
        assert len(set(row["bayes_items"])) == 10
        if row["target_rank"] <= 10:
            assert row["bayes_items"][row["target_rank"] - 1] == row["target"]
        else:
            assert row["target"] not in row["bayes_items"]


def test_rank_of_agrees_with_rank_also_for_ties():
    probability_BN = np.array([[0.1, 0.4, 0.1, 0.4, 0.0]])
    order = rank(probability_BN, 5)[0]
    assert order.tolist() == [1, 3, 0, 2, 4]
    for place, row in enumerate(order, start=1):
        assert rank_of(probability_BN, np.array([row])).tolist() == [place]


class TestSearcher:
    def test_answers_are_the_truths_ranking(self, shop):
        context = shop.dataset.context(shop.truth["search_id"][0], 100)
        (answer,) = BayesSearcher(shop.world).search([context], 10)
        assert list(answer.item_ids) == shop.truth["bayes_items"][0].to_list()
        assert list(answer.scores) == sorted(answer.scores, reverse=True)

    def test_an_empty_batch_and_a_k_above_the_catalogue_have_an_answer(self, shop):
        searcher = BayesSearcher(shop.world)
        assert searcher.search([], 10) == []
        (answer,) = searcher.search([Context(search_id="s", user_id="u", query="case")], 10_000)
        assert sorted(answer.item_ids) == sorted(shop.dataset.catalogue.ids)

    def test_a_context_without_profile_place_and_calendar_time_is_answered(self, shop):
        for query in ("dress scarf", "case", shop.world.brands[1][0]):
            (answer,) = BayesSearcher(shop.world).search([Context(search_id="s", user_id="u", query=query, time=3)], 10)
            assert len(set(answer.item_ids)) == 10

    def test_a_brand_that_contradicts_the_history_is_believed(self, shop):
        known = next(c for c in contexts_of(shop)[0] if c.history)
        for brand in shop.world.brands[0]:
            (answer,) = BayesSearcher(shop.world).search([replace(known, query=brand)], 1)
            assert shop.dataset.catalogue[shop.dataset.catalogue.row(answer.item_ids[0])].brand == brand

    def test_an_unknown_query_says_what_can_be_asked(self, shop):
        with pytest.raises(DataError, match=r"query 'rocket' is none of the .* queries of the simulated shop"):
            BayesSearcher(shop.world).search([Context(search_id="s", user_id="u", query="rocket")], 10)


def test_a_user_depends_on_the_seed_and_the_number_only():
    few = build_world(TINY, 5)
    many = build_world(TINY.model_copy(update={"users": 500}), 5)
    assert live(few, 7) == live(many, 7)
    assert live(few, 7) != live(build_world(TINY, 6), 7)
