"""The version of the catalogue that searches are answered from, and how another takes its place.

A version is read, tried by the model (``canary``) and then used from one moment on; requests under way keep theirs. One
in which trial searches find nothing is refused, and the pointer on disk goes back. One that could not be tried, as the
model was lost or too busy, is tried again. One that only removes items needs no trial.

Source: details: this project (docs/howto/catalogue.md).
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection
from typing import Any

from crsearch.errors import CrsearchError, DataError, SidError, StorageError
from crsearch.records.types import Context
from crsearch.serve.answers import VersionRow, Versions
from crsearch.serve.canary import CanaryError, UntriedError, Verdict, Verdicts, judge, trial_contexts
from crsearch.serve.catalogue import About, CatalogueBusy, Version
from crsearch.serve.index import Index
from crsearch.serve.jobs import Decoder
from crsearch.serve.loaded import Loaded
from crsearch.serve.metrics import Metrics
from crsearch.serve.problems import Problem
from crsearch.serve.security import log_broken

FULL = "sid_space_full: no deduplication code is left for an item; train again with more sids.spare_duplicates"
REFUSED = "add takes ids that are not in the catalogue, replace and remove those that are; see crsearch items list"
FAILED = "trial searches found nothing in the new version: see the admin page, and look at what was changed"
UNTRIED = "the version is made, but the model was too busy to try it, or away; it is used when it has been tried"
RETRY_SECONDS = 5.0
"""Pause before a version that could not be tried is tried again."""
NO_ROOM = "the disk is full or not writable: mend that, then send it again"
BUSY = "another process changes the catalogue: wait for it, then send it again"
UNUSABLE = "there is no such version, or it cannot be used: see the log and crsearch items versions"


Pool = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Does work that would block the event loop beside it."""


