"""A full server refuses at the protocol what the front would refuse, in the same words, and nothing else."""

import asyncio
import json
import re

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from small_front import KEYS, listening, raw

from crsearch.serve.config import LimitsConfig, ServeConfig
from crsearch.serve.early import Early
from crsearch.serve.problems import Problem
from crsearch.serve.security import harden, needs

BODY = b'{"query": "case"}'
HEAD = b"POST /v1/search HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
KEY = b"Authorization: Bearer " + KEYS["CRSEARCH_SEARCH_KEY"].encode() + b"\r\n"
OTHER = b"Authorization: Bearer " + KEYS["CRSEARCH_METRICS_KEY"].encode() + b"\r\n"
LENGTH = b"Content-Length: %d\r\n\r\n" % len(BODY)
GOOD = HEAD + KEY + LENGTH + BODY
LAST = b"GET /livez HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
CHUNKED = HEAD + KEY + b"Transfer-Encoding: chunked\r\n\r\n"
CHUNKS = b"8\r\n" + BODY[:8] + b"\r\n9\r\n" + BODY[8:] + b"\r\n0\r\n\r\n"


class Door:
    """A queue that is full, or not."""

    def __init__(self) -> None:
        self.is_full, self.refused, self.seen = True, 0, []
        self.bodies: list[bytes] = []

    def gate(self) -> None:
        if self.is_full:
            self.refused += 1
            raise Problem("too_many_requests", "the server is busy", hint="try again later", retry_after=3)


def app_behind(door: Door, config: ServeConfig, is_early: bool) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)

    @app.post("/v1/search")
    @needs("search", is_queued=True)
    async def search(request: Request) -> JSONResponse:
        door.bodies.append(await request.body())
        return JSONResponse({"found": True})

    @app.get("/livez")
    @needs("open")
    async def livez() -> dict[str, bool]:
        return {"alive": True}

    watchers = [door.seen.append]
    harden(app, config, watchers=watchers, gate=door.gate, is_full=lambda: door.is_full, environment=KEYS)
    if not is_early:
        app.state.early = None
    return app


def answers(
    *parts: bytes, is_early: bool, door: Door | None = None, wait: float = 0.0, **settings
) -> tuple[list, Door]:
    """Every answer to what is sent over one connection, as (head, body); ids and the time of day are taken out."""
    door, config = door or Door(), ServeConfig(**settings)

    async def go() -> bytes:
        async with listening(app_behind(door, config, is_early), config) as port:
            return await raw(port, *parts, wait=wait)

    said = re.sub(rb"[0-9a-f]{24}", b"ID", asyncio.run(go()))
    said = re.sub(rb"date: [^\r]*\r\n", b"date\r\n", said)
    return said.split(b"HTTP/1.1 ")[1:], door


SENT = {
    "one": [GOOD],
    "a body in chunks": [CHUNKED + CHUNKS],
    "no body": [HEAD + KEY + b"\r\n"],
    "no JSON": [GOOD.replace(BODY, b"]" * len(BODY))],
    "the body later": [HEAD + KEY + LENGTH, BODY],
    "a body in two parts": [HEAD + KEY + LENGTH + BODY[:5], BODY[5:]],
    "chunks in two parts": [CHUNKED + CHUNKS[:13], CHUNKS[13:]],
    "byte by byte": [GOOD[n : n + 1] for n in range(len(GOOD))],
    "ten at once": [GOOD * 10],
    "after an answer": [LAST.replace(b"Connection: close\r\n", b"") + GOOD],
    "before another": [GOOD + LAST.replace(b"Connection: close\r\n", b"") + GOOD],
    "no key": [HEAD + LENGTH + BODY],
    "a key of another scope": [HEAD + OTHER + LENGTH + BODY],
    "a foreign host": [GOOD.replace(b"127.0.0.1", b"elsewhere.example")],
    "a foreign origin": [HEAD + KEY + b"Origin: https://elsewhere.example\r\n" + LENGTH + BODY],
    "a listed origin": [HEAD + KEY + b"Origin: https://shop.example\r\n" + LENGTH + BODY],
    "two hosts": [GOOD.replace(b"Host: 127.0.0.1\r\n", b"Host: 127.0.0.1\r\n" * 2)],
    "another type": [GOOD.replace(b"application/json", b"text/plain")],
    "a compressed body": [HEAD + KEY + b"Content-Encoding: gzip\r\n" + LENGTH + BODY],
    "a body too large": [HEAD + KEY + b"Content-Length: 1001\r\n\r\n" + b" " * 1001],
    "chunks too large": [CHUNKED + b"3e9\r\n" + b" " * 1001 + b"\r\n0\r\n\r\n"],
    "headers too large": [HEAD + KEY + b"X: " + b"a" * 20_000 + b"\r\n" + LENGTH + BODY],
    "a query in the address": [GOOD.replace(b"/v1/search", b"/v1/search?x=1")],
    "another spelling": [GOOD.replace(b"/v1/search", b"/v1/%73earch")],
    "another method": [GOOD.replace(b"POST", b"PUT")],
    "HTTP/1.0": [GOOD.replace(b"HTTP/1.1", b"HTTP/1.0")],
    "the last of its connection": [GOOD.replace(b"Host", b"Connection: close\r\nHost")],
    "who waits for leave to send": [HEAD + KEY + b"Expect: 100-continue\r\n" + LENGTH, BODY],
    "another protocol": [HEAD + KEY + b"Connection: upgrade\r\nUpgrade: h2c\r\n" + LENGTH + BODY],
    "a chunk that is none": [CHUNKED + b"zz\r\n"],
}


