"""The shop and its users: words, items, every knob, and the same bytes from the same seed."""

from collections import Counter
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from pydantic import ValidationError

from crsearch.config import SimulateConfig, SplitConfig, load_settings
from crsearch.errors import ConfigError, DataError
from crsearch.records.simulator import Simulation, build_world, ceiling, simulate
from crsearch.records.simulator.people import live
from crsearch.records.simulator.words import LANGUAGES, brand_names
from crsearch.records.split import part_of

SPLIT = SplitConfig()
SMALL = SimulateConfig(users=200, items=300, departments=3, brands=4)


def make(seed=0, **knobs):
    return simulate(SMALL.model_copy(update=knobs), SPLIT, seed)


@pytest.fixture(scope="module")
def shop():
    return make()


def last_searches(simulation):
    return [s for s in simulation.dataset.searches if s.search_id in simulation.dataset.targets]


def earlier_searches(simulation):
    return [s for s in simulation.dataset.searches if s.search_id not in simulation.dataset.targets]


class TestWords:
    @pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES.keys())
    def test_every_word_has_one_meaning(self, language):
        words = Counter()
        for y, department in enumerate(language.departments):
            words.update(language.category(y, stem, False, synonym) for stem in range(3) for synonym in (False, True))
            words.update((department.accessory, department.accessory_synonym, department.name))
        words.update((*language.levels, *language.seasonal_styles, *language.taste_styles, *language.genders))
        words.update(city for city, _ in language.cities)
        words.update(brand_names(language, 144, np.random.default_rng(0)))
        assert [w for w, times in words.items() if times > 1] == []

    @pytest.mark.parametrize("language", LANGUAGES)
    def test_no_title_contains_a_synonym(self, language):
        world = build_world(SimulateConfig(items=1_200, departments=12, language=language), 0)
        titles = [item.title.split() if language == "en" else item.title for item in world.catalogue]
        for d in world.language.departments:
            for synonym in (*d.main_synonyms, d.accessory_synonym):
                assert not any(synonym in title for title in titles)

    @pytest.mark.parametrize("language", LANGUAGES.values(), ids=LANGUAGES.keys())
    def test_brands_are_one_word_and_different_in_two_syllables(self, language):
        names = brand_names(language, 144, np.random.default_rng(1))
        size = len(names[0]) // language.brand_length
        assert all(len(name.split()) == 1 for name in names)
        split = [[name[i : i + size].lower() for i in range(0, len(name), size)] for name in names]
        assert min(sum(x != y for x, y in zip(a, b, strict=True)) for i, a in enumerate(split) for b in split[:i]) >= 2

    def test_more_brands_than_names_are_refused(self):
        few = replace(LANGUAGES["en"], syllables=("ba", "be", "bi"))
        with pytest.raises(ConfigError, match=r"lower simulate\.brands"):
            brand_names(few, 7, np.random.default_rng(0))

    def test_a_chinese_shop_speaks_chinese_throughout(self):
        simulation = make(language="zh", users=40)
        texts = [i.title for i in simulation.dataset.catalogue] + [s.query for s in simulation.dataset.searches]
        texts += [s.place for s in simulation.dataset.searches] + simulation.truth["thought_map"].to_list()
        letters = {c for text in texts for c in text if c.isascii() and c.isalpha()}
        assert letters == set()


