"""docs/make_results.py: from the files of a run to the tables of README.md."""

import json
import shlex

import make_results
import pytest
import typer.main
from blocks import replace_block
from pages import ROOT, read

from crsearch.config import load_settings, to_toml
from crsearch.runs import write_json

PAGE = "# a page\n<!-- results:begin -->\nold\n<!-- results:end -->\nthe rest\n"


def row(mean):
    return {m: {"mean": mean, "low": mean - 0.01, "high": mean + 0.01} for m in make_results.METRICS}


RESULTS = {
    "data": {"items": 3400, "users": 4000},
    "test_queries": 1680,
    "seeds": [0],
    "final_stage": "sft1",
    "searchers": {"bm25": row(0.1), "crs": row(0.45), "crs-direct": row(0.4)},
    "ceiling": dict.fromkeys(make_results.METRICS, 0.7),
    "stages": [
        {"name": "align", "tokens": 1_234_567, "mode": "direct", "metrics": row(0.3)},
        {"name": "sft0", "tokens": 500, "mode": "think", "metrics": row(0.35)},
    ],
    "significance": {
        "NDCG@10": {
            "bm25": {"difference": {"mean": 0.35, "low": 0.3, "high": 0.4}, "p": 0.001, "p_holm": 0.002},
            "crs-direct": {"difference": {"mean": 0.05, "low": -0.01, "high": 0.11}, "p": 0.1, "p_holm": 0.1},
        }
    },
}


@pytest.fixture
def run(tmp_path):
    """A finished run of the demo, as far as the script reads it."""
    folder = tmp_path / "demo"
    write_json(folder / "results.json", RESULTS)
    write_json(folder / "manifest.json", {"threads": 2, "stages": {}})
    (folder / "settings.toml").write_text(to_toml(load_settings(None, (), {"preset": "demo"})))
    return folder


@pytest.fixture
def readme(tmp_path):
    page = tmp_path / "README.md"
    page.write_text(PAGE)
    return page


def test_systems_stand_best_first_below_the_ceiling_with_intervals(run):
    block = make_results.results_block(run)
    names = [line.split("|")[1].strip() for line in block.splitlines() if line.startswith("| ")]
    assert names[:6] == ["system", "---", "best possible (Bayes)", "`crs`", "`crs-direct`", "`bm25`"]
    assert "| `crs` | 0.450 [0.440, 0.460] |" in block
    assert "| +0.050 [-0.010, +0.110] |" in block
    assert "3,400 items, 4,000 users, 1,680 test queries, seed 0" in block


def test_stages_stand_in_order_with_their_tokens(run):
    lines = [line for line in make_results.results_block(run).splitlines() if "stage" not in line]
    align = next(line for line in lines if line.startswith("| `align` |"))
    sft0 = next(line for line in lines if line.startswith("| `sft0` |"))
    assert align.startswith("| `align` | at once | 1,234,567 | 0.300 [0.290, 0.310] |")
    assert sft0.startswith("| `sft0` | after a thought | 500 |")
    assert lines.index(align) < lines.index(sft0)


def test_a_run_without_a_ceiling_or_a_comparison_has_no_such_row_or_column(run):
    write_json(run / "results.json", {k: v for k, v in RESULTS.items() if k not in ("ceiling", "significance")})
    block = make_results.results_block(run)
    assert "Bayes" not in block
    assert "minus it" not in block


@pytest.mark.parametrize(
    ("preset", "overrides"),
    [
        ("demo", []),
        ("smoke", ["seed=3", "rl.aggregate=first", "loop.rl=false"]),
        ("paper", ['data="data/my shop"', 'distill.teacher="template"', "rl.reward.layer_weights=[0.4, 0.3, 0.3]"]),
        ("beauty", ['evaluate.searchers=["crs", "bm25"]', "distill.url='http://[::1]:8000/v1'", "align.max_steps=7"]),
    ],
)
def test_the_command_makes_a_run_of_the_same_settings(run, preset, overrides, monkeypatch):
    """It is given to the real command line, which stops where the run would begin."""
    settings = load_settings(None, overrides, {"preset": preset})
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    started = []
    monkeypatch.setattr("crsearch.cli.show.run_and_show", lambda found, out, **_: started.append((found, out)))
    from crsearch.cli.main import app

    _, name, *arguments = shlex.split(make_results.remaking(settings, run, threads=2))
    command = typer.main.get_command(app).commands[name]
    command.invoke(command.make_context(name, arguments))
    assert started == [(settings.model_copy(update={"threads": 2}), run)]


def test_the_block_is_filled_and_the_page_around_it_stays(run, readme):
    assert make_results.main([str(run), "--readme", str(readme)]) == 0
    page = read(readme)
    assert page.startswith("# a page\n<!-- results:begin -->\nSimulated shop: ")
    assert page.endswith("```\n<!-- results:end -->\nthe rest\n")
    assert f"python docs/make_results.py {run}" in page
    assert make_results.main([str(run), "--readme", str(readme)]) == 0
    assert read(readme) == page


def test_other_records_that_a_run_was_asked_have_a_block_of_their_own(run, readme):
    readme.write_text(PAGE.replace("results:", "real-queries:"))
    arguments = [str(run), "--readme", str(readme), "--records", "real-queries"]
    assert make_results.main(arguments) == 2, "not asked yet"
    write_json(run / "eval" / "real-queries" / "results.json", {"searchers": {"bm25": row(0.1)}, "test_queries": 23})
    assert make_results.main(arguments) == 0
    page = read(readme)
    assert "`data/real-queries`: 23 test searches" in page and "| `bm25` | 0.100 [0.090, 0.110] |" in page
    assert f"crsearch evaluate {run} --data data/real-queries" in page
    assert f"python docs/make_results.py {shlex.join(arguments)}\n" in page


def test_an_unfinished_run_and_a_page_without_a_block_change_nothing(run, readme, capsys):
    readme.write_text("no block")
    assert make_results.main([str(run), "--readme", str(readme)]) == 2
    (run / "results.json").unlink()
    readme.write_text(PAGE)
    assert make_results.main([str(run), "--readme", str(readme)]) == 2
    assert "not finished" in capsys.readouterr().err
    assert read(readme) == PAGE


def test_the_readme_has_the_block():
    page = read(ROOT / "README.md")
    assert replace_block(page, "results", "x\n") != page


def test_the_results_used_here_have_the_form_that_a_run_writes():
    """Keys that the script reads are those that ``crsearch.pipeline.measure.results`` returns."""
    import inspect

    from crsearch.pipeline import measure

    source = inspect.getsource(measure.results)
    assert all(json.dumps(key) in source for key in RESULTS)
