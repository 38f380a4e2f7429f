"""The real server against the hostile corpus, requests that schemathesis makes up, and canaries in its logs."""

import asyncio
import contextlib
import json
import logging
import re
import threading
import time
from collections.abc import Iterator

import httpx2
import pytest
import schemathesis
from asgi import sender
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from small_front import KEYS, QUICK, served

from crsearch.serve.app import create_app
from crsearch.serve.config import ServeConfig
from crsearch.serve.corpus import Case, Expected, corpus
from crsearch.serve.doctor import GOOD, Reply, examine, examine_cases, judge
from crsearch.serve.keys import declared, match_route
from crsearch.serve.problems import STATUS
from crsearch.serve.service import SearchService

CANARY = "canary7f3a91"
SCOPE = {"type": "http", "method": "GET", "root_path": ""}
ANY = frozenset(range(200, 600)) - {500, 502, 504}


def in_process(run, work, config=None, **options):
    """Do some work with the application of a run, started, in this process."""

    async def go():
        service = SearchService(run, config or ServeConfig())
        app = create_app(service, config or ServeConfig(), **options)
        await service.start()
        try:
            return await work(app)
        finally:
            await service.stop()

    return asyncio.run(go())


def fitting(app, cases):
    """Requests, without those to routes that the server may lack."""
    optional = ("/v1/feedback", "/")
    there = [p for p in optional if match_route(app.router.routes, {**SCOPE, "path": p})]
    paths = ((c, c.path.partition("?")[0]) for c in cases if c.wire is None and not c.keyed)
    return [c for c, path in paths if path not in optional or path in there]


@pytest.mark.parametrize("places", [1, pytest.param(5, marks=pytest.mark.slow)])
def test_nothing_of_the_corpus_breaks_the_server(trained, places):
    async def work(app):
        cases = fitting(app, corpus(places=places))
        return cases, await examine_cases(sender(app), cases)

    cases, findings = in_process(trained, work)
    assert findings == []
    assert len(cases) > (900 if places == 1 else 1_500)


def test_with_keys_only_the_probes_are_open(trained, monkeypatch):
    """Every route of the application, whatever is added to it."""
    for name, key in KEYS.items():
        monkeypatch.setenv(name, key)

    async def work(app):
        found = {}
        for route in app.router.routes:
            path = "/".join("x" if part.startswith("{") else part for part in route.path.split("/"))
            for method in getattr(route, "methods", None) or ["GET"]:
                case = Case(id="x", about="", method=method, path=path, expected=Expected(statuses=ANY))
                found[method, route.path] = (await sender(app)(case)).status
        return found, {route.path: declared(route).need for route in app.router.routes}

    statuses, needed = in_process(trained, work)
    assert {path for path, need in needed.items() if need == "open"} == {"/livez", "/readyz"}
    pages = {"/", "/admin", "/static/{name}"}  # without a key: a form that asks for it; script and style
    assert {path for path, need in needed.items() if need == "page"} <= pages
    reached = {path for (_, path), status in statuses.items() if status != 401}
    assert reached - {"/static/{name}"} == {"/livez", "/readyz"}
    assert {path for path, need in needed.items() if need == "admin"} == {
        p for p in needed if p.startswith("/v1/admin")
    }
    assert needed["/metrics"] == "metrics"


def test_the_server_passes_over_sockets(trained):
    app = create_app(SearchService(trained, QUICK), QUICK)
    with served(app, lifespan="on") as url:
        found = examine(url, only=("A9-search", "A9-wire", "A10", "A13-wire", "A14", "A15", "A16", "G12"))
    assert found.findings == () and found.cases > 50


# ---------------------------------------------------------------- streams


def think(app):
    body = json.dumps({"query": "case", "mode": "think"}).encode()
    return Case(
        id="stream", about="", method="POST", path="/v1/search/stream", headers=(("content-type", "application/json"),),
        body=((body, 1),), expected=Expected(statuses=ANY),
    )  # fmt: skip


def test_decoding_ends_when_the_reader_of_a_stream_leaves(trained):
    async def work(app):
        service, has_left = app.state.service, threading.Event()
        whole = service.engine._decode

        def decode(jobs, todo):
            if any(job.mode == "think" for job in jobs):
                has_left.wait(30)
            return whole(jobs, todo)

        service.engine._decode = decode
        await sender(app, leave_after=b"event: first")(think(app))
        has_left.set()
        late = time.monotonic() + 30
        while service.engine.waiting and time.monotonic() < late:
            await asyncio.sleep(0.01)
        return service.metrics.value("client_closed"), service.engine.waiting, (await sender(app)(GOOD)).status

    assert in_process(trained, work, ServeConfig(deadline_ms=10_000)) == (1.0, 0, 200)


