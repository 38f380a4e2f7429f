"""Request bodies: what is no plain JSON is refused, fast, and never repeated."""

import contextlib
import gc
import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.serve.contract import SearchRequest
from crsearch.serve.parse import parse_json, read_model
from crsearch.serve.problems import Problem

DEPTH = 16
MARK = "CANARY-7f3a"
REFUSED = {
    "empty": b"",
    "blank": b" \n",
    "no json": b"{",
    "two values": b"{} {}",
    "NaN": b'{"a": NaN}',
    "Infinity": b'{"a": -Infinity}',
    "beyond floats": b'{"a": 1e999}',
    "huge integer": b'{"a": ' + b"9" * 5_000 + b"}",
    "20 digits": b"9" * 20,
    "lone surrogate": b'{"a": "\\ud800"}',
    "lone low surrogate": b'{"a": ["x\\uDFFF"]}',
    "surrogate in a key": b'{"\\ud83d": 1}',
    "surrogates in wrong order": b'{"a": "\\ude00\\ud83d"}',
    "duplicate key": b'{"query": "a", "query": "b"}',
    "duplicate key inside": b'{"a": [{"b": 1, "b": 1}]}',
    "duplicate key, escaped": b'{"ab": 1, "\\u0061b": 2}',
    "latin-1": '{"a": "é"}'.encode("latin-1"),
    "cut UTF-8": '{"a": "é"}'.encode()[:-3] + b'"}',
    "overlong UTF-8": b'{"a": "\xc0\xaf"}',
    "surrogate in UTF-8": b'{"a": "\xed\xa0\x80"}',
    "UTF-16": '{"a": 1}'.encode("utf-16"),
    "UTF-16 without mark": '{"a": 1}'.encode("utf-16-le"),
    "UTF-32": '{"a": 1}'.encode("utf-32"),
    "two marks": b'\xef\xbb\xbf\xef\xbb\xbf{"a": 1}',
    "raw control character": b'{"a": "\x00"}',
    "single quotes": b"{'a': 1}",
    "comment": b"{} // x",
    "trailing comma": b"[1,]",
    "17 deep": b"[" * 17 + b"]" * 17,
    "bad escape": b'{"a": "\\x41"}',
}


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_what_is_no_plain_json_is_refused(body):
    with pytest.raises(Problem) as refused:
        parse_json(body, DEPTH)
    assert refused.value.code == "invalid_json"
    assert refused.value.hint


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": -0}', {"a": 0}),
        (b'{"a": "\\ud83d\\ude00"}', {"a": "😀"}),
        (b'{"a": "\\u0000"}', {"a": "\0"}),
        (b"[" * 16 + b"]" * 16, json.loads("[" * 16 + "]" * 16)),
        (b'["[[[[[[[[[[[[[[[[[[[[[[[[", "\\"[[[[[[[[[[[[[[[[[[[[[["]', ["[" * 24, '"' + "[" * 22]),
        (b"9223372036854775807", 2**63 - 1),
        (b"null", None),
        (b"1e-999", 0.0),
    ],
)
def test_plain_json_is_read(body, value):
    assert parse_json(body, DEPTH) == value


@given(st.recursive(st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.text(), st.lists, max_leaves=20))
def test_any_value_comes_back(value):
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_json(text.encode(), 64) == value


@given(st.binary())
def test_any_bytes_are_read_or_refused(body):
    try:
        value = parse_json(body, DEPTH)
    except Problem as e:
        assert e.code == "invalid_json"
    else:
        json.dumps(value, allow_nan=False).encode()


FLAT = {
    "flat": b"[" + b"[]," * 85_000 + b"0]",
    "a string without end": b'"' + b'\\"' * 127_000,
    "quotes": b'""' * 128_000,
    "backslashes": b'"' + b"\\" * 255_001,
    "keys": b"{" + b",".join(b'"%d":0' % i for i in range(25_000)) + b"}",
    "digits": b"1" * 256_000,
    "fraction": b"0." + b"1" * 255_000,
    "surrogates": b'["' + b"\\ud83d\\ude00" * 21_000 + b'"]',
}


