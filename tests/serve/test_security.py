"""The front: what must not reach a route does not, and whatever happens, the answer has one shape."""

import asyncio
import gzip
import json
import logging
import time

import httpx2
import pytest
from fastapi import APIRouter, FastAPI
from small_front import KEYS, ask, bearer, client, error_of, json_of, listening, raw, small_app
from starlette.staticfiles import StaticFiles

from crsearch.errors import ConfigError
from crsearch.serve.config import KeyConfig, LimitsConfig, ServeConfig
from crsearch.serve.keys import Keys, check_routes, declared, require_keys_beyond_loopback
from crsearch.serve.problems import STATUS, Problem
from crsearch.serve.rates import RateLimit
from crsearch.serve.security import SECURITY_HEADERS, harden, needs
from crsearch.serve.seen import Seen, log_line

GOOD = {"query": "case"}
CANARY = "CANARY-7f3a"
CHUNK = b"ffff\r\n" + b" " * 65_535 + b"\r\n"
HEAD = b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


@pytest.fixture(scope="module")
def app():
    return small_app()


def post(app, body, **headers):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    sent = {"content-type": "application/json", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return ask(app, "POST", "/v1/search", content=content, headers=sent)


# ---------------------------------------------------------------- one shape


def test_a_good_request_is_answered(app):
    response = post(app, GOOD)
    assert (response.status_code, response.json()["query"]) == (200, "case")


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nothing", 404, "not_found"),
        ("GET", f"/{CANARY}", 404, "not_found"),
        ("GET", "/v1/search/", 404, "not_found"),
        ("POST", "/v1/search/", 404, "not_found"),
        ("GET", "/v1//users", 404, "not_found"),
        ("GET", "/v1/search", 405, "method_not_allowed"),
        ("DELETE", "/livez", 405, "method_not_allowed"),
        ("OPTIONS", "/v1/search", 405, "method_not_allowed"),
        ("BREW", "/v1/search", 405, "method_not_allowed"),
        ("GET", "/broken", 500, "internal"),
        ("GET", f"/typed/{CANARY}", 422, "invalid_request"),
        ("GET", f"/v1/items/{CANARY}", 404, "not_found"),
        ("GET", f"/v1/suggest?q={CANARY}{'x' * 50_000}", 414, "uri_too_long"),
        ("GET", "/%2e%2e/etc/passwd", 404, "not_found"),
        ("GET", "/v1/items/%00", 422, "invalid_request"),
        ("GET", "/static/..%2f..%2fetc/passwd", 404, "not_found"),
    ],
)
def test_every_error_has_the_one_shape_and_repeats_nothing(app, method, path, status, code):
    response = ask(app, method, path)
    assert (response.status_code, error_of(response)["code"]) == (status, code)
    assert "CANARY" not in response.text and "Traceback" not in response.text


def test_a_wrong_method_is_told_the_right_ones(app):
    assert ask(app, "GET", "/v1/search").headers["allow"] == "POST"


def test_what_broke_is_logged_by_place_without_its_message(app, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("crsearch.serve"), "disabled", False)  # import-linter disables all loggers
    with caplog.at_level(logging.ERROR, "crsearch.serve"):
        response = ask(app, "GET", "/broken")
    assert "RuntimeError" in caplog.text and "small_front.py" in caplog.text and "CANARY" not in caplog.text
    assert response.json()["error"]["request_id"] in caplog.text


@pytest.mark.parametrize("path", ["/livez", "/nothing", "/broken", "/"])
def test_every_answer_has_an_id_of_its_own_and_the_security_headers(app, path):
    ids = set()
    for _ in range(2):
        response = ask(app, "GET", path, headers={"x-request-id": "mine"})
        ids.add(response.headers["x-request-id"])
        for name, value in SECURITY_HEADERS.items():
            assert response.headers[name] == value
    assert len(ids) == 2 and "mine" not in ids
    assert "unsafe" not in SECURITY_HEADERS["content-security-policy"]


def test_all_codes_are_errors():
    assert all(400 <= status < 600 for status in STATUS.values())


# ---------------------------------------------------------------- bodies