@pytest.mark.parametrize("name", SENT)
def test_a_full_server_says_the_same_with_and_without_the_early_refusal(name):
    limits = LimitsConfig(body_bytes=1_000)
    both = []
    for is_early in (False, True):
        said, door = answers(
            *SENT[name], LAST, is_early=is_early, wait=0.01, limits=limits, origins=("https://shop.example",)
        )
        told = [(s.route, s.status, s.code) for s in door.seen]
        both.append((said, door.refused, told, door.bodies))
    (front, *rest), (early, *same) = both
    assert early == front and front
    if name == "a chunk that is none":  # nothing was begun, so there is nothing to tell but the answer
        assert [t for t in rest[1] if t[0] != "/v1/search"] == same[1]
    else:
        assert rest == same


def test_the_early_refusal_is_what_answers_a_plain_request(monkeypatch):
    """Nothing is built for it: the application is not even called."""
    monkeypatch.setattr("crsearch.serve.security.Front.serve", None)
    (said,), door = answers(GOOD, is_early=True)
    head, body = said.split(b"\r\n\r\n")
    assert head.startswith(b"429") and b"retry-after: 3" in head and b"x-content-type-options: nosniff" in head
    assert json.loads(body)["error"] == {
        "code": "too_many_requests", "message": "the server is busy", "hint": "try again later", "request_id": "ID",
    }  # fmt: skip
    assert [(s.route, s.status, s.code) for s in door.seen] == [("/v1/search", 429, "too_many_requests")]


@pytest.mark.parametrize("name", ["one", "a body in chunks", "chunks in two parts", "ten at once", "byte by byte"])
def test_where_there_is_room_the_application_gets_the_whole_body(name):
    door = Door()
    door.is_full = False
    said, _ = answers(*SENT[name], LAST, is_early=True, door=door)
    assert [s[:3] for s in said] == [b"200"] * len(said) and len(said) == len(door.bodies) + 1
    assert set(door.bodies) == {BODY}


def test_who_does_not_read_its_refusals_is_not_sent_more_without_end():
    """Beyond what the connection takes, requests wait as they do at the front."""
    door = Door()

    async def go() -> int:
        config = ServeConfig()
        async with listening(app_behind(door, config, True), config) as port:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            for _ in range(200):
                writer.write(GOOD * 100)
                await asyncio.sleep(0)
            await asyncio.sleep(0.5)
            writer.transport.abort()
            return door.refused

    assert asyncio.run(go()) < 20_000


def test_an_idle_connection_is_closed_as_quietly_as_after_an_answer():
    limits = LimitsConfig(body_seconds=0.2)
    said, _ = answers(GOOD, b"", is_early=True, wait=0.5, limits=limits)
    assert [s[:3] for s in said] == [b"429"]  # and no 408 for the request that never began


def test_requests_are_counted_against_a_limit_in_one_place_only():
    door = Door()
    app = app_behind(door, ServeConfig(limits=LimitsConfig(rate=1.0)), True)
    assert isinstance(app.state.early, Early) and b"/v1/search" not in app.state.early
    assert b"/v1/search" in app_behind(door, ServeConfig(), True).state.early