DEEP = {"lists": b"[" * 100_000, "objects": b'{"a":' * 51_000, "closed": b"[" * 100_000 + b"]" * 100_000}


@pytest.mark.parametrize(
    ("body", "seconds"),
    [*((body, 0.05) for body in DEEP.values()), *((body, 0.25) for body in FLAT.values())],
    ids=[*DEEP, *FLAT],
)
def test_bodies_that_are_made_to_be_slow_are_not(body, seconds):
    def taken() -> float:
        begin = time.process_time()
        with contextlib.suppress(Problem):
            parse_json(body, DEPTH)
        return time.process_time() - begin

    gc.disable()  # what else lives in the process of the tests is not meant
    try:
        assert min(taken() for _ in range(3)) < seconds
    finally:
        gc.enable()


@pytest.mark.parametrize("body", REFUSED.values(), ids=REFUSED)
def test_a_refusal_is_short_and_repeats_nothing(body):
    with pytest.raises(Problem) as refused:
        parse_json(body.replace(b'"a"', f'"{MARK}"'.encode()), DEPTH)
    text = json.dumps(refused.value.body("r"))
    assert MARK not in text and len(text) < 1_000


# ---------------------------------------------------------------- models


def problem(**fields):
    with pytest.raises(Problem) as refused:
        read_model(SearchRequest, {"query": "case", **fields})
    assert refused.value.code == "invalid_request"
    return refused.value


@pytest.mark.parametrize("value", [True, "10", 0, -1, 101, 10**9, 1.5, 1.0, None, [], {}])
def test_top_k_is_an_integer_of_its_range(value):
    assert problem(top_k=value).field == "top_k"


@pytest.mark.parametrize(
    ("written", "meant"),
    [("topk", "top_k"), ("Query", "query"), ("k", None), ("user", "user_id"), ("filter", "filters")],
)
def test_an_unknown_field_names_the_nearest_known_one(written, meant):
    found = problem(**{written: 1})
    assert found.hint == f"did you mean `{meant}`?" if meant else "`top_k`" in found.hint


def test_an_unknown_field_inside_names_the_place_and_the_nearest_one():
    found = problem(history=[{"query": "a"}, {"query": "b", "clickd": []}])
    assert (found.field, found.hint) == ("history.1", "did you mean `clicked`?")
    assert problem(filters={"prize_min": 1}).hint == "did you mean `price_min`?"


def test_a_missing_field_is_named():
    with pytest.raises(Problem) as refused:
        read_model(SearchRequest, {"top_k": 1})
    assert refused.value.field == "query"


@pytest.mark.parametrize("value", [None, [], "x", 1, True])
def test_a_body_that_is_no_object_is_refused(value):
    with pytest.raises(Problem) as refused:
        read_model(SearchRequest, value)
    assert refused.value.code == "invalid_request"


@pytest.mark.parametrize(
    "fields",
    [
        {MARK: 1},
        {"mode": MARK},
        {"top_k": MARK},
        {"profile": {MARK * 10: "x"}},
        {"profile": {MARK: 1}},
        {"filters": {MARK: 1}},
        {"filters": MARK},
        {"history": [{"query": "a", MARK: MARK}]},
        {"history": [{"query": MARK * 100}]},
        {"history": [MARK] * 1_000},
        {"systems": [MARK] * 5},
        {"deadline_ms": MARK},
    ],
)
def test_a_refusal_of_a_field_is_short_and_repeats_nothing(fields):
    text = json.dumps(problem(**fields).body("r"))
    assert MARK not in text and len(text.encode()) <= 4_000


def test_a_list_of_many_wrong_values_is_refused_fast():
    begin = time.thread_time()
    problem(systems=[1] * 60_000)
    problem(history=[{"query": 1, "clicked": [1] * 30_000}] * 2)
    assert time.thread_time() - begin < 0.5


def test_numbers_of_the_filters_are_finite_and_ordered_fields_default():
    assert problem(filters={"price_min": -1}).field == "filters.price_min"
    assert read_model(SearchRequest, {"query": "a", "filters": {"price_min": 1}}).filters.price_min == 1.0
