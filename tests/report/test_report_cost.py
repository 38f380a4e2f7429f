"""What the report says of time and tokens is what the manifest has."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from reading import section, tables
from small_run import COSTS, TOKENS

from crsearch.report import render
from crsearch.report.cost import cost
from crsearch.report.found import Found
from crsearch.report.lineage import trained_tokens
from crsearch.report.parts import Page
from crsearch.runs import write_json

Copy = Callable[..., Path]


def cost_tables(folder: Path) -> list[list[list[str]]]:
    return tables(render.md(Page("t", "s", [cost(Found.read(folder))])))


def test_time_of_the_stages_adds_up_to_that_of_the_manifest(finished: Path) -> None:
    header, *rows, total = cost_tables(finished)[0]
    assert header[2:4] == ["seconds", "CPU seconds"]
    assert float(total[3]) == pytest.approx(sum(c["cpu_seconds"] for c in COSTS.values()))
    assert sum(float(row[3].replace(",", "")) for row in rows) == pytest.approx(float(total[3]))
    assert sum(float(row[4].split()[0]) for row in rows) == pytest.approx(100, abs=0.5)
    shown = {row[0]: row[1:] for row in rows}
    assert shown["validation"][:3] == ["measurement", "6.0", "3.0"]
    assert shown["evaluation"][0] == "measurement"
    assert shown["rl0.select"][0] == shown["distill"][0] == "crs"
    assert shown["direct"] == ["crs-direct", "60.0", "30.0", shown["direct"][3], f"{TOKENS['direct']:,}", "120"]


def test_training_of_a_system_is_that_of_the_stages_behind_it(finished: Path) -> None:
    rows = {row[0]: row[1:] for row in cost_tables(finished)[1][1:]}
    made = ("distill", "align", "sft0", "rl0.select", "rl0", "sft1.select", "sft1")
    assert rows["crs"][1] == "align, sft0, rl0, sft1"
    assert float(rows["crs"][3]) == sum(COSTS[stage]["cpu_seconds"] for stage in made)
    assert rows["crs-direct"][1] == "align, direct"
    assert float(rows["crs-direct"][3]) == COSTS["align"]["cpu_seconds"] + COSTS["direct"]["cpu_seconds"]
    assert rows["bm25"][:6] == ["query", "–", "–", "–", "–", "–"]
    found = Found.read(finished)
    for name, row in rows.items():
        measured = found.evaluation(name)
        assert measured is not None
        assert float(row[6]) == pytest.approx(measured.latency_ms_B.mean(), abs=0.006)


def test_a_stage_that_made_no_step_counts_no_tokens(copied: Copy) -> None:
    folder = copied()
    file, results = folder / "manifest.json", folder / "results.json"
    manifest, found = json.loads(file.read_text()), json.loads(results.read_text())
    taken = next(s for s in found["stages"] if s["name"] == "rl0")
    before = trained_tokens(Found.read(folder), "crs")
    manifest["stages"]["rl0"]["numbers"].pop("tokens_sum", None)
    found["stages"] = [{**s, "tokens": 0} if s["name"] == "rl0" else s for s in found["stages"]]
    write_json(file, manifest)
    write_json(results, found)
    assert before is not None and trained_tokens(Found.read(folder), "crs") == before - taken["tokens"]


def test_a_run_without_times_says_so(copied: Copy) -> None:
    folder = copied()
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    for entry in manifest["stages"].values():
        entry.pop("cost")
    write_json(file, manifest)
    assert "The run holds no times" in render.md(Page("t", "s", [cost(Found.read(folder))]))


def test_what_a_teacher_took_is_told(copied: Copy) -> None:
    folder = copied()
    file = folder / "manifest.json"
    manifest = json.loads(file.read_text())
    manifest["stages"]["distill"]["numbers"]["tokens"] = 12_345
    write_json(file, manifest)
    assert "(analyst) took 12,345 tokens." in section(
        "\n" + render.md(Page("t", "s", [cost(Found.read(folder))])), "Cost"
    )
