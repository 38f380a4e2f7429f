"""Trial searches in a new version of the catalogue, before anybody's search reads it.

That every semantic ID is there once and is found again through the trie is checked when a version is loaded; here the
model is asked: searches of the run's validation users must find live items in it.

Source: details: this project (docs/howto/catalogue.md).
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from crsearch.errors import ModelError, SidError
from crsearch.records.store import Dataset
from crsearch.records.types import Context
from crsearch.runs import write_json
from crsearch.serve.index import Index
from crsearch.serve.jobs import Job, Outcome

QUERIES = 8
"""Trial searches."""
LEAST = 0.99
"""Share of them that must find something."""
PAUSE_SECONDS = 0.1
"""Between two of them: one after the other they would slow every search down while a version is tried."""
WIDTH = 10
SECONDS = 10.0
"""Longest wait for one."""
KEPT = 1_000
"""Newest verdicts on file."""

Submit = Callable[[Job], bool]
"""Gives a job to the engine; False = its queue is full."""


class CanaryError(SidError):
    """A version of the catalogue in which trial searches find nothing."""


class UntriedError(SidError):
    """A version of the catalogue that could not be tried: nothing is known of it."""


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """What trial searches found in a version."""

    share: float
    """Of them that found live items only, and at least one."""
    queries: int
    """That were tried: all, unless one has decided before."""
    ms: float
    model: str
    """Fingerprint of the model that was asked."""

    @property
    def is_good(self) -> bool:
        """The version may be used."""
        return self.share >= LEAST


def trial_contexts(dataset: Dataset, max_events: int) -> list[Context]:
    """Searches to try with: of validation users, evenly over all of them; of others where there are none."""
    found = sorted(s for s, (_, part) in dataset.targets.items() if part == "valid") or sorted(dataset.targets)
    step = max(1, len(found) // QUERIES)
    return [dataset.context(search_id, max_events) for search_id in found[::step][:QUERIES]]


async def judge(index: Index, contexts: Sequence[Context], submit: Submit, model: str) -> Verdict | None:
    """Search in a version that nobody uses yet; the engine goes on with the searches of others in between.

    Args:
        index: of the version.
        contexts: trial searches.
        submit: of the engine.
        model: fingerprint of the model.

    Returns:
        What was found; none = a search was not tried, as the model was lost, hung or too busy: that says nothing of
        the version.
    """
    began = time.monotonic()
    tried = good = 0
    for n, context in enumerate(contexts):
        await asyncio.sleep(PAUSE_SECONDS if n else 0)
        found = await _tried(index, context, submit)
        if found is None:
            return None
        good += found
        tried += 1
        if good < tried - (1 - LEAST) * len(contexts):
            break  # it has failed already
    return Verdict(
        share=good / tried if tried else 1.0, queries=tried, ms=round(1e3 * (time.monotonic() - began), 1), model=model
    )


async def _tried(index: Index, context: Context, submit: Submit) -> bool | None:
    """Whether a search finds live items in a version, and nothing else; none = the model was not asked, or is lost."""
    until = time.monotonic() + SECONDS
    trunk = (await asyncio.to_thread(index.prompts.trunk, context)).ids
    job = Job(index=index, trunk=trunk, mode="fast", width=WIDTH, deadline=until, is_trial=True)
    while not submit(job):
        if time.monotonic() > until:
            return None
        await asyncio.sleep(0.05)
    try:
        outcome: Outcome = await asyncio.wait_for(asyncio.wrap_future(job.future), SECONDS + 1)
    except TimeoutError:
        job.cancel()
        return None
    except ModelError:
        return None
    if outcome.rung is None:
        return False if "model_error" in outcome.degraded else None
    return len(outcome.rows) > 0 and bool(index.alive_N[list(outcome.rows)].all())


# -- on file ----------------------------------------------------------------------------------------------------------
class Verdicts:
    """What was found in each version, for the admin page and for the next start.

    Args:
        file: beside the versions; none = nothing is kept.
    """

    def __init__(self, file: Path | None) -> None:
        self.file = file
        self._found: dict[str, Verdict] = dict(_read(file)) if file is not None else {}

    def get(self, name: str) -> Verdict | None:
        """Of a version; none = it was not tried."""
        return self._found.get(name)

    def put(self, name: str, verdict: Verdict) -> None:
        """Keep a verdict."""
        self._found[name] = verdict
        if self.file is not None:
            newest = sorted(self._found)[-KEPT:]
            write_json(self.file, {n: asdict(self._found[n]) for n in newest})


def _read(file: Path) -> Iterator[tuple[str, Verdict]]:
    """Verdicts on file; one that cannot be read was not passed: the version is tried again."""
    try:
        found: Mapping[str, Mapping[str, float]] = json.loads(file.read_text(encoding="utf-8"))
        names = {f.name for f in fields(Verdict)}
        yield from [(name, Verdict(**v)) for name, v in found.items() if v.keys() == names]  # type: ignore[arg-type]
    except (OSError, ValueError, AttributeError, TypeError):
        return