@pytest.mark.parametrize(
    "headers",
    [
        {"content_type": "text/plain"},
        {"content_type": "application/x-www-form-urlencoded"},
        {"content_type": "multipart/form-data; boundary=x"},
        {"content_type": ""},
        {"content_type": "application/json; charset=utf-16"},
        {"content_encoding": "gzip"},
        {"content_encoding": "identity, br"},
        {"content_encoding": "x" * 1_000},
    ],
)
def test_other_types_and_compressed_bodies_are_refused(app, headers):
    response = post(app, gzip.compress(b"0" * 1_000_000), **headers)
    assert (response.status_code, error_of(response)["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_json_in_utf8_is_read(app, kind):
    assert post(app, GOOD, content_type=kind).status_code == 200


@pytest.mark.parametrize("size", [256_001, 20_000_000])
def test_a_body_above_the_limit_is_refused(app, size):
    response = post(app, b" " * size)
    assert (response.status_code, error_of(response)["code"]) == (413, "body_too_large")
    assert response.headers["connection"] == "close"


def test_a_body_at_the_limit_is_read(app):
    body = json.dumps(GOOD).encode()
    assert post(app, body + b" " * (256_000 - len(body))).status_code == 200


def test_an_endless_chunked_body_is_cut_soon():
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    async def go():
        async with client(small_app()) as c:
            return await c.post("/v1/search", content=endless(), headers={"content-type": "application/json"})

    assert asyncio.run(go()).status_code == 413
    assert sent < 2_000_000


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b"{", b'{"query": "\\ud800"}', b'{"query": ""}', b'{"query": 1}']
)
def test_bodies_that_are_no_search_are_refused(app, body):
    assert post(app, body).status_code == 422


def test_safe_methods_have_no_body(app):
    assert error_of(ask(app, "GET", "/livez", content=b"x"))["code"] == "bad_request"


# ---------------------------------------------------------------- head


def test_too_many_or_too_long_headers_are_refused(app):
    many = [(f"x-{i}", "1") for i in range(1_000)]
    for headers in (many, [("x-long", "a" * 17_000)], [("cookie", "a" * 65_536)]):
        response = ask(app, "GET", "/livez", headers=headers)
        assert (response.status_code, error_of(response)["code"]) == (431, "headers_too_large")


@pytest.mark.parametrize("name", ["content-type", "origin", "host"])
def test_headers_that_decide_stand_once(app, name):
    pairs = [(name, "a"), (name, "b")]
    response = ask(app, "POST", "/v1/search", headers=pairs, content=b"{}")
    assert response.status_code == 400


HOSTS = [
    "evil.example",
    "evil.example:8000",
    "127.0.0.1.evil.example",
    "localhost.evil.example",
    "",
    "10.0.0.1",
    "[::2]",
]


@pytest.mark.parametrize("host", HOSTS)
def test_a_foreign_host_is_refused_on_loopback(app, host):
    response = ask(app, "GET", "/livez", headers={"host": host})
    assert (response.status_code, error_of(response)["code"]) == (421, "wrong_host")


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:8000", "127.0.0.1:1", "[::1]:8000", "localhost."])
def test_names_of_this_machine_are_ours(app, host):
    assert ask(app, "GET", "/livez", headers={"host": host}).status_code == 200


def test_listed_hosts_and_addresses_are_ours_where_others_may_call():
    app = small_app(ServeConfig(host="0.0.0.0", hosts=("shop.example",)), KEYS)
    statuses = {
        h: ask(app, "GET", "/livez", headers={"host": h}).status_code
        for h in ("shop.example:443", "10.1.2.3", "x.example")
    }
    assert statuses == {"shop.example:443": 200, "10.1.2.3": 200, "x.example": 421}


@pytest.mark.parametrize(
    "origin",
    [
        "http://evil.example",
        "null",
        "http://127.0.0.1:9",
        "file://",
        "x",
        "http://[",
        "https://127.0.0.1:8000.evil.example",
    ],
)
def test_pages_of_other_sites_may_change_nothing(app, origin):
    response = post(app, GOOD, origin=origin)
    assert (response.status_code, error_of(response)["code"]) == (403, "forbidden")
    assert "access-control-allow-origin" not in ask(app, "GET", "/livez", headers={"origin": origin}).headers


def test_our_own_page_and_listed_origins_may():
    app = small_app(ServeConfig(origins=("https://shop.example",)))
    assert post(app, GOOD, origin="http://127.0.0.1:8000").status_code == 200
    listed = post(app, GOOD, origin="https://shop.example")
    assert (listed.status_code, listed.headers["access-control-allow-origin"]) == (200, "https://shop.example")
    asked = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    assert ask(app, "OPTIONS", "/v1/search", headers=asked).status_code == 204
    assert ask(app, "OPTIONS", "/v1/search", headers={**asked, "origin": "https://a.example"}).status_code == 405


