"""The teacher that needs no language model: what it states, what it leaves out, and that it never looks."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from nail_shop import HEM, SHOP, example

from crsearch.config import SimulateConfig, SplitConfig
from crsearch.records.simulator import simulate
from crsearch.records.types import Example, Item, Search
from crsearch.train.habits import Habits
from crsearch.train.teacher import leak_filter
from crsearch.train.template import TemplateReader, TemplateTeacher
from crsearch.train.words import words_of


def bought(user: str, *choices: tuple[str, str]) -> list[Search]:
    """Searches of a training user: (query, item) in order."""
    return [
        Search(search_id=f"{user}-{n}", user_id=user, time=n, query=query, clicked=(item,))
        for n, (query, item) in enumerate(choices)
    ]


OTHERS = [*bought("a", (HEM, "B02")), *bought("b", (HEM, "B02")), *bought("c", (HEM, "B05"))]
"""Others choose Essie twice and Zoya once."""


def thought(e: Example, searches: list[Search] | None = None, **options: object) -> str:
    (trace,) = TemplateTeacher(SHOP.values(), OTHERS if searches is None else searches, **options).thoughts([e])
    assert trace is not None
    return trace.thought


# ---------------------------------------------------------------- what is stated
def test_kind_then_evidence_then_price_then_the_item():
    assert thought(example(HEM, "B05", "B04", "B03", "B02")) == (
        "intent: Makeup Nails Nail Polish; evidence: chose OPI Top Coat, Essie Ballet Slippers 0; "
        "price: about 8; wanted item: Makeup Nails Nail Polish, OPI"
    )


def test_without_a_history_the_choice_of_the_others_is_stated():
    assert thought(example(HEM, "B05")) == (
        "intent: Makeup Nails Nail Polish; evidence: nothing similar chosen; "
        "wanted item: Makeup Nails Nail Polish, Essie"
    )


def test_a_brand_chosen_before_beats_one_that_others_choose():
    assert thought(example(HEM, "B05", "B03")).endswith(", OPI")


def test_what_others_chose_together_is_inferred_and_the_choice_that_says_so_is_quoted():
    together = [s for u in "defg" for s in bought(u, ("shampoo", "B04"), ("polish", "B05"))]
    text = thought(example(HEM, "B01", "B04"), [*OTHERS, *together])
    assert "evidence: chose Dove Shampoo 12 oz;" in text
    assert text.endswith(", Zoya")


def test_the_closest_choice_is_quoted_whatever_came_later():
    """Same category before same parent; another branch of the shop never."""
    text = thought(example(HEM, "B05", "B02", "B04"))
    assert "evidence: chose Essie Ballet Slippers 0;" in text


def test_an_item_chosen_before_is_not_wanted_again():
    assert thought(example(HEM, "B05", "B02")).endswith(", Zoya")


def test_the_kind_of_a_query_that_others_made_is_what_they_chose():
    gifts = [*bought("a", ("gift for her", "B04")), *bought("b", ("Gift for HER", "B04"))]
    assert thought(example("gift for her", "B02"), gifts).startswith("intent: Hair Shampoos; ")


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ("something for nails", "Makeup Nails"),
        ("shampoo!", "Hair Shampoos"),
        ("top coats for nails", "Makeup Nails Top Coats"),
        ("gift for her", "gift for her"),
    ],
)
def test_the_kind_of_a_query_that_nobody_made_is_the_deepest_category_it_names(query, kind):
    assert thought(example(query, "B02"), []).startswith(f"intent: {kind}; ")


def test_a_missing_brand_is_read_off_the_title():
    nameless = replace(SHOP["B01"], item_id="N", title="Essie Mademoiselle Pink", brand=None)
    found = TemplateTeacher([*SHOP.values(), nameless]).infer(example(HEM, "B01", "B02").context)
    assert found.brand == "Essie"
    assert found.item is nameless


def test_the_chinese_frame():
    assert thought(example("北欧地毯", "C02", "C01"), language="zh") == (
        "意图：地毯地垫 地毯；依据：选过福利金钻；想要：地毯地垫 地毯，金粟兰"
    )
    assert thought(example("礼物", "C02"), language="zh") == "意图：礼物；依据：没有选过类似商品；想要：礼物"


def test_items_with_hardly_any_field_and_unknown_ones():
    assert thought(example("thing", "B06", "gone", "B06")) == (
        "intent: thing; evidence: nothing similar chosen; wanted item: thing"
    )


@pytest.mark.parametrize("query", ["", "  ", "!!!", "<>", "*"])
def test_a_query_without_words_and_without_history_gets_no_thought(query):
    assert TemplateTeacher(SHOP.values(), OTHERS).thoughts([example(query, "B06")]) == [None]


def test_without_a_word_the_kind_is_what_others_choose_beside_the_history():
    """Of three others with item B04 two chose B02, a nail polish, and nobody a thing of another kind."""
    others = [*bought("a", ("*", "B04"), ("*", "B02")), *bought("b", ("*", "B04"), ("*", "B02"))]
    said = thought(example("*", "B06", "B04"), others)
    assert said.startswith(f"intent: {' '.join(SHOP['B02'].category[1:])}; evidence: chose")
    assert SHOP["B02"].brand in said
    assert TemplateTeacher(SHOP.values(), []).thoughts([example("*", "B06", "B04")]) == [None]


def test_a_short_budget_drops_evidence_until_the_thought_fits():
    e = example(HEM, "B05", "B03", "B02")
    assert thought(e).count("chose") == 1
    assert all(len(words_of(thought(e, max_words=most))) <= most for most in range(5, 41))
    assert thought(e, max_words=15).startswith("intent: Makeup Nails Nail Polish; price")


# ---------------------------------------------------------------- what is never looked at
@settings(max_examples=50)
@given(
    chosen=st.lists(st.sampled_from(["B01", "B02", "B03", "B04", "B05", "B06"]), max_size=4),
    query=st.sampled_from([HEM, "polish", "gift", "shampoo"]),
    targets=st.lists(st.sampled_from([*SHOP, "unknown"]), min_size=2, max_size=2),
)
def test_the_target_changes_nothing_neither_in_the_example_nor_in_the_counts(chosen, query, targets):
    """The user's own choice is among the searches of training users, as it is in a run."""
    first, second = (
        thought(example(query, t, *chosen), [*OTHERS, *bought("u", (query, t)), *bought("c", ("x", "B04"))])
        for t in targets
    )
    assert first == second


