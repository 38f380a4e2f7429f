"""Stages that run once: a stage whose inputs are unchanged and whose outputs are whole is not run again."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from crsearch import __version__
from crsearch.errors import RunError
from crsearch.runs import Progress, RunDirectory, StageRecord, digest

Work = Callable[[str], tuple[Sequence[Path], Mapping[str, Any]]]
"""Does the work of a stage, given its key; returns outputs (files or folders) and numbers to keep."""


class Stages:
    """The state machine of a run.

    Args:
        run: the locked run directory.
        progress: told at the start and at the end of each stage.
        only: beginning of the names of stages that may be run; the others must be done.
        sources: other runs, whose stages are taken over where they were done from the same inputs.
    """

    def __init__(
        self, run: RunDirectory, progress: Progress, only: str = "", sources: Sequence[RunDirectory] = ()
    ) -> None:
        self.run, self.progress, self.only, self.sources = run, progress, only, sources

    def do(self, name: str, inputs: object, work: Work) -> StageRecord:
        """Run a stage unless it is done, here or in a source.

        Args:
            name: of the stage; the record of a former run with other inputs is replaced.
            inputs: all that the result depends on, as JSON-ready values; keys of earlier stages among them.

        Returns:
            The record, whose ``key`` is what later stages depend on.

        Raises:
            RunError: an output of the stage is missing or damaged, or it is not done and may not be run.
        """
        key = digest(__version__, name, inputs)
        done = self.run.stage(name, key)
        if done is None:
            if not name.startswith(self.only):
                here = self.run.path
                raise RunError(
                    f"{here}: stage {name} is not done, or was done by another version or from other settings. "
                    f"Run it first: crsearch run {here / 'settings.toml'} --out {here} --resume"
                )
            if not any(self.run.take_over(source, name, key) for source in self.sources):
                self._work(name, key, work)
            done = self.run.stage(name, key)
            assert done is not None
        self.progress(name, 1, 1, {})
        return done

    def _work(self, name: str, key: str, work: Work) -> None:
        self.run.forget(name)  # its outputs are about to change
        self.progress(name, 0, 1, {})
        begun, begun_cpu = time.monotonic(), time.process_time()
        outputs, numbers = work(key)
        cost = {"seconds": time.monotonic() - begun, "cpu_seconds": time.process_time() - begun_cpu}
        self.run.complete(name, key, list(outputs), numbers, cost)

    def ticker(self, name: str) -> Callable[[int, int], None]:
        """A (done, total) callback that reports as stage ``name``."""
        return lambda done, total: self.progress(name, done, total, {})
