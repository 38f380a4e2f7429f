"""The routes of a served tiny run, over HTTP, in this process."""

import json

import httpx2
import pytest

from crsearch.serve.app import create_app
from crsearch.serve.engine import Engine

USER = "u00000"


@pytest.fixture
def calling(serving):
    """``calling(work)``: do the work with a client of the app; what it gave."""

    def run(work, **settings):
        async def life(service):
            transport = httpx2.ASGITransport(app=create_app(service, service.config), raise_app_exceptions=False)
            async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
                return await work(client, service)

        return serving(life, **settings)

    return run


def error(reply) -> dict:
    body = reply.json()
    assert set(body) == {"error"}
    assert {"code", "message", "hint", "request_id"} <= set(body["error"])
    return body["error"]


def test_a_search_has_the_whole_envelope_and_the_id_of_its_request(calling):
    async def work(client, service):
        return await client.post("/v1/search", json={"query": "phone case", "user_id": USER, "top_k": 3})

    reply = calling(work)
    answer = reply.json()
    assert reply.status_code == 200
    assert set(answer) == {
        "request_id", "query", "items", "served_by", "why_rung", "reasoning", "degraded", "truncated", "timings_ms",
        "versions", "compared", "user_id",
    }  # fmt: skip
    assert answer["request_id"] == reply.headers["x-request-id"]
    assert [item["rank"] for item in answer["items"]] == [1, 2, 3]
    assert {"queue", "prompt", "beam", "hydrate", "total"} <= set(answer["timings_ms"])
    assert set(answer["versions"]) == {"model", "catalogue", "sid_book"}


@pytest.mark.parametrize(
    ("body", "status", "code", "field"),
    [
        ('{"query":"a","topk":3}', 422, "invalid_request", "top_k"),
        ('{"query":"a","top_k":true}', 422, "invalid_request", "top_k"),
        ('{"query":"a","deadline_ms":NaN}', 422, "invalid_json", None),
        ('{"query":"a","query":"b"}', 422, "invalid_json", None),
        ('{"query":"\\ud800"}', 422, "invalid_json", None),
        ('{"query":"   "}', 422, "empty_query", "query"),
        ('{"query":"a","user_id":"nobody"}', 404, "not_found", "user_id"),
        ('{"query":"a","catalogue":"v000009"}', 409, "catalogue_gone", "catalogue"),
        ("", 422, "invalid_json", None),
    ],
)
def test_a_body_that_does_not_fit_is_told_in_one_shape(calling, body, status, code, field):
    async def work(client, service):
        return await client.post("/v1/search", content=body, headers={"content-type": "application/json"})

    reply = calling(work)
    found = error(reply)
    assert (reply.status_code, found["code"], found.get("field")) == (status, code, field)


def test_a_stream_is_server_sent_events(calling):
    async def work(client, service):
        return await client.post("/v1/search/stream", json={"query": "case", "user_id": USER, "mode": "think"})

    reply = calling(work)
    assert reply.headers["content-type"].startswith("text/event-stream")
    events = [part.split("\n", 1) for part in reply.text.strip().split("\n\n")]
    names = [name.removeprefix("event: ") for name, _ in events]
    assert names[0] == "first" and names[-1] == "final"
    data = [json.loads(text.removeprefix("data: ")) for _, text in events]
    assert data[0]["request_id"] == data[-1]["request_id"] == reply.headers["x-request-id"]


def test_openai_s_shape_has_the_ranked_items_as_choices(calling):
    async def work(client, service):
        body = {"messages": [{"role": "user", "content": "phone case"}], "n": 4, "user": USER}
        chat = await client.post("/v1/chat/completions", json=body)
        own = await client.post("/v1/search", json={"query": "phone case", "top_k": 4, "user_id": USER})
        wrong = await client.post("/v1/chat/completions", json={**body, "model": "gpt"})
        return chat.json(), own.json(), wrong

    chat, own, wrong = calling(work)
    assert [c["item"]["id"] for c in chat["choices"]] == [i["id"] for i in own["items"]]
    assert chat["choices"][0]["message"]["content"] == "".join(own["items"][0]["sid"])
    assert error(wrong)["code"] == "not_found"


