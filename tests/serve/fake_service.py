"""A shop of two languages behind the page: the same answers each time, faults on request, and no model.

Run by hand with ``python tests/serve/fake_service.py 8123`` to look at the pages.
"""

import asyncio
import json
import math
import sys
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from pydantic import ValidationError

from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import (
    Answer,
    Found,
    Judgement,
    Matched,
    PastEvent,
    Persona,
    Reasoning,
    Rung,
    SearchRequest,
    SidNode,
    StreamEvent,
)
from crsearch.serve.pages import pages_router
from crsearch.serve.problems import Problem
from crsearch.serve.security import harden, needs

BRANDS = ("Tonobi", "Bedabi", "Punavi", "Nordik", "杭织", "青禾")
LEVELS = ("everyday", "premium", "luxury")
STYLES = ("playful", "elegant", "classic", "warm")
THINGS = (
    ("electronics", "phone case", 18.0),
    ("electronics", "phone", 420.0),
    ("electronics", "laptop case", 39.0),
    ("kitchen", "kettle", 55.0),
    ("shoes", "running shoe", 89.0),
    ("fashion", "scarf", 24.0),
)
CHINESE = {
    "phone case": "手机壳", "phone": "手机", "laptop case": "电脑包", "kettle": "电热水壶", "running shoe": "跑步鞋",
    "scarf": "围巾", "everyday": "日常", "premium": "高档", "luxury": "奢华", "playful": "俏皮", "elegant": "优雅",
    "classic": "经典", "warm": "保暖", "electronics": "数码", "kitchen": "厨房", "shoes": "鞋靴", "fashion": "服饰",
}  # fmt: skip

HOSTILE = (
    "<img src=x onerror=window.__hit=1> phone case",
    "\"><script>window.__hit=2</script> phone case '",
    "{{7*7}} ${7*7} javascript:window.__hit=3 phone case",
    "phone case \u202egnp.exe \u2066 \x00 \x1b[31m red \ufeff",
    "غطاء هاتف مرن باللون الأزرق phone case",
    "phone case " + "W" * 160,
    "</title></template><svg onload=window.__hit=4> phone case 📱🏳️‍🌈",
)
"""Titles that would act if a page let them."""


def _words(text: str) -> tuple[str, ...]:
    found = dict.fromkeys(text.lower().split())
    found.update(dict.fromkeys(word for word in CHINESE.values() if word in text))
    return tuple(found)


def _items() -> dict[str, dict[str, Any]]:
    out: dict[str, dict[str, Any]] = {}
    for t, (kind, thing, price) in enumerate(THINGS):
        for b, brand in enumerate(BRANDS):
            for n in range(3):
                level, style = LEVELS[(b + n) % 3], STYLES[(t + b + 2 * n) % 4]
                words = (
                    [thing, brand, level, style] if b < 4 else [brand, CHINESE[level], CHINESE[style], CHINESE[thing]]
                )
                item_id = f"i{len(out):05d}"
                out[item_id] = {
                    "item_id": item_id,
                    "title": " ".join(words),
                    "brand": brand,
                    "category": [kind, thing] if b < 4 else [CHINESE[kind], CHINESE[thing]],
                    "price": round(price * (1 + LEVELS.index(level) * 0.6) + b + n * 0.35, 2),
                    "attributes": {"level": level, "style": style},
                    "description": None,
                    "sid": [f"<a_{t}>", f"<b_{b}>", f"<c_{LEVELS.index(level) * 4 + STYLES.index(style)}>", "<d_0>"],
                }
    for n, title in enumerate(HOSTILE):
        item_id = f"x{n}<b>'\""
        out[item_id] = {
            "item_id": item_id,
            "title": title,
            "brand": None if n == 0 else f"Bad{n}<i>",
            "category": [] if n == 1 else ["electronics", "phone case"],
            "price": None if n == 2 else 9.5 + n,
            "attributes": {},
            "description": title,
            "sid": ["<a_0>", "<b_6>", f"<c_{n}>", "<d_0>"],
        }
    return out


