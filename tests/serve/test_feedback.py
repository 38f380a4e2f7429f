"""What users did with answers is kept, bounded, and becomes records that can be learned from."""

import dataclasses
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from crsearch.config import SplitConfig
from crsearch.errors import DataError, RunError, StorageError
from crsearch.records.checks import check_folder
from crsearch.records.split import choose_targets
from crsearch.records.store import Dataset
from crsearch.records.types import Item
from crsearch.serve import feedback as module
from crsearch.serve.catalogue import CatalogueStore
from crsearch.serve.feedback import FeedbackStore, UnknownRequest, feedback_file


@pytest.fixture
def store(tmp_path) -> FeedbackStore:
    return FeedbackStore(tmp_path / "serving" / "feedback.sqlite")


@pytest.fixture
def run(tiny_run, tmp_path) -> Path:
    """A finished run that may be changed."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def serve(store: FeedbackStore, request_id: str, user_id: str | None = "u1", shown=("a", "b", "c"), **told) -> None:
    told = {"query": "phone case", "time": None, "place": None, "catalogue_version": "v000001", "rung": "L3"} | told
    store.served(request_id, user_id, shown=shown, **told)


def test_what_was_shown_can_be_judged(store):
    serve(store, "r1")
    for item_id, kind in [("a", "click"), ("b", "skip"), ("a", "buy"), ("c", "bad"), ("a", "click")]:
        store.judge("r1", item_id, kind)
    assert store.counts() == {"searches": 1, "click": 1, "skip": 1, "buy": 1, "good": 0, "bad": 1}


def test_the_last_judgement_of_relevance_counts(store):
    serve(store, "r1")
    for kind in ("good", "bad", "good"):
        store.judge("r1", "a", kind)
    assert store.counts()["good"] == 1 and store.counts()["bad"] == 0


def test_what_was_not_shown_cannot_be_judged(store):
    serve(store, "r1")
    with pytest.raises(UnknownRequest, match="no such answer is remembered"):
        store.judge("r2", "a", "click")
    with pytest.raises(DataError, match="not among the items of this answer") as told:
        store.judge("r1", "<script>", "click")
    assert "<script>" not in str(told.value)
    with pytest.raises(DataError, match="kind = 'love'"):
        store.judge("r1", "a", "love")
    assert store.counts()["click"] == 0


def test_lists_of_one_request_add_up_and_are_one_search(store):
    serve(store, "r1", shown=("a", "b"))
    serve(store, "r1", shown=("b", "c"))
    for item_id in ("a", "b", "c"):
        store.judge("r1", item_id, "click")
    with pytest.raises(DataError):
        store.judge("r1", "d", "click")
    assert store.counts()["searches"] == 1


def test_any_text_is_kept_as_it_is(store):
    hostile = "'; DROP TABLE searches; --\x00\u202e杭州"
    serve(store, hostile, hostile, shown=(hostile,), query=hostile)
    store.judge(hostile, hostile, "click")
    assert store.counts()["searches"] == 1


def test_the_oldest_go_when_there_are_too_many(tmp_path, monkeypatch):
    store = FeedbackStore(tmp_path / "f.sqlite", max_searches=10)
    for n in range(25):
        serve(store, f"r{n}")
        store.judge(f"r{n}", "a", "click")
    counts = store.counts()
    assert 10 <= counts["searches"] <= 20 and counts["click"] == counts["searches"]
    store.judge("r24", "b", "click")
    with pytest.raises(UnknownRequest):
        store.judge("r0", "b", "click")


def test_the_old_go(tmp_path, monkeypatch):
    store = FeedbackStore(tmp_path / "f.sqlite", max_days=1.0)
    serve(store, "old")
    now = module.clock.time()
    monkeypatch.setattr(module.clock, "time", lambda: now + 2 * 86_400)
    monkeypatch.setattr(module, "_EVERY", 1)
    serve(store, "new")
    assert store.counts()["searches"] == 1


def test_the_old_go_when_the_file_is_opened_and_cannot_be_judged_before(tmp_path, monkeypatch):
    store = FeedbackStore(tmp_path / "f.sqlite", max_days=1.0)
    serve(store, "old")
    now = module.clock.time()
    monkeypatch.setattr(module.clock, "time", lambda: now + 2 * 86_400)
    serve(store, "new")
    with pytest.raises(UnknownRequest, match="for 1 days"):
        store.judge("old", "a", "click")
    store.judge("new", "a", "click")
    store.close()
    assert store.counts()["searches"] == 1


def test_no_write_waits_for_the_disk_more_than_the_log_needs(store):
    serve(store, "r1")
    with store._open() as db:
        assert db.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
        assert db.execute("PRAGMA synchronous").fetchone()[0] == 1, "NORMAL: no fsync per transaction"


WRITER = """
import sys; from pathlib import Path; from crsearch.serve.feedback import FeedbackStore
store = FeedbackStore(Path(sys.argv[1]))
for n in range(100):
    store.served(f"{sys.argv[2]}-{n}", "u1", "q", None, None, ["a"], "v000001", "L3")
    store.judge(f"{sys.argv[2]}-{n}", "a", "click")
