"""The hostile corpus finds nothing in a hardened server, and finds what is broken in a broken one."""

import asyncio
import json
from collections import Counter
from dataclasses import replace

import pytest
from asgi import sender
from fastapi import FastAPI
from fastapi.responses import HTMLResponse, JSONResponse
from small_front import KEYS, QUICK, served, small_app

from crsearch.errors import ConfigError
from crsearch.serve.contract import SearchRequest
from crsearch.serve.corpus import Case, Expected, corpus
from crsearch.serve.doctor import GOOD, Line, Reply, examine, examine_cases, judge

KEY = KEYS["CRSEARCH_SEARCH_KEY"]


def findings(app, cases, key=None):
    return asyncio.run(examine_cases(sender(app, key), cases))


# ---------------------------------------------------------------- the corpus


def test_the_corpus_is_large_and_always_the_same():
    cases = corpus()
    assert len(cases) >= 1_500
    assert [c.id for c in cases] == [c.id for c in corpus()]
    assert max(Counter(c.id for c in cases).values()) == 1


GROUPS = {f"A{i}" for i in range(1, 17)} | {f"B{i}" for i in range(1, 6)} | {
    "C1", "C2", "C3", "C4", "C6", "E1", "G12", "G13", "H1", "H2", "H3", "H4", "H6", "H8", "I1", "I2"
}  # fmt: skip
SURFACES = {
    ("POST", "/v1/search"), ("POST", "/v1/search/stream"), ("POST", "/v1/chat/completions"), ("POST", "/v1/feedback"),
    ("GET", "/v1/items/"), ("GET", "/v1/users"), ("GET", "/v1/suggest"), ("GET", "/v1/sids/"), ("GET", "/"),
}  # fmt: skip


def test_every_row_and_every_surface_is_there():
    cases = corpus()
    assert {c.group for c in cases} >= GROUPS
    for method, path in SURFACES:
        assert sum(c.method == method and c.path.startswith(path) for c in cases) > 50
    assert all(c.about and (c.wire is not None or c.path.startswith("/")) for c in cases)


def test_there_are_sixty_scripts_for_every_place_of_text():
    found = Counter(c.id.rpartition("-")[2] for c in corpus(["H8"]))
    assert min(found.values()) >= 60
    assert {"search.query", "search.profile", "search.history", "page.q", "page_user.user"} <= set(found)


def test_cases_are_chosen_by_id_and_thinned_in_turns():
    assert [c.id for c in corpus(["A1-01-search.query"])] == ["A1-01-search.query"]
    assert {c.group for c in corpus(["A1", "H8"])} == {"A1", "H8"}
    thin = corpus(places=2)
    assert len(thin) < len(corpus()) / 4
    assert {c.id for c in thin} <= {c.id for c in corpus()}
    assert {c.surface for c in thin} == {c.surface for c in corpus()}


def test_bodies_are_what_their_rows_say():
    bodies = {c.id: c.body_bytes() for c in corpus(["A4", "A8", "A9", "A1"])}
    assert b'"query": "\\ud800"' in bodies["A1-01-search.query"]
    assert bodies["A8-search-lists-100000"] == b"[" * 100_000 + b"]" * 100_000
    assert len(bodies["A9-search-limit"]) == 256_001


# ---------------------------------------------------------------- judging

CASE = Case(id="X-1", about="", text="<b>secret</b>", method="GET", expected=Expected(statuses=frozenset({200, 422})))
PAGE = {"content-type": "text/html; charset=utf-8", "content-security-policy": "default-src 'self'"}
HEADERS = {"content-type": "application/json", "x-request-id": "r", "x-content-type-options": "nosniff"}


def error(**changes):
    return {"error": {"code": "invalid_request", "message": "m", "hint": "h", "request_id": "r", **changes}}