USERS = (
    ("u00001", {"gender": "male", "age": "50+", "city": "Manila"}, "phone case", 0),
    ("u00002", {"gender": "female", "age": "25-34", "city": "Toronto"}, "running shoe", 3),
    ("u00003", {"性别": "女", "年龄": "18-24", "城市": "杭州"}, "手机壳", 4),
    ("u00004", {"性别": "男", "年龄": "35-49", "城市": "成都"}, "电热水壶", 5),
    ("u00005", {"gender": "female", "age": "50+", "city": "Lagos"}, "scarf", 1),
    ("u00006", {"gender": "male", "age": "18-24", "city": "Oslo"}, "laptop case", 2),
    ("u00007", {"gender": "female", "age": "35-49", "city": "Lima"}, "kettle", 3),
    ("u6<b>\u202e", {"name": "<img src=x onerror=window.__hit=5>"}, "phone case", 0),
)


class FakeService:
    """Answers as the real one does, from counts of shared words.

    Args:
        think_ms: how long a thought takes, per word.
    """

    def __init__(self, think_ms: float = 20.0) -> None:
        self.think_ms = think_ms
        self.items = _items()
        self.searched: list[SearchRequest] = []
        self.judged: list[Judgement] = []
        self.fault: str | None = None
        """``slow``, ``cut``, ``busy`` (429), ``boom`` or none; of searches."""
        self.faults = 1_000_000
        """How many searches have the fault."""
        self.version, self.asked = "v4", 0
        self.tested: dict[str, Any] | None = None

    # -- users, items, the tree ---------------------------------------------------------------------------------------
    def _persona(self, number: int) -> Persona:
        user_id, profile, last, brand = USERS[number]
        mine = [item for item in self.items.values() if item["brand"] == BRANDS[brand]]
        events = []
        for n in range(6 + number % 3):
            item = mine[(5 * n + number) % len(mine)]
            other = list(self.items.values())[(17 * n + 5 * number) % 108]
            events.append(
                PastEvent(
                    query=" ".join(item["category"][-1:]) or last,
                    clicked=((item["item_id"], item["title"]),),
                    skipped=((other["item_id"], other["title"]),) if n % 2 else (),
                    time=f"2025-{1 + n:02d}-{3 + 2 * n:02d}T20:11:00+00:00",
                    place=next(reversed(profile.values())),
                )
            )
        if number == 7:
            events.append(
                PastEvent(query=HOSTILE[0], clicked=(("x1<b>'\"", HOSTILE[1]),), time="<b>", place=HOSTILE[3])
            )
        return Persona(
            user_id=user_id, profile=profile, events=len(events), history=tuple(events), place=events[-1].place,
            last_query=last,
        )  # fmt: skip

    async def users(self, prefix: str = "", limit: int = 20) -> list[Persona]:
        """Users whose id begins with ``prefix``."""
        made = [self._persona(n) for n, user in enumerate(USERS) if user[0].startswith(prefix)]
        return [replace(user, history=()) for user in made[:limit]]

    async def persona(self, user_id: str) -> Persona | None:
        """A user with the history."""
        return next((self._persona(n) for n, user in enumerate(USERS) if user[0] == user_id), None)

    async def item(self, item_id: str) -> dict[str, Any] | None:
        """All of an item."""
        return self.items.get(item_id)

    async def suggest(self, prefix: str, user_id: str | None, limit: int) -> list[str]:
        """Queries that begin so."""
        await asyncio.sleep(0.05 if len(prefix) == 1 else 0.0)  # the first letter is the slowest
        pool = [t[1] for t in THINGS] + [f"{t[1]} {level}" for t in THINGS for level in LEVELS] + list(CHINESE.values())
        return [text for text in pool if text.startswith(prefix.strip().lower())][:limit]

    async def sids(self, prefix: Sequence[str]) -> SidNode | None:
        """A node of the tree."""
        below = [item for item in self.items.values() if item["sid"][: len(prefix)] == list(prefix)]
        if not below:
            return None
        counts = Counter(item["sid"][len(prefix)] for item in below if len(prefix) < 4)
        return SidNode(
            prefix=tuple(prefix),
            items=len(below),
            children=tuple(sorted(counts.items(), key=lambda child: (-child[1], child[0]))),
            examples=tuple((item["item_id"], item["title"]) for item in below[:8]),
        )

    async def facets(self) -> dict[str, Any]:
        """What can be filtered by."""
        categories = dict.fromkeys(name for item in self.items.values() for name in item["category"])
        return {"brands": [*BRANDS, "Bad1<i>"], "categories": list(categories), "price": [9.5, 926.05]}

    async def systems(self) -> Mapping[str, str]:
        """Those that can stand beside."""
        return {
            "crs-direct": "the control that never learned to think",
            "bm25": "words, weighed",
            "tfidf": "words as vectors",
            "dense": "vectors of the texts",
            "popularity": "what sells",
        }

    # -- searches -----------------------------------------------------------------------------------------------------
    async def _ranked(self, request: SearchRequest, history_weight: float) -> list[Found]:
        persona = await self.persona(request.user_id) if request.user_id else None
        events: list[tuple[str, list[str]]] = []
        if request.history is not None:
            events = [(event.query, event.clicked) for event in request.history]
        elif persona is not None:
            events = [(event.query, [item for item, _ in event.clicked]) for event in persona.history]
        wanted = set(_words(request.query))
        found = []
        for item in self.items.values():
            if not self._allowed(item, request):
                continue
            words = set(_words(item["title"]))
            shared = tuple(sorted(wanted & words))
            if not shared:
                continue
            score = 3.0 * len(shared) / max(1, len(wanted))
            why = [Matched(where="query", words=shared)]
            for place, (_, clicked) in enumerate(events):
                for item_id in clicked:
                    past = self.items.get(item_id)
                    both = tuple(sorted(set(_words(past["title"])) & words - wanted)) if past else ()
                    if both:
                        score += history_weight * len(both) * (1 + place / 10)
                        why.append(Matched(where="clicked", words=both, event=place, item_id=item_id))
            why = [why[0], *sorted(why[1:], key=lambda m: -len(m.words))[:2]]
            found.append((score, item, why))
        found.sort(key=lambda entry: (-entry[0], entry[1]["item_id"]))
        total = math.log(sum(math.exp(score) for score, _, _ in found)) if found else 0.0
        return [
            Found(
                id=item["item_id"], title=item["title"], rank=rank, score=round(score - total, 4), brand=item["brand"],
                sid=tuple(item["sid"]), price=item["price"], category=tuple(item["category"]),
                why={"matched_context": why, "rung": "L0" if history_weight > 0.2 else "L3"},
            )
            for rank, (score, item, why) in enumerate(found[: request.top_k], 1)
        ]  # fmt: skip

    def _allowed(self, item: dict[str, Any], request: SearchRequest) -> bool:
        filters = request.filters
        return (
            (not filters.brands or item["brand"] in filters.brands)
            and (not filters.categories or bool(set(filters.categories) & set(item["category"])))
            and (filters.price_min is None or (item["price"] is not None and item["price"] >= filters.price_min))
            and (filters.price_max is None or (item["price"] is not None and item["price"] <= filters.price_max))
        )

    def _thought(self, items: Sequence[Found], request: SearchRequest) -> str:
        best = items[0] if items else None
        if best is None:
            return f"Wants {request.query}. Nothing of the shop fits."
        return (
            f"Wants {request.query}. Often chose {best.brand}, so {best.brand}. "
            f"Chose everyday over luxury, so everyday. Item: {best.title}"
        )

    def _answer(self, request: SearchRequest, items: list[Found], thought: str | None) -> Answer:
        self.asked += 1
        filtered = request.filters != type(request.filters)()
        return Answer(
            request_id=f"r{self.asked:06d}",
            query=request.query.strip(),
            items=tuple(items),
            served_by=Rung.FRESH if thought else Rung.DIRECT,
            why_rung="a thought fits the deadline" if thought else "mode fast",
            reasoning=Reasoning(text=thought, tokens=len(thought.split()), cut=False, cached=False)
            if thought
            else None,
            degraded=("filters",) if filtered and not items else (),
            truncated={"history_dropped": 2} if request.user_id == "u00004" else {},
            timings_ms={"queue": 0.6, "prompt": 13.9, "beam": 51.2, "hydrate": 0.8, "total": 67.0}
            | ({"think": 211.4, "total": 278.4} if thought else {}),
            versions={"model": "sft2", "catalogue": self.version, "sid_book": "b1"},
            user_id=request.user_id,
        )

    def _faulty(self) -> str | None:
        if self.fault is None or self.faults <= 0:
            return None
        self.faults -= 1
        return self.fault

    async def search(self, request: SearchRequest) -> Answer:
        """One answer."""
        self.searched.append(request)
        match self._faulty():
            case "busy":
                raise Problem("too_many_requests", "the queue is full", hint="try again", retry_after=2)
            case "boom":
                raise RuntimeError("secret detail")
            case "slow":
                await asyncio.sleep(3.0)
        if not request.query.strip():
            raise Problem("empty_query", "there is nothing to search for", hint="type a word", field="query")
        thinks = request.mode != "fast"
        items = await self._ranked(request, 0.35 if thinks else 0.1)
        answer = self._answer(request, items, self._thought(items, request) if thinks else None)
        return replace(answer, compared=await self._beside(request))

    async def _beside(self, request: SearchRequest) -> dict[str, tuple[Found, ...]]:
        beside = {}
        for n, name in enumerate(request.systems):
            if name not in await self.systems():
                raise Problem("unknown_system", "no such system", hint="see /v1/systems", field="systems")
            items = await self._ranked(request, 0.06 * n)
            items = items[n + 1 :] + items[: n + 1]
            beside[name] = tuple(replace(item, rank=rank, score=9.0 - rank) for rank, item in enumerate(items, 1))
        return beside

    async def stream(self, request: SearchRequest) -> AsyncIterator[StreamEvent]:
        """First results, the thought, the final answer."""
        self.searched.append(request)
        fault = self._faulty()
        if fault == "busy":
            raise Problem("too_many_requests", "the queue is full", hint="try again", retry_after=2)
        if fault == "boom":
            raise RuntimeError("secret detail")
        if fault == "slow":
            await asyncio.sleep(3.0)
        first = self._answer(request, await self._ranked(request, 0.1), None)
        beside = await self._beside(request)
        yield StreamEvent(name="first", data=replace(first, compared=beside))
        if request.mode == "fast":
            yield StreamEvent(name="final", data=replace(first, compared=beside))
            return
        items = await self._ranked(request, 0.35)
        thought = self._thought(items, request)
        for place, word in enumerate(thought.split()):
            await asyncio.sleep(self.think_ms / 1000)
            if fault == "cut" and place == 4:
                return
            yield StreamEvent(name="thought", data={"text": f" {word}" if place else word})
        yield StreamEvent(name="final", data=replace(self._answer(request, items, thought), compared=beside))

    # -- the admin page -----------------------------------------------------------------------------------------------
    async def admin(self) -> dict[str, Any]:
        """What the admin page shows."""
        self.asked += 1
        steps = range(0, 400, 10)
        return {
            "health": {
                "ready": True,
                "state": "ready",
                "uptime_s": 8_123.0 + self.asked,
                "checks": [
                    {"name": "model", "ok": True, "note": "sft2, 1.9 M parameters, CPU"},
                    {"name": "catalogue", "ok": True, "note": f"{self.version}, {len(self.items)} items"},
                    {"name": "warm-up beam", "ok": True, "note": "51 ms"},
                ],
            },
            "about": {"run": "runs/demo", "model": "sft2", "made": "2025-11-20", "version": "0.1.0"},
            "catalogue": {
                "current": self.version,
                "previous": "v3" if self.version == "v4" else None,
                "versions": [
                    {
                        "name": "v4",
                        "made": "2025-11-20T14:37:00+00:00",
                        "items": 115,
                        "added": 7,
                        "removed": 0,
                        "drift": 1.08,
                        "canary": 0.995,
                        "state": "current" if self.version == "v4" else "kept",
                    },
                    {
                        "name": "v3",
                        "made": "2025-11-19T09:00:00+00:00",
                        "items": 108,
                        "added": 0,
                        "removed": 4,
                        "drift": 1.0,
                        "canary": 1.0,
                        "state": "kept" if self.version == "v4" else "current",
                    },
                    {
                        "name": "v2",
                        "made": "2025-11-18T09:00:00+00:00",
                        "items": 112,
                        "added": 1,
                        "removed": 0,
                        "drift": None,
                        "canary": 0.41,
                        "state": "refused",
                    },
                ],
            },
            "sids": {
                "layers": 4,
                "items": len(self.items),
                "prefixes": 84,
                "collisions": 12,
                "full": 1,
                "spare": 160,
                "buckets": [
                    {
                        "token": f"<a_{n}>",
                        "items": 18 + (7 if n == 0 else 0),
                        "prefixes": 14,
                        "collisions": n % 3,
                        "full": int(n == 2),
                    }
                    for n in range(6)
                ],
                "dedup": [96, 14, 5],
            },
            "rungs": [
                {"rung": rung, "hr10": hr, "ndcg10": ndcg, "p50_ms": p50, "p99_ms": p99, "answers": n}
                for rung, hr, ndcg, p50, p99, n in (
                    ("L0", 0.667, 0.495, 212.0, 388.0, 812),
                    ("L1", 0.667, 0.495, 61.0, 104.0, 455),
                    ("L2", 0.641, 0.462, 158.0, 240.0, 61),
                    ("L3", 0.603, 0.387, 52.0, 97.0, 1204),
                    ("L4", 0.214, 0.101, 9.0, 21.0, 14),
                    ("L5", 0.083, 0.036, 3.1, 8.4, 3),
                    ("L6", None, None, None, None, 0),
                )
            ],
            "metrics": {
                "requests": 2_540 + self.asked,
                "per_second": 11.4 + self.asked % 5,
                "p50_ms": 58.2,
                "p95_ms": 301.0,
                "p99_ms": 388.0 + self.asked % 7,
                "queue": self.asked % 4,
                "rejected": 17,
                "thought_cache": 0.36,
                "prefix_cache": 0.71,
                "invalid_sids": 0,
                "parts": {
                    part: {"p50_ms": p50, "p99_ms": p99}
                    for part, p50, p99 in (
                        ("queue", 0.4, 22.0),
                        ("prompt", 12.0, 31.0),
                        ("think", 150.0, 290.0),
                        ("beam", 44.0, 83.0),
                        ("hydrate", 0.6, 2.1),
                    )
                },
                "problems": {"too_many_requests": 17, "invalid_request": 4},
            },
            "slow": [
                {
                    "query": "9f2c41d0",
                    "is_hashed": True,
                    "times": 3,
                    "empty": 0,
                    "ms": 402.0,
                    "rung": "L0",
                    "items": 10,
                },
                {"query": "77ab0e12", "is_hashed": True, "times": 1, "empty": 1, "ms": 61.0, "rung": "L3", "items": 0},
            ],
            "self_test": self.tested,
            "curves": [
                {
                    "title": "Loss",
                    "x": "step",
                    "y": "nats per token",
                    "lines": [
                        {"name": "align", "points": [[s, 6.7 * math.exp(-s / 120) + 1.2] for s in steps]},
                        {
                            "name": "sft2 <b>",
                            "points": [[s, 2.2 * math.exp(-s / 90) + 0.6 + 0.05 * math.sin(s)] for s in steps],
                        },
                    ],
                },
                {
                    "title": "Mean reward",
                    "x": "step",
                    "y": "reward",
                    "lines": [
                        {"name": "rl0", "points": [[s, 0.4 - 0.25 * math.exp(-s / 100)] for s in steps]},
                        {"name": "rl1", "points": [[s, 0.55 - 0.15 * math.exp(-s / 100)] for s in steps]},
                    ],
                },
                {"title": "Nothing yet", "x": "step", "y": "HR@10", "lines": []},
            ],
        }

    async def runs(self) -> dict[str, Any]:
        """Runs beside this one."""
        row = {"stages": ["align", "distill", "rl0", "sft0"], "is_finished": True, "hr10": 0.667, "ndcg10": 0.495}
        rows = [{"name": "demo", **row}, {"name": "no <b>noise", **row, "is_finished": False, "hr10": None}]
        return {"served": "demo", "runs": rows}

    async def beside(self, name: str) -> dict[str, Any] | None:
        """One of them."""
        row = next((row for row in (await self.runs())["runs"] if row["name"] == name), None)
        if row is None:
            return None
        settings = [
            {"name": "simulate.analyst_noise", "served": "0.25", "other": "0.0"},
            {"name": "encoder.name", "served": '"lsa"', "other": f'"{HOSTILE[0]}"'},
        ]
        command = f"crsearch run 'runs/{name}/settings.toml' --out 'runs/{name}' --resume"
        drawn = [] if name == "demo" else (await self.admin())["curves"][:2]
        return {**row, "curves": drawn, "settings": [] if name == "demo" else settings, "command": command}