def test_what_breaks_in_a_stream_ends_it_with_an_event(trained, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("crsearch.serve"), "disabled", False)

    async def work(app):
        whole = app.state.service.stream

        async def broken(*arguments):
            async for event in whole(*arguments):
                yield event
                raise RuntimeError(CANARY)

        app.state.service.stream = broken
        return await sender(app)(think(app))

    with caplog.at_level(logging.ERROR):
        reply = in_process(trained, work)
    assert b"event: first" in reply.body and b'event: error\ndata: {"error":{"code":"internal"' in reply.body
    assert "RuntimeError" in caplog.text and CANARY not in caplog.text + reply.body.decode()


# ---------------------------------------------------------------- privacy


def test_a_search_leaves_no_trace_of_what_was_searched_for(trained, caplog, monkeypatch):
    for name in ("crsearch.serve", "crsearch.serve.access"):
        monkeypatch.setattr(logging.getLogger(name), "disabled", False)
    asked = {
        "query": CANARY,
        "profile": {CANARY: CANARY},
        "history": [{"query": CANARY, "clicked": [CANARY], "place": CANARY}],
        "filters": {"brands": []},
        "place": CANARY,
    }
    refused = [{"query": CANARY, CANARY: 1}, {"query": CANARY, "user_id": CANARY}, {"query": CANARY, "mode": CANARY}]

    async def work(app):
        send = sender(app)

        async def reply(method, path, body=None):
            content = ((json.dumps(body).encode(), 1),) if body is not None else ()
            headers = (("content-type", "application/json"),) if body is not None else ()
            expected = Expected(statuses=ANY)
            return await send(
                Case(id="x", about="", method=method, path=path, headers=headers, body=content, expected=expected)
            )

        statuses = [(await reply("POST", "/v1/search", body)).status for body in (asked, *refused)]
        texts = [(await reply("POST", "/v1/search", body)).body for body in refused]
        await reply("GET", f"/v1/items/{CANARY}?{CANARY}")
        await reply("GET", f"/{CANARY}")
        for path in ("/metrics", "/readyz", "/v1/admin/status"):
            texts.append((await reply("GET", path)).body)
        return statuses, texts

    with caplog.at_level(logging.INFO):
        statuses, texts = in_process(trained, work)
    assert statuses == [200, 422, 404, 422]
    assert [CANARY.encode() in text for text in texts] == [False] * len(texts)
    assert CANARY not in caplog.text
    lines = [json.loads(r.message) for r in caplog.records if r.name == "crsearch.serve.access"]
    assert lines[0]["route"] == "/v1/search" and lines[0]["rung"].startswith("L")


# ---------------------------------------------------------------- made up requests


MADE_UP = settings(
    max_examples=25, deadline=None, database=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate],
    derandomize=True,
)  # fmt: skip


@pytest.fixture(scope="module")
def address(trained) -> Iterator[str]:
    config = ServeConfig(deadline_ms=50)
    with served(create_app(SearchService(trained, config), config), config, lifespan="on") as url:
        yield url


def test_the_description_of_the_routes_is_whole(address):
    schema = httpx2.get(f"{address}/openapi.json").json()
    names = set(schema["components"]["schemas"])
    assert set(re.findall(r'"#/components/schemas/([^"]+)"', json.dumps(schema))) <= names
    assert {"Event", "Filters", "Refusal", "Answer", "Status"} <= names and "ValidationError" not in names
    assert schema["components"]["schemas"]["Wrong"]["properties"]["code"]["enum"] == list(STATUS)
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            assert (operation["x-scope"] == "open") == (path in ("/livez", "/readyz")) == (operation["security"] == [])
            assert {"400", "500"} < set(operation["responses"]) and "default" not in operation["responses"]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Do not use the `random` module")  # schemathesis does
@pytest.mark.parametrize("mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE])
def test_requests_that_are_made_up_of_the_schema_are_answered_in_form(address, mode):
    schema = schemathesis.openapi.from_url(f"{address}/openapi.json")
    operations = [result.ok() for result in schema.get_all_operations()]
    assert len(operations) >= 15
    checked = 0
    for operation in operations:
        if operation.path.startswith("/v1/admin/"):
            continue  # they change the run

        @MADE_UP
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case):
            response = case.call()
            headers = {name.lower(): value[0] for name, value in response.headers.items()}
            reply = Reply(status=response.status_code, headers=headers, body=response.content)
            meant = Case(id=case.path, about="", method=case.method, path=case.path, expected=Expected(statuses=ANY))
            wrong = set(judge(meant, reply)) - {"a stream without an end"}  # schemathesis reads its beginning only
            assert not wrong, (wrong, case.as_curl_command())

        with contextlib.suppress(Unsatisfiable):  # nothing in it that could be wrong
            check()
            checked += 1
    assert checked >= (12 if mode is GenerationMode.POSITIVE else 5)
