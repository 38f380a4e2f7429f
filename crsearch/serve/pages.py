"""The search page and the admin page: rendered here, made livelier by one script, whole without it.

Everything shown is foreign text: templates escape it, ``shown`` takes out what acts instead of being seen. The pages
ask nothing of other hosts, hold no inline script or style, and need no cookie: what a user chose is in the address
(``state.State``), an API key stays in the tab.

With keys set, a page without a valid key answers 401 with a form that asks for it and holds no data; the script then
asks for the same address with the key. Who does not ask for ``text/html`` is refused in the one shape of ``problems``.

Source: details: this project.
"""

import asyncio
import gzip
import hashlib
import json
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any, Literal, Protocol, runtime_checkable

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from crsearch.report.render import shown
from crsearch.serve import charts
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import Answer, Found, Persona, Rung, SearchRequest, SidNode
from crsearch.serve.keys import Keys, needs
from crsearch.serve.problems import Problem
from crsearch.serve.security import log_broken
from crsearch.serve.seen import note
from crsearch.serve.state import MODES, MOST_BESIDE, SIZES, State, language
from crsearch.serve.words import LANGUAGES, WORDS

STATIC: Mapping[str, str] = {
    "app.js": "text/javascript; charset=utf-8",
    "style.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
}
"""Files below ``/static/`` and their types; there are no others."""

PERSONAS = 6
"""Users offered on the page."""
LONGEST_TITLE = 512
"""Characters of a title that are shown."""
MOST_FACETS = 200
"""Brands and categories that can be ticked; others can stand in the address."""
MOST_BUCKETS = 12
"""Codes of the first layer that the admin page lists at once; the others unfold."""
MOST_CHILDREN = 24
"""Codes of a layer of the tree that are shown at once."""
MOST_REASONS, MOST_WORDS = 4, 8
"""Reasons of a card, words of a reason."""
PARTS = ("queue", "prompt", "think", "beam", "hydrate")
"""Parts of an answer's time, in order."""
LEXICAL = ("bm25", "tfidf")
"""Systems that rank by words alone, the preferred first."""


@runtime_checkable
class PageService(Protocol):
    """What the pages ask of the service."""

    async def search(self, request: SearchRequest) -> Answer:
        """One answer; raises ``Problem`` where there is none."""
        ...

    async def users(self, prefix: str = "", limit: int = 20) -> Sequence[Persona]:
        """Users whose id begins with ``prefix``, without their history."""
        ...

    async def persona(self, user_id: str) -> Persona | None:
        """A user with the history; none = unknown."""
        ...

    async def item(self, item_id: str) -> Mapping[str, Any] | None:
        """An item; at least ``title``."""
        ...

    async def suggest(self, prefix: str, user_id: str | None, limit: int) -> Sequence[str]:
        """Queries that begin with ``prefix``, the likeliest first."""
        ...

    async def sids(self, prefix: Sequence[str]) -> SidNode | None:
        """A node of the tree, tokens as in ``Found.sid`` (``<a_15>``); () = the root, none = there is no such node."""
        ...

    async def facets(self) -> Mapping[str, Any]:
        """``brands`` and ``categories``: lists of names, the most frequent first; ``price``: [least, most]."""
        ...

    async def systems(self) -> Mapping[str, str]:
        """Systems that can stand beside the answer -> what they are."""
        ...

    async def admin(self) -> Mapping[str, Any]:
        """What the admin page shows: ``answers.Status``; what is not known is left out or None, and shown as "–"."""
        ...

    async def runs(self) -> Mapping[str, Any]:
        """Runs beside the served one: ``answers.Neighbours``."""
        ...

    async def beside(self, name: str) -> Mapping[str, Any] | None:
        """One of them: ``answers.Neighbour``; none = there is no such run."""
        ...


