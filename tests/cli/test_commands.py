"""Every command does what it says: results on standard output, all else on standard error."""

import json
import re
import shutil
from pathlib import Path

import pytest
from shop_files import write_shop
from tiny_run import tiny_arguments

from crsearch import __version__
from crsearch.config import load_settings
from crsearch.records.store import Dataset

SIMULATE = [
    part for text in ("users=60", "items=40", "departments=1", "brands=2") for part in ("--set", f"simulate.{text}")
]


@pytest.fixture
def copy(tiny_run, tmp_path) -> Path:
    """A finished run that may be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_run_prints_the_table_and_the_next_command(crsearch, copy):
    changed = [*tiny_arguments("sft.max_steps=2"), "--out", copy, "--resume"]
    done = crsearch("run", *changed)
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    assert lines[0].startswith("systems, ")
    assert {"crs", "crs-direct", "bm25", "Bayes optimum"} <= {line.split("  ")[0] for line in lines}
    assert f"report  {copy}/report/index.html" in lines
    assert lines[-1].startswith(f"next    crsearch search {copy} ")
    told = done.stderr.splitlines()
    names = [line.split()[0] for line in told]
    assert names[0] == "sft1"
    assert {"eval.crs", "eval.stage.sft1"} <= set(names)
    assert {"align", "sft0", "rl0", "eval.bm25"}.isdisjoint(names)
    assert all(" s " in line for line in told)
    assert told[-1].endswith(" s left")

    again = crsearch("run", *changed, "--json")
    assert again.stderr == ""
    assert json.loads(again.stdout) == json.loads((copy / "results.json").read_text())
    assert load_settings(copy / "settings.toml") == load_settings(None, changed[1:-3:2])


def test_dry_run_keeps_nothing(crsearch, tmp_path):
    done = crsearch("run", "--out", tmp_path / "run", *tiny_arguments(), "--dry-run", "--json")
    found = json.loads(done.stdout)
    stages = {s["name"]: s for s in found["stages"]}
    assert stages["align"]["steps"] == 3
    assert stages["rl0"]["thoughts"] == 3 * 2 * 3
    assert found["seconds"] == pytest.approx(sum(s["seconds"] for s in stages.values()))
    assert found["memory_mib"] > 0
    assert found["disk_mib"] > 0
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_reads_as_a_table(crsearch):
    done = crsearch("demo", "--budget", "smoke", *tiny_arguments()[2:], "--dry-run")
    assert done.stdout.splitlines()[1].split() == [
        "stage",
        "steps",
        "training",
        "tokens",
        "thoughts",
        "lists",
        "seconds",
    ]
    assert done.stdout.splitlines()[-1].startswith("about ")


def test_evaluate_adds_a_system(crsearch, copy):
    done = crsearch("evaluate", copy, "--searcher", "popularity-in-query-brand", "--json")
    assert "popularity-in-query-brand" in json.loads(done.stdout)["searchers"]
    assert "popularity-in-query-brand" in crsearch("evaluate", copy).stdout


def test_evaluate_judges_a_run_file_of_any_system(crsearch, tiny_run):
    own = json.loads((tiny_run / "results.json").read_text())["searchers"]["bm25"]
    done = crsearch("evaluate", tiny_run, "--run", tiny_run / "eval/bm25.trec", "--json")
    assert json.loads(done.stdout)["searchers"]["bm25"] == own
    table = crsearch("evaluate", tiny_run, "--run", tiny_run / "eval/bm25.trec").stdout
    assert f"{own['NDCG@10']['mean']:.3f} [{own['NDCG@10']['low']:.3f}, {own['NDCG@10']['high']:.3f}]" in table


def test_search_prints_the_thought_then_the_items(crsearch, tiny_run):
    lines = crsearch("search", tiny_run, "case", "--user", "u00000", "-k", 3).stdout.splitlines()
    assert lines[0].startswith("thought  ")
    assert [line.split()[0] for line in lines[2:5]] == ["1", "2", "3"]
    assert re.fullmatch(r"\d+ ms, L[02]: .+", lines[-1])


def test_search_without_a_thought_as_json(crsearch, tiny_run):
    found = json.loads(crsearch("search", tiny_run, "case", "--no-think", "--json", "-k", 3).stdout)
    assert found["reasoning"] is None and found["served_by"] == "L3"
    assert {"rank", "id", "title", "brand", "price", "sid", "score", "why"} <= found["items"][0].keys()
    scores = [item["score"] for item in found["items"]]
    assert scores == sorted(scores, reverse=True)


def test_report_names_its_file(crsearch, copy):
    page = crsearch("report", copy).stdout.split()[1]
    assert "<html" in Path(page).read_text()


def test_simulate_then_check(crsearch, tmp_path):
    done = crsearch("simulate", tmp_path / "shop", *SIMULATE)
    assert done.stdout.splitlines() == [
        f"{tmp_path}/shop: 40 items, 60 users, {len(Dataset.load(tmp_path / 'shop').searches)} searches",
        f"next    crsearch check {tmp_path}/shop",
    ]
    assert (tmp_path / "shop/truth.parquet").exists()
    lines = crsearch("check", tmp_path / "shop").stdout.splitlines()
    assert [line.split() for line in lines[:2]] == [["users", "60"], ["items", "40"]]
    assert json.loads(crsearch("check", tmp_path / "shop", "--json").stdout)["problems"] == []


def test_import_tables_says_what_was_changed(crsearch, tmp_path):
    shop = write_shop(tmp_path / "shop")
    done = crsearch("import", "tables", shop, tmp_path / "mine")
    assert "  changed: 40 users of the log without a row in users (empty profile)" in done.stdout.splitlines()
    assert len(Dataset.load(tmp_path / "mine").catalogue) == 20
    told = json.loads(crsearch("import", "tables", shop / "mapping.toml", tmp_path / "mine", "--json").stdout)
    assert told["read"] == {"items rows": 20, "searches rows": 120}


def test_import_esci_asks_real_queries_of_a_catalogue_that_is_there(crsearch, tmp_path):
    shop = write_shop(tmp_path / "shop")
    crsearch("import", "tables", shop, tmp_path / "mine")
    (tmp_path / "queries.jsonl").write_text('{"query": "a case", "asins": ["i3", "i4"]}\n')
    done = crsearch("import", "esci", tmp_path / "queries.jsonl", tmp_path / "real", "--catalogue", tmp_path / "mine")
    assert "  read: 1 queries" in done.stdout.splitlines()
    mine, real = Dataset.load(tmp_path / "mine"), Dataset.load(tmp_path / "real")
    assert real.catalogue == mine.catalogue and len(real.examples("test", 10)) == 2


def test_settings_are_a_file_to_begin_with(crsearch, tmp_path):
    file = tmp_path / "my.toml"
    file.write_text(crsearch("settings", "--set", "preset=paper", "--set", "sids.codes=64").stdout)
    assert load_settings(file) == load_settings(None, ["preset=paper", "sids.codes=64"])
    assert "# Centroids per codebook." in file.read_text()


def test_the_version_is_printed(crsearch):
    assert crsearch("--version").stdout == f"crsearch {__version__}\n"
