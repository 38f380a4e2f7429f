"""The HTTP routes. Each says what key it needs; bodies are parsed strictly, errors have one shape.

Source: details: this project (docs/serving.md).
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Annotated, Any, TypeVar

import orjson
from fastapi import APIRouter, FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from crsearch import __version__
from crsearch.records.types import Item
from crsearch.serve.chat import ChatRequest, completion, search_of
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import (
    Answer,
    Forget,
    ItemsChange,
    ItemsRemoval,
    Judgement,
    Rollback,
    SearchRequest,
    StreamEvent,
)
from crsearch.serve.openapi import describe
from crsearch.serve.pages import pages_router
from crsearch.serve.parse import parse_json, read_model
from crsearch.serve.problems import Problem
from crsearch.serve.security import harden, log_broken, needs, note, request_id_of
from crsearch.serve.seen import access_log
from crsearch.serve.service import SearchService
from crsearch.serve.text import clean_id

Body = TypeVar("Body", bound=BaseModel)

ITEMS_BYTES = 4_000_000
"""Longest body of a change of the catalogue."""
Limit = Annotated[int, Query(ge=1, le=100)]


def create_app(service: SearchService, config: ServeConfig) -> FastAPI:
    """The application of a served run; starting it starts the service, stopping it drains it."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        starting = asyncio.create_task(service.start())  # /livez answers meanwhile
        starting.add_done_callback(service.started)
        yield
        await service.stop()

    app = FastAPI(
        title="crsearch", version=__version__, lifespan=life, docs_url=None, redoc_url=None, openapi_url=None,
        description="Search that reads the whole context, thinks, and ranks.",
    )  # fmt: skip
    app.state.service = service
    for router in (search_router(service, config), pages_router(service, config)):
        app.router.routes += router.routes  # on the application itself: harden looks at each

    @app.get("/openapi.json", include_in_schema=False)
    @needs("search")
    async def openapi() -> JSONResponse:
        return JSONResponse(describe(app))

    harden(app, config, watchers=(access_log, service.metrics.request))
    return app