# ---------------------------------------------------------------- keys

ROUTES = [
    ("GET", "/livez", "open"),
    ("GET", "/readyz", "open"),
    ("POST", "/v1/search", "search"),
    ("POST", "/v1/search/stream", "search"),
    ("POST", "/v1/chat/completions", "search"),
    ("POST", "/v1/feedback", "search"),
    ("GET", "/v1/sids/a", "search"),
    ("GET", "/v1/items/a", "search"),
    ("GET", "/v1/users", "search"),
    ("GET", "/openapi.json", "search"),
    ("GET", "/v1/suggest", "search"),
    ("GET", "/", "search"),
    ("POST", "/v1/admin/reload", "admin"),
    ("GET", "/v1/admin/status", "admin"),
    ("GET", "/admin", "admin"),
    ("GET", "/metrics", "metrics"),
]
MAY = {"search": {"search"}, "admin": {"search", "admin", "metrics"}, "metrics": {"metrics"}}


@pytest.fixture(scope="module")
def closed():
    return small_app(environment=KEYS)


@pytest.mark.parametrize(("method", "path", "need"), ROUTES)
def test_without_a_key_only_the_probes_answer(closed, method, path, need):
    key = KEYS["CRSEARCH_ADMIN_KEY"]
    for value in ("", "Bearer wrong", key, f"Basic {key}", f"Bearer {key}x", f"Bearer Bearer {key}"):
        headers = {"authorization": value} if value else {"x-api-key": key, "cookie": f"key={key}"}
        response = ask(closed, method, f"{path}?key={key}", headers=headers)
        if need == "open":
            assert response.status_code == 200
        else:
            assert (response.status_code, error_of(response)["code"]) == (401, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
            assert "admin-key" not in response.text


@pytest.mark.parametrize(("method", "path", "need"), ROUTES)
@pytest.mark.parametrize("key", MAY)
def test_a_key_opens_its_scope_only(closed, method, path, need, key):
    status = ask(closed, method, path, headers=bearer(key)).status_code
    if need == "open" or need in MAY[key]:
        assert status not in (401, 403)
    else:
        assert status == 403


def test_two_authorizations_are_none(closed):
    both = [("authorization", "Bearer x"), *bearer("admin").items()]
    assert ask(closed, "GET", "/v1/users", headers=both).status_code == 401


def test_a_scope_without_a_key_is_closed_to_other_keys():
    app = small_app(environment={"CRSEARCH_SEARCH_KEY": KEYS["CRSEARCH_SEARCH_KEY"]})
    assert ask(app, "GET", "/metrics", headers=bearer("search")).status_code == 403
    assert ask(app, "GET", "/metrics").status_code == 401


def test_without_keys_all_scopes_are_open(app):
    assert ask(app, "GET", "/metrics").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/%761/users",
        "/v1/users?x=/livez",
        "/livez/../v1/users",
        "/livez%2f..%2fv1/users",
        "/v1/users;/livez",
        "/V1/users",
    ],
)
def test_the_decision_is_on_the_route_that_matches(closed, path):
    assert ask(closed, "GET", path).status_code in (401, 404)


def test_little_of_an_endless_body_of_who_may_not_is_read(closed):
    sent = 0

    async def endless():
        nonlocal sent
        while True:
            sent += 65_536
            yield b" " * 65_536

    response = ask(closed, "POST", "/v1/search", content=endless())
    assert (response.status_code, response.headers["connection"]) == (401, "close")
    assert sent < 2_000_000


def test_a_route_without_a_scope_does_not_start_and_would_be_closed():
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/forgotten")
    async def forgotten() -> None: ...

    with pytest.raises(RuntimeError, match="/forgotten"):
        harden(app, ServeConfig(), environment={})
    later = small_app()
    later.add_api_route("/forgotten", forgotten)
    assert ask(later, "GET", "/forgotten").status_code == 403


def test_routes_of_the_framework_and_of_included_routers_need_a_scope_too():
    with pytest.raises(RuntimeError, match="openapi"):
        check_routes(FastAPI().router.routes)
    app, router = FastAPI(docs_url=None, redoc_url=None, openapi_url=None), APIRouter()
    router.add_api_route("/inner", lambda: None)
    app.include_router(router)
    with pytest.raises(RuntimeError):
        check_routes(app.router.routes)