def fake_app(service: FakeService, config: ServeConfig | None = None) -> FastAPI:
    """The pages, and as much of the JSON API as they use."""
    app = FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    config = config or ServeConfig()
    app.router.routes += pages_router(service, config).routes

    def parsed(body: bytes) -> SearchRequest:
        try:
            return SearchRequest.model_validate_json(body)
        except ValidationError as error:
            raise Problem("invalid_request", "the request is not valid", hint=str(error)[:200]) from None

    @app.post("/v1/search")
    @needs("search")
    async def search(request: Request) -> JSONResponse:
        return JSONResponse(asdict(await service.search(parsed(await request.body()))))

    @app.post("/v1/search/stream")
    @needs("search")
    async def stream(request: Request) -> StreamingResponse:
        events = service.stream(parsed(await request.body()))
        first = await anext(events)  # a refusal has a status of its own

        async def lines() -> AsyncIterator[str]:
            yield said(first)
            async for event in events:
                yield said(event)

        def said(event: StreamEvent) -> str:
            data = event.data if isinstance(event.data, dict) else asdict(event.data)
            return f"event: {event.name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"

        return StreamingResponse(lines(), media_type="text/event-stream")

    @app.get("/v1/users")
    @needs("search")
    async def users(prefix: str = "") -> dict[str, Any]:
        return {"users": [asdict(user) for user in await service.users(prefix)]}

    @app.get("/v1/users/{user_id}")
    @needs("search")
    async def persona(user_id: str) -> dict[str, Any]:
        found = await service.persona(user_id)
        if found is None:
            raise Problem("not_found", "no such user")
        return asdict(found)

    @app.get("/v1/suggest")
    @needs("search")
    async def suggest(q: str = "", user_id: str | None = None) -> dict[str, Any]:
        return {"suggestions": await service.suggest(q, user_id, 8)}

    @app.get("/v1/sids")
    @app.get("/v1/sids/{prefix}")
    @needs("search")
    async def sids(prefix: str = "") -> dict[str, Any]:
        node = await service.sids([f"<{token}>" for token in prefix.split(".") if token])
        if node is None:
            raise Problem("not_found", "no such prefix")
        return asdict(node)

    @app.get("/v1/items/{item_id}")
    @needs("search")
    async def item(item_id: str) -> dict[str, Any]:
        found = await service.item(item_id)
        if found is None:
            raise Problem("not_found", "no such item")
        return found

    @app.post("/v1/feedback")
    @needs("search")
    async def feedback(request: Request) -> dict[str, Any]:
        service.judged.append(Judgement.model_validate_json(await request.body()))
        return {"stored": 1}

    @app.get("/v1/admin/status")
    @needs("admin")
    async def status() -> dict[str, Any]:
        return await service.admin()

    @app.post("/v1/admin/catalogue/rollback")
    @needs("admin")
    async def rollback() -> dict[str, Any]:
        service.version = "v3"
        return {"catalogue": "v3"}

    @app.post("/v1/admin/self-test")
    @needs("admin")
    async def self_test() -> dict[str, Any]:
        found = {"id": "A7-<b>", "sent": HOSTILE[0], "expected": "422", "got": "status 200"}
        service.tested = {
            "when": "2025-11-20T14:37:00+00:00", "cases": 1_020, "of": 1_020, "seconds": 12.3, "wrong": 1,
            "findings": [found],
        }  # fmt: skip
        return service.tested

    harden(app, config, watchers=())
    return app


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(fake_app(FakeService()), port=int(sys.argv[1]) if len(sys.argv) > 1 else 8123, log_level="warning")