class TestItems:
    def test_all_items_differ_and_titles_hold_category_brand_level_style_in_this_order(self, shop):
        for item in shop.dataset.catalogue:
            words = (item.category[-1], item.brand, item.attributes["level"], item.attributes["style"])
            assert item.title == " ".join(words)
        assert len({item.title for item in shop.dataset.catalogue}) == len(shop.dataset.catalogue)

    def test_every_category_has_items_even_in_the_smallest_shop(self):
        world = build_world(SimulateConfig(items=36), 0)
        assert sorted(world.category_N.tolist()) == list(range(36))

    def test_levels_of_a_category_never_overlap_in_price(self, shop):
        world = shop.world
        for rows in world.rows_of_category:
            for low, high in pairwise(range(4)):
                lower = world.price_N[rows[world.level_N[rows] == low]]
                higher = world.price_N[rows[world.level_N[rows] == high]]
                assert max(lower, default=0.0) < min(higher, default=np.inf)

    def test_sales_are_what_training_users_bought_times_price(self, shop):
        bought = Counter(i for s in shop.dataset.searches if part_of(s.user_id, SPLIT) == "train" for i in s.bought)
        for item in shop.dataset.catalogue:
            assert item.sales == pytest.approx(item.price * bought[item.item_id], abs=0.06)
        assert sum(bought.values()) > 100

    def test_look_alikes_pack_items_into_fewer_pairs_of_category_and_brand(self):
        def pairs(look_alikes):
            world = build_world(SMALL.model_copy(update={"look_alikes": look_alikes}), 0)
            return len(set(zip(world.category_N.tolist(), world.brand_N.tolist(), strict=True)))

        assert (pairs(0.0), pairs(0.5), pairs(1.0)) == (72, 46, 19)

    @pytest.mark.parametrize(
        ("knobs", "message"),
        [
            ({"items": 20}, "hold 36 to 3456 different items"),
            ({"items": 4_000}, "hold 36 to 3456 different items"),
            ({"min_history": 5, "max_history": 3}, "min_history = 5 is above"),
            ({"sharpness": (1.0, -1.0, 1.0)}, "weights are at least 0"),
        ],
    )
    def test_shops_that_cannot_be_are_refused(self, knobs, message):
        with pytest.raises(ValidationError, match=message):
            SimulateConfig(**knobs)
        with pytest.raises(ConfigError, match=message):
            load_settings(base={"simulate": knobs})


class TestUsers:
    def test_times_rise_and_everything_shown_is_of_one_category(self, shop):
        for user_id in shop.dataset.users:
            searches = shop.dataset.searches_of(user_id)
            assert all(a.time < b.time for a, b in pairwise(searches))
        row, world = shop.dataset.catalogue.row, shop.world
        for s in shop.dataset.searches:
            assert len({int(world.category_N[row(i)]) for i in s.shown}) == 1
            assert set(s.chosen) <= set(s.shown) and len(set(s.shown)) == len(s.shown)

    def test_the_query_names_the_category_of_what_is_shown(self, shop):
        for s in shop.dataset.searches:
            department, category = shop.dataset.catalogue[shop.dataset.catalogue.row(s.shown[0])].category
            kind = shop.world.meaning(s.query).kind
            if kind == "full":
                assert s.query == category
            elif kind == "bare":
                assert category.endswith(f" {s.query}")
            else:
                names = [d.name for d in shop.world.language.departments]
                assert s.query in shop.world.brands[names.index(department)]

    def test_every_user_has_one_example_their_last_search(self, shop):
        assert len(shop.dataset.targets) == SMALL.users
        for user_id in shop.dataset.users:
            assert shop.dataset.searches_of(user_id)[-1].search_id in shop.dataset.targets

    def test_people_travel_but_not_within_a_session(self, shop):
        abroad = [s.place != shop.dataset.users[s.user_id].profile["city"] for s in earlier_searches(shop)]
        assert 0.08 < np.mean(abroad) < 0.2
        for user_id in shop.dataset.users:
            *_, before, last = (None, *shop.dataset.searches_of(user_id))
            assert before is None or before.place == last.place


class TestKnobs:
    def test_history_length_and_cold_users(self):
        lengths = Counter(
            len(make(cold_users=0.3, min_history=2, max_history=5).dataset.searches_of(u)) - 1 for u in ()
        )
        simulation = make(cold_users=0.3, min_history=2, max_history=5)
        lengths = Counter(len(simulation.dataset.searches_of(u)) - 1 for u in simulation.dataset.users)
        assert set(lengths) == {0, 2, 3, 4, 5}
        assert 0.2 < lengths[0] / SMALL.users < 0.4
        assert not earlier_searches(make(cold_users=1.0))

    def test_no_click_is_the_share_of_earlier_searches_without_a_choice(self):
        for share in (0.0, 0.72):
            earlier = earlier_searches(make(no_click=share))
            assert abs(np.mean([not s.chosen for s in earlier]) - share) < 0.04
            assert all(s.shown for s in earlier)

    def test_ambiguity_is_the_share_of_accessory_queries_that_do_not_name_the_category(self):
        for ambiguity in (0.0, 0.8):
            simulation = make(ambiguity=ambiguity)
            row, world = simulation.dataset.catalogue.row, simulation.world
            accessories = [
                world.meaning(s.query).kind
                for s in simulation.dataset.searches
                if world.is_accessory(int(world.category_N[row(s.shown[0])]))
            ]
            counts = Counter(accessories)
            assert abs(1 - counts["full"] / len(accessories) - ambiguity) < 0.06
            assert ambiguity == 0 or 1.4 < counts["bare"] / counts["brand"] < 2.8

    def test_vocabulary_gap_is_the_share_of_category_queries_without_a_word_of_a_title(self):
        for gap in (0.0, 0.5):
            simulation = make(vocabulary_gap=gap)
            words = {w for item in simulation.dataset.catalogue for w in item.title.split()}
            brands = {item.brand for item in simulation.dataset.catalogue}
            queries = [s.query for s in simulation.dataset.searches if s.query not in brands]
            assert abs(np.mean([not set(q.split()) & words for q in queries]) - gap) < 0.05

    def test_a_sharper_shop_is_easier_to_foresee(self):
        soft, sharp = (ceiling(make(sharpness=s).truth, "train") for s in ((2.0, 2.0, 1.0), (4.0, 4.0, 3.0)))
        assert sharp["NDCG@10"] > soft["NDCG@10"] + 0.1

    def test_what_the_context_decides_falls_with_history_weight(self):
        found = [ceiling(make(history_weight=w).truth, "train")["NDCG@10"] for w in (0.0, 0.5, 1.0)]
        assert found[0] + 0.15 < found[1] < found[2] - 0.15


