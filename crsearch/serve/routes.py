"""The JSON routes. Each says what key it needs; bodies are parsed strictly, errors have one shape.

Source: details: this project (docs/serving.md).
"""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Annotated, Any, TypeVar

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import BaseModel

from crsearch.records.checks import items_of
from crsearch.records.problems import BrokenRecords
from crsearch.records.types import Item
from crsearch.serve.answers import (
    Alive,
    Completion,
    Dropped,
    Facets,
    InUse,
    ItemFound,
    Kept,
    Neighbour,
    Neighbours,
    Piece,
    Readiness,
    SelfTest,
    Status,
    Suggestions,
    Systems,
    Users,
)
from crsearch.serve.chat import ChatRequest, completion, search_of
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import (
    Answer,
    Forget,
    ItemsChange,
    ItemsRemoval,
    Judgement,
    Nothing,
    Persona,
    Rollback,
    SearchRequest,
    SidNode,
    StreamEvent,
)
from crsearch.serve.parse import parse_json, read_model
from crsearch.serve.problems import Problem, Refusal
from crsearch.serve.replies import EVENTS, event, gives, tells
from crsearch.serve.security import log_broken, needs, note, request_id_of
from crsearch.serve.service import SearchService
from crsearch.serve.text import clean_id

Body = TypeVar("Body", bound=BaseModel)
There = TypeVar("There")

ITEMS_BYTES = 4_000_000
"""Longest body of a change of the catalogue."""
Limit = Annotated[int, Query(ge=1, le=100)]
STREAMED = {"first": Answer, "thought": Piece, "final": Answer, "error": Refusal}
"""Events of a stream."""
ASKING = ("empty_query", "query_too_long", "not_found", "unknown_system", "catalogue_gone")
"""Problems of searches."""


def json_routers(service: SearchService, config: ServeConfig) -> list[APIRouter]:
    """All of them."""
    return [
        _health(service),
        _searching(service, config),
        _looking_around(service),
        _watching(service, config),
        _changing(service, config),
    ]


def _health(service: SearchService) -> APIRouter:
    """Whether the server answers, and how it does."""
    router = APIRouter()

    @router.get("/livez")
    @needs("open")
    @gives()
    async def livez() -> Alive:
        """The process answers."""
        return {"status": "alive"}

    @router.get("/readyz")
    @needs("open")
    @tells(Readiness, 200, 503)
    async def readyz() -> JSONResponse:
        """Model and catalogue are loaded and warm, and the server is not stopping."""
        state: Readiness = {"status": "ready" if service.ready else "not ready", **service.health()}
        return JSONResponse(state, 200 if service.ready else 503)

    @router.get("/metrics")
    @needs("metrics")
    @tells(str, media="text/plain")
    async def metrics() -> Response:
        """Prometheus."""
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def _searching(service: SearchService, config: ServeConfig) -> APIRouter:
    """Searches, and what users did with what was found."""
    router = APIRouter()

    async def answered(request: Request, asked: SearchRequest) -> Answer:
        answer = await service.search(asked, request_id_of(request))
        note(request, rung=answer.served_by.value, user_id=asked.user_id, query=answer.query)
        return answer

    @router.post("/v1/search", openapi_extra=_takes(SearchRequest))
    @needs("search", is_queued=True)
    @gives(refuses=ASKING)
    async def search(request: Request) -> Answer:
        """Ranked items for a query in its context."""
        return await answered(request, await _body(request, SearchRequest, config))

    @router.post("/v1/search/stream", openapi_extra=_takes(SearchRequest))
    @needs("search", is_queued=True)
    @tells(STREAMED, media=EVENTS, refuses=ASKING)
    async def stream(request: Request) -> StreamingResponse:
        """First results at once, the thought as it is written, the final list: server-sent events."""
        asked = await _body(request, SearchRequest, config)
        events = service.stream(asked, request_id_of(request))
        first = await anext(events)  # a problem is an error with its status, not an event
        return StreamingResponse(
            _sse(request, first, events),
            media_type=EVENTS,
            headers={"Cache-Control": "no-store"},
        )

    @router.post("/v1/chat/completions", openapi_extra=_takes(ChatRequest))
    @needs("search", is_queued=True)
    @gives(refuses=ASKING)
    async def chat(request: Request) -> Completion:
        """The same in OpenAI's shape: ``choices`` are the ranked items."""
        return completion(await answered(request, search_of(await _body(request, ChatRequest, config))))

    @router.post("/v1/feedback", openapi_extra=_takes(Judgement), status_code=202)
    @needs("search")
    @gives(202, refuses=("not_found", "not_ready"))
    async def feedback(request: Request) -> Kept:
        """What a user did with an item of an answer."""
        await service.judge(await _body(request, Judgement, config))
        return {"status": "kept"}

    return router


