"""docs/make_systems.py: from main.json of an experiment to the tables of docs/results.md and README.md."""

import copy

import make_systems
import pytest
from pages import read

from crsearch.runs import write_json


def row(mean):
    return {m: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for m in make_systems.METRICS}


MEANS = {"bm25": [0.1, 0.1, 0.1], "crs": [0.4, 0.5, 0.6], "crs-direct": [0.5, 0.5, 0.4], "dsi-qg": [0.2, 0.2, 0.2]}
TABLE = {
    "searchers": {name: row(sum(values) / 3) for name, values in MEANS.items()},
    "by_seed": {name: {"NDCG@10": values} for name, values in MEANS.items()},
    "tokens": {"bm25": 0, "crs": 4_646_799, "crs-direct": 4_652_216, "dsi-qg": 7},
    "comparisons": [
        {"system": "crs", "other": "bm25", "metric": "NDCG@10", "difference": {"mean": 0.4, "low": 0.3, "high": 0.5}}
    ],
    "not_run": {"dense-bge": "weights not at hand"},
    "shared": [],
}
FOUND = {
    "preset": "demo",
    "data": {"items": 3400, "users": 4000},
    "seeds": [0, 1, 2],
    "test_queries": 1677,
    "ceiling": dict.fromkeys(make_systems.METRICS, 0.75),
    "tables": {"map": TABLE, "noisy": {**TABLE, "shared": ["bm25", "dsi-qg"]}},
}


def lines(found) -> list[str]:
    return list(make_systems.tables(found, "runs/main"))


def test_three_seeds_are_said_and_each_is_shown():
    said = lines(FOUND)
    assert said[0] == "3,400 items, 4,000 users, 1,677 test queries, means over 3 training seeds."
    assert "| `crs` | 4,646,799 | 0.500 [0.490, 0.510] |" in "\n".join(said)
    assert said.count("| system | seed 0 | seed 1 | seed 2 | `crs` minus it |") == 2
    assert "| `crs` | 0.400 | 0.500 | 0.600 |  |" in said
    assert "| `crs-direct` | 0.500 | 0.500 | 0.400 | -0.100, +0.000, +0.200 |" in said
    assert not any(line.startswith("| `bm25` | 0.100 | 0.100") for line in said), "it is not trained"
    assert "crsearch experiment main --budget hour --seeds 3 --threads 1 --out runs/main" in said


def test_rows_of_the_first_teacher_are_not_repeated_nor_is_what_did_not_run():
    said = lines(FOUND)
    assert sum(line.startswith("| `bm25` |") for line in said) == 1
    assert "No thought is read by, and so the rows above hold for: `bm25`, `dsi-qg`." in said
    assert said.count("`dense-bge`: not run: weights not at hand.") == 1


def test_one_seed_has_no_table_of_seeds_nor_has_a_file_of_an_earlier_version():
    one = copy.deepcopy(FOUND) | {"seeds": [0]}
    for table in one["tables"].values():
        table["by_seed"] = {name: {"NDCG@10": values[:1]} for name, values in MEANS.items()}
    earlier = copy.deepcopy(FOUND)
    for table in earlier["tables"].values():
        del table["by_seed"]
    for found in (one, earlier):
        assert not any("by training seed" in line for line in lines(found))
    assert lines(one)[0].endswith("one training seed.")


@pytest.mark.parametrize("options", [[], ["--short"]])
def test_the_block_is_filled_and_the_page_around_it_stays(tmp_path, monkeypatch, options):
    page = tmp_path / "page.md"
    block = "results" if options else "systems"
    page.write_text(f"before\n<!-- {block}:begin -->\nold\n<!-- {block}:end -->\nafter\n")
    monkeypatch.setattr(make_systems, "PAGE", page)
    write_json(tmp_path / "main.json", FOUND)
    arguments = [str(tmp_path), "--name", "runs/main", *options, *([str(page)] if options else [])]
    assert make_systems.main(arguments) == 0
    text = read(page)
    assert text.startswith(f"before\n<!-- {block}:begin -->\n3,400 items") and text.endswith(":end -->\nafter\n")
    assert ("dsi-qg" in text) == (not options), "the short table has the systems of the paper and the lines to beat"
    assert "| `crs-direct` | 0.500 | 0.500 | 0.400 |" in text
    assert f"python docs/make_systems.py runs/main{f' --short {page}' if options else ''}\n" in text
    assert "main --budget hour --seeds 3 " in text
