"""Teachers, and the filter between them and the student."""

import json
from pathlib import Path

import pytest
from chat_server import Reply, Server, completion
from hypothesis import given, settings
from hypothesis import strategies as st

from crsearch.config import SimulateConfig, SplitConfig
from crsearch.errors import DataError
from crsearch.records.simulator import simulate
from crsearch.records.types import Context, Example, Item, Search
from crsearch.train.endpoint import ChatEndpoint
from crsearch.train.teacher import (
    REASONS,
    FileTeacher,
    FilterRules,
    OpenAITeacher,
    TemplateTeacher,
    Trace,
    leak_filter,
    sift,
    words_of,
)

NAILS = ("Beauty", "Makeup", "Nails", "Nail Polish")
SHOP = {
    item.item_id: item
    for item in (
        Item(item_id="B01", title="OPI Nail Lacquer, Simmer and Shimmer", brand="OPI", category=NAILS, price=9.5),
        Item(item_id="B02", title="Essie Ballet Slippers 0.46 oz", brand="Essie", category=NAILS, price=8.0),
        Item(item_id="B03", title="OPI Top Coat", brand="OPI", category=(*NAILS[:3], "Top Coats"), price=11.0),
        Item(
            item_id="B04", title="Dove Shampoo 12 oz", brand="Dove", category=("Beauty", "Hair", "Shampoos"), price=5.0
        ),
        Item(item_id="B05", title="Zoya Polish, Pink", brand="Zoya", category=NAILS, price=90.0),
        Item(item_id="B06", title="mystery thing without fields"),
        Item(item_id="C01", title="福利金钻绒床边地毯防尘免洗", brand="金粟兰", category=("家纺", "地毯地垫", "地毯")),
        Item(item_id="C02", title="北欧客厅地毯 加厚", brand="金粟兰", category=("家纺", "地毯地垫", "地毯")),
    )
}


def example(query: str, target: str, *chosen: str) -> Example:
    history = tuple(
        Search(search_id=f"h{n}", user_id="u", time=n, query="x", shown=(i,), clicked=(i,))
        for n, i in enumerate(chosen)
    )
    context = Context(search_id="s1", user_id="u", query=query, time=99, history=history)
    return Example(context=context, target=target, part="train")


def template(e: Example, **options: object) -> str:
    (trace,) = TemplateTeacher(SHOP.values(), **options).thoughts([e])
    assert trace is not None
    return trace.thought


# ---------------------------------------------------------------- template

HEM = "beauty makeup nails nail polish"
"""The query that the HEM protocol makes of the category path."""


def test_the_template_goes_from_kind_over_evidence_to_the_item():
    assert template(example(HEM, "B01", "B04", "B03", "B02")) == (
        "intent: Nail Polish; evidence: chose OPI Top Coats, Essie Nail Polish; price: about 8; "
        "wanted item: Nail Polish, OPI"
    )


def test_a_brand_without_support_is_not_stated():
    thought = template(example(HEM, "B01", "B02"))
    assert thought.endswith("wanted item: Nail Polish")
    assert "OPI" not in thought


def test_a_brand_in_the_query_is_supported():
    assert template(example("opi nail polish", "B01")).endswith("wanted item: Nail Polish, OPI")


def test_a_price_without_support_is_not_stated():
    assert "price" not in template(example(HEM, "B05", "B01", "B02"))  # 90 where 8 and 9.5 were chosen
    assert "price" not in template(example(HEM, "B01"))


def test_without_similar_choices_the_template_says_so():
    for history in ((), ("B04",)):
        assert template(example(HEM, "B02", *history)) == (
            "intent: Nail Polish; evidence: nothing similar chosen; wanted item: Nail Polish"
        )


def test_the_closest_choice_is_quoted_first():
    """Same leaf before same parent, whatever came later; another branch of the shop never."""
    thought = template(example(HEM, "B05", "B02", "B03", "B04"))
    assert "evidence: chose Essie Nail Polish, OPI Top Coats;" in thought


def test_a_category_that_the_query_does_not_name_is_not_stated():
    """The target is a nail polish, the query does not say so: the query itself is the kind."""
    thought = template(example("gift for her", "B02", "B03"))
    assert thought.startswith("intent: gift for her; ")
    assert "Polish" not in thought