def judged(status, body, case=CASE, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return list(judge(case, Reply(status=status, headers={**HEADERS, **headers}, body=content)))


def test_right_answers_are_right():
    assert judged(200, {}) == judged(422, error()) == judged(422, error(field="top_k")) == []
    assert judged(422, b"", Case(id="X", about="", method="HEAD", expected=CASE.expected)) == []
    assert judged(422, b"<p>no", Case(id="X", about="", path="/?q=x", expected=CASE.expected), **PAGE) == []
    waits = Case(id="X", about="", path="/readyz", expected=Expected(statuses=frozenset({200, 503})))
    assert judged(503, {"status": "not ready"}, waits) == []
    assert judged(503, b"{NaN", waits) == ["an answer that is no JSON"]


@pytest.mark.parametrize(
    ("status", "body", "headers", "wrong"),
    [
        (500, error(), {}, "status 500"),
        (404, error(), {}, "status 404"),
        (422, {"detail": "x"}, {}, "an error of another shape"),
        (422, b"oops", {}, "an error of another shape"),
        (422, [], {}, "an error of another shape"),
        (422, error(trace=1), {}, "an error of another shape"),
        (422, error(code="made_up"), {}, "an error of another shape"),
        (422, error(message="x" * 5000), {}, "an error of 5"),
        (422, error(message=f"not {CASE.text}"), {}, "an echo"),
        (422, error(field=CASE.text), {}, "an echo"),
        (422, error(hint="Traceback (most recent call last)"), {}, "a stack trace"),
        (200, b"{NaN", {}, "an answer that is no JSON"),
        (200, b'{"a": NaN}', {}, "an answer that is no JSON"),
        (200, b"event: first\n\n", {"content-type": "text/event-stream"}, "a stream without an end"),
        (200, b"<p><b>secret</b>", PAGE, "text as HTML"),
        (200, b"<p>", {"content-type": "text/html"}, "a page without"),
        (200, {}, {"x-content-type-options": ""}, "no X-Content-Type"),
    ],
)
def test_wrong_answers_are_told(status, body, headers, wrong):
    assert any(w.startswith(wrong) for w in judged(status, body, **headers))


def test_no_answer_is_wrong_unless_the_end_of_the_connection_is_one():
    assert list(judge(CASE, None)) == ["no answer"]
    assert list(judge(Case(id="X", about="", silent=True, expected=CASE.expected), None)) == []


# ---------------------------------------------------------------- applications


def test_the_hardened_application_passes():
    cases = [c for c in corpus(places=3) if c.wire is None and not c.keyed]
    assert findings(small_app(), cases) == []


def test_with_keys_it_passes_too():
    cases = [c for c in corpus(["H2", "A5", "A13", "H1"]) if c.wire is None]
    assert findings(small_app(environment=KEYS), cases, KEY) == []


@pytest.fixture(scope="module")
def plain_findings():
    """What is found in an application as frameworks suggest it: models, and no front."""
    app = FastAPI()

    @app.post("/v1/search")
    async def search(asked: SearchRequest) -> JSONResponse:
        return JSONResponse({"query": asked.query})

    @app.get("/")
    async def page(q: str = "") -> HTMLResponse:
        return HTMLResponse(f"<title>{q}</title>")

    @app.get("/v1/items/{item_id}")
    async def item(item_id: str) -> JSONResponse:
        raise ValueError(f"no item {item_id}")

    async def caught(scope, receive, send):
        try:
            await app(scope, receive, send)
        except Exception as e:
            body = json.dumps(error(message=f"Traceback (most recent call last): {e}"), ensure_ascii=True)
            begun = {"type": "http.response.start", "status": 500, "headers": []}
            await send(begun)
            await send({"type": "http.response.body", "body": body.encode()})

    cases = [
        c for c in corpus(places=None) if c.surface in ("search", "page", "item") or c.group in ("H3", "H4", "A14")
    ]
    return {f.id: f.got for f in findings(caught, [c for c in cases if c.wire is None and not c.keyed])}


@pytest.mark.parametrize(
    ("id_", "wrong"),
    [
        ("A1-01-search.query", "status 500"),
        ("A3-search-latin1", "an error of another shape"),
        ("A4-search-01", "an error of another shape"),
        ("A6-search-1", "status 200"),
        ("A9-search-20mb", "status 422"),
        ("A12-01-search.query", "status 200"),
        ("A11-search-gzip", "status"),
        ("A14-many", "status 404"),
        ("H3-search-01", "status 200"),
        ("H4-page-01", "status 200"),
        ("H8-01-page.q", "text as HTML"),
        ("H8-13-item.id", "a stack trace"),
        ("H6-11-item.id", "an error of another shape"),
        ("good after A1", "no x-request-id"),
    ],
)
def test_what_frameworks_leave_open_is_found(plain_findings, id_, wrong):
    assert wrong in plain_findings.get(id_, "nothing")


def broken(change):
    """The hardened application with one fault."""
    app = small_app()

    async def faulty(scope, receive, send):
        await change(app, scope, receive, send)

    return faulty


def test_a_server_that_dies_of_one_request_is_found_by_the_good_one_after_it():
    dead = []

    async def dies(app, scope, receive, send):
        if scope["path"].startswith("/static"):
            dead.append(scope["path"])
        await app({**scope, "path": "/broken"} if dead else scope, receive, send)

    found = findings(broken(dies), [c for c in corpus(["A6", "H1"]) if c.wire is None])
    assert "good after H1" in {f.id for f in found} and "good after A6" not in {f.id for f in found}


def test_headers_that_are_missing_once_are_found():
    async def forgets(app, scope, receive, send):
        async def bare(message):
            await send(
                {**message, "headers": [h for h in message.get("headers", []) if h[0] != b"x-content-type-options"]}
            )

        await app(scope, receive, bare if scope["path"] == "/v1/users" else send)

    found = findings(broken(forgets), corpus(["B5-01"]))
    assert {f.id for f in found} == {"B5-01-users.prefix"}


# ---------------------------------------------------------------- over sockets


WIRE = ("A9", "A10", "A13", "A14", "A15", "A16", "G12")


@pytest.fixture(scope="module")
def hardened():
    with served(small_app(QUICK)) as url:
        yield url


def test_the_hardened_server_passes_over_sockets(hardened):
    found = examine(hardened, only=WIRE)
    assert found.findings == () and found.cases > 100


def test_a_server_with_keys_passes_over_sockets():
    with served(small_app(QUICK, KEYS)) as url:
        assert examine(url, KEY, only=("H2", "A10", "A4")).findings == ()
        with pytest.raises(ConfigError, match="--key-env"):
            examine(url, only=("A4",))
        with pytest.raises(ConfigError, match="--key-env"):
            examine(url, "wrong-key-0123456789", only=("A4",))


def test_a_server_without_our_protocol_is_found_to_wait_and_to_answer_in_plain_text():
    impatient = [replace(c, within=2.0) for c in corpus(["A10-silence", "A10-head"])]
    with served(small_app(QUICK), http="h11") as url:
        assert {"G12-tls", "G12-random"} <= {f.id for f in examine(url, only=("G12-tls", "G12-random")).findings}
        found = asyncio.run(examine_cases(Line(url, None).send, impatient))
    assert {f.id: f.got for f in found} == {"A10-silence": "nothing in 2 s", "A10-head": "nothing in 2 s"}


def test_a_busy_server_is_asked_again():
    asked = []

    async def busy(case):
        asked.append(case)
        status = 429 if len(asked) == 1 else 200
        return Reply(status=status, headers={**HEADERS, "retry-after": "0"}, body=b"{}")

    assert asyncio.run(examine_cases(busy, [GOOD])) == []


# ---------------------------------------------------------------- the command


def test_the_command_says_that_all_is_well(crsearch, hardened):
    result = crsearch("doctor", hardened, "--only", "A6")
    assert result.exit_code == 0 and "12 cases of 1 groups, all answered as they must be" in result.stdout


def test_the_command_lists_what_is_wrong(crsearch):
    app = small_app(QUICK)
    app.router.routes[:] = [r for r in app.router.routes if r.path != "/v1/users"]

    async def loud(scope, receive, send):
        await app({**scope, "path": "/broken"} if scope["path"].startswith("/v1/items") else scope, receive, send)

    with served(loud) as url:
        table = crsearch("doctor", url, "--only", "B5-01", "--only", "A6")
        plain = crsearch("doctor", url, "--only", "B5-01-item.id", "--json")
    assert table.exit_code == plain.exit_code == 1
    assert "B5-01-item.id" in table.stdout and "status 500" in table.stdout
    assert [f["id"] for f in json.loads(plain.stdout)["findings"]] == ["B5-01-item.id"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["http://127.0.0.1:1"], "cannot be reached"),
        (["127.0.0.1:8000"], "no address of a server"),
        (["ftp://localhost"], "no address of a server"),
        (["http://127.0.0.1:1", "--only", "Z9"], "groups are"),
        (["http://127.0.0.1:1", "--key-env", "NO_SUCH_VARIABLE"], "not set"),
    ],
)
def test_what_cannot_be_examined_is_told(crsearch, arguments, said):
    result = crsearch("doctor", *arguments)
    assert result.exit_code == 2 and said in result.stderr


def test_a_server_of_something_else_is_told(crsearch):
    with served(FastAPI()) as url:
        assert "is it a server of crsearch?" in crsearch("doctor", url).stderr
