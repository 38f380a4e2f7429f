"""The teacher that the settings name, and the traces of it that may be learned from."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

from crsearch.pipeline.workspace import Workspace
from crsearch.records.store import Catalogue
from crsearch.records.types import Context, Example, Item
from crsearch.train.teacher import FileTeacher, FilterRules, OpenAITeacher, Teacher, Trace, sift
from crsearch.train.template import TemplateTeacher


def teacher_of(space: Workspace) -> Teacher:
    """The teacher of the settings.

    Raises:
        ConfigError: the analyst is asked for, but there is no simulated shop.
    """
    config = space.settings.distill
    if config.teacher == "template":
        data = space.dataset
        return TemplateTeacher(data.catalogue, data.training_searches, config.language, config.max_words)
    if config.teacher == "analyst":
        return FileTeacher.analyst(space.path("data", "truth.parquet"), config.analyst)
    from crsearch.train.endpoint import ChatEndpoint

    catalogue = space.dataset.catalogue
    endpoint = ChatEndpoint(
        config.url or "",
        config.model,
        cache=space.path("cache", "teacher"),
        api_key=os.environ.get("CRSEARCH_TEACHER_KEY"),
        concurrency=config.concurrency,
        retries=config.retries,
        timeout=config.timeout,
        allow_private=config.allow_private,
    )
    return OpenAITeacher(
        endpoint,
        lambda context: _as_json(context_in_words(context, catalogue)),
        lambda item_id: _as_json(item_in_words(catalogue[catalogue.row(item_id)])),
        language=config.language,
        max_words=config.max_words,
    )


def context_in_words(context: Context, catalogue: Catalogue) -> dict[str, Any]:
    """A context for a reader who knows no semantic ID: titles instead."""

    def titles(item_ids: Sequence[str]) -> list[str]:
        return [catalogue[catalogue.row(i)].title for i in item_ids if i in catalogue]  # type: ignore[comparison-overlap]

    history = [
        {"time": str(s.time), "place": s.place, "query": s.query, "click": titles(s.chosen), "skip": titles(s.skipped)}
        for s in context.history
    ]
    now = {"time": str(context.time), "place": context.place, "query": context.query}
    return {"profile": dict(context.profile), "history": [_known(e) for e in history], "now": _known(now)}


def item_in_words(item: Item) -> dict[str, Any]:
    """An item's record without its id."""
    return _known(
        {"category": list(item.category), "brand": item.brand, "price": item.price, "title": item.title,
         "attributes": dict(item.attributes)}
    )  # fmt: skip


def _known(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value not in (None, [], {}, "None")}


def _as_json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def sifted_traces(space: Workspace, examples: Sequence[Example]) -> tuple[list[Trace], Mapping[str, int]]:
    """Traces for the examples, without those that leak or are malformed; and how many were refused and why."""
    config, catalogue, sids = space.settings.distill, space.dataset.catalogue, space.sids
    rows = [catalogue.row(e.target) for e in examples]
    inferred = config.teacher == "analyst"  # it may name a title that it inferred; the leaking one does so on purpose
    kept, reasons = sift(
        teacher_of(space).thoughts(examples),
        examples,
        [catalogue[row] for row in rows],
        [sids.sid(row) for row in rows],
        FilterRules(max_words=config.max_words, allow_inferred=inferred),
    )
    return [trace for trace in kept if trace is not None], reasons