def _looking_around(service: SearchService) -> APIRouter:
    """What the catalogue in use holds, and who searched."""
    router = APIRouter()

    @router.get("/v1/items/{item_id}")
    @needs("search")
    @gives()
    async def item(item_id: str) -> ItemFound:
        """The record of an item."""
        found = await service.item(clean_id(item_id, "item_id"))
        return _there(found, "there is no such item in the catalogue in use")

    @router.get("/v1/users")
    @needs("search")
    @gives()
    async def users(prefix: Annotated[str, Query(max_length=256)] = "", limit: Limit = 20) -> Users:
        """Users whose id begins so; their histories at ``/v1/users/{user_id}``."""
        return {"users": await service.users(prefix, limit)}

    @router.get("/v1/users/{user_id}")
    @needs("search")
    @gives()
    async def user(user_id: str) -> Persona:
        """A user with the part of the history that a search reads."""
        return _there(await service.persona(clean_id(user_id, "user_id")), "there is no such user")

    @router.get("/v1/suggest")
    @needs("search")
    @gives()
    async def suggest(
        q: Annotated[str, Query(max_length=256)] = "",
        user_id: Annotated[str | None, Query(max_length=256)] = None,
        limit: Limit = 8,
    ) -> Suggestions:
        """Queries that begin so."""
        return {"suggestions": await service.suggest(q, user_id, limit)}

    @router.get("/v1/facets")
    @needs("search")
    @gives()
    async def facets() -> Facets:
        """What can be filtered by."""
        return await service.facets()

    @router.get("/v1/systems")
    @needs("search")
    @gives()
    async def systems() -> Systems:
        """Systems that can stand beside."""
        return await service.systems()

    @router.get("/v1/sids")
    @needs("search")
    @gives(refuses=("not_found",))
    async def sids() -> SidNode:
        """The first layer of the tree of semantic IDs."""
        return _there(await service.sids(()), "the catalogue is empty")

    @router.get("/v1/sids/{prefix}")
    @needs("search")
    @gives()
    async def sid(prefix: str) -> SidNode:
        """The tree below a prefix such as ``a_23.b_1``."""
        pieces = [f"<{piece}>" for piece in prefix.split(".")]
        return _there(await service.sids(pieces), "no item begins with this prefix")

    return router


def _watching(service: SearchService, config: ServeConfig) -> APIRouter:
    """What an operator looks at."""
    router = APIRouter()

    @router.get("/v1/admin/status")
    @needs("admin")
    @gives()
    async def status() -> Status:
        """Catalogue versions, rungs, costs and counts."""
        return await service.admin()

    @router.get("/v1/admin/runs")
    @needs("admin")
    @gives()
    async def runs() -> Neighbours:
        """Runs in the folder of the served one."""
        return await service.runs()

    @router.get("/v1/admin/runs/{name}")
    @needs("admin")
    @gives()
    async def run(name: str) -> Neighbour:
        """A run beside the served one: curves, settings that differ, how to go on."""
        return _there(await service.beside(clean_id(name, "name")), "there is no such run beside the served one")

    @router.post("/v1/admin/self-test", openapi_extra=_takes(Nothing))
    @needs("admin")
    @gives(refuses=("conflict",))
    async def self_test(request: Request) -> SelfTest:
        """Send the hostile corpus to this server itself, half a minute at most; one at a time."""
        await _body(request, Nothing, config)
        host, port = request.scope.get("server") or ("", None)
        if port is None:
            raise Problem("conflict", "the server is not reached by a port", hint="use crsearch doctor")
        return await service.self_tests.run((host, port))

    return router