def search_router(service: SearchService, config: ServeConfig) -> APIRouter:
    """The JSON routes."""
    router = APIRouter()

    async def body(request: Request, model: type[Body]) -> Body:
        return read_model(model, parse_json(await request.body(), config.limits.json_depth))

    async def answered(request: Request, asked: SearchRequest) -> Answer:
        answer = await service.search(asked, request_id_of(request))
        note(request, rung=answer.served_by.value, user_id=asked.user_id, query=answer.query)
        return answer

    # -- health -------------------------------------------------------------------------------------------------------
    @router.get("/livez")
    @needs("open")
    async def livez() -> dict[str, str]:
        """The process answers."""
        return {"status": "alive"}

    @router.get("/readyz")
    @needs("open")
    async def readyz() -> JSONResponse:
        """Model and catalogue are loaded and warm, and the server is not stopping."""
        state = {"status": "ready" if service.ready else "not ready", **service.health()}
        return JSONResponse(state, 200 if service.ready else 503)

    @router.get("/metrics")
    @needs("metrics")
    async def metrics() -> Response:
        """Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    # -- searching ----------------------------------------------------------------------------------------------------
    @router.post("/v1/search", openapi_extra=_takes(SearchRequest))
    @needs("search")
    async def search(request: Request) -> Response:
        """Ranked items for a query in its context."""
        service.refuse_if_full()
        return _json(await answered(request, await body(request, SearchRequest)))

    @router.post("/v1/search/stream", openapi_extra=_takes(SearchRequest))
    @needs("search")
    async def stream(request: Request) -> StreamingResponse:
        """First results at once, the thought as it is written, the final list: server-sent events."""
        asked = await body(request, SearchRequest)
        events = service.stream(asked, request_id_of(request))
        first = await anext(events)  # a problem is an error with its status, not an event
        return StreamingResponse(
            _sse(request, first, events),
            media_type="text/event-stream",
            headers={"Cache-Control": "no-store"},
        )

    @router.post("/v1/chat/completions", openapi_extra=_takes(ChatRequest))
    @needs("search")
    async def chat(request: Request) -> Response:
        """The same in OpenAI's shape: ``choices`` are the ranked items."""
        return _json(completion(await answered(request, search_of(await body(request, ChatRequest)))))

    @router.post("/v1/feedback", openapi_extra=_takes(Judgement), status_code=202)
    @needs("search")
    async def feedback(request: Request) -> Response:
        """What a user did with an item of an answer."""
        await service.judge(await body(request, Judgement))
        return _json({"status": "kept"}, 202)

    # -- looking around -----------------------------------------------------------------------------------------------
    @router.get("/v1/items/{item_id}")
    @needs("search")
    async def item(item_id: str) -> Response:
        """The record of an item."""
        return _json(
            _there(await service.item(clean_id(item_id, "item_id")), "there is no such item in the catalogue in use")
        )

    @router.get("/v1/users")
    @needs("search")
    async def users(prefix: Annotated[str, Query(max_length=256)] = "", limit: Limit = 20) -> Response:
        """Users whose id begins so; their histories at ``/v1/users/{user_id}``."""
        return _json({"users": await service.users(prefix, limit)})

    @router.get("/v1/users/{user_id}")
    @needs("search")
    async def user(user_id: str) -> Response:
        """A user with the part of the history that a search reads."""
        return _json(_there(await service.persona(clean_id(user_id, "user_id")), "there is no such user"))

    @router.get("/v1/suggest")
    @needs("search")
    async def suggest(
        q: Annotated[str, Query(max_length=256)] = "",
        user_id: Annotated[str | None, Query(max_length=256)] = None,
        limit: Limit = 8,
    ) -> Response:
        """Queries that begin so."""
        return _json({"suggestions": await service.suggest(q, user_id, limit)})

    @router.get("/v1/facets")
    @needs("search")
    async def facets() -> Response:
        """What can be filtered by."""
        return _json(await service.facets())

    @router.get("/v1/systems")
    @needs("search")
    async def systems() -> Response:
        """Systems that can stand beside."""
        return _json(await service.systems())

    @router.get("/v1/sids")
    @needs("search")
    async def sids() -> Response:
        """The first layer of the tree of semantic IDs."""
        return _json(_there(await service.sids(()), "the catalogue is empty"))

    @router.get("/v1/sids/{prefix}")
    @needs("search")
    async def sid(prefix: str) -> Response:
        """The tree below a prefix such as ``a_23.b_1``."""
        pieces = [f"<{piece}>" for piece in prefix.split(".")]
        return _json(_there(await service.sids(pieces), "no item begins with this prefix"))

    # -- administration -----------------------------------------------------------------------------------------------
    @router.get("/v1/admin/status")
    @needs("admin")
    async def status() -> Response:
        """Catalogue versions, rungs, costs and counts."""
        return _json(await service.admin())

    @router.post("/v1/admin/catalogue/rollback", openapi_extra=_takes(Rollback))
    @needs("admin")
    async def rollback(request: Request) -> Response:
        """Use another version of the catalogue."""
        return _json({"catalogue": await service.rollback((await body(request, Rollback)).name)})

    @router.post("/v1/admin/items/add", openapi_extra=_takes(ItemsChange))
    @needs("admin", body_bytes=ITEMS_BYTES)
    async def add_items(request: Request) -> Response:
        """Add items; they can be found when this answers."""
        change = await body(request, ItemsChange)
        return _json({"catalogue": await service.change_items("add", _items(change))})

    @router.post("/v1/admin/items/replace", openapi_extra=_takes(ItemsChange))
    @needs("admin", body_bytes=ITEMS_BYTES)
    async def replace_items(request: Request) -> Response:
        """Give items other records; they keep their semantic IDs."""
        change = await body(request, ItemsChange)
        return _json({"catalogue": await service.change_items("replace", _items(change))})

    @router.post("/v1/admin/items/remove", openapi_extra=_takes(ItemsRemoval))
    @needs("admin", body_bytes=ITEMS_BYTES)
    async def remove_items(request: Request) -> Response:
        """Remove items; they are found no more when this answers."""
        return _json({"catalogue": await service.remove_items((await body(request, ItemsRemoval)).item_ids)})

    @router.post("/v1/admin/forget", openapi_extra=_takes(Forget))
    @needs("admin")
    async def forget(request: Request) -> Response:
        """Drop what this process keeps of a user; the files are ``crsearch forget``'s."""
        return _json({"dropped": await service.forget((await body(request, Forget)).user_id)})

    return router


def _items(change: ItemsChange) -> list[Item]:
    return [Item(**{**dict(record), "category": tuple(record.category)}) for record in change.items]


def _takes(model: type[BaseModel]) -> dict[str, Any]:
    """The body of a route that parses it itself, for ``/openapi.json``."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _there(value: Any, otherwise: str) -> Any:
    if value is None:
        raise Problem("not_found", otherwise)
    return value


def text_of(value: Any) -> bytes:
    """A value of the contract as JSON: frozen values become objects with their fields."""
    return orjson.dumps(value)


def _json(value: Any, status: int = 200) -> Response:
    return Response(text_of(value), status, media_type="application/json")


async def _sse(request: Request, first: StreamEvent, events: AsyncGenerator[StreamEvent]) -> AsyncIterator[str]:
    """Events in the text form of server-sent events; the decoding ends when the reader goes."""
    request_id = request_id_of(request)
    async with aclosing(events):
        yield _event(first)
        try:
            async for event in events:
                if event.name == "final":
                    note(request, rung=event.data.served_by.value, user_id=event.data.user_id, query=event.data.query)
                yield _event(event)
        except Problem as e:
            yield _event(StreamEvent(name="error", data=e.body(request_id)))
        except Exception as e:
            told = log_broken(request_id, e)
            yield _event(StreamEvent(name="error", data=told.body(request_id)))


def _event(event: StreamEvent) -> str:
    return f"event: {event.name}\ndata: {text_of(event.data).decode()}\n\n"