# -- the routes -------------------------------------------------------------------------------------------------------
def pages_router(service: PageService, config: ServeConfig) -> APIRouter:
    """``/``, ``/admin`` and ``/static/``; open, since a page without the key of its scope holds no data.

    Args:
        service: answers.
        config: settings of the server.

    Raises:
        ConfigError: a key is unusable.
    """
    router = APIRouter(include_in_schema=False)
    keys = Keys.from_environment(config.keys, os.environ)

    def may(request: Request, need: Literal["search", "admin"]) -> bool:
        return need in keys.scopes(request.headers.getlist("authorization"))

    @router.api_route("/", methods=["GET", "HEAD"])
    @needs("page")
    async def search_page(request: Request) -> Response:
        view = View.of(request, config)
        if not may(request, "search"):
            return _locked(view)
        values = await search_view(view, service)
        if (answer := values["answer"]) is not None:
            note(request, rung=answer.served_by.value, user_id=answer.user_id, query=answer.query)
        return _page(view, "search.html.jinja", **values)

    @router.api_route("/admin", methods=["GET", "HEAD"])
    @needs("page")
    async def admin_page(request: Request) -> Response:
        view = View.of(request, config)
        if not may(request, "admin"):
            return _locked(view)
        name = request.query_params.get("run")
        known, runs, run = await asyncio.gather(
            service.admin(), service.runs(), service.beside(name) if name else _nothing()
        )
        return _page(view, "admin.html.jinja", **admin_view(known), **runs_view(runs, name, run))

    @router.api_route("/static/{name}", methods=["GET", "HEAD"])
    @needs("page")
    async def static(request: Request, name: str) -> Response:
        if name not in STATIC:
            if not may(request, "search"):
                raise _no_key()
            raise Problem("not_found", "there is no such file")
        packed = "gzip" in request.headers.get("accept-encoding", "")
        lasting = request.query_params.get("v") == _version(name)
        return Response(
            _file(name, packed),
            media_type=STATIC[name],
            headers={
                "Vary": "Accept-Encoding",
                "Cache-Control": "public, max-age=31536000, immutable" if lasting else "no-cache",
                **({"Content-Encoding": "gzip"} if packed else {}),
            },
        )

    return router


@dataclass(slots=True)
class View:
    """A page that is being made."""

    state: State
    lang: str
    config: ServeConfig
    packed: bool
    """The browser takes gzip."""
    wants_html: bool = True
    """Refusals may be pages."""
    request_id: str = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, request: Request, config: ServeConfig) -> "View":
        """The page that a request asks for."""
        state = State.read(request.query_params.multi_items())
        lang = language(state.lang, request.headers.get("accept-language", ""), LANGUAGES)
        packed = "gzip" in request.headers.get("accept-encoding", "")
        wants_html = "text/html" in request.headers.get("accept", "")
        return cls(state, lang, config, packed, wants_html, getattr(request.state, "request_id", ""))

    @property
    def words(self) -> Mapping[str, str]:
        """The words of the page's language."""
        return WORDS[self.lang]


def _locked(view: View) -> Response:
    if not view.wants_html:
        raise _no_key()
    view.status = 401
    view.headers["WWW-Authenticate"] = "Bearer"
    return _page(view, "locked.html.jinja")


def _no_key() -> Problem:
    return Problem("unauthorized", "a key is needed", hint="send it as Authorization: Bearer KEY; not in the URL")


def _page(view: View, template: str, **values: Any) -> Response:
    other = next(lang for lang in LANGUAGES if lang != view.lang)
    text = (
        _environment()
        .get_template(template)
        .render(
            t=view.words,
            tag=LANGUAGES[view.lang],
            lang=view.lang,
            other=other,
            other_tag=LANGUAGES[other],
            state=view.state,
            static={name: f"/static/{name}?v={_version(name)}" for name in STATIC},
            script_words=json.dumps(view.words, ensure_ascii=False),
            deadline_ms=view.config.deadline_ms,
            **values,
        )
    )
    body = text.encode("utf-8", "replace")
    headers = {"Vary": "Accept, Accept-Encoding, Accept-Language", "Cache-Control": "no-store", **view.headers}
    if view.packed:
        body, headers["Content-Encoding"] = gzip.compress(body, 6, mtime=0), "gzip"
    return Response(body, view.status, headers, "text/html; charset=utf-8")


