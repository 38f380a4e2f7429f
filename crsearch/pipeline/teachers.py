"""The teacher that the settings name, and the traces of it that may be learned from."""

import json
import os
from collections.abc import Mapping, Sequence

from crsearch.pipeline.workspace import Workspace
from crsearch.records.types import Example
from crsearch.train.teacher import FileTeacher, FilterRules, OpenAITeacher, Teacher, TemplateTeacher, Trace, sift


def teacher_of(space: Workspace) -> Teacher:
    """The teacher of the settings.

    Raises:
        ConfigError: the analyst is asked for, but there is no simulated shop.
    """
    config = space.settings.distill
    if config.teacher == "template":
        return TemplateTeacher(space.dataset.catalogue, language=config.language)
    if config.teacher == "analyst":
        return FileTeacher.analyst(space.path("data", "truth.parquet"), config.analyst)
    from crsearch.context.serialiser import Serialiser
    from crsearch.train.endpoint import ChatEndpoint

    serialiser = Serialiser(space.dataset.catalogue, space.sids, space.settings.context)
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
        lambda context: json.dumps(serialiser.fields(context), ensure_ascii=False),
        lambda item_id: serialiser.item(catalogue[catalogue.row(item_id)]).text,
        language=config.language,
        max_words=config.max_words,
    )


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
