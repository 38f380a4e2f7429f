"""What the routes answer is what ``/openapi.json`` says of them: real answers of every route against the schema."""

import json

import httpx2
import jsonschema_rs
import pytest
from fastapi import FastAPI

from crsearch.serve.app import create_app
from crsearch.serve.keys import needs
from crsearch.serve.openapi import describe
from crsearch.serve.problems import STATUS

USER = "u00000"
ITEM = {"item_id": "new", "title": "phone case glow", "category": ["phone"], "price": 3.0, "attributes": {"a": "b"}}
WHOLE = {"query": "phone case", "user_id": USER, "mode": "think", "systems": ["bm25"], "top_k": 5}
CHAT = {"messages": [{"role": "user", "content": "phone case"}], "n": 3}

CALLS = (
    ("get", "/livez", "/livez", None, 200),
    ("get", "/readyz", "/readyz", None, 200),
    ("get", "/metrics", "/metrics", None, 200),
    ("post", "/v1/search", "/v1/search", WHOLE, 200),
    ("post", "/v1/search", "/v1/search", {**WHOLE, "mode": "fast", "user_id": None}, 200),
    ("post", "/v1/search", "/v1/search", {"query": "?!"}, 200),
    ("post", "/v1/search", "/v1/search", {"query": "case", "filters": {"brands": ["none"]}}, 200),
    ("post", "/v1/search", "/v1/search", {"query": " "}, 422),
    ("post", "/v1/search", "/v1/search", {"query": "a", "user_id": "nobody"}, 404),
    ("post", "/v1/search", "/v1/search", {"query": "a", "catalogue": "v9"}, 409),
    ("post", "/v1/search/stream", "/v1/search/stream", WHOLE, 200),
    ("post", "/v1/search/stream", "/v1/search/stream", {"query": "a", "systems": ["none"]}, 422),
    ("post", "/v1/chat/completions", "/v1/chat/completions", CHAT, 200),
    ("post", "/v1/chat/completions", "/v1/chat/completions", {**CHAT, "reasoning_effort": "none"}, 200),
    ("post", "/v1/feedback", "/v1/feedback", {"request_id": "$last", "item_id": "$item", "kind": "click"}, 202),
    ("post", "/v1/feedback", "/v1/feedback", {"request_id": "none", "item_id": "none", "kind": "click"}, 404),
    ("get", "/v1/items/{item_id}", "/v1/items/$item", None, 200),
    ("get", "/v1/items/{item_id}", "/v1/items/none", None, 404),
    ("get", "/v1/users", "/v1/users?limit=3", None, 200),
    ("get", "/v1/users", "/v1/users?limit=0", None, 422),
    ("get", "/v1/users/{user_id}", f"/v1/users/{USER}", None, 200),
    ("get", "/v1/suggest", "/v1/suggest?q=p", None, 200),
    ("get", "/v1/facets", "/v1/facets", None, 200),
    ("get", "/v1/systems", "/v1/systems", None, 200),
    ("get", "/v1/sids", "/v1/sids", None, 200),
    ("get", "/v1/sids/{prefix}", "/v1/sids/$sid", None, 200),
    ("post", "/v1/admin/items/add", "/v1/admin/items/add", {"items": [ITEM]}, 200),
    ("post", "/v1/admin/items/add", "/v1/admin/items/add", {"items": [ITEM]}, 409),
    ("get", "/v1/items/{item_id}", "/v1/items/new", None, 200),
    ("post", "/v1/admin/items/replace", "/v1/admin/items/replace", {"items": [{**ITEM, "brand": "b"}]}, 200),
    ("post", "/v1/admin/items/remove", "/v1/admin/items/remove", {"item_ids": ["new"]}, 200),
    ("post", "/v1/admin/catalogue/rollback", "/v1/admin/catalogue/rollback", {}, 200),
    ("post", "/v1/admin/forget", "/v1/admin/forget", {"user_id": USER}, 200),
    ("get", "/v1/admin/runs", "/v1/admin/runs", None, 200),
    ("get", "/v1/admin/runs/{name}", "/v1/admin/runs/run", None, 200),
    ("get", "/v1/admin/runs/{name}", "/v1/admin/runs/..", None, 404),
    ("post", "/v1/admin/self-test", "/v1/admin/self-test", {}, 200),
    ("get", "/v1/admin/status", "/v1/admin/status", None, 200),
)  # fmt: skip
"""Method, route, address, body, status."""