@cache
def _environment() -> Any:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("crsearch.serve"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        shown=shown, marked=marked, price=price, day=day, number=number, code=code, fill=fill, seconds=seconds
    )
    return made


@cache
def _file(name: str, packed: bool) -> bytes:
    body = resources.files("crsearch.serve").joinpath("static", name).read_bytes()
    return gzip.compress(body, 9, mtime=0) if packed else body


@cache
def _version(name: str) -> str:
    return hashlib.sha256(_file(name, False)).hexdigest()[:12]


# -- the search page --------------------------------------------------------------------------------------------------
async def search_view(view: View, service: PageService) -> dict[str, Any]:
    """Everything that the search page shows for a state."""
    state = view.state
    users, persona, facets, systems = await asyncio.gather(
        service.users("", PERSONAS),
        service.persona(state.user) if state.user else _nothing(),
        service.facets(),
        service.systems(),
    )
    known = replace(state, user=state.user if persona else "")
    answer, refusal = await _searched(view, service, known, persona)
    added = [(query, item_id, await _title(service, item_id)) for query, item_id in state.added]
    events = {item_id: place for place, event in enumerate(persona.history if persona else ())
              for item_id, _ in (*event.clicked, *event.skipped)}  # fmt: skip
    return {
        "users": with_chosen(users, persona),
        "persona": persona,
        "persona_json": "" if persona is None else _json(persona),
        "unknown": bool(state.user) and persona is None,
        "added": added,
        "facets": {
            "brands": _with(facets["brands"], state.brands),
            "categories": _with(facets["categories"], state.categories),
            "price": facets["price"],
        },
        "systems": {name: systems[name] for name in (*state.systems, *systems) if name in systems},
        "lexical": next((name for name in LEXICAL if name in systems), ""),
        "most_beside": MOST_BESIDE,
        "modes": MODES,
        "sizes": sorted({*SIZES, state.k}),
        "answer": answer,
        "answer_json": "" if answer is None else _json(answer),
        "refusal": refusal,
        "cards": [] if answer is None else [card(found, persona, events, added) for found in answer.items],
        "columns": [] if answer is None else columns(answer),
        "bar": [] if answer is None else bar(answer.timings_ms),
        "instead": [] if answer is None or answer.items else await _instead(service, answer.query, persona),
        "tree": None if state.sid is None else await tree(service, state.sid),
        "picks": await _picks(service, state),
    }


async def _nothing() -> None:
    return None


async def _searched(
    view: View, service: PageService, state: State, persona: Persona | None
) -> tuple[Answer | None, dict[str, str] | None]:
    """The answer, or why there is none in the words of the page."""
    if not state.q.strip():
        return None, None
    try:
        return await service.search(state.request(persona)), None
    except ValidationError:
        if not view.wants_html:
            raise Problem("invalid_request", "a value is longer than allowed", hint="see /openapi.json") from None
        view.status = 422
        return None, {"text": view.words["zero_words"], "more": "a value of the address is longer than allowed"}
    except Problem as problem:
        if not view.wants_html:
            raise
        view.status = problem.status
        if problem.retry_after is not None:
            view.headers["Retry-After"] = str(problem.retry_after)
        words = {"too_many_requests": "fault_busy", "not_ready": "fault_down", "internal": "fault_internal"}
        said = view.words[words[problem.code]] if problem.code in words else problem.message
        if problem.retry_after is None:
            return None, {"text": said, "more": problem.hint}
        return None, {"text": said, "more": fill(view.words["wait_s"], s=problem.retry_after)}  # true at any time
    except Exception as error:
        if not view.wants_html:
            raise
        log_broken(view.request_id, error)
        view.status = 500
        return None, {"text": view.words["fault_internal"], "more": ""}


async def _title(service: PageService, item_id: str) -> str:
    item = await service.item(item_id)
    return item_id if item is None else str(item.get("title", item_id))