def test_the_deepest_named_level_is_the_kind():
    assert template(example("something for nails", "B02")).startswith("intent: Nails; ")


def test_plural_and_punctuation_do_not_hide_a_category():
    assert template(example("shampoo!", "B04")).startswith("intent: Shampoos; ")


def test_the_chinese_frame():
    assert template(example("北欧地毯", "C02", "C01"), language="zh") == (
        "意图：地毯；依据：选过金粟兰 地毯；想要：地毯，金粟兰"
    )
    assert template(example("礼物", "C02"), language="zh") == "意图：礼物；依据：没有选过类似商品；想要：礼物"


def test_items_with_hardly_any_field_and_unknown_ones():
    assert template(example("thing", "B06", "gone", "B06")) == (
        "intent: thing; evidence: chose mystery thing without fields; wanted item: thing"
    )


@pytest.mark.parametrize("query", ["", "  ", "!!!", "<>"])
def test_a_query_without_words_gets_no_thought(query):
    assert TemplateTeacher(SHOP.values()).thoughts([example(query, "B06")]) == [None]


def test_an_unknown_target_is_an_error():
    with pytest.raises(DataError, match="'nope' of search 's1'"):
        TemplateTeacher(SHOP.values()).thoughts([example("x", "nope")])


def test_control_tokens_in_records_do_not_reach_the_thought():
    evil = Item(item_id="E", title="t", brand="</think><a_1>", category=("＜think＞ case",), price=1.0)
    (trace,) = TemplateTeacher([evil]).thoughts([example("think case </think>", "E", "E")])
    assert trace is not None
    assert leak_filter(trace, example("x", "E"), evil, "<a_1><b_1><c_1><d_0>") is None
    assert "<" not in trace.thought


texts = st.text(st.sampled_from("abc <>;é手机&\u200b0123456789"), max_size=80)


@settings(deadline=None, max_examples=100)
@given(
    query=texts,
    title=texts,
    brand=texts,
    leaf=texts,
    price=st.floats(0.01, 1e6),
    language=st.sampled_from(["en", "zh"]),
)
def test_template_thoughts_are_short_and_of_one_line(query, title, brand, leaf, price, language):
    item = Item(item_id="I", title=title, brand=brand, category=(leaf,), price=price)
    (trace,) = TemplateTeacher([item], language=language).thoughts([example(query, "I", "I")])
    if trace is not None:
        assert len(words_of(trace.thought)) <= 40
        assert trace.thought == " ".join(trace.thought.split())
        assert "<" not in trace.thought


@settings(deadline=None, max_examples=50)
@given(
    st.lists(st.sampled_from(["B01", "B02", "B03", "B04", "B05"]), max_size=4), st.sampled_from([HEM, "polish", "gift"])
)
def test_the_template_says_nothing_that_the_context_does_not(chosen, query):
    """Every word of a thought is in the frame, in the query, or in a record of an earlier chosen item."""
    frame = "intent evidence chose nothing similar chosen price about wanted item"
    known = set(words_of(f"{frame} {query}"))
    for i in chosen:
        known |= {w for text in (SHOP[i].brand, *SHOP[i].category, SHOP[i].title) for w in words_of(str(text))}
    for target in ("B01", "B02", "B05"):
        said = [w for w in words_of(template(example(query, target, *chosen))) if not w.isdigit()]
        assert set(said) <= known


# ---------------------------------------------------------------- file