@pytest.fixture
def answered(serving, monkeypatch):
    """The schema, and the reply to each of ``CALLS``."""
    monkeypatch.setattr("crsearch.serve.selftest.SECONDS", 0.05)  # nothing listens where it would be reached

    async def work(service):
        transport = httpx2.ASGITransport(app=create_app(service, service.config), raise_app_exceptions=False)
        async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:1") as client:
            schema = (await client.get("/openapi.json")).json()
            first = (await client.post("/v1/search", json={"query": "case", "mode": "fast"})).json()
            item = first["items"][0]
            names = {"$last": first["request_id"], "$item": item["id"], "$sid": item["sid"][0].strip("<>")}

            def filled(text: str) -> str:
                for name, value in names.items():
                    text = text.replace(name, value)
                return text

            replies = []
            for method, _, url, body, _ in CALLS:
                sent = {} if body is None else {"json": json.loads(filled(json.dumps(body)))}
                replies.append(await client.request(method.upper(), filled(url), **sent))
            return schema, replies

    return serving(work)


def whole(schema: dict, part: dict) -> jsonschema_rs.Validator:
    """A validator of a part of the description."""
    return jsonschema_rs.Draft202012Validator({**part, "components": schema["components"]})


def response_of(schema: dict, route: str, method: str, status: int) -> dict:
    response = schema["paths"][route][method]["responses"][str(status)]
    return schema["components"]["responses"][response["$ref"].rpartition("/")[2]] if "$ref" in response else response


def test_every_route_answers_as_its_description_says(answered):
    schema, replies = answered
    tried = set()
    for (method, route, url, _, status), reply in zip(CALLS, replies, strict=True):
        assert reply.status_code == status, (url, reply.text[:300])
        kind = reply.headers["content-type"].partition(";")[0]
        content = response_of(schema, route, method, status)["content"][kind]
        if kind == "text/event-stream":
            described = {e["properties"]["event"]["const"]: e["properties"]["data"] for e in content["schema"]["oneOf"]}
            for name, data in (part.split("\n", 1) for part in reply.text.strip().split("\n\n")):
                inner = described[name.removeprefix("event: ")]["contentSchema"]
                whole(schema, inner).validate(json.loads(data.removeprefix("data: ")))
        else:
            value = reply.json() if kind == "application/json" else reply.text
            whole(schema, content["schema"]).validate(value)
        tried.add((route, method, status < 300))
    assert {(r, m) for r, m, is_good in tried if is_good} == {
        (path, method) for path, operations in schema["paths"].items() for method in operations
    }


def test_the_description_of_an_answer_would_notice_a_field_that_is_missing_or_new(answered):
    schema, replies = answered
    answer = replies[3].json()
    validator = whole(schema, response_of(schema, "/v1/search", "post", 200)["content"]["application/json"]["schema"])
    assert validator.is_valid(answer)
    assert not validator.is_valid({**answer, "more": 1})
    for name in answer:
        assert not validator.is_valid({key: value for key, value in answer.items() if key != name}), name
    assert not validator.is_valid({**answer, "served_by": "L9"})


def test_problems_stand_at_the_routes_that_can_have_them(answered):
    schema, _ = answered
    status = {code: str(number) for code, number in STATUS.items()}
    responses = {path: set(next(iter(ops.values()))["responses"]) for path, ops in schema["paths"].items()}
    assert status["catalogue_gone"] in responses["/v1/search"]
    assert status["unauthorized"] not in responses["/livez"] and status["unauthorized"] in responses["/v1/facets"]
    assert status["body_too_large"] not in responses["/v1/facets"]
    assert {"200", "503"} <= responses["/readyz"]


def test_a_route_that_does_not_say_what_it_answers_is_refused():
    app = FastAPI(openapi_url=None)

    @app.get("/new")
    @needs("search")
    async def new() -> dict[str, str]:
        return {}

    with pytest.raises(RuntimeError, match="gives"):
        describe(app)
