"""Tables fit their terminal; texts of others do nothing in it."""

import io

import pytest
from rich.console import Console

from crsearch.cli.show import METRICS, show_answer, show_results
from crsearch.pipeline.systems import SYSTEMS
from crsearch.serve.contract import Answer, Found, Reasoning, Rung


def page(width: int) -> Console:
    return Console(file=io.StringIO(), width=width)


@pytest.fixture
def results():
    row = {m: {"mean": 0.123456, "low": 0.1, "high": 0.2} for m in METRICS}
    best_last = {name: {"mean": i / 10, "low": 0.0, "high": 1.0} for i, name in enumerate(SYSTEMS)}
    return {
        "test_queries": 1234,
        "searchers": {name: {**row, "NDCG@10": value} for name, value in best_last.items()},
        "ceiling": dict.fromkeys(METRICS, 0.5),
        "final_stage": "sft1",
        "stages": [{"name": "align", "tokens": 12_345_678, "metrics": row}],
    }


@pytest.mark.parametrize("width", [80, 100, 140, 1000])
def test_tables_fit_their_terminal(results, width):
    out = page(width)
    show_results(results, out)
    lines = out.file.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines)
    assert lines[0] == "systems, 1,234 test queries: mean [95 % interval]"
    assert sum("[0.100, 0.200]" in line for line in lines) == (len(SYSTEMS) + 1 if width >= 140 else 1)


def test_the_best_system_comes_first_and_the_ceiling_last(results):
    out = page(140)
    show_results(results, out)
    names = [line.split("  ")[0] for line in out.file.getvalue().splitlines()]
    assert names[2 : 3 + len(SYSTEMS)] == [*reversed(SYSTEMS), "Bayes optimum"]


def test_a_system_that_could_not_run_is_named_with_the_reason(results):
    out = page(140)
    show_results({**results, "not_run": {"dense-bge": "weights not at hand (get them)"}}, out)
    assert "dense-bge: not run: weights not at hand (get them)" in out.file.getvalue()


def answer(title: str, thought: str) -> Answer:
    return Answer(
        request_id="r", query="q", served_by=Rung.FRESH, why_rung="there was time", timings_ms={"total": 3.0},
        items=(Found(id="a", title=title, rank=1, score=-1.0, sid=("<a_1>",)),),
        reasoning=Reasoning(text=thought, tokens=1, cut=False, cached=False),
    )  # fmt: skip


def test_texts_of_others_do_nothing(capsys):
    out = page(80)
    show_answer(answer("[red]x[/red] \x1b[2J\u202e", "[link=http://a]y\x07"), out)
    lines = out.file.getvalue().splitlines()
    assert lines[0] == "thought  [link=http://a]y "
    assert lines[2].startswith("1  [red]x[/red]  [2J  ")
    assert capsys.readouterr().out == "\n3 ms, L0: there was time\n"


def test_a_long_title_is_cut_to_the_terminal():
    out = page(80)
    show_answer(answer("手机壳 " * 60, "y"), out)
    (line,) = (line for line in out.file.getvalue().splitlines() if line.startswith("1"))
    assert "…" in line
    assert line.endswith("<a_1>  -1.00")