"""


def test_processes_write_together(store):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, store.path, name]) for name in ("one", "two")]
    for n in range(100):
        serve(store, f"r{n}")
    assert [writer.wait() for writer in writers] == [0, 0]
    assert store.counts()["searches"] == 300 and store.counts()["click"] == 200


def test_a_file_that_is_no_feedback_is_refused(tmp_path):
    path = tmp_path / "f.sqlite"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(RunError, match="no readable feedback"):
        FeedbackStore(path).counts()
    path.unlink()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version=9")
    db.close()
    with pytest.raises(RunError, match="format 9, this crsearch reads up to 1"):
        FeedbackStore(path).counts()


@pytest.mark.skipif(os.geteuid() != 0, reason="needs a folder that cannot be one")
def test_a_place_that_cannot_be_written_is_said(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        FeedbackStore(tmp_path / "file" / "f.sqlite").counts()


def test_export_adds_served_searches_with_a_choice_after_those_of_the_run(run, tmp_path):
    before = Dataset.load(run / "data")
    catalogue = CatalogueStore(run)
    catalogue.add([Item(item_id="new", title="phone case")])
    user = next(u for u in sorted(before.users) if before.parts.get(u) == "train")
    ids = before.catalogue.ids
    last = before.searches_of(user)[-1]
    store = FeedbackStore(feedback_file(run))
    serve(store, "r1", user, shown=("new", *ids[:3]), time=last.time - timedelta(days=400), place="杭州")
    store.judge("r1", "new", "click")
    store.judge("r1", ids[0], "click")
    store.judge("r1", ids[1], "skip")
    serve(store, "r2", user, shown=ids[:3])
    store.judge("r2", ids[2], "buy")
    serve(store, "r3", "stranger", shown=ids[:3])
    store.judge("r3", ids[0], "click")
    serve(store, "r4", None, shown=ids[:3])
    store.judge("r4", ids[1], "click")
    serve(store, "r5", user, shown=ids[:3])
    store.judge("r5", ids[1], "good")
    told = store.export(run, tmp_path / "out")
    assert (told.searches, told.users, told.items, told.judgements, told.removed) == (4, 2, 1, 1, ())
    assert check_folder(tmp_path / "out") == []
    after = Dataset.load(tmp_path / "out")
    assert after.catalogue.ids == (*ids, "new")
    first, second = after.searches_of(user)[-2:]
    assert first.time > last.time and second.time > first.time
    assert (first.shown, first.clicked, first.place) == (("new", *ids[:3]), ("new", ids[0]), "杭州")
    assert first.skipped == ids[1:3] and second.bought == (ids[2],)
    assert after.targets["served-r2"] == (ids[2], "train"), "the newest choice is the user's example, in the same part"
    assert [s for s, (_, part) in after.targets.items() if part == "test"] == [
        s for s, (_, part) in before.targets.items() if part == "test"
    ]
    assert after.users["stranger"].profile == {} and "served-r4" in after.users
    assert set(before.searches) < set(after.searches) and before.users.items() < after.users.items()
    assert [json.loads(line) for line in (tmp_path / "out/judgements.jsonl").read_text().splitlines()] == [
        {"request_id": "r5", "query": "phone case", "item_id": ids[1], "label": "good"}
    ]


def test_order_numbers_go_on(run, tmp_path):
    data = Dataset.load(run / "data")
    numbered = tuple(dataclasses.replace(s, time=n) for n, s in enumerate(data.searches))
    dataclasses.replace(data, searches=numbered).save(run / "data")
    store = FeedbackStore(feedback_file(run))
    for n, user in enumerate(sorted(data.users)[:2]):
        serve(store, f"r{n}", user, shown=data.catalogue.ids[:3], time=datetime(2020, 1, 1, tzinfo=UTC))
        store.judge(f"r{n}", data.catalogue.ids[0], "click")
    store.export(run, tmp_path / "out")
    assert check_folder(tmp_path / "out") == []
    times = {s.search_id: s.time for s in Dataset.load(tmp_path / "out").searches if s.search_id.startswith("served-")}
    assert times == {"served-r0": len(numbered), "served-r1": len(numbered) + 1}


def test_leave_one_out_moves_on_by_one_choice(run, tmp_path):
    data = Dataset.load(run / "data")
    targets = choose_targets(data.searches, SplitConfig(mode="leave-one-out"), data.catalogue)
    dataclasses.replace(data, targets=targets, split_mode="leave-one-out").save(run / "data")
    user = next(s.user_id for s in data.searches if targets.get(s.search_id, ("", ""))[1] == "valid")
    (test,) = [s.search_id for s in data.searches_of(user) if targets.get(s.search_id, ("", ""))[1] == "test"]
    store = FeedbackStore(feedback_file(run))
    serve(store, "r1", user, shown=data.catalogue.ids[:3])
    store.judge("r1", data.catalogue.ids[0], "click")
    store.export(run, tmp_path / "out")
    after = Dataset.load(tmp_path / "out")
    assert check_folder(tmp_path / "out") == [] and after.split_mode == "leave-one-out"
    assert after.targets["served-r1"][1] == "test" and after.targets[test][1] == "valid"


def test_ids_that_records_refuse_are_strangers(run, tmp_path):
    ids = Dataset.load(run / "data").catalogue.ids
    store = FeedbackStore(feedback_file(run))
    for n, user in enumerate((" blank ", "line\nend", "", "杭州")):
        serve(store, f"r{n}", user, shown=ids[:2])
        store.judge(f"r{n}", ids[0], "buy")
    store.export(run, tmp_path / "out")
    assert check_folder(tmp_path / "out") == []
    assert {"served-r0", "served-r1", "served-r2", "杭州"} < set(Dataset.load(tmp_path / "out").users)


def test_the_records_of_the_run_are_not_written_over(run):
    with pytest.raises(DataError, match="lies inside the run"):
        FeedbackStore(feedback_file(run)).export(run, run / "data")


def test_removed_items_are_exported_only_where_searches_name_them(run, tmp_path):
    data = Dataset.load(run / "data")
    named = {i for s in data.searches for i in s.shown}
    catalogue = CatalogueStore(run)
    catalogue.add([Item(item_id="unseen", title="phone case")])
    catalogue.remove(["unseen", min(named)])
    told = FeedbackStore(feedback_file(run)).export(run, tmp_path / "out")
    assert told.removed == (min(named),) and told.searches == told.items == 0
    assert (tmp_path / "out/removed.txt").read_text() == f"{min(named)}\n"
    assert "unseen" not in Dataset.load(tmp_path / "out").catalogue.ids
    assert check_folder(tmp_path / "out") == []


def test_a_forgotten_user_leaves_no_byte(store):
    serve(store, "r1", "canary-user", query="canary query words")
    serve(store, "r2", "u2")
    store.judge("r1", "a", "click")
    assert store.forget("canary-user") == 1 and store.forget("canary-user") == 0
    assert store.counts()["searches"] == 1 and store.counts()["click"] == 0
    for file in store.path.parent.iterdir():
        assert b"canary" not in file.read_bytes()