class Present:
    """The version in use.

    Args:
        loaded: the run.
        engine: that tries a version.
        metrics: where swaps are counted.
        forgotten: users who are strangers, and no trial either.
        in_pool: where files are read.
        used: told of an index when it has come into use.
        writes: versions and verdicts are kept below ``RUN/serving``; else nothing is written.

    Raises:
        RunError, SidError, DataError: the version on disk cannot be used.
    """

    def __init__(
        self,
        loaded: Loaded,
        engine: Decoder,
        metrics: Metrics,
        forgotten: Collection[str],
        in_pool: Pool,
        used: Callable[[Index], None],
        *,
        writes: bool,
    ) -> None:
        self._loaded, self._engine, self._metrics = loaded, engine, metrics
        self._forgotten, self._in_pool, self._used = forgotten, in_pool, used
        self.store = loaded.store
        self.index = self._read(self.store.load() if writes else self.store.glance())
        self._began_with = self.index.name
        self.verdicts = Verdicts(self.store.place / "canary.json" if writes else None)
        self.last_error = ""
        """Why the newest version was refused; "" = it was not."""
        self._untried, self._try_at = "", 0.0
        """The version that could not be tried, and when it will be again."""
        self._failed = ""
        """The version that could not be used, as long as the pointer on disk names it; it is not tried again."""
        self._trials: list[Context] | None = None
        self._changing = asyncio.Lock()
        """Held while a version is made or taken into use, so that none is followed by the one before it."""

    def _read(self, version: Version, before: Index | None = None) -> Index:
        index = self._loaded.index(version, before)
        index.prepare()
        return index

    # -- another version ----------------------------------------------------------------------------------------------
    async def look(self) -> None:
        """Take a version into use that another process has made; where that fails, ``last_error`` says why."""
        try:
            async with self._changing:
                name = await self._in_pool(self.store.current)
                waits = name == self._untried and time.monotonic() < self._try_at
                if name == self.index.name:
                    self._failed = ""
                elif name != self._failed and not waits and not self._has_failed(name):
                    await self._swap(name)
        except Exception as e:  # whatever it is, the next look must come
            self._refused(e)

    async def change(self, change: Callable[[], Version]) -> str:
        """Make a version, or choose one, and use it from now on; its name.

        Args:
            change: makes it; in the pool.

        Raises:
            Problem: it cannot be made or used; the present one stays.
        """
        async with self._changing:
            try:
                name = (await self._in_pool(change)).name
                await self._swap(name)
            except UntriedError as e:
                raise Problem("conflict", "the new version is not in use yet", hint=UNTRIED) from e
            except CrsearchError as e:
                raise _unchanged(e) from e
            return name

    async def try_out(self) -> None:
        """Try the version that the server began with, made while none ran; if need be, go back to the one before.

        The first version is the run itself, and there is none before it. Where another has taken its place meanwhile,
        that one was tried as it should be. While it cannot be tried it is used, and tried again.
        """
        while not await self._has_tried_out():
            await asyncio.sleep(RETRY_SECONDS)

    async def _has_tried_out(self) -> bool:
        async with self._changing:
            here = self._began_with
            if self.index.name != here:
                return True
            before = next((v.parent for v in await self._in_pool(self.store.versions) if v.name == here), None)
            try:
                if before is None or await self._is_good(self.index):
                    return True
                await self._swap(before)
            except UntriedError:
                return False
            await self._in_pool(lambda: self.store.rollback(before))
            self._refused(self._found_nothing(here))
            return True

    async def _swap(self, name: str) -> None:
        """Use a version from now on.

        Raises:
            SidError, DataError, RunError: it is broken or of another run, or trial searches find nothing in it
                (``CanaryError``): the present one stays, and the pointer on disk goes back to it. Or it could not be
                tried (``UntriedError``): the present one stays, and it is tried again.
        """
        try:
            version = await self._in_pool(lambda: self.store.load(name))
            index = await self._in_pool(lambda: self._read(version, self.index))
            await self._engine.use(index)
            if not (_only_removes(version, self.index.name) or await self._is_good(index)):
                await self._in_pool(lambda: self.store.rollback(self.index.name))
                raise self._found_nothing(index.name)
        except Exception as e:
            if not isinstance(e, CanaryError | UntriedError):
                await self._go_back(name)
            self._refused(e)
            raise
        self.index, self.last_error = index, ""
        self._metrics.swaps.labels("ok").inc()
        self._used(index)

    async def _go_back(self, failed: str) -> None:
        """Name the version in use again on disk; where that fails, too, the other one is left alone."""
        self._failed = failed
        try:
            await self._in_pool(lambda: self.store.rollback(self.index.name))
        except Exception as e:  # what is told is why the version failed
            log_broken("", e)

    def _refused(self, error: Exception) -> None:
        if str(error) != self.last_error:
            self._metrics.swaps.labels("canary" if isinstance(error, CanaryError) else "refused").inc()
        self.last_error = str(error)

    # -- trials -------------------------------------------------------------------------------------------------------
    async def _is_good(self, index: Index) -> bool:
        """Whether trial searches find something in a version; one that was found good is not tried again.

        While the model is broken nothing is tried: items must be removable then, too. A version whose trial it did not
        outlive has to wait until it is back.

        Raises:
            UntriedError: the model was lost, hung or too busy.
        """
        known, model, is_broken = self.verdicts.get(index.name), self._loaded.model_key, self._engine.is_broken
        if (is_broken and index.name != self._untried) or (
            known is not None and known.is_good and known.model == model
        ):
            return True
        if self._trials is None:
            settings, space = self._loaded.settings, self._loaded.space
            self._trials = await self._in_pool(lambda: trial_contexts(space.dataset, settings.context.max_events))
        contexts = [c for c in self._trials if c.user_id not in self._forgotten]
        verdict = None if is_broken else await judge(index, contexts, self._engine.submit, model)
        if verdict is None:
            self._untried, self._try_at = index.name, time.monotonic() + RETRY_SECONDS
            raise UntriedError(
                f"catalogue {index.name}: the model was lost or too busy while trial searches were asked, so it is not "
                "used yet; they are asked again"
            )
        self._untried = ""
        await self._in_pool(lambda: self.verdicts.put(index.name, verdict))
        return verdict.is_good

    def _has_failed(self, name: str) -> bool:
        verdict = self.verdicts.get(name)
        return verdict is not None and verdict.model == self._loaded.model_key and not verdict.is_good

    def _found_nothing(self, name: str) -> CanaryError:
        verdict = self.verdicts.get(name)
        share = "" if verdict is None else f" ({verdict.share:.0%} of {verdict.queries} found live items)"
        return CanaryError(
            f"catalogue {name}: trial searches find nothing in it{share}, so it is not used. Look at what was changed; "
            f"crsearch items versions {self.store.run} lists the versions"
        )

    # -- looking around -----------------------------------------------------------------------------------------------
    def rows(self) -> Versions:
        """All versions as the admin page shows them, newest first, and which is in use; reads the disk."""
        versions, current = self.store.versions(), self.index.name
        here = next((v for v in versions if v.name == current), None)
        return {
            "current": current,
            "previous": None if here is None else here.parent,
            "versions": [_row(v, current, self.verdicts.get(v.name)) for v in reversed(versions)],
        }


def _unchanged(error: CrsearchError) -> Problem:
    """What the sender of a change is told; what they cannot mend is logged."""
    code, hint = "conflict", UNUSABLE
    if isinstance(error, DataError):
        hint = REFUSED
    elif isinstance(error, CanaryError):
        hint = FAILED
    elif isinstance(error, SidError) and "sid_space_full" in str(error):
        hint = FULL
    elif isinstance(error, StorageError | CatalogueBusy):
        code, hint = "not_ready", NO_ROOM if isinstance(error, StorageError) else BUSY
    if hint in (UNUSABLE, NO_ROOM, BUSY):
        log_broken("", error)
    return Problem(code, "the catalogue was not changed", hint=hint)


def _only_removes(version: Version, present: str) -> bool:
    """What can be found in it could be found in the version in use: there is nothing to try, and it should be gone."""
    return version.about.action == "remove" and version.about.parent == present


def _row(about: About, current: str, verdict: Verdict | None) -> VersionRow:
    """A version as the admin page shows it."""
    is_refused = bool(about.problem) or (verdict is not None and not verdict.is_good)
    return {
        "name": about.name, "made": about.when, "items": about.items, "added": about.added + about.revived,
        "removed": about.removed, "replaced": about.replaced, "drift": about.drift, "notes": list(about.notes),
        "canary": None if verdict is None else verdict.share,
        "canary_ms": None if verdict is None else verdict.ms,
        "state": "current" if about.name == current else "refused" if is_refused else "kept",
    }  # fmt: skip