class TestRepeat:
    def test_same_seed_same_bytes(self, tmp_path):
        for name in ("a", "b"):
            make(users=60).save(tmp_path / name)
        files = sorted(p.name for p in (tmp_path / "a").iterdir())
        assert "truth.parquet" in files and "shop.json" in files
        for name in files:
            assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()

    def test_another_seed_is_another_shop(self, shop):
        other = make(seed=1)
        assert other.dataset.fingerprint() != shop.dataset.fingerprint()
        assert not {i.brand for i in other.dataset.catalogue} & {i.brand for i in shop.dataset.catalogue}

    def test_more_users_are_added_after_the_first(self, shop):
        fewer = make(users=50)
        assert all(shop.dataset.searches_of(u) == fewer.dataset.searches_of(u) for u in fewer.dataset.users)

    def test_a_saved_simulation_is_read_back_with_its_world(self, tmp_path):
        simulation = make(users=30)
        simulation.save(tmp_path)
        back = Simulation.load(tmp_path)
        assert back.dataset.fingerprint() == simulation.dataset.fingerprint()
        assert back.truth.equals(simulation.truth) and back.split == SPLIT
        np.testing.assert_array_equal(back.world.choice_NPRS, simulation.world.choice_NPRS)

    def test_a_truth_of_other_records_is_refused(self, tmp_path):
        make(users=30).save(tmp_path)
        make(users=31).dataset.save(tmp_path)
        with pytest.raises(DataError, match="records were changed after the simulation"):
            Simulation.load(tmp_path)

    def test_a_folder_without_a_truth_says_how_to_get_one(self, tmp_path):
        make(users=30).dataset.save(tmp_path)
        with pytest.raises(DataError, match="crsearch simulate"):
            Simulation.load(tmp_path)

    def test_a_broken_truth_is_refused(self, tmp_path):
        make(users=30).save(tmp_path)
        (tmp_path / "truth.parquet").write_bytes(b"broken")
        with pytest.raises(DataError, match=r"truth.parquet: not readable"):
            Simulation.load(tmp_path)
        (tmp_path / "shop.json").write_text("{}")
        with pytest.raises(DataError, match=r"shop.json: not readable"):
            Simulation.load(tmp_path)


def test_most_test_targets_of_the_demo_were_never_a_training_target(capsys):
    """Lesson 1 of the feasibility study: the shop has more items than training targets."""
    settings = load_settings(base={"preset": "demo"})
    world = build_world(settings.simulate, settings.seed)
    targets = {"train": [], "valid": [], "test": []}
    for number in range(settings.simulate.users):
        user, searches = live(world, number)
        targets[part_of(user.user_id, settings.split)].append(searches[-1].target)
    aligned = set(targets["train"][: round(settings.align.share * len(targets["train"]))])
    unseen_all = np.mean([t not in set(targets["train"]) for t in targets["test"]])
    unseen_aligned = np.mean([t not in aligned for t in targets["test"]])
    with capsys.disabled():
        print(f"\n  test targets never a target of alignment: {unseen_aligned:.1%}, of training: {unseen_all:.1%}")
    assert len(set(targets["train"])) < 0.6 * settings.simulate.items
    assert unseen_aligned > 0.6 and unseen_all > 0.48