def test_items_come_and_go_while_it_serves_and_are_found_at_once(calling):
    async def work(client, service):
        record = {"item_id": "new", "title": "phone case glow", "category": ["phone"], "price": 3.0}
        steps = [await client.get("/v1/items/new")]
        steps.append(await client.post("/v1/admin/items/add", json={"items": [record]}))
        steps.append(await client.get("/v1/items/new"))
        steps.append(await client.post("/v1/admin/items/add", json={"items": [record]}))
        body = {"query": "glow", "mode": "fast", "top_k": 41}
        found = (await client.post("/v1/search", json=body)).json()
        steps.append(await client.post("/v1/admin/items/remove", json={"item_ids": ["new"]}))
        steps.append(await client.get("/v1/items/new"))
        gone = (await client.post("/v1/search", json=body)).json()
        steps.append(await client.post("/v1/admin/catalogue/rollback", json={}))
        steps.append(await client.get("/v1/items/new"))
        return steps, found, gone

    steps, found, gone = calling(work, width=64)
    assert [s.status_code for s in steps] == [404, 200, 200, 409, 200, 404, 200, 200]
    assert steps[2].json()["sid"] and steps[2].json()["catalogue"] == "v000002"
    assert "new" in {i["id"] for i in found["items"]} and len(found["items"]) == 41
    assert "new" not in {i["id"] for i in gone["items"]} and len(gone["items"]) == 40
    assert (found["versions"]["catalogue"], gone["versions"]["catalogue"]) == ("v000002", "v000003")


@pytest.mark.parametrize(
    ("wrong", "field", "rule"),
    [
        ({"item_id": " \x00\u202eX\n"}, "items.1.item_id", "bad-id"),
        ({"title": " "}, "items.1.title", "empty-title"),
        ({"price": 1e300}, "items.1.price", "bad-price"),
        ({"sales": 1e300}, "items.1.sales", "bad-sales"),
        ({"item_id": "new-0"}, "items.1.item_id", "duplicate"),
    ],
)
@pytest.mark.parametrize("action", ["add", "replace"])
def test_items_over_http_keep_the_rules_of_the_records(calling, action, wrong, field, rule):
    async def work(client, service):
        good = [{"item_id": f"new-{n}", "title": "phone case", "price": 3.0} for n in range(2)]
        body = {"items": [good[0], {**good[1], **wrong}]}
        return await client.post(f"/v1/admin/items/{action}", json=body), service.index.name

    reply, name = calling(work)
    found = error(reply)
    assert (reply.status_code, found["code"], found["field"], name) == (422, "invalid_request", field, "v000001")
    assert found["message"] == f"an item breaks a rule of the records: {rule}"
    assert "\u202e" not in reply.text and "300" not in reply.text


def test_users_suggestions_facets_and_the_tree_can_be_looked_at(calling):
    async def work(client, service):
        paths = ("/v1/users?limit=2", f"/v1/users/{USER}", "/v1/suggest?q=ph", "/v1/facets", "/v1/systems", "/v1/sids")
        found = [(await client.get(path)).json() for path in paths]
        token = found[-1]["children"][0][0].strip("<>")
        return found, (await client.get(f"/v1/sids/{token}")).json(), await client.get("/v1/sids/a_99")

    (users, user, suggest, facets, systems, root), node, nowhere = calling(work)
    assert len(users["users"]) == 2 and user["user_id"] == USER and user["history"]
    assert suggest["suggestions"] and all(s.startswith("ph") for s in suggest["suggestions"])
    assert facets["brands"] and facets["price"][0] <= facets["price"][1]
    assert {"bm25", "crs-no-thought"} <= set(systems) and "crs-oracle-thought" not in systems
    assert root["items"] == 40 == sum(n for _, n in root["children"])
    assert node["items"] == root["children"][0][1]
    assert error(nowhere)["code"] == "not_found"


def test_ready_tells_when_it_drains_and_live_does_not(calling):
    async def work(client, service):
        before = (await client.get("/readyz")).status_code
        service.drain()
        return before, (await client.get("/readyz")).status_code, (await client.get("/livez")).status_code

    assert calling(work) == (200, 503, 200)


def test_metrics_count_by_route_template_and_rung(calling):
    async def work(client, service):
        await client.post("/v1/search", json={"query": "case", "mode": "fast"})
        await client.get("/v1/items/no%20such")
        await client.get("/nowhere")
        return (await client.get("/metrics")).text, (await client.get("/v1/admin/status")).json()

    text, status = calling(work)
    assert 'crsearch_answers_total{rung="L3"} 1.0' in text
    assert 'crsearch_requests_total{route="/v1/items/{item_id}",status="404"} 1.0' in text
    assert "nowhere" not in text and "no such" not in text
    assert "crsearch_invalid_sids 0.0" in text
    assert status["health"]["ready"] is True
    assert [r["rung"] for r in status["rungs"]] == [f"L{n}" for n in range(7)]
    assert status["rungs"][3]["answers"] == 1
    assert status["sids"]["items"] == 40 == sum(b["items"] for b in status["sids"]["buckets"])
    assert {c["title"] for c in status["curves"]} >= {"loss"}