async def _instead(service: PageService, query: str, persona: Persona | None) -> list[str]:
    """Queries near one that found nothing: such as begin like it, from the longest beginning that any has."""
    user_id = persona.user_id if persona else None
    for length in dict.fromkeys((len(query), len(query) * 2 // 3, len(query) // 3, 1)):
        if length and (found := [text for text in await service.suggest(query[:length], user_id, 5) if text != query]):
            return found
    return []


async def _picks(service: PageService, state: State) -> Sequence[Found]:
    """Items that may be added to the history."""
    if not state.find.strip():
        return ()
    try:
        wanted = State(q=state.find, mode="fast", k=5).request(None)
        return (await service.search(wanted)).items
    except (Problem, ValidationError):
        return ()


def with_chosen(users: Sequence[Persona], chosen: Persona | None) -> list[Persona]:
    """The users on offer, and the chosen one if it is another."""
    if chosen is None or any(user.user_id == chosen.user_id for user in users):
        return list(users)
    return [*users, chosen]


def _with(names: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """Names on offer, the chosen first among those that were cut off."""
    offered = list(names[:MOST_FACETS])
    return [*(name for name in chosen if name not in offered), *offered]


def _json(value: Any) -> str:
    """A dataclass as JSON for the script; lone halves of characters are replaced."""
    text = json.dumps(asdict(value), ensure_ascii=False, default=str)
    return text.encode("utf-8", "replace").decode("utf-8")


# -- parts of an answer -----------------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Reason:
    """Why an item may have been found."""

    where: str
    words: tuple[str, ...]
    query: str = ""
    """Of the earlier search."""
    anchor: str = ""
    """Of that search in the list of the history."""


@dataclass(frozen=True, slots=True)
class Card:
    """An item of the answer with its reasons."""

    found: Found
    reasons: tuple[Reason, ...]
    asked: tuple[str, ...]
    """Words of the query, to mark in the title."""
    known: tuple[str, ...]
    """Words of the rest of the context."""
    rung: str


def card(
    found: Found, persona: Persona | None, events: Mapping[str, int], added: Sequence[tuple[str, str, str]]
) -> Card:
    """An item as the page shows it.

    Args:
        found: the item.
        persona: whose history it is.
        events: item -> newest event of the history that has it.
        added: (query, item, title) of events that the user added.
    """
    reasons = []
    for match in list(found.why.get("matched_context", ()))[:MOST_REASONS]:
        query = anchor = ""
        mine = next((n for n, (_, item_id, _) in enumerate(added) if item_id == match.item_id), None)
        if mine is not None:
            query, anchor = added[mine][0], f"added-{mine}"
        elif persona is not None and match.item_id is not None and match.item_id in events:
            query, anchor = persona.history[events[match.item_id]].query, f"event-{events[match.item_id]}"
        reasons.append(Reason(match.where, tuple(match.words)[:MOST_WORDS], query, anchor))
    asked = {word for reason in reasons if reason.where == "query" for word in reason.words}
    known = {word for reason in reasons for words in reason.words for word in words.split()} - asked
    return Card(found, tuple(reasons), tuple(sorted(asked)), tuple(sorted(known)), str(found.why.get("rung", "")))


def columns(answer: Answer) -> list[dict[str, Any]]:
    """The lists beside: for each item where the answer has it, and how many both have."""
    ranks = {found.id: found.rank for found in answer.items}
    return [
        {
            "name": name,
            "shared": sum(found.id in ranks for found in listed),
            "of": len(listed),
            "rows": [
                {"found": found, "move": None if found.id not in ranks else ranks[found.id] - found.rank}
                for found in listed
            ],
        }
        for name, listed in answer.compared.items()
    ]


def bar(timings: Mapping[str, float]) -> list[dict[str, Any]]:
    """The parts of an answer's time with their place in a bar that is 100 wide.

    >>> [(p["name"], p["x"], p["width"]) for p in bar({"prompt": 30.0, "beam": 60.0, "total": 100.0})]
    [('prompt', 0.0, 30.0), ('beam', 30.0, 60.0), ('other', 90.0, 10.0)]
    """
    known = [(name, float(timings[name])) for name in PARTS if timings.get(name)]
    total = max(float(timings.get("total", 0.0)), sum(ms for _, ms in known))
    if total <= 0:
        return []
    other = total - sum(ms for _, ms in known)
    parts, at = [], 0.0
    for name, ms in [*known, *([("other", other)] if other > total / 200 else [])]:
        parts.append({"name": name, "ms": ms, "x": round(at, 2), "width": round(100 * ms / total, 2)})
        at += 100 * ms / total
    return parts


async def tree(service: PageService, prefix: Sequence[str]) -> dict[str, Any]:
    """The tree from its root to ``prefix``: for each layer the siblings, then the items below."""
    nodes = await asyncio.gather(*(service.sids(prefix[:depth]) for depth in range(len(prefix) + 1)))
    levels = []
    for depth, node in enumerate(nodes):
        if node is None or not node.children:
            break
        chosen = prefix[depth] if depth < len(prefix) else None
        first = [child for child in node.children if child[0] == chosen]
        offered = list(node.children[:MOST_CHILDREN])
        if first and first[0] not in offered:
            offered = [*first, *offered[:-1]]
        most = max(count for _, count in offered)
        levels.append(
            {
                "prefix": tuple(prefix[:depth]),
                "chosen": chosen,
                "children": [(token, count, round(100 * count / most, 1)) for token, count in offered],
                "more": len(node.children) - len(offered),
            }
        )
    return {"prefix": tuple(prefix), "node": nodes[-1], "levels": levels}


FIGURES = ("requests", "per_second", "p50_ms", "p95_ms", "p99_ms", "queue", "rejected", "thought_cache", "prefix_cache",
           "invalid_sids")  # fmt: skip
"""Single numbers of the admin page's ``metrics``."""


# -- the admin page ---------------------------------------------------------------------------------------------------
def admin_view(known: Mapping[str, Any]) -> dict[str, Any]:
    """Everything that the admin page shows; what the service leaves out is None or empty."""
    sids = known.get("sids", {})
    buckets = _rows(sids.get("buckets"), ("token", "items", "prefixes", "collisions", "full"))
    most = max((bucket["items"] or 0 for bucket in buckets), default=0) or 1
    rungs = _rows(known.get("rungs"), ("rung", "hr10", "ndcg10", "p50_ms", "p99_ms", "answers"))
    answers = sum(rung["answers"] or 0 for rung in rungs) or 1
    versions = ("name", "made", "items", "added", "removed", "drift", "canary", "state")
    metrics = {"parts": {}, "problems": {}, **known.get("metrics", {})}
    return {
        "health": {"ready": False, "state": "", "uptime_s": None, **known.get("health", {})}
        | {"checks": _rows(known.get("health", {}).get("checks"), ("name", "ok", "note"))},
        "about": known.get("about", {}),
        "catalogue": {"previous": None, **known.get("catalogue", {})}
        | {"versions": _rows(known.get("catalogue", {}).get("versions"), versions)},
        "sids": dict.fromkeys(("layers", "items", "prefixes", "collisions", "full", "spare"))
        | {"dedup": (), **sids}
        | {"buckets": [{**bucket, "width": round(100 * (bucket["items"] or 0) / most, 1)} for bucket in buckets]},
        "rungs": [{**rung, "share": (rung["answers"] or 0) / answers} for rung in rungs],
        "metrics": dict.fromkeys(FIGURES)
        | metrics
        | {"parts": {name: {"p50_ms": None, "p99_ms": None, **times} for name, times in metrics["parts"].items()}},
        "slow": _rows(known.get("slow"), ("query", "is_hashed", "times", "empty", "ms", "rung", "items")),
        "self_test": known.get("self_test"),
        "curves": [made for drawn in known.get("curves", ()) if (made := charts.chart(drawn)) is not None],
        "plot": charts,
        "most_buckets": MOST_BUCKETS,
        "rung_names": {rung.value for rung in Rung},
    }


def runs_view(runs: Mapping[str, Any], name: str | None, run: Mapping[str, Any] | None) -> dict[str, Any]:
    """The runs beside the served one, and the one of them that is looked at.

    Args:
        runs: all of them.
        name: that was asked for; none = none was.
        run: what is known of it.
    """
    drawn = () if run is None else run["curves"]
    return {
        "runs": runs,
        "run_missing": bool(name) and run is None,
        "run": run,
        "run_curves": [made for curve in drawn if (made := charts.chart(curve)) is not None],
    }


def _rows(rows: Iterable[Mapping[str, Any]] | None, names: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of a table with every name there, None where it was not."""
    return [{**dict.fromkeys(names), **row} for row in rows or ()]


# -- text -------------------------------------------------------------------------------------------------------------
def marked(title: str, asked: Sequence[str], known: Sequence[str] = ()) -> list[tuple[str, str]]:
    """A title in pieces: words of the query (``query``), words of the rest of the context (``context``), the rest ("").

    A word ends where no other Latin letter or digit follows.

    >>> marked("Phone case, phones", ("phone",), ("case",))
    [('Phone', 'query'), (' ', ''), ('case', 'context'), (', phones', '')]
    >>> marked("杭织手机壳", ("手机",))
    [('杭织', ''), ('手机', 'query'), ('壳', '')]
    """
    title = shown(title, LONGEST_TITLE)
    found = "|".join(
        _whole_word(word) for word in sorted({*asked, *known}, key=lambda word: (-len(word), word)) if word
    )
    if not found:
        return [(title, "")]
    of_query = {word.lower() for word in asked}
    pieces = re.split(f"({found})", title, flags=re.IGNORECASE)
    kinds = (
        "",
        *(
            ("query" if piece.lower() in of_query else "context") if n % 2 == 0 else ""
            for n, piece in enumerate(pieces[1:])
        ),
    )
    return [(piece, kind) for piece, kind in zip(pieces, kinds, strict=True) if piece]


def _whole_word(word: str) -> str:
    """A pattern for a word: between other characters than Latin letters and digits where it begins and ends so."""
    before = "(?<![A-Za-z0-9])" if re.match("[A-Za-z0-9]", word) else ""
    after = "(?![A-Za-z0-9])" if re.search("[A-Za-z0-9]$", word) else ""
    return f"{before}{re.escape(word)}{after}"


def price(value: float) -> str:
    """A price with two digits after the point.

    >>> price(1234.5)
    '1,234.50'
    """
    return f"{value:,.2f}"


def day(time: str | None) -> str:
    """The day of an ISO 8601 time; other text as it is."""
    text = shown(time or "", 40)
    return text[:10] if re.match(r"\d{4}-\d\d-\d\d(T|\s|$)", text) else text


def number(value: Any, digits: int | None = None, unit: str = "") -> str:
    """A figure, or a dash where there is none; with ``digits`` after the point, else as short as it is.

    >>> number(None), number(1234), number(0.98765, 2), number(0.36, 0, "%"), number(58.21, 0, " ms")
    ('–', '1,234', '0.99', '36%', '58 ms')
    """
    if value is None:
        return "–"
    if unit == "%":
        value = 100 * value
    return f"{value:,.{digits}f}{unit}" if digits is not None else f"{value:,}{unit}"


def code(token: str) -> str:
    """A token of a semantic ID without its brackets.

    >>> code("<a_15>")
    'a_15'
    """
    return shown(token.strip("<>"), 40)


def seconds(ms: float) -> str:
    """Milliseconds as seconds, short ones with a digit more.

    >>> seconds(39.0), seconds(1240.0)
    ('0.04', '1.2')
    """
    return f"{ms / 1000:.{2 if ms < 95 else 1}f}"


def fill(text: str, **values: Any) -> str:
    """A text of ``words`` with its names filled in.

    >>> fill("{n} results", n=3)
    '3 results'
    """
    for name, value in values.items():
        text = text.replace("{" + name + "}", str(value))
    return text
