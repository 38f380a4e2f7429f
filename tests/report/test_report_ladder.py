"""The ladder in the report: each rung with its system, its numbers and what is lost against the first."""

import json
from collections.abc import Callable
from pathlib import Path

from reading import section, tables

from crsearch.report import write_report
from crsearch.report.found import Found
from crsearch.report.ladder import CACHED, ladder
from crsearch.report.values import plain, signed, with_interval
from crsearch.runs import write_json


def shown(folder: Path) -> list[list[str]]:
    return tables(section((folder / "report" / "report.md").read_text(encoding="utf-8"), "The ladder"))[0]


def test_every_rung_has_the_numbers_of_its_system(finished: Path) -> None:
    found = Found.read(finished)
    header, *rows = shown(finished)
    assert header == ["rung", "answer", "system", "HR@10", "NDCG@10", "NDCG@10 - L0", "per query, ms"]
    measured = {row[0]: row for row in rows if row[2]}
    assert {rung: row[2] for rung, row in measured.items()} == {
        "L0": "crs", "L1": "crs", "L3": "crs-no-thought", "L5": "bm25",
    }  # fmt: skip
    for row in measured.values():
        own = found.results["searchers"][row[2]]
        assert row[3:5] == [str(with_interval(own["HR@10"])), str(with_interval(own["NDCG@10"]))]
    lost = found.difference("bm25", "crs", "NDCG@10")
    milliseconds = found.milliseconds("bm25")
    assert lost is not None and milliseconds is not None
    assert measured["L5"][5:] == [str(signed(lost)), plain(milliseconds, 2)]
    assert measured["L0"][5] == measured["L1"][5] == "–"


def test_nobody_measured_how_long_a_cached_thought_takes(finished: Path) -> None:
    assert {row[0]: row[6] for row in shown(finished)}[CACHED] == "–"


def test_rungs_that_were_not_measured_are_named(finished: Path) -> None:
    notes = {row[0]: row[1] for row in shown(finished) if row[0] in ("L2", "L4", "L6")}
    assert notes == {
        "L2": "a thought closed at its budget, then beams: not measured",
        "L4": "dense and lexical lists, fused: not measured",
        "L6": "popular items for the query: not measured",
    }


def test_a_rung_that_is_worse_than_a_lower_one_is_named(copied: Callable[..., Path]) -> None:
    folder = copied()
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    for metric, mean in (("HR@10", 0.0), ("NDCG@10", 1.0)):
        results["rungs"]["L3"][metric] = dict.fromkeys(("mean", "low", "high"), mean)
    write_json(folder / "results.json", results)
    write_report(folder)
    assert "The mean of L3 is below that of L5 in HR@10." in (folder / "report" / "report.md").read_text(
        encoding="utf-8"
    )


def test_a_run_without_rungs_says_how_to_get_them(copied: Callable[..., Path]) -> None:
    folder = copied()
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    del results["rungs"]
    write_json(folder / "results.json", results)
    (part,) = ladder(Found.read(folder)).parts
    assert "crsearch evaluate" in str(part)