def test_every_route_but_probes_needs_its_key(calling, monkeypatch):
    """The test asks the application which routes there are, so a new one cannot be forgotten."""
    monkeypatch.setenv("CRSEARCH_SEARCH_KEY", "s" * 24)
    monkeypatch.setenv("CRSEARCH_ADMIN_KEY", "a" * 24)
    monkeypatch.setenv("CRSEARCH_METRICS_KEY", "m" * 24)

    async def work(client, service):
        paths = (await client.get("/openapi.json", headers={"authorization": "Bearer " + "s" * 24})).json()["paths"]
        found = {}
        for path, methods in paths.items():
            for method in methods:
                for name, key in (("none", None), ("search", "s"), ("admin", "a"), ("metrics", "m")):
                    headers = {} if key is None else {"authorization": f"Bearer {key * 24}"}
                    url = path.replace("{item_id}", "i").replace("{user_id}", "u").replace("{prefix}", "a_0")
                    json_body = {"json": {}} if method == "post" else {}
                    reply = await client.request(method.upper(), url, headers=headers, **json_body)
                    found[path, name] = reply.status_code
        return found

    found = calling(work)
    paths = {path for path, _ in found}
    assert len(paths) >= 15
    for path in paths:
        closed = {name for name in ("none", "search", "admin", "metrics") if found[path, name] in (401, 403)}
        if path in ("/livez", "/readyz"):
            assert closed == set()
        elif path.startswith("/v1/admin"):
            assert closed == {"none", "search", "metrics"}
        elif path == "/metrics":
            assert closed == {"none", "search"}
        else:
            assert closed == {"none", "metrics"}


def test_clicks_on_an_answer_are_kept_and_others_are_not(calling):
    async def work(client, service):
        before = service.feedback.counts()  # the run is shared by tests
        answer = (await client.post("/v1/search", json={"query": "case", "mode": "fast", "user_id": USER})).json()
        item = answer["items"][0]["id"]
        kinds = [("click", answer["request_id"], item), ("good", answer["request_id"], item)]
        wrong = [("click", "nobody-knows", item), ("click", answer["request_id"], "not shown"), ("like", "r", item)]
        replies = []
        for kind, request_id, item_id in (*kinds, *wrong):
            body = {"kind": kind, "request_id": request_id, "item_id": item_id}
            replies.append((await client.post("/v1/feedback", json=body)).status_code)
        after = service.feedback.counts()
        return replies, [after[kind] - before[kind] for kind in ("searches", "click", "good")]

    replies, more = calling(work)
    assert replies == [202, 202, 404, 422, 422]
    assert more == [1, 1, 1]


@pytest.mark.parametrize("mode", ["think", "fast", "auto"])
def test_the_page_shows_every_kind_of_answer(calling, mode):
    """A fresh thought, a remembered one, none, and an answer without the model: each has other timings."""

    async def work(client, service):
        pages = [await client.get(f"/?q=phone+case&user={USER}&mode={mode}") for _ in range(2)]
        service.engine.costs.read.add(1, 1e6)
        return [*pages, await client.get("/?q=phone+case"), await client.get("/?q=%3F%21"), await client.get("/admin")]

    for page in calling(work):
        assert page.status_code == 200
        assert "<h1" in page.text or "<h2" in page.text


SEARCHES = ("/v1/search", "/v1/search/stream", "/v1/chat/completions")
REFUSED = {
    "a search": (b'{"query": "case"}', {}, 429, "too_many_requests"),
    "no JSON": (b"no JSON at all {{{", {}, 429, "too_many_requests"),
    "empty": (b"", {}, 429, "too_many_requests"),
    "no key": (b"{}", {"authorization": ""}, 401, "unauthorized"),
    "a key of another scope": (b"{}", {"authorization": "Bearer " + "m" * 24}, 403, "forbidden"),
    "a foreign host": (b"{}", {"host": "elsewhere.example"}, 421, "wrong_host"),
    "another type": (b"{}", {"content-type": "text/plain"}, 415, "unsupported_media_type"),
    "too large": (b" " * 300_000, {}, 413, "body_too_large"),
}
"""Body, headers, status and code of requests to a server whose queue is full."""


def test_a_full_queue_refuses_who_may_search_before_the_body_is_looked_at(calling, monkeypatch):
    monkeypatch.setenv("CRSEARCH_SEARCH_KEY", "s" * 24)
    monkeypatch.setenv("CRSEARCH_METRICS_KEY", "m" * 24)

    async def work(client, service):
        monkeypatch.setattr("crsearch.serve.routes.parse_json", None)  # whoever looks at the body breaks
        monkeypatch.setattr(Engine, "waiting", property(lambda engine: 64))
        own = {"authorization": "Bearer " + "s" * 24, "content-type": "application/json"}
        return [
            (name, await client.post(path, content=body, headers={**own, **headers}), status, code)
            for path in SEARCHES
            for name, (body, headers, status, code) in REFUSED.items()
        ], service.metrics.value("rejected")

    replies, rejected = calling(work)
    for name, reply, status, code in replies:
        assert (reply.status_code, error(reply)["code"]) == (status, code), name
        assert ("retry-after" in reply.headers) == (status == 429), name
        assert reply.headers["x-request-id"] == error(reply)["request_id"]
        assert reply.headers["x-content-type-options"] == "nosniff" and "content-security-policy" in reply.headers
    assert rejected == 9.0
