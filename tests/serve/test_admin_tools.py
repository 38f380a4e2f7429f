"""What an operator can start or look at: the self-test, runs beside the served one, slow and empty queries."""

import json
import os
import shutil

import httpx2
import pytest
from small_front import KEYS, bearer, served

from crsearch.serve.admin import SLOW, Recent
from crsearch.serve.app import create_app
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import Answer, Found, Rung
from crsearch.serve.neighbours import neighbour, neighbours
from crsearch.serve.service import SearchService

TEST = "/v1/admin/self-test"


@pytest.fixture
def address(trained, monkeypatch):
    """A server with keys; its self-test is short."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)
    monkeypatch.setattr("crsearch.serve.selftest.SECONDS", 4.0)
    config = ServeConfig()
    with served(create_app(SearchService(trained, config), config), config, lifespan="on") as url:
        yield url


def test_the_self_test_sends_the_corpus_to_the_server_itself_and_its_result_is_shown(address):
    admin = {**bearer("admin"), "accept": "application/json"}
    with httpx2.Client(base_url=address, headers=admin, timeout=60) as client:
        before = client.get("/v1/admin/status").json()["self_test"]
        found = client.post(TEST, json={})
        status = client.get("/v1/admin/status").json()["self_test"]
        page = client.get("/admin", headers={"accept": "text/html"}).text
        counted = client.get("/metrics").text
    assert before is None and found.status_code == 200
    assert found.json() == status and status["cases"] > 50 and status["wrong"] == 0 == len(status["findings"])
    assert status["seconds"] < 20
    assert "all answered as they should be" in page
    assert 'route="/v1/search",status="422"' in counted  # it came over the wire


def test_the_self_test_is_for_admins_and_one_at_a_time(address):
    with httpx2.Client(base_url=address, timeout=60) as client:
        refused = [client.post(TEST, json={}, headers=head).status_code for head in ({}, bearer("search"))]
        foreign = client.post(TEST, json={}, headers={**bearer("admin"), "origin": "https://evil.example"})
        form = client.post(TEST, content="a=b", headers={**bearer("admin"), "content-type": "text/plain"})
    assert refused == [401, 403] and foreign.status_code == 403 and form.status_code == 415


# ---------------------------------------------------------------- runs


@pytest.fixture
def shelf(trained, tmp_path):
    """Two runs, a link, a folder that is no run, and a secret outside."""
    place = tmp_path / "runs"
    for name in ("served", "other one"):
        (place / name).mkdir(parents=True)
        for file in ("manifest.json", "settings.toml", "results.json", "metrics.jsonl"):
            shutil.copy(trained / file, place / name / file)
    text = (place / "other one" / "settings.toml").read_text()
    (place / "other one" / "settings.toml").write_text(text.replace("seed = 0", "seed = 7", 1))
    (place / "other one" / "results.json").unlink()
    (place / "notes").mkdir()
    (tmp_path / "secret").mkdir()
    shutil.copy(trained / "manifest.json", tmp_path / "secret" / "manifest.json")
    os.symlink(tmp_path / "secret", place / "link")
    return place


def test_runs_beside_the_served_one_are_listed_and_nothing_else(shelf):
    rows = {row["name"]: row for row in neighbours(shelf / "served")}
    assert list(rows) == ["other one", "served"]
    assert rows["served"]["is_finished"] and not rows["other one"]["is_finished"]
    assert 0 <= rows["served"]["hr10"] <= 1 and rows["other one"]["hr10"] is None
    assert "align" in rows["served"]["stages"]


def test_a_run_shows_its_curves_what_differs_and_how_to_go_on(shelf):
    found = neighbour(shelf / "served", "other one")
    assert found["settings"] == [{"name": "seed", "served": "0", "other": "7"}]
    assert {curve["title"] for curve in found["curves"]} >= {"loss"}
    assert found["command"].endswith("--resume") and f"'{shelf}/other one'" in found["command"]
    assert neighbour(shelf / "served", "served")["settings"] == []


@pytest.mark.parametrize(
    "name", ["..", ".", "", "/", "link", "notes", "../secret", "../runs/served", "served/", "secret", "other%20one"]
)
def test_a_name_is_no_path(shelf, name):
    assert neighbour(shelf / "served", name) is None


def test_files_of_a_run_that_cannot_be_read_are_empty_not_an_error(shelf):
    for file in ("manifest.json", "settings.toml", "metrics.jsonl"):
        (shelf / "other one" / file).write_bytes(b"\xff{")
    found = neighbour(shelf / "served", "other one")
    assert (found["stages"], found["curves"], found["is_finished"]) == ([], [], False)
    assert json.dumps(found)


# ---------------------------------------------------------------- slow and empty queries


def answer(query: str, ms: float, items: int) -> Answer:
    found = tuple(Found(id=str(n), title="t", rank=n, score=0.0, sid=()) for n in range(items))
    return Answer(
        request_id="r", query=query, items=found, served_by=Rung.DIRECT, why_rung="", timings_ms={"total": ms}
    )


def test_slow_and_empty_queries_are_counted_by_their_hash():
    recent = Recent()
    for n in range(100):
        recent.add(answer(f"quick {n}", 10.0, 3))
    for ms, items in ((500.0, 3), (1.0, 0), (2.0, 0)):
        recent.add(answer("secret words", ms, items))
    (row,) = recent.slow()
    assert (row["times"], row["empty"], row["ms"], row["items"]) == (3, 2, 500.0, 0)
    assert row["is_hashed"] and "secret" not in row["query"] and len(row["query"]) == 10
    other = Recent()
    other.add(answer("secret words", 1.0, 0))
    assert other.slow()[0]["query"] != row["query"]  # nobody can hash a list of words and look them up


def test_queries_are_shown_only_where_they_may_be_logged():
    recent = Recent(is_open=True)
    for n in range(2 * SLOW):
        recent.add(answer(f"nothing {n} " + "x" * 400, 1.0, 0))
    rows = recent.slow()
    assert len(rows) == SLOW and rows[0]["query"].startswith(f"nothing {2 * SLOW - 1} ")
    assert not rows[0]["is_hashed"] and len(rows[0]["query"]) == 256