def _changing(service: SearchService, config: ServeConfig) -> APIRouter:
    """What an operator changes."""
    router = APIRouter()

    @router.post("/v1/admin/catalogue/rollback", openapi_extra=_takes(Rollback))
    @needs("admin")
    @gives(refuses=("conflict", "not_ready"))
    async def rollback(request: Request) -> InUse:
        """Use another version of the catalogue."""
        return {"catalogue": await service.rollback((await _body(request, Rollback, config)).name)}

    @router.post("/v1/admin/items/add", openapi_extra=_takes(ItemsChange))
    @needs("admin", body_bytes=ITEMS_BYTES)
    @gives(refuses=("conflict", "not_ready"))
    async def add_items(request: Request) -> InUse:
        """Add items; they can be found when this answers."""
        change = await _body(request, ItemsChange, config)
        return {"catalogue": await service.change_items("add", _items(change))}

    @router.post("/v1/admin/items/replace", openapi_extra=_takes(ItemsChange))
    @needs("admin", body_bytes=ITEMS_BYTES)
    @gives(refuses=("conflict", "not_ready"))
    async def replace_items(request: Request) -> InUse:
        """Give items other records; they keep their semantic IDs."""
        change = await _body(request, ItemsChange, config)
        return {"catalogue": await service.change_items("replace", _items(change))}

    @router.post("/v1/admin/items/remove", openapi_extra=_takes(ItemsRemoval))
    @needs("admin", body_bytes=ITEMS_BYTES)
    @gives(refuses=("conflict", "not_ready"))
    async def remove_items(request: Request) -> InUse:
        """Remove items; they are found no more when this answers."""
        return {"catalogue": await service.remove_items((await _body(request, ItemsRemoval, config)).item_ids)}

    @router.post("/v1/admin/forget", openapi_extra=_takes(Forget))
    @needs("admin")
    @gives()
    async def forget(request: Request) -> Dropped:
        """Drop what this process keeps of a user; the files are ``crsearch forget``'s."""
        return {"dropped": await service.forget((await _body(request, Forget, config)).user_id)}

    return router


async def _body(request: Request, model: type[Body], config: ServeConfig) -> Body:
    """The body of a request as a model."""
    return read_model(model, parse_json(await request.body(), config.limits.json_depth))


def _items(change: ItemsChange) -> list[Item]:
    """The items of a request, held to the rules of the records.

    Raises:
        Problem: ``invalid_request`` with the field of the first that breaks one.
    """
    try:
        return items_of([record.model_dump() for record in change.items], "items")
    except BrokenRecords as e:
        first = e.problems[0]  # what it says holds the value, which is never sent back; the rule and the fix do not
        row = (first.line or 1) - 1
        raise Problem(
            "invalid_request",
            f"an item breaks a rule of the records: {first.rule}",
            field=f"items.{row}.{first.column}",
            hint=first.fix,
        ) from e


def _takes(model: type[BaseModel]) -> dict[str, Any]:
    """The body of a route that parses it itself, for ``/openapi.json``."""
    schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _there(value: There | None, otherwise: str) -> There:
    if value is None:
        raise Problem("not_found", otherwise)
    return value


async def _sse(request: Request, first: StreamEvent, events: AsyncGenerator[StreamEvent]) -> AsyncIterator[str]:
    """Events in the text form of server-sent events; the decoding ends when the reader goes."""
    request_id = request_id_of(request)
    async with aclosing(events):
        yield event(first.name, first.data)
        try:
            async for told in events:
                if told.name == "final":
                    note(request, rung=told.data.served_by.value, user_id=told.data.user_id, query=told.data.query)
                yield event(told.name, told.data)
        except Problem as e:
            yield event("error", e.body(request_id))
        except Exception as e:
            yield event("error", log_broken(request_id, e).body(request_id))
