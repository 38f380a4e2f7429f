"""A small application behind the front, as the server is, for tests of the front alone."""

import asyncio
import contextlib
import html
import json
import threading
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any

import httpx2
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response

from crsearch.serve.config import LimitsConfig, ServeConfig
from crsearch.serve.contract import Judgement, SearchRequest, Strict
from crsearch.serve.parse import parse_json, read_model
from crsearch.serve.problems import Problem
from crsearch.serve.protocol import uvicorn_options
from crsearch.serve.security import Keys, harden, needs, note
from crsearch.serve.seen import Seen
from crsearch.serve.text import clean_id, clean_query

KEYS = {
    "CRSEARCH_SEARCH_KEY": "search-key-0123456789",
    "CRSEARCH_ADMIN_KEY": "admin-key-0123456789",
    "CRSEARCH_METRICS_KEY": "metrics-key-0123456789",
}
SETTINGS = ServeConfig()
QUICK = ServeConfig(limits=LimitsConfig(body_seconds=0.5))
"""Cuts who sends slowly off soon."""


def bearer(name: str) -> dict[str, str]:
    return {"authorization": f"Bearer {KEYS[f'CRSEARCH_{name.upper()}_KEY']}"}


class Message(Strict):
    """A line of a chat."""

    role: str
    content: str


class Chat(Strict):
    """A chat, as little of it as the corpus needs."""

    model: str = ""
    user: str = ""
    n: int = 1
    messages: list[Message]


def small_app(
    config: ServeConfig = SETTINGS, environment: Mapping[str, str] | None = None, seen: list[Seen] | None = None
) -> FastAPI:
    """Routes of every scope; ``/v1/search`` reads its body as the server does."""
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    limits = config.limits

    @app.get("/livez")
    @needs("open")
    async def livez() -> dict[str, bool]:
        return {"alive": True}

    @app.get("/readyz")
    @needs("open")
    async def readyz() -> dict[str, bool]:
        return {"ready": True}

    @app.post("/v1/search")
    @needs("search")
    async def search(request: Request) -> JSONResponse:
        asked = read_model(SearchRequest, parse_json(await request.body(), limits.json_depth))
        query = clean_query(asked.query, limits.query_chars, limits.query_bytes)
        user = asked.user_id and clean_id(asked.user_id, "user_id")
        if asked.systems:
            raise Problem("unknown_system", "no such system", hint="see /openapi.json", field="systems")
        if asked.catalogue is not None:
            raise Problem("catalogue_gone", "another version is in use", hint="leave it out", field="catalogue")
        note(request, rung="L3", user_id=user, query=query.text)
        return JSONResponse({"items": [], "query": query.text})

    @app.post("/v1/search/stream")
    @needs("search")
    async def stream(request: Request) -> Response:
        asked = read_model(SearchRequest, parse_json(await request.body(), limits.json_depth))
        clean_query(asked.query, limits.query_chars, limits.query_bytes)
        return Response("event: final\ndata: {}\n\n", media_type="text/event-stream")

    @app.post("/v1/chat/completions")
    @needs("search")
    async def chat(request: Request) -> JSONResponse:
        asked = read_model(Chat, parse_json(await request.body(), limits.json_depth))
        return JSONResponse({"messages": len(asked.messages)})

    @app.get("/v1/sids/{prefix:path}")
    @needs("search")
    async def sid_tree(prefix: str) -> JSONResponse:
        raise Problem("not_found", "no such prefix", hint="begin at the root")

    @app.post("/v1/feedback")
    @needs("search")
    async def feedback(request: Request) -> JSONResponse:
        read_model(Judgement, parse_json(await request.body(), limits.json_depth))
        return JSONResponse({"kept": True})

    @app.get("/v1/items/{item_id}")
    @needs("search")
    async def item(item_id: str) -> JSONResponse:
        clean_id(item_id, "item_id")
        raise Problem("not_found", "no such item", hint="ids are those of answers")

    @app.get("/v1/users")
    @needs("search")
    async def users() -> JSONResponse:
        return JSONResponse([])

    @app.get("/v1/suggest")
    @needs("search")
    async def suggest(q: str = "") -> JSONResponse:
        return JSONResponse([])

    @app.post("/v1/admin/reload")
    @needs("admin")
    async def reload() -> JSONResponse:
        return JSONResponse({"done": True})

    @app.get("/v1/admin/status")
    @needs("admin")
    async def status() -> JSONResponse:
        return JSONResponse({})

    @app.get("/admin")
    @needs("admin")
    async def admin_page() -> HTMLResponse:
        return HTMLResponse("<!doctype html><title>admin</title>")

    @app.get("/metrics")
    @needs("metrics")
    async def metrics() -> JSONResponse:
        return JSONResponse({})

    @app.get("/")
    @needs("search")
    async def page(q: str = "") -> HTMLResponse:
        return HTMLResponse(f'<!doctype html><title>search</title><input name=q value="{html.escape(q)}">')

    @app.get("/typed/{number}")
    @needs("search")
    async def typed(number: int) -> JSONResponse:
        return JSONResponse(number)

    @app.get("/openapi.json")
    @needs("search")
    async def routes() -> JSONResponse:
        return JSONResponse(app.openapi())

    @app.get("/broken")
    @needs("search")
    async def broken() -> None:
        raise RuntimeError("CANARY in a message")

    harden(app, config, watchers=[(seen if seen is not None else []).append], environment=environment or {})
    return app


