"""One search without a server: the same service, the same envelope."""

import asyncio
from pathlib import Path

from crsearch.errors import DataError, RunError
from crsearch.serve.config import ServeConfig
from crsearch.serve.contract import Answer, SearchRequest
from crsearch.serve.engine import Engine
from crsearch.serve.parse import read_model
from crsearch.serve.problems import Problem
from crsearch.serve.service import SearchService

PATIENCE_MS = 10_000
"""Deadline of a search in the terminal."""


def request_of(**typed: object) -> SearchRequest:
    """A search as it was typed in a terminal, held to the rules of one over HTTP.

    Raises:
        DataError: a value that no search may have, by the name of its field.

    >>> request_of(query="case", user_id="")
    Traceback (most recent call last):
    crsearch.errors.DataError: user_id: String should have at least 1 character
    """
    try:
        return read_model(SearchRequest, typed)
    except Problem as e:
        raise DataError(f"{e.field}: {e.hint}") from e


def search_once(run: Path, request: SearchRequest) -> Answer:
    """Answer one search with the model that is ``crs``.

    Raises:
        RunError: no finished run, or its model does not answer.
        DataError: an empty query, or no such user.
    """
    return asyncio.run(_search(run, request.model_copy(update={"deadline_ms": PATIENCE_MS})))


async def _search(run: Path, request: SearchRequest) -> Answer:
    service = SearchService(run, ServeConfig(), writes=False)
    assert isinstance(service.engine, Engine)
    service.engine.start()  # for one search nothing is warmed up
    try:
        answer = await service.search(request)
    except Problem as e:
        raise DataError(f"{e.message}: {e.hint}") from e
    finally:
        await service.stop()
    if "model_error" in answer.degraded:
        raise RunError(f"{run}: {answer.why_rung}. The files of the model are as they were written: train it again")
    return answer