def test_a_mounted_folder_can_be_declared(tmp_path):
    (tmp_path / "a.js").write_text("1")
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.mount("/static", needs("search")(StaticFiles(directory=tmp_path)))
    harden(app, ServeConfig(), environment=KEYS)
    assert ask(app, "GET", "/static/a.js").status_code == 401
    assert ask(app, "GET", "/static/a.js", headers=bearer("search")).status_code == 200
    for path in (
        "/static/..%2f..%2fetc/passwd",
        "/static/%00",
        "/static/nothing",
        "/static/a.js%5c..",
        "/static//etc/passwd",
    ):
        assert error_of(ask(app, "GET", path, headers=bearer("search")))["code"] == "not_found"


def test_all_routes_of_the_small_application_are_listed_above(closed):
    listed = {path.removesuffix("/a") for _, path, _ in ROUTES}
    paths = {r.path.partition("/{")[0] for r in closed.router.routes}
    assert paths - {"/broken", "/typed"} == listed
    assert all(declared(r) for r in closed.router.routes)


@pytest.mark.parametrize("key", ["short", "with space in the key", "ключ-ключ-ключ-ключ"])
def test_unusable_keys_are_refused(key):
    with pytest.raises(ConfigError, match="CRSEARCH_SEARCH_KEY"):
        Keys.from_environment(KeyConfig(), {"CRSEARCH_SEARCH_KEY": key})


def test_keys_are_not_kept():
    assert "0123456789" not in repr(Keys.from_environment(KeyConfig(), KEYS))


def test_a_server_for_others_needs_keys():
    open_to_all = ServeConfig(host="0.0.0.0")
    with pytest.raises(ConfigError, match="CRSEARCH_SEARCH_KEY"):
        require_keys_beyond_loopback(open_to_all, Keys())
    require_keys_beyond_loopback(open_to_all, Keys.from_environment(KeyConfig(), KEYS))
    require_keys_beyond_loopback(ServeConfig(), Keys())


@pytest.mark.parametrize("key", ["", "search"])
def test_a_page_decides_itself_and_counts_as_a_request(key):
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.get("/")(needs("page")(lambda: {"page": 1}))
    harden(app, ServeConfig(limits=LimitsConfig(rate=0.001, burst=2)), environment=KEYS)
    headers = bearer(key) if key else {}
    assert [ask(app, "GET", "/", headers=headers).status_code for _ in range(3)] == [200, 200, 429]


# ---------------------------------------------------------------- rates


def test_who_asks_too_often_waits_and_others_do_not():
    now = [0.0]
    limit = RateLimit(2.0, 3, clock=lambda: now[0])
    for _ in range(3):
        limit.take(b"a")
    with pytest.raises(Problem) as refused:
        limit.take(b"a")
    assert (refused.value.code, refused.value.retry_after) == ("too_many_requests", 1)
    limit.take(b"b")
    now[0] = 0.5
    limit.take(b"a")
    with pytest.raises(Problem):
        limit.take(b"a")


def test_the_memory_of_the_rate_limit_is_bounded():
    limit = RateLimit(1.0, 1, most=100)
    for i in range(10_000):
        limit.take(str(i).encode())
    assert len(limit) == 100


def test_keys_have_limits_of_their_own_and_probes_none():
    app = small_app(ServeConfig(limits=LimitsConfig(rate=0.001, burst=2)), KEYS)
    statuses = [ask(app, "GET", "/v1/users", headers=bearer("search")).status_code for _ in range(3)]
    assert statuses == [200, 200, 429]
    assert ask(app, "GET", "/v1/users", headers=bearer("search")).headers["retry-after"] == "1000"
    assert ask(app, "GET", "/v1/users", headers=bearer("admin")).status_code == 200
    assert [ask(app, "GET", "/v1/users").status_code for _ in range(3)] == [401, 401, 429]
    assert ask(app, "GET", "/livez").status_code == 200


# ---------------------------------------------------------------- logs


def test_the_log_knows_route_status_and_rung_and_not_what_was_asked():
    seen: list[Seen] = []
    app = small_app(seen=seen)
    post(app, {"query": CANARY, "user_id": CANARY, "profile": {CANARY: CANARY}})
    ask(app, "GET", f"/{CANARY}?{CANARY}")
    ask(app, "GET", f"/v1/items/{CANARY}")
    lines = [json.loads(log_line(s)) for s in seen]
    assert [(x["route"], x["status"], x.get("rung")) for x in lines] == [
        ("/v1/search", 200, "L3"), ("unmatched", 404, None), ("/v1/items/{item_id}", 404, None),
    ]  # fmt: skip
    assert CANARY not in json.dumps(lines) and len(lines[0]["user"]) == 16


