"""Thoughts: short, from the context alone, and readable back."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.config import SimulateConfig, SplitConfig
from crsearch.records.simulator import FIELDS, Lexicon, Simulation, simulate, stated_fields, think
from crsearch.records.simulator.analyst import Stated, confuse, read_facts
from crsearch.records.store import Catalogue
from crsearch.records.types import Context, Item

ANALYSTS = ("map", "noisy", "leak")


def make(language="en", **knobs):
    config = SimulateConfig(users=200, items=1_200, departments=4, brands=5, language=language)
    return simulate(config.model_copy(update=knobs), SplitConfig(), 0)


@pytest.fixture(scope="module", params=["en", "zh"])
def shop(request):
    return make(request.param)


@pytest.fixture(scope="module")
def english():
    return make()


def words(thought):
    """Words and, in Chinese, characters between blanks and punctuation marks."""
    return re.findall(r"[^\s.,:。，：]+", thought)


def test_map_thoughts_are_a_function_of_the_saved_context_alone(shop, tmp_path):
    shop.save(tmp_path)
    back = Simulation.load(tmp_path)
    contexts = [back.dataset.context(search_id, 100) for search_id in back.truth["search_id"]]
    blind = [
        Context(
            search_id="", user_id="", query=c.query, time=c.time, place=c.place, profile=c.profile, history=c.history
        )
        for c in contexts
    ]
    assert think(back.world, blind) == shop.truth["thought_map"].to_list()


def test_map_thoughts_of_equal_contexts_are_equal_whatever_was_chosen(english):
    context = Context(search_id="s", user_id="u", query="case", profile={"gender": "male", "age": "50+"})
    assert think(english.world, [context]) == think(english.world, [context, context])[1:]
    assert think(english.world, []) == []


def test_thoughts_are_short_and_name_no_identifier(shop):
    for who in ANALYSTS:
        for thought in shop.truth[f"thought_{who}"]:
            assert len(words(thought)) <= 32
            assert not re.search(r"i\d{5}|u\d{5}|<|>", thought)


def test_the_item_stands_first_as_kind_and_last_as_title(english):
    frame = english.world.language.sentences
    for row in english.truth.iter_rows(named=True):
        for who in ANALYSTS:
            fields = [row[f"{who}_{name}"] for name in FIELDS]
            assert row[f"thought_{who}"].startswith(frame.wants.format(category=fields[0]))
            assert row[f"thought_{who}"].endswith(" ".join([frame.item, *fields]))


def test_what_every_thought_states_is_read_back(shop):
    lexicon = Lexicon.from_catalogue(shop.dataset.catalogue)
    for row in shop.truth.iter_rows(named=True):
        for who in ANALYSTS:
            found = stated_fields(row[f"thought_{who}"], lexicon)
            assert found == {name: row[f"{who}_{name}"] for name in FIELDS}


def test_true_fields_are_those_of_the_target_and_leak_states_them(shop):
    catalogue = shop.dataset.catalogue
    for row in shop.truth.iter_rows(named=True):
        fields = [row[f"true_{name}"] for name in FIELDS]
        assert " ".join(fields) == catalogue[catalogue.row(row["target"])].title
        assert fields == [row[f"leak_{name}"] for name in FIELDS]


def test_map_states_most_fields_right(english):
    right = {name: (english.truth[f"map_{name}"] == english.truth[f"true_{name}"]).mean() for name in FIELDS}
    assert right["category"] > 0.93 and min(right.values()) > 0.6


def test_quoted_facts_are_facts(english):
    """A quoted click is one of the history; a level that was chosen over another was, in one search."""
    catalogue = english.dataset.catalogue
    for row in english.truth.iter_rows(named=True):
        context = english.dataset.context(row["search_id"], 100)
        searches = [
            (
                [catalogue[catalogue.row(i)] for i in s.chosen],
                {catalogue[catalogue.row(i)].attributes["level"] for i in s.skipped},
            )
            for s in context.history
        ]
        clicked = {f"{i.category[-1]} {i.brand}" for chosen, _ in searches for i in chosen}
        levels = {(i.attributes["level"], other) for chosen, skipped in searches for i in chosen for other in skipped}
        for who in ANALYSTS:
            quoted = re.search(r"Clicked ([^,]+),", row[f"thought_{who}"])
            assert quoted is None or quoted[1] in clicked
            compared = re.search(r"Chose (\w+) over (\w+),", row[f"thought_{who}"])
            assert compared is None or compared.groups() in levels
            place = re.search(r" in (\w+),", row[f"thought_{who}"])
            assert place is None or place[1] == context.place


def test_an_accessory_quotes_the_main_item_clicked_last(english):
    world, catalogue, seen = english.world, english.dataset.catalogue, 0
    for row in english.truth.iter_rows(named=True):
        context = english.dataset.context(row["search_id"], 100)
        department = world.meaning(context.query).department
        mains = [
            catalogue[catalogue.row(i)]
            for s in context.history
            for i in s.clicked
            if world.category_N[catalogue.row(i)] in range(6 * department, 6 * department + 3)
        ]
        if mains and row["query_kind"] == "bare":
            last = mains[-1]
            assert f"Clicked {last.category[-1]} {last.brand}, so {last.brand}." in row["thought_map"]
            seen += 1
    assert seen > 10


def test_a_context_without_evidence_states_the_prior(english):
    contexts = [
        Context(search_id="s", user_id="u", query="dress scarf"),
        Context(search_id="s", user_id="u", query="case", profile={"age": "18-24"}),
    ]
    popular = english.world.brands[1][0]
    first, second = think(english.world, contexts)
    assert first.startswith(f"Wants dress scarf. No evidence, {popular} popular here. No evidence, ")
    assert "Age 18-24, so basic. No evidence, " in second


def test_without_history_weight_no_fact_is_quoted():
    for thought in make(history_weight=0.0).truth["thought_map"]:
        assert not re.search("Clicked|Chose|Skipped|Age| in |For ", thought)


def test_noisy_states_each_field_wrong_as_often_as_told():
    truth = make(analyst_noise=0.4).truth
    wrong = [(truth[f"noisy_{name}"] != truth[f"map_{name}"]).mean() for name in FIELDS]
    assert all(abs(share - 0.4) < 0.1 for share in wrong) and abs(np.mean(wrong) - 0.4) < 0.05
    silent = make(analyst_noise=0.0).truth
    assert silent["thought_noisy"].to_list() == silent["thought_map"].to_list() == truth["thought_map"].to_list()


def test_noisy_errors_are_always_the_same(english):
    always = replace(english.world, config=english.world.config.model_copy(update={"analyst_noise": 1.0}))
    facts = read_facts(always, english.dataset.context(english.truth["search_id"][0], 100))
    for stated in (Stated(5, 1, 3, 3), Stated(0, 0, 1, 0)):
        wrong, *others = (confuse(always, facts, stated, np.random.default_rng(seed)) for seed in range(3))
        assert others == [wrong, wrong]
        assert wrong.category // 3 == stated.category // 3 and wrong.category != stated.category
        assert wrong.brand != stated.brand and wrong.style != stated.style
        assert wrong.level == {3: 2, 1: 2}[stated.level]


class TestStatedFields:
    lexicon = Lexicon.from_catalogue(
        Catalogue(
            Item(
                item_id=f"{category}{brand}",
                title="",
                brand=brand,
                category=("toys", category),
                attributes={"level": level, "style": style},
            )
            for category in ("puzzle", "puzzle kit")
            for brand, level, style in (("Kilumo", "premium", "warm"), ("Ravena", "basic", "airy"))
        )
    )

    @pytest.mark.parametrize(
        ("thought", "fields"),
        [
            ("", (None, None, None, None)),
            ("ravena Item:", (None, "Ravena", None, None)),
            ("Item: puzzle kit Kilumo premium warm", ("puzzle kit", "Kilumo", "premium", "warm")),
            ("Item: Item: puzzle  KIT\nKilumo", ("puzzle kit", "Kilumo", None, None)),
            ("Item: puzzle Kilumo premium warm puzzle kit Ravena", ("puzzle", "Kilumo", "premium", "warm")),
            ("Wants puzzle kit. Clicked puzzle Kilumo, so Kilumo. Chose", ("puzzle kit", "Kilumo", None, None)),
            ("Chose premium over basic, so basic. Item: puzzle warm", ("puzzle", None, "basic", "warm")),
            ("Item: puzzles Kilumos prepremium warm", (None, None, None, "warm")),
            ("<a_1><b_2> premium premium premium", (None, None, "premium", None)),
        ],
    )
    def test_malformed_thoughts_give_what_they_hold(self, thought, fields):
        assert tuple(stated_fields(thought, self.lexicon).values()) == fields

    @given(
        st.text() | st.lists(st.sampled_from(["puzzle", "kit", "Item:", "商品：", "basic", "so", "."])).map(" ".join)
    )
    def test_no_text_is_an_error(self, thought):
        assert tuple(stated_fields(thought, self.lexicon)) == FIELDS

    def test_a_catalogue_without_these_fields_states_nothing(self):
        lexicon = Lexicon.from_catalogue(Catalogue([Item(item_id="a", title="x")]))
        assert set(stated_fields("Item: x", lexicon).values()) == {None}
