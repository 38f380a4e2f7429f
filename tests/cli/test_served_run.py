"""Commands about a run that is served: its catalogue, its feedback, a user who wants to be forgotten."""

import json
import shutil
from pathlib import Path

import pytest

from crsearch.records.store import Dataset
from crsearch.serve.feedback import FeedbackStore, feedback_file


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A finished run that may be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


@pytest.fixture
def items(tmp_path) -> Path:
    file = tmp_path / "items.jsonl"
    rows = [{"item_id": "new1", "title": "phone case"}, {"item_id": "new2", "title": "red shoe", "price": 12.5}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def test_items_come_and_go(crsearch, run, items, tmp_path):
    added = crsearch("items", "add", run, items)
    assert added.stdout.startswith("v000002: 2 added, drift ") and "42 items can be found" in added.stdout
    assert {"new1", "new2"} < {
        i["item_id"] for i in json.loads(crsearch("items", "list", run, "--json").stdout)["items"]
    }
    assert "new1" in crsearch("items", "list", run).stdout
    (tmp_path / "gone.txt").write_text("new1\n\nnew2\n")
    removed = json.loads(crsearch("items", "remove", run, tmp_path / "gone.txt", "--json").stdout)
    assert (removed["name"], removed["removed"], removed["items"], removed["rows"]) == ("v000003", 2, 40, 42)
    assert [
        i["item_id"] for i in json.loads(crsearch("items", "list", run, "--removed", "--json").stdout)["items"]
    ] == [
        "new1",
        "new2",
    ]
    assert "2 revived" in crsearch("items", "add", run, items).stdout
    assert crsearch("items", "remove", run, "--id", "new1").stdout.startswith("v000005: 1 removed; 41 items")
    assert crsearch("items", "remove", run, items).exit_code == 2, "new1 is gone already"


def test_items_of_a_table_are_removed_by_their_ids(crsearch, run, items):
    crsearch("items", "add", run, items)
    assert "2 removed" in crsearch("items", "remove", run, items).stdout


def test_replace_and_its_note(crsearch, run, items):
    crsearch("items", "add", run, items)
    done = crsearch("items", "replace", run, items)
    assert done.stdout.startswith("v000003: 2 replaced")


def test_versions_and_rollback(crsearch, run, items):
    crsearch("items", "add", run, items)
    lines = crsearch("items", "versions", run).stdout.splitlines()
    assert lines[1].split()[0] == "v000001" and lines[2].split()[:2] == ["v000002*", "v000001"]
    assert crsearch("items", "rollback", run).stdout.startswith("in use: v000001: as the run left it")
    found = json.loads(crsearch("items", "versions", run, "--json").stdout)
    assert [(v["name"], v["is_current"]) for v in found] == [("v000001", True), ("v000002", False)]
    assert crsearch("items", "rollback", run, "v000002").exit_code == 0
    assert crsearch("items", "prune", run, "--keep", 1).stdout == "deleted: nothing\n"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("add", "RUN", "broken.jsonl"), "broken.jsonl:1:price: price = -5"),
        (("add", "RUN", "twice.jsonl"), "twice.jsonl:2:item_id: item_id 'a' stands in line 1 already"),
        (("add", "RUN", "unknown.jsonl"), "Did you mean 'title'?"),
        (("add", "RUN", "none.jsonl"), "no such file"),
        (("replace", "RUN", "one.jsonl"), "not in the catalogue"),
        (("remove", "RUN"), "name the items"),
        (("remove", "RUN", "--id", "nobody"), "'nobody' is not in the catalogue"),
        (("rollback", "RUN", "../x"), "no name of a catalogue version"),
        (("rollback", "RUN", "v000009"), "no such folder"),
        (("list", "nowhere"), "no such run directory"),
    ],
)
def test_what_the_user_can_mend_exits_2(crsearch, run, tmp_path, monkeypatch, arguments, told):
    monkeypatch.chdir(tmp_path)
    Path("broken.jsonl").write_text('{"item_id": "a", "title": "x", "price": -5}\n')
    Path("twice.jsonl").write_text('{"item_id": "a", "title": "x"}\n{"item_id": "a", "title": "y"}\n')
    Path("unknown.jsonl").write_text('{"item_id": "a", "titel": "x", "title": "y"}\n')
    Path("one.jsonl").write_text('{"item_id": "a", "title": "x"}\n')
    done = crsearch("items", *(str(run) if a == "RUN" else a for a in arguments))
    assert done.exit_code == 2
    assert told in done.stderr
    assert not (run / "serving/catalogue/v000002").exists()


def test_feedback_becomes_records_that_check(crsearch, run, tmp_path):
    data = Dataset.load(run / "data")
    store = FeedbackStore(feedback_file(run))
    store.served("r1", min(data.users), "case", None, None, data.catalogue.ids[:3], "v000001", "L3")
    store.judge("r1", data.catalogue.ids[1], "click")
    assert crsearch("feedback", "counts", run).stdout.split()[:4] == ["searches", "1", "click", "1"]
    done = crsearch("feedback", "export", run, tmp_path / "out")
    assert done.stdout.splitlines() == [
        f"{tmp_path}/out: 1 served searches, 0 new users, 0 new items, 0 judgements",
        f"next    crsearch check {tmp_path}/out",
    ]
    assert json.loads(crsearch("check", tmp_path / "out", "--json").stdout)["problems"] == []
    assert json.loads(crsearch("feedback", "export", run, tmp_path / "out", "--json").stdout)["searches"] == 1


def test_forget_says_what_it_did_and_then_that_nothing_is_left(crsearch, run):
    user = min(Dataset.load(run / "data").users)
    done = crsearch("forget", run, user)
    assert done.exit_code == 0
    assert "removed: " in done.stdout and "data/searches.parquet" in done.stdout and "not removed: " in done.stdout
    assert crsearch("forget", run, user).stdout == f"{run}: nothing of this user is left\n"
    assert json.loads(crsearch("forget", run, user, "--json").stdout)["nothing"] is True