def test_the_users_own_choices_are_in_no_count():
    habits = Habits([*OTHERS, *bought("u", (HEM, "B02"), ("shampoo", "B04")), *bought("a", ("shampoo", "B04"))])
    assert habits.for_query("Beauty Makeup NAILS nail-polish", without="u") == {"B02": 2, "B05": 1}
    assert habits.for_query(HEM, without="a") == {"B02": 2, "B05": 1}
    assert habits.for_query("never asked", without="u") == {}
    assert habits.chosen_with("B04", without="u") == {"B02": 1 / 2**0.5}
    assert habits.chosen_with("B04", without="nobody") == {"B02": 2 / 3**0.5}
    assert habits.chosen_with("unknown", without="u") == {}


# ---------------------------------------------------------------- form
def test_control_tokens_in_records_do_not_reach_the_thought():
    evil = Item(item_id="E", title="<a_1> t t t t t", brand="</think><a_1>", category=("＜think＞ case",), price=1.0)
    other = replace(evil, item_id="F")
    (trace,) = TemplateTeacher([evil, other]).thoughts([example("think case </think>", "E", "E")])
    assert trace is not None
    assert leak_filter(trace, example("x", "E"), evil, "<a_1><b_1><c_1><d_0>") is None
    assert "<" not in trace.thought


texts = st.text(st.sampled_from("abc <>;é手机&\u200b0123456789"), max_size=80)


@settings(max_examples=100)
@given(
    query=texts,
    title=texts,
    brand=texts,
    leaf=texts,
    price=st.floats(0.01, 1e6),
    language=st.sampled_from(["en", "zh"]),
)
def test_thoughts_are_short_and_of_one_line_and_pass_the_filter(query, title, brand, leaf, price, language):
    items = [Item(item_id=i, title=title, brand=brand, category=(leaf,), price=price) for i in ("I1", "I2")]
    e = example(query, "I1", "I2")
    (trace,) = TemplateTeacher(items, language=language).thoughts([e])
    if trace is not None:
        assert len(words_of(trace.thought)) <= 60
        assert trace.thought == " ".join(trace.thought.split())
        assert "<" not in trace.thought


@pytest.mark.parametrize("language", ["en", "zh"])
def test_what_is_written_is_read_back(language):
    e = example(HEM, "B05", "B03", "B02")
    teacher = TemplateTeacher(SHOP.values(), OTHERS, language=language)
    meant, said = teacher.infer(e.context), TemplateReader(SHOP.values()).read(thought(e, language=language))
    assert said is not None
    assert (said.category, said.brand) == (meant.kind[-1], meant.brand)
    assert said.evidence is not None
    assert set(words_of(said.evidence)) <= {w for i in meant.evidence for w in words_of(i.title)}


@pytest.mark.parametrize(
    ("text", "category", "brand"),
    [
        ("wanted item: Makeup Nails Nail Polish, NOBODY", "Nail Polish", None),
        ("wanted item: makeup nails, opi", "Nails", "OPI"),
        ("wanted item: nothing known", None, None),
        ("wanted item: Essie; wanted item: OPI", None, "OPI"),
        ("wanted item:", None, None),
    ],
)
def test_what_a_model_writes_wrong_is_not_known(text, category, brand):
    said = TemplateReader(SHOP.values()).read(text + " ")
    assert said is not None and (said.category, said.brand, said.evidence) == (category, brand, None)
    assert TemplateReader(SHOP.values()).read("I want a polish of OPI") is None


def test_the_template_works_on_the_simulated_shop():
    config = SimulateConfig(users=80, items=100, departments=2, brands=3)
    data = simulate(config, SplitConfig(test=0.2, valid=0.1), seed=0).dataset
    searches = [s for s in data.searches if data.parts[s.user_id] == "train"]
    traces = TemplateTeacher(data.catalogue, searches).thoughts(data.examples("train", 10))
    assert all(traces)
    assert len({t.thought for t in traces if t}) > len(traces) / 2