def test_a_file_of_thoughts(tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    path.write_text(
        json.dumps({"search_id": "s1", "thought": "想要手机壳", "more": 1}, ensure_ascii=False) + "\n", "utf-8"
    )
    teacher = FileTeacher.from_jsonl(path)
    other = Example(context=Context(search_id="s2", user_id="u", query="q"), target="B01", part="train")
    assert teacher.thoughts([other, example("q", "B01")]) == [
        None,
        Trace(search_id="s1", thought="想要手机壳", source="mine"),
    ]


@pytest.mark.parametrize("line", ["{", '{"search_id": "s"}', '{"search_id": "s", "thought": null}', "5"])
def test_a_broken_line_is_named(tmp_path, line):
    path = tmp_path / "mine.jsonl"
    path.write_text('{"search_id": "s", "thought": "t"}\n' + line + "\n", "utf-8")
    with pytest.raises(DataError, match=r"mine\.jsonl:2"):
        FileTeacher.from_jsonl(path)


@pytest.fixture(scope="module", params=["en", "zh"])
def simulation(request):
    config = SimulateConfig(users=80, items=100, departments=2, brands=3, language=request.param)
    return simulate(config, SplitConfig(test=0.2, valid=0.1), seed=0)


def test_the_analyst_of_the_simulated_shop(simulation, tmp_path):
    path = tmp_path / "truth.parquet"
    simulation.truth.write_parquet(path)
    examples = simulation.dataset.examples("train", 10)
    teacher = FileTeacher.analyst(path, "map")
    traces = teacher.thoughts(examples)
    assert teacher.name == "analyst:map"
    assert all(
        t is not None and t.thought and t.search_id == e.context.search_id
        for t, e in zip(traces, examples, strict=True)
    )
    with pytest.raises(DataError, match="only a simulated shop"):
        FileTeacher.analyst(tmp_path / "none.parquet", "map")


def test_a_right_inference_is_no_leak(simulation, tmp_path):
    """Thoughts of ``map`` end in the inferred title; where it is right they would all be thrown away."""
    path = tmp_path / "truth.parquet"
    simulation.truth.write_parquet(path)
    data = simulation.dataset
    examples = data.examples("train", 10)
    targets = [data.catalogue[data.catalogue.row(e.target)] for e in examples]
    traces = FileTeacher.analyst(path, "map").thoughts(examples)
    sids = ["<a_1><b_2><c_3><d_0>"] * len(traces)
    kept, counts = sift(traces, examples, targets, sids, FilterRules(allow_inferred=True))
    assert kept == traces
    assert counts["kept"] == len(traces)
    _, strict = sift(traces, examples, targets, sids)
    assert strict["title"] > 0
    assert strict["title"] + strict["kept"] == len(traces)


def test_the_template_works_on_the_simulated_shop(simulation):
    data = simulation.dataset
    examples = data.examples("train", 10)
    traces = TemplateTeacher(data.catalogue).thoughts(examples)
    assert all(traces)
    assert len({t.thought for t in traces}) > len(traces) / 2


# ---------------------------------------------------------------- filter

SID = "<a_3><b_14><c_15><d_0>"


def reason(thought: str, target: str = "B01", query: str = HEM, **rules: object) -> str | None:
    e = example(query, target)
    item = SHOP[target]
    return leak_filter(Trace(search_id="s1", thought=thought, source="t"), e, item, SID, FilterRules(**rules))


@pytest.mark.parametrize(
    ("thought", "expected"),
    [
        ("intent: nail polish; wanted item: nail polish, OPI", None),
        ("costs < 10 and > 5", None),
        ("", "empty"),
        (" \n ...", "empty"),
        ("word " * 61, "too long"),
        ("x" * 1_000_000, "too long"),
        ("wants polish</think>", "tags"),
        ("<think>wants polish", "tags"),
        ("< / Think >", "tags"),
        ("polish <|im_end|>", "tags"),
        ("polish \\u003c/think>", "tags"),
        ("polish ＜think＞", "tags"),
        ("polish &lt;think&gt;", "tags"),
        ("polish <th\u200bink>", "tags"),
        (f"polish {SID}", "sid"),
        ("polish <a_9>", "sid"),
        ("polish <A_9 >", "sid"),
        ("polish \\u003ca_9\\u003e", "sid"),
        ("<b>polish</b>", "html"),
        ("polish<br/>", "html"),
        ("a &amp; b", "html"),
        ("<!-- polish -->", "html"),
        ("the user took B01.", "item id"),
        ("the user took b01", "item id"),
        ("the user took XB01", None),
        ("wants OPI Nail Lacquer, Simmer and Shimmer", "title"),
        ("wants opi nail lacquer simmer AND shimmer now", "title"),
        ("wants OPI nail lacquer", None),
    ],
)
def test_why_a_trace_is_rejected(thought, expected):
    assert reason(thought) == expected


def test_a_chinese_title_is_found_and_its_words_alone_are_not_a_leak():
    assert reason("想要北欧客厅地毯，加厚", target="C02", query="地毯") == "title"
    assert reason("想要客厅用的地毯", target="C02", query="地毯") is None


def test_a_title_that_the_query_says_is_no_leak():
    assert reason("intent: opi top coat", target="B03", query="opi top coat") is None
    assert reason("intent: opi top coat", target="B03", query="top coat") == "title"


def test_an_inferred_title_is_allowed_only_where_its_words_are_attributes():
    plain = Item(
        item_id="P", title="case Kilumo premium", brand="Kilumo", category=("case",), attributes={"level": "premium"}
    )
    special = Item(item_id="P", title="case Kilumo Star Wars", brand="Kilumo", category=("case",))
    for item, allowed, expected in (
        (plain, False, "title"),
        (plain, True, None),
        (special, False, "title"),
        (special, True, "title"),
    ):
        trace = Trace(search_id="s1", thought=f"wanted item: {item.title}", source="t")
        rules = FilterRules(allow_inferred=allowed)
        assert leak_filter(trace, example("case", "P"), item, SID, rules) == expected


def test_a_short_number_is_an_item_id_only_where_it_is_called_one():
    item = Item(item_id="17", title="phone case with ring")
    for thought, expected in (
        ("price: about 17", None),
        ("the user chose item 17", "item id"),
        ("商品：17", "item id"),
    ):
        trace = Trace(search_id="s1", thought=thought, source="t")
        assert leak_filter(trace, example("case", "17"), item, SID) == expected


def test_the_table_of_reasons_counts_every_trace():
    e, item = example(HEM, "B01"), SHOP["B01"]
    thoughts = ["wants polish", "", f"{SID}", None, "<p>", "B01"]
    traces = [None if t is None else Trace(search_id="s1", thought=t, source="t") for t in thoughts]
    kept, counts = sift(traces, [e] * 6, [item] * 6, [SID] * 6)
    assert kept == [traces[0], None, None, None, None, None]
    assert list(counts) == ["kept", *REASONS]
    assert {k: n for k, n in counts.items() if n} == {
        "kept": 1, "missing": 1, "empty": 1, "sid": 1, "html": 1, "item id": 1,
    }  # fmt: skip


def test_rows_that_do_not_belong_together_are_an_error():
    trace = Trace(search_id="other", thought="t", source="t")
    with pytest.raises(DataError, match="'other'"):
        leak_filter(trace, example("q", "B01"), SHOP["B01"], SID)
    with pytest.raises(DataError, match="'B02'"):
        leak_filter(None, example("q", "B01"), SHOP["B02"], SID)


@settings(deadline=None, max_examples=100)
@given(st.text(max_size=200))
def test_no_text_breaks_the_filter(text):
    assert reason(text) in {None, *REASONS}


# ---------------------------------------------------------------- endpoint


def test_the_question_holds_context_and_target_and_the_trace_its_cost(tmp_path):
    text = "<think>let me see</think>\n intent: polish;\n wanted item: polish"
    server = Server(lambda n, _: Reply(body=completion(text) if n == 0 else completion("inte", finish="length")))
    teacher = OpenAITeacher(
        ChatEndpoint(server.url, "big", cache=tmp_path, concurrency=1),
        lambda context: json.dumps({"query": context.query}),
        lambda item_id: json.dumps({"title": SHOP[item_id].title}),
        max_words=25,
    )
    traces = teacher.thoughts([example(HEM, "B01"), example("another", "B01")])
    server.close()
    assert traces == [
        Trace(search_id="s1", thought="intent: polish; wanted item: polish", source="openai:big", tokens=10),
        None,
    ]
    system, question = server.bodies[0]["messages"]
    assert (system["role"], question["role"]) == ("system", "user")
    assert '{"query": "beauty makeup nails nail polish"}' in question["content"]
    assert 'The user chose: {"title": "OPI Nail Lacquer, Simmer and Shimmer"}' in question["content"]
    assert "at most 25 words" in question["content"]


def test_the_question_in_chinese_and_with_braces_in_the_data(tmp_path):
    endpoint = ChatEndpoint("http://127.0.0.1:1/v1", "big", cache=tmp_path)
    teacher = OpenAITeacher(endpoint, lambda c: "{x}", lambda i: "{0}", language="zh")
    question = teacher.prompt(example("q", "B01"))[1]["content"]
    assert "{x}\n用户选择了：{0}\n" in question
