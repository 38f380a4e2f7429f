"""A user who wants to be forgotten leaves no trace in the files of a run, and is told what stays."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from crsearch.config import load_settings
from crsearch.errors import RunError
from crsearch.pipeline.again import evaluate_again
from crsearch.records.store import Dataset
from crsearch.records.types import User
from crsearch.report import write_report
from crsearch.runs import RunDirectory, read_lines
from crsearch.serve.contract import SearchRequest
from crsearch.serve.feedback import FeedbackStore, feedback_file
from crsearch.serve.forget import forget
from crsearch.serve.once import search_once

CANARY = "zanzibarquux"


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A finished run with its report, in which a test user has canaries in profile, queries, place and feedback."""
    folder = Path(shutil.copytree(tiny_run, tmp_path / "run"))
    data = Dataset.load(folder / "data")
    user = of_part(data, "test")
    planted = tuple(
        dataclasses.replace(s, query=f"{CANARY} {s.query}", place=CANARY) if s.user_id == user else s
        for s in data.searches
    )
    users = {**data.users, user: User(user_id=user, profile={"city": CANARY})}
    dataclasses.replace(data, searches=planted, users=users).save(folder / "data")
    mine = [s.search_id for s in planted if s.user_id == user]
    with (folder / "traces" / "distilled.jsonl").open("a") as file:
        file.write(json.dumps({"search_id": mine[0], "source": "x", "thought": CANARY}) + "\n")
    (folder / "traces" / "thoughts").mkdir(exist_ok=True)
    (folder / "traces" / "thoughts" / "crs.json").write_text(json.dumps({mine[-1]: CANARY, "other": "kept"}))
    store = FeedbackStore(feedback_file(folder))
    store.served("r1", user, f"{CANARY} case", None, CANARY, ["i1"], "v000001", "L3")
    store.judge("r1", "i1", "click")
    store.close()
    with RunDirectory(folder) as directory:
        for name, entry in list(directory.manifest["stages"].items()):
            files = [folder / rel for rel in entry["outputs"]]
            directory.complete(name, entry["key"], files, entry["numbers"], entry["cost"])
    write_report(folder)
    return folder


def of_part(data: Dataset, part: str) -> str:
    return next(user for user, its in sorted(data.parts.items()) if its == part)


def files_with(folder: Path, text: str) -> list[str]:
    return [
        p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file() and text.encode() in p.read_bytes()
    ]


def test_no_file_of_the_run_holds_a_canary_afterwards(run):
    user = of_part(Dataset.load(run / "data"), "test")
    assert "serving/feedback.sqlite" in files_with(run, CANARY)
    assert "traces/distilled.jsonl" in files_with(run, CANARY)
    told = forget(run, user)
    assert files_with(run, CANARY) == []
    named = [f for f in files_with(run, user) if not f.startswith("models/")]
    assert named == [], "search ids of the simulated shop begin with the user id"
    data = Dataset.load(run / "data")
    assert user not in data.users and all(s.user_id != user for s in data.searches)
    assert told.part == "test" and told.feedback == 1 and told.searches > 0 and told.report == "rewritten"
    assert {"eval/qrels.trec", "eval/crs.trec", "eval/crs.parquet", "data/truth.parquet", "traces/distilled.jsonl"} <= {
        *told.files
    }
    assert json.loads((run / "traces/thoughts/crs.json").read_text()).get("other") == "kept"
    assert any("no model was trained on" in line for line in told.left)


def test_a_user_whose_texts_hold_line_ends_of_unicode_is_removed(run):
    user = of_part(Dataset.load(run / "data"), "test")
    mine = next(s.search_id for s in Dataset.load(run / "data").searches if s.user_id == user)
    with (run / "traces" / "distilled.jsonl").open("a", encoding="utf-8") as file:
        for search_id in (mine, "another"):
            row = {"search_id": search_id, "thought": f"{search_id}\u2028and\u2029then\x85so"}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    forget(run, user)
    left = read_lines(run / "traces" / "distilled.jsonl")
    assert left[-1] == {"search_id": "another", "thought": "another\u2028and\u2029then\x85so"}
    assert mine not in {row["search_id"] for row in left}


def test_the_second_call_finds_nothing(run):
    user = of_part(Dataset.load(run / "data"), "test")
    assert not forget(run, user).nothing
    before = {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"}
    again = forget(run, user)
    assert again.nothing and again.left == () and again.report == ""
    assert {p: p.read_bytes() for p in run.rglob("*") if p.is_file() and p.name != ".lock"} == before


def test_others_keep_all_they_had(run):
    before = Dataset.load(run / "data")
    user = of_part(before, "test")
    lines = (run / "eval/crs.trec").read_text().splitlines()
    forget(run, user)
    after = Dataset.load(run / "data")
    assert after.users == {name: u for name, u in before.users.items() if name != user}
    assert after.searches == tuple(s for s in before.searches if s.user_id != user)
    kept = (run / "eval/crs.trec").read_text().splitlines()
    assert kept == [line for line in lines if not line.startswith(f"{user}-")] and len(kept) < len(lines)


def test_the_run_goes_on(run):
    user = of_part(Dataset.load(run / "data"), "test")
    forget(run, user)
    with RunDirectory(run) as directory:
        for name in directory.manifest["stages"]:
            directory.stage(name)  # would raise for an output that is not what the manifest says
        assert directory.manifest["forgotten_users"] == 1
    assert search_once(run, SearchRequest(query="case", mode="fast")).items
    evaluate_again(run, load_settings(run / "settings.toml"))


def test_a_training_user_is_told_that_models_do_not_unlearn(run):
    told = forget(run, of_part(Dataset.load(run / "data"), "train"))
    assert any("was a training user" in line for line in told.left)
    assert any("fingerprint" in line for line in told.left)
    assert any("same seed" in line for line in told.left)


def test_a_user_of_the_server_alone_is_forgotten_too(run):
    store = FeedbackStore(feedback_file(run))
    store.served("r2", "visitor", "shoes", None, None, ["i1"], "v000001", "L3")
    report = (run / "report/index.html").read_bytes()
    told = forget(run, "visitor")
    assert (told.feedback, told.searches, told.files, told.report) == (1, 0, (), "")
    assert (run / "report/index.html").read_bytes() == report
    assert forget(run, "nobody").nothing


def test_a_user_whose_id_begins_another_is_not_mistaken(run):
    data = Dataset.load(run / "data")
    assert forget(run, of_part(data, "test")[:-1]).nothing


def test_a_run_in_use_is_left_alone(run):
    with RunDirectory(run), pytest.raises(RunError, match="in use by"):
        forget(run, "u1")