def test_a_logged_query_stays_one_short_line():
    seen: list[Seen] = []
    query = '{"level":"error"}\n\x1b[2J\u2028' + "x" * 400
    app = small_app(ServeConfig(log_queries=True), seen=seen)
    post(app, {"query": query})
    line = log_line(seen[0], now=0.0)
    assert line.isascii() and line.isprintable() and len(json.loads(line)["query"]) == 256
    assert json.loads(line)["time"] == "1970-01-01T00:00:00Z"


# ---------------------------------------------------------------- sockets


def over_socket(*parts, config=None, **options):
    async def go():
        chosen = config or ServeConfig()
        async with listening(small_app(chosen), chosen) as port:
            begin = time.monotonic()
            got = await raw(port, *parts, **options)
            taken = time.monotonic() - begin
            async with httpx2.AsyncClient() as c:
                alive = await c.post(f"http://127.0.0.1:{port}/v1/search", json=GOOD)
            assert alive.status_code == 200
            return got, taken

    return asyncio.run(go())


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(range(64)), b"400"),
        (b"\x00" * 100 + b"\r\n\r\n", b"400"),
        (b"GET /\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\nX-A: b\rc\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 200_000, b"431"),
        (b"GET /" + b"a" * 100_000 + b" HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", b"414"),
        (HEAD + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n{}", b"400"),
        (HEAD + b"Content-Length: -1\r\n\r\n{}", b"400"),
        (HEAD + b"Content-Length: 99999999999999999999\r\n\r\n{}", b"413"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n", b"400"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n0\r\n" + b"X: " + b"a" * 200_000, b"431"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 200_000, b"431"),
        (HEAD + b"Content-Length: 20000000\r\n\r\n" + b" " * 300_000, b"413"),
        (HEAD + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNK * 11, b"413"),
    ],
    ids=lambda x: repr(x[:40]) if isinstance(x, bytes) else x,
)
def test_what_is_no_request_gets_the_one_shape_and_ends_the_connection(sent, status):
    got, taken = over_socket(sent)
    assert got.startswith(b"HTTP/1.1 " + status), got[:200]
    assert json_of(got)["error"]["code"] and b"server:" not in got.lower()
    assert taken < 1.5


QUICK = ServeConfig(limits=LimitsConfig(body_seconds=0.3))


@pytest.mark.parametrize(
    "parts",
    [
        [b"G"],
        [b"GET / HTTP/1.1\r\n", *[b"X: 1\r\n"] * 20],
        [HEAD + b"Content-Length: 100\r\n\r\n", *[b" "] * 20],
        [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *[b"1\r\n \r\n"] * 20],
        [],
    ],
    ids=["first byte", "headers", "body", "chunks", "silence"],
)
def test_who_sends_slowly_is_cut_off(parts):
    got, taken = over_socket(*parts, config=QUICK, wait=0.1)
    assert got.startswith(b"HTTP/1.1 408") and json_of(got)["error"]["code"] == "request_timeout"
    assert taken < 3


def test_a_request_in_time_is_answered_and_the_next_on_the_connection_too():
    good = HEAD + b"Content-Length: 17\r\n\r\n" + b'{"query": "case"}'
    got, _ = over_socket(good, good.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"), config=QUICK, wait=0.2)
    assert got.count(b"HTTP/1.1 200") == 2


def test_pipelined_requests_are_answered_in_order():
    one = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    got, _ = over_socket(one * 50 + one.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
    assert got.count(b"HTTP/1.1 200") == 51


def test_idle_connections_make_room():
    async def go():
        from functools import partial

        from crsearch.serve.protocol import Protocol

        async with listening(small_app(), http=partial(Protocol, most=20)) as port:
            idle = [await asyncio.open_connection("127.0.0.1", port) for _ in range(60)]
            async with httpx2.AsyncClient() as c:
                alive = await c.get(f"http://127.0.0.1:{port}/livez")
            for _, writer in idle:
                writer.close()
            return alive.status_code

    assert asyncio.run(go()) == 200


def test_websockets_are_not_served():
    async def go():
        sent = []

        async def receive():
            return {"type": "websocket.connect"}

        async def send(message):
            sent.append(message)

        await small_app()({"type": "websocket", "path": "/", "headers": []}, receive, send)
        return sent

    assert asyncio.run(go()) == [{"type": "websocket.close", "code": 1008}]
