"""Teachers, and the filter between them and the student."""

import json
from pathlib import Path

import pytest
from chat_server import Reply, Server, completion
from hypothesis import given, settings
from hypothesis import strategies as st
from nail_shop import HEM, SHOP, example

from crsearch.config import SimulateConfig, SplitConfig
from crsearch.errors import DataError
from crsearch.records.simulator import simulate
from crsearch.records.types import Context, Example, Item
from crsearch.train.endpoint import ChatEndpoint
from crsearch.train.teacher import (
    REASONS,
    FileTeacher,
    FilterRules,
    OpenAITeacher,
    Trace,
    leak_filter,
    sift,
)

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


@settings(max_examples=100)
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
