"""What was shown is written behind the answers; what cannot be written is never lost in silence."""

import asyncio
import json
import sqlite3
from pathlib import Path

import pytest

from crsearch.serve import scribe as module
from crsearch.serve.contract import Answer, Found, Judgement, Rung, SearchRequest
from crsearch.serve.feedback import FeedbackStore
from crsearch.serve.metrics import Metrics
from crsearch.serve.problems import Problem
from crsearch.serve.scribe import Scribe

CLICK = Judgement(request_id="r0", item_id="i1", kind="click")


def answer(request_id: str) -> Answer:
    """Of a search for a case."""
    found = Found(rank=1, id="i1", sid=(), score=0.0, title="case")
    return Answer(
        request_id=request_id, query="case", items=(found,), served_by=Rung.DIRECT, why_rung="",
        versions={"catalogue": "v000001"},
    )  # fmt: skip


def keep(scribe: Scribe, number: int) -> None:
    """Have so many answers kept."""
    for n in range(number):
        scribe.keep(answer(f"r{n}"), SearchRequest(query="case"))


@pytest.fixture
def broken(tmp_path) -> Path:
    """Where no file can be."""
    (tmp_path / "file").write_text("")
    return tmp_path / "file" / "feedback.sqlite"


def test_an_answer_that_cannot_be_kept_is_logged_and_counted(broken, caplog):
    metrics = Metrics()
    scribe = Scribe(FeedbackStore(broken), metrics)
    keep(scribe, 2)
    scribe.close()
    assert metrics.value("feedback_lost") == 2
    told = [json.loads(record.message) for record in caplog.records]
    assert [row["request_id"] for row in told] == ["r0", "r1"]
    assert all(row["error"].startswith("StorageError") for row in told)


def test_a_judgement_that_cannot_be_kept_is_503_and_not_our_mistake(broken, tmp_path, caplog):
    (tmp_path / "no.sqlite").write_text("no feedback, and long enough to be looked at as a file of SQLite" * 20)
    for file in (broken, tmp_path / "no.sqlite"):
        metrics = Metrics()
        scribe = Scribe(FeedbackStore(file), metrics)
        with pytest.raises(Problem, match="cannot be kept now") as raised:
            asyncio.run(scribe.judge(CLICK))
        scribe.close()
        assert (raised.value.status, metrics.value("feedback_lost")) == (503, 1)
    assert [json.loads(r.message)["error"].split()[0] for r in caplog.records] == ["StorageError", "RunError"]


def test_a_disk_that_does_not_keep_up_fills_no_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 5)
    store, metrics = FeedbackStore(tmp_path / "feedback.sqlite"), Metrics()
    store.counts()
    scribe, other = Scribe(store, metrics), sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    keep(scribe, 8)
    with pytest.raises(Problem, match="faster than it can be kept"):
        asyncio.run(scribe.judge(CLICK))
    other.execute("ROLLBACK")
    other.close()
    scribe.close()
    assert (store.counts()["searches"], metrics.value("feedback_lost")) == (5, 4)
    store.close()
