"""The report of a finished run: what it says, what it leaves out, and that it stands alone."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from xml.etree import ElementTree

import pytest
from reading import Reader, section, tables
from small_run import NOT_RUN, TOKENS

from crsearch.errors import RunError
from crsearch.evaluate.metrics import REPORTED
from crsearch.records.store import Dataset
from crsearch.report import about, render, write_report
from crsearch.report.found import Found
from crsearch.report.parts import Page
from crsearch.report.summary import summary
from crsearch.report.systems import main_table
from crsearch.runs import write_json

Copy = Callable[..., Path]


def page(folder: Path) -> str:
    return (folder / "report" / "index.html").read_text(encoding="utf-8")


def markdown(folder: Path) -> str:
    return (folder / "report" / "report.md").read_text(encoding="utf-8")


def results(folder: Path) -> dict:
    return json.loads((folder / "results.json").read_text(encoding="utf-8"))


def markdown_of_systems(folder: Path) -> str:
    return render.md(Page("t", "s", [main_table(Found.read(folder))]))


# -- the file itself --------------------------------------------------------------------------------------------------
def test_the_same_run_gives_the_same_bytes_wherever_it_lies(finished: Path, copied: Copy) -> None:
    other = copied()
    assert write_report(other) == other / "report" / "index.html"
    for name in ("index.html", "report.md"):
        assert (other / "report" / name).read_bytes() == (finished / "report" / name).read_bytes()


def test_the_page_asks_for_nothing_outside_itself(finished: Path) -> None:
    text = page(finished)
    read = Reader(text)
    assert {tag for tag, _ in read.tags}.isdisjoint({"script", "link", "img", "iframe", "object", "embed", "base"})
    assert not read.values("src")
    assert all(address.startswith("#") for address in read.values("href"))
    assert not re.search(r"url\((?!#)|@import|https?://", text)
    assert "default-src 'none'" in read.values("content")[0]


def test_the_page_is_well_formed_and_its_ids_are_unique(finished: Path) -> None:
    text = page(finished)
    read = Reader(text)
    ids = read.values("id")
    assert len(ids) == len(set(ids))
    assert {address[1:] for address in read.values("href")} <= set(ids)
    used = set(re.findall(r"url\(#([^)]+)\)", text))
    assert used <= set(ids)
    drawings = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert len(drawings) > 10
    for drawing in drawings:
        ElementTree.fromstring(drawing)


def test_drawings_take_the_ink_of_the_page_and_keep_no_date(finished: Path) -> None:
    text = page(finished)
    assert "currentColor" in text
    assert "#010203" not in text
    assert "<metadata" not in text
    assert "prefers-color-scheme: dark" in text


def test_no_path_of_this_machine_is_in_the_report(finished: Path) -> None:
    for text in (page(finished), markdown(finished)):
        assert str(finished.parent) not in text


# -- what it says -----------------------------------------------------------------------------------------------------
def test_every_number_of_every_system_is_that_of_the_results(finished: Path) -> None:
    found = results(finished)
    rows = tables(section(markdown(finished), "All systems"))[0]
    assert rows[0][2:7] == list(REPORTED)
    shown = {row[0]: row[2:7] for row in rows[1:] if row[0] not in NOT_RUN}
    assert shown.keys() == {*found["searchers"], "ceiling (Bayes optimum)"}
    for name, row in found["searchers"].items():
        for metric, cell in zip(REPORTED, shown[name], strict=True):
            value = row[metric]
            assert cell == f"{value['mean']:.3f} [{value['low']:.3f}, {value['high']:.3f}]"
    for metric, cell in zip(REPORTED, shown["ceiling (Bayes optimum)"], strict=True):
        assert cell == f"{found['ceiling'][metric]:.3f}"


def test_systems_stand_in_the_order_of_ndcg(finished: Path) -> None:
    rows = tables(section(markdown(finished), "All systems"))[0][1:-2]
    values = [float(row[6].split()[0]) for row in rows]
    assert values == sorted(values, reverse=True)


def test_a_system_that_could_not_run_stands_in_the_table_with_its_reason(finished: Path) -> None:
    (name, why), *_ = NOT_RUN.items()
    last = tables(section(markdown(finished), "All systems"))[0][-1]
    assert last[:2] == [name, f"not run: {why}"]
    assert not any(last[2:])
    assert f"Not run: {name};" in summary(Found.read(finished))
    row = re.search(rf"<tr><th scope=\"row\"><bdi>{name}</bdi></th>(<td[^>]*>)", page(finished))
    assert row is not None
    assert f'colspan="{1 + len(REPORTED) + 1}"' in row[1]


def test_tables_and_figures_are_numbered_and_every_table_has_a_name(finished: Path) -> None:
    text, read = page(finished), Reader(page(finished))
    for kind in ("Table", "Figure"):
        numbers = [int(n) for n in re.findall(rf"<b>{kind} (\d+)\.</b>", text)]
        assert len(numbers) >= 5
        assert numbers == list(range(1, len(numbers) + 1))
    names = [attributes["aria-labelledby"] for tag, attributes in read.tags if tag == "table"]
    assert len(names) == len(set(names))
    assert set(names) <= set(read.values("id"))
    labelled = [attributes for tag, attributes in read.tags if tag == "svg"]
    assert all(a.get("role") == "img" and a.get("aria-label") for a in labelled)


def test_trained_tokens_are_those_of_the_stages_behind_a_system(finished: Path) -> None:
    rows = {row[0]: row[7] for row in tables(section(markdown(finished), "All systems"))[0]}
    assert rows["crs"] == rows["crs-no-thought"] == f"{sum(TOKENS.values()) - TOKENS['direct']:,.0f}"
    assert rows["crs-direct"] == f"{TOKENS['align'] + TOKENS['direct']:,.0f}"
    assert rows["bm25"] == "–"


def test_comparisons_are_those_of_the_results(finished: Path) -> None:
    found = results(finished)["significance"]
    shown = tables(section(markdown(finished), "crs against the others"))
    assert len(shown) == len(found)
    for metric, table in zip(found, shown, strict=True):
        assert {row[0] for row in table[1:]} == set(found[metric])
        for other, difference, _, _, word in table[1:]:
            value = found[metric][other]["difference"]
            assert difference.endswith(f"[{value['low']:.3f}, {value['high']:.3f}]".replace("-0.000", "0.000"))
            certain = found[metric][other]["p_holm"] < 0.05
            expected = "above" if value["low"] > 0 else "below" if value["high"] < 0 else ""
            assert word == (expected if certain and expected else "not distinguishable from")


def test_a_claim_on_all_systems_names_those_that_were_not_there_to_beat(finished: Path) -> None:
    rows = tables(section(markdown(finished), "Claims of the paper"))[0]
    best, loop = rows[1], rows[2]
    assert best[3].startswith("holds for the systems measured; not measured: tfidf, dense-bge")
    assert "bm25" not in best[3]
    assert loop[3] == "as in the paper"
    assert "+39.0 % on All-100K" in loop[1]


def test_a_control_that_saw_more_tokens_is_told(copied: Copy) -> None:
    folder = copied()
    found = results(folder)
    assert "since an earlier stage was kept" not in markdown_of_systems(folder)
    write_json(folder / "results.json", {**found, "final_stage": "sft0"})
    assert "here it saw 132 % of those of crs" in markdown_of_systems(folder)


def test_a_change_between_stages_is_the_difference_of_their_means(finished: Path) -> None:
    rows = tables(section(markdown(finished), "Stages"))[0]
    assert [row[0] for row in rows[1:]] == ["align (answers at once)", "sft0", "rl0", "sft1"]
    means = {s["name"]: s["metrics"]["NDCG@10"]["mean"] for s in results(finished)["stages"]}
    changes = {row[0]: row[6] for row in rows[1:]}
    assert changes["sft0"] == "–"  # align answers at once: another mode, so not a step of the loop
    assert float(changes["rl0"].split()[0]) == pytest.approx(means["rl0"] - means["sft0"], abs=6e-4)
    assert rows[3][1] == "9 of 20 users, answered wrong"
    assert rows[4][1] == "31 of 40 users, answered right"


def test_groups_hold_all_test_queries(finished: Path) -> None:
    found = results(finished)
    gains, *groups = tables(section(markdown(finished), "Groups of queries"))
    sums: dict[str, int] = {}
    for row in gains[1:]:
        column = row[0].split(":")[0]
        sums[column] = sums.get(column, 0) + int(row[1])
    assert set(sums.values()) == {found["test_queries"]}
    for table in groups:
        sizes = [int(re.search(r"\((\d+)\)", label)[1]) for label in table[0][1:]]  # type: ignore[index]
        assert sum(sizes) == found["test_queries"]


def test_a_grouping_that_parts_nothing_is_a_sentence(copied: Callable[..., Path]) -> None:
    folder = copied()
    found = results(folder)
    for groups in found["groups"].values():
        groups["look_alikes"] = {"few": groups["look_alikes"]["few"]}
    write_json(folder / "results.json", found)
    write_report(folder)
    text = section(markdown(folder), "Groups of queries")
    assert "All test queries are in one group (few) by other items of the target's brand" in text
    assert "look alikes: few" not in text


def test_the_thought_is_weighed_against_both_controls_in_all_queries_and_in_each_kind(finished: Path) -> None:
    rows = tables(section(markdown(finished), "Does the thought pay?"))[0]
    assert rows[0] == ["queries", "number", "crs", "crs-direct", "crs-no-thought", "crs - crs-direct",
                       "crs - crs-no-thought"]  # fmt: skip
    assert rows[1][0] == "all"
    sums: dict[str, int] = {}
    for row in rows[2:]:
        column = row[0].split(":")[0]
        sums[column] = sums.get(column, 0) + int(row[1])
    assert sums == dict.fromkeys(("history", "target", "query kind", "ambiguity", "look alikes"), int(rows[1][1]))
    significance = results(finished)["significance"]["NDCG@10"]["crs-direct"]["difference"]
    assert rows[1][5] == f"+{significance['mean']:.3f} [{significance['low']:.3f}, {significance['high']:.3f}]"


def test_thoughts_of_the_analyst_agree_with_what_the_context_supports(finished: Path) -> None:
    text = section(markdown(finished), "What the thoughts state")
    rows = {row[0]: row[1:] for row in tables(text)[0]}
    assert rows["sft1"] == rows["analyst"]  # the last stage of this run repeats the analyst's thoughts
    assert rows["sft1"][:4] == ["100.0 %"] * 4
    assert rows["sft0"][:4] != ["100.0 %"] * 4
    assert "The analyst is privileged" in text


def test_examples_are_the_first_test_queries_by_search_id(finished: Path) -> None:
    asked = sorted(line.split()[0] for line in (finished / "eval" / "qrels.trec").read_text().splitlines())
    text = section(markdown(finished), "Examples")
    assert re.findall(r"^### .*\((\S+)\)$", text, flags=re.MULTILINE) == asked[:10]


def test_the_rank_of_the_target_in_an_example_is_that_of_the_evaluation(finished: Path) -> None:
    import polars as pl

    ranks = pl.read_parquet(finished / "eval" / "crs.parquet").sort("search_id")["rank"].to_list()[:10]
    shown = re.findall(r"\((?:rank (\d+) of|not among the \d+ of) crs;", section(markdown(finished), "Examples"))
    assert [int(rank or 0) for rank in shown] == ranks


def test_lists_of_an_example_are_those_of_the_systems(finished: Path) -> None:
    found = Found.read(finished)
    text = section(markdown(finished), "Examples")
    shown = [table for table in tables(text) if table[0][0] == "rank"]
    assert len(shown) == 10
    first = sorted(results_of(found, "crs"))[0]
    assert shown[0][0] == ["rank", "crs", "crs-no-thought", "bm25"]
    for column, name in enumerate(shown[0][0][1:], 1):
        items = [found.item(item_id) for item_id in results_of(found, name)[first][:5]]
        for row, item in zip(shown[0][1:], items, strict=False):
            assert item is not None
            assert row[column].startswith(item.title)


def results_of(found: Found, system: str) -> dict[str, tuple[str, ...]]:
    measured = found.evaluation(system)
    assert measured is not None
    return {answer.search_id: answer.item_ids for answer in measured.lists}


def test_curves_say_where_they_begin_and_end(finished: Path) -> None:
    losses = {(r[0], r[1]): r[2:] for r in tables(section(markdown(finished), "Learning curves"))[0]}
    assert losses["crs-direct", "direct"] == ["30", "3.500", "2.500"]
    others = tables(section(markdown(finished), "Learning curves"))[1]
    assert others[1:] == [["latent-r3/sft", "answer", "20", "4.000", "3.000"]]
    rewards = {r[0]: r[1:] for r in tables(section(markdown(finished), "Rewards"))[0]}
    assert rewards["r*, reward of a ranked list"] == ["rl0", "30", "0.200", "0.400"]


def test_the_report_names_versions_settings_and_the_command(finished: Path) -> None:
    text = section(markdown(finished), "Settings and versions")
    assert "crsearch run shop/settings.toml --out shop-again --threads 1" in text
    assert (finished / "settings.toml").read_text().strip() in text
    assert "- torch: " in text


def test_a_folder_name_is_quoted_in_the_command_and_passwords_in_addresses_are_hidden(copied: Copy) -> None:
    folder = copied("my shop; rm")
    file = folder / "settings.toml"
    file.write_text(file.read_text().replace('model = ""', 'model = ""\nurl = "http://me:secret@host:80/v1"'))
    write_report(folder)
    assert "secret" not in markdown(folder) + page(folder)
    assert "***@host:80/v1" in markdown(folder)
    assert "crsearch run 'my shop; rm'/settings.toml --out 'my shop; rm-again'" in markdown(folder)


# -- the summary ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("low", "high", "p", "sentence"),
    [
        (0.01, 0.05, 0.01, "crs is above crs-direct, the control trained without thoughts, by 0.030 [0.010, 0.050]"),
        (-0.05, -0.01, 0.01, "crs is below crs-direct, the control trained without thoughts, by 0.030 [0.010, 0.050]"),
        (0.01, 0.05, 0.2, "crs is not distinguishable from crs-direct, the control trained without thoughts"),
        (-0.02, 0.05, 0.01, "crs is not distinguishable from crs-direct, the control trained without thoughts"),
    ],
)
def test_the_summary_claims_what_the_interval_allows(
    copied: Copy, low: float, high: float, p: float, sentence: str
) -> None:
    folder = copied()
    found = results(folder)
    difference = {"mean": (low + high) / 2, "low": low, "high": high}
    found["significance"]["NDCG@10"]["crs-direct"] = {"difference": difference, "p": p, "p_holm": p}
    write_json(folder / "results.json", found)
    assert sentence in summary(Found.read(folder))


def test_the_summary_tells_how_far_the_ceiling_is_and_that_there_is_one_seed(finished: Path) -> None:
    text = summary(Found.read(finished))
    assert f"NDCG@10 of {results(finished)['ceiling']['NDCG@10']:.3f}" in text
    assert "There is one seed" in text


@pytest.mark.parametrize(
    ("low", "high", "sentence"),
    [
        (-0.05, -0.01, "In HR@10 crs is below crs-direct (-0.030 [-0.050, -0.010])"),
        (-0.01, 0.07, "In HR@10 crs is not distinguishable from crs-direct (+0.030 [-0.010, 0.070])"),
        (0.01, 0.05, None),
    ],
)
def test_the_report_says_where_thinking_does_not_pay(
    copied: Copy, low: float, high: float, sentence: str | None
) -> None:
    folder = copied()
    found = results(folder)
    good = {"difference": {"mean": 0.03, "low": 0.01, "high": 0.05}, "p": 0.001, "p_holm": 0.001}
    row = {"difference": {"mean": (low + high) / 2, "low": low, "high": high}, "p": 0.001, "p_holm": 0.001}
    found["significance"] = {metric: {"crs-direct": good, "crs-no-thought": good} for metric in ("HR@10", "NDCG@10")}
    found["significance"]["HR@10"] = {"crs-direct": row, "crs-no-thought": good}
    write_json(folder / "results.json", found)
    write_report(folder)
    text = section(markdown(folder), "Does the thought pay?")
    assert ("Where thinking does not pay, over all queries" in text) == (sentence is not None)
    if sentence is not None:
        assert f"over all queries: {sentence}." in text
        told = summary(Found.read(folder))  # the two metrics say different things, so the summary names both
        assert "In NDCG@10 crs is above crs-direct" in told
        assert sentence.split(" (")[0] in told


def test_invalid_items_are_told(copied: Copy) -> None:
    folder = copied()
    write_json(folder / "results.json", {**results(folder), "invalid_items": 3})
    assert "3 listed items were repeated or not in the catalogue." in summary(Found.read(folder))


# -- what is missing --------------------------------------------------------------------------------------------------
def test_no_run_and_an_unfinished_run_say_what_to_do(tmp_path: Path, copied: Copy) -> None:
    with pytest.raises(RunError, match="crsearch demo --out"):
        write_report(tmp_path / "nothing")
    folder = copied()
    (folder / "results.json").unlink()
    with pytest.raises(RunError, match=r"not finished.*--resume"):
        write_report(folder)
    assert not (folder / "report").exists()


def test_broken_results_are_an_error_with_the_file(copied: Copy) -> None:
    folder = copied()
    (folder / "results.json").write_text('{"data": ')
    with pytest.raises(RunError, match=r"results\.json: not readable"):
        write_report(folder)


def without(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        write_json(folder / "results.json", {k: v for k, v in results(folder).items() if k not in names})

    return change


def without_files(*names: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        for name in names:
            target = folder / name
            shutil.rmtree(target) if target.is_dir() else target.unlink()

    return change


def without_rl(folder: Path) -> None:
    found = results(folder)
    stages = [s for s in found["stages"] if not s["name"].startswith("rl")]
    write_json(folder / "results.json", {**found, "stages": stages})


def without_crs(folder: Path) -> None:
    found = {k: v for k, v in results(folder).items() if k != "significance"}
    keep = {name: row for name, row in found["searchers"].items() if not name.startswith("crs")}
    groups = {name: row for name, row in found["groups"].items() if name in keep}
    write_json(folder / "results.json", {**found, "searchers": keep, "groups": groups})


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        (
            without("ceiling", "thoughts", "significance", "groups"),
            {
                "What the thoughts state": "The run holds no measured thoughts.",
                "crs against the others": "there is nothing to compare",
                "Groups of queries": "The run holds no groups of test queries.",
            },
        ),
        (
            without_files("metrics.jsonl", "sids/quality.json", "eval"),
            {
                "Learning curves": "The run logged no losses.",
                "Rewards": "logged no numbers",
                "Semantic IDs": "no sids/quality",
                "Examples": "The run holds no answers of crs.",
            },
        ),
        (without("stages"), {"Stages": "The run has no measured stages."}),
        (without_rl, {"Rewards": "The run has no stage of reinforcement learning."}),
        (without_crs, {"Does the thought pay?": "did not measure crs together with one of its controls"}),
    ],
    ids=["results", "files", "stages", "rl", "crs"],
)
def test_a_missing_piece_leaves_a_sentence_in_its_place(
    copied: Copy, change: Callable[[Path], None], sentences: dict[str, str]
) -> None:
    folder = copied()
    change(folder)
    write_report(folder)
    for title, sentence in sentences.items():
        assert sentence in section(markdown(folder), title).replace("\\", "")
    Reader(page(folder))


def test_missing_traces_and_truth_leave_the_rest(copied: Copy) -> None:
    folder = copied()
    without_files("traces", "data/truth.parquet")(folder)
    write_report(folder)
    text = markdown(folder)
    assert "crs thinks" not in text
    assert "The first 5 items of crs, crs-no-thought, bm25." in text
    assert "The run holds no thoughts." in section(text, "Quality of the thoughts")
    assert "thought of crs" not in section(text, "Does the thought pay?")
    assert "analyst" not in {row[0] for row in tables(section(text, "What the thoughts state"))[0]}


def test_a_run_on_imported_data_says_so_and_has_no_ceiling(copied: Copy) -> None:
    folder = copied()
    file = folder / "settings.toml"
    file.write_text('data = "data/mine"\n' + file.read_text())
    without("ceiling", "thoughts")(folder)
    write_report(folder)
    assert "The data are a simulated shop" in markdown(folder), "the records of an experiment, taken from its folder"
    (folder / "data" / "truth.parquet").unlink()
    write_report(folder)
    text = markdown(folder)
    assert "The data were imported from data/mine." in text
    stated = section(text, "What the thoughts state")
    assert "known for a simulated shop only" in stated
    assert tables(stated)[0][0][:3] == ["stage", "category, true", "brand, true"]
    assert "ceiling" not in text


def test_a_split_within_users_is_told(finished: Path, copied: Copy) -> None:
    assert "The split is by user: no user is on two sides." in section(markdown(finished), "Data")
    folder = copied()
    data = Dataset.load(folder / "data")
    user = next(s.user_id for s in data.searches if data.targets.get(s.search_id, ("", ""))[1] == "test")
    earlier = next(s for s in data.searches if s.user_id == user and s.chosen and s.search_id not in data.targets)
    targets = {**data.targets, earlier.search_id: (earlier.chosen[0], "train")}
    truth = (folder / "data" / "truth.parquet").read_bytes()
    Dataset(data.catalogue, data.users, data.searches, targets).save(folder / "data")
    (folder / "data" / "truth.parquet").write_bytes(truth)
    text = render.md(Page("t", "s", [about.data(Found.read(folder))]))
    assert "so test users were seen in training" in text


def test_importing_the_report_is_light() -> None:
    heavy = ("torch", "polars", "matplotlib", "jinja2", "sklearn", "transformers")
    code = f"import sys, crsearch.report; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