def client(app: FastAPI, **options: Any) -> httpx2.AsyncClient:
    """A client of the application in this process."""
    transport = httpx2.ASGITransport(app=app)
    return httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1:8000", **options)


def ask(app: FastAPI, method: str, path: str, **options: Any) -> httpx2.Response:
    """One request."""

    async def send() -> httpx2.Response:
        async with client(app) as c:
            return await c.request(method, path, **options)

    return asyncio.run(send())


def error_of(response: httpx2.Response) -> dict[str, Any]:
    """The error of an answer, which has the one shape."""
    assert response.headers["content-type"] == "application/json"
    assert len(response.content) <= 4_096
    error = response.json()["error"]
    assert set(error) - {"field"} == {"code", "message", "hint", "request_id"}
    assert error["request_id"] == response.headers["x-request-id"]
    return error


@contextlib.asynccontextmanager
async def listening(app: Any, config: ServeConfig = SETTINGS, **options: Any) -> AsyncIterator[int]:
    """The application behind uvicorn on a free port of this machine, which is given."""
    chosen = {**uvicorn_options(config), "log_level": "critical", "lifespan": "off", **options}
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, **chosen))
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        server.force_exit = True
        await task


@contextlib.contextmanager
def served(app: Any, config: ServeConfig = QUICK, **options: Any) -> Iterator[str]:
    """The address of a server in a thread; with its lifespan ``on`` it is ready, too."""
    started, stop, at = threading.Event(), list[Any](), list[str]()

    async def go() -> None:
        async with listening(app, config, **options) as port:
            at.append(f"http://127.0.0.1:{port}")
            stop.append((asyncio.get_running_loop(), asyncio.Event()))
            started.set()
            await stop[0][1].wait()

    thread = threading.Thread(target=asyncio.run, args=(go(),))
    thread.start()
    assert started.wait(10)
    try:
        if options.get("lifespan") == "on":
            _wait_until_ready(at[0])
        yield at[0]
    finally:
        stop[0][0].call_soon_threadsafe(stop[0][1].set)
        thread.join()


def _wait_until_ready(address: str) -> None:
    until = time.monotonic() + 60
    while httpx2.get(f"{address}/readyz").status_code != 200:
        assert time.monotonic() < until, "not ready"
        time.sleep(0.02)


async def raw(port: int, *parts: bytes, wait: float = 0.0, within: float = 5.0) -> bytes:
    """What the server answers to bytes, until it ends the connection or ``within`` seconds are over."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def write() -> None:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(wait)

    writing, got = asyncio.create_task(write()), b""
    try:
        async with asyncio.timeout(within):
            while piece := await reader.read(65_536):
                got += piece
    except (TimeoutError, ConnectionError):
        pass
    writing.cancel()
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()
    return got


def json_of(answer: bytes) -> Any:
    """The JSON body of raw bytes."""
    return json.loads(answer.partition(b"\r\n\r\n")[2])


__all__ = ["KEYS", "Keys", "ask", "bearer", "client", "error_of", "json_of", "listening", "raw", "served", "small_app"]
