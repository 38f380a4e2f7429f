"""Processes that die: a run is started in a child, which is ended without warning at a random moment.

The children are forks of one server that has torch loaded, so that dying five times costs seconds.
"""

import json
import multiprocessing
import random
import signal
from functools import cache
from pathlib import Path

from tiny_run import Events, tiny_settings


@cache
def _server():
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["crsearch.pipeline.run", "crsearch.searchers.crs", "transformers.models.qwen3"])
    return context


def in_child(target, *arguments) -> int:
    """Exit code of a function in a process of its own; negative = killed by that signal."""
    child = _server().Process(target=target, args=arguments)
    child.start()
    child.join(120)
    assert child.exitcode is not None, "the child hangs"
    return child.exitcode


def start(out: Path, resume: bool, die_in: str | None, seed: int, log: Path) -> None:
    """Run or resume; once ``die_in`` has begun, die after a random time of work, as of ``kill -9``.

    SIGPROF is left to its default action, which ends the process between two machine instructions.
    """
    from crsearch.pipeline.run import run

    events, delay = Events(), random.Random(seed).uniform(0.001, 0.03)

    def progress(stage, done, total, numbers):
        events(stage, done, total, numbers)
        if stage == die_in and len(events.of(stage)) == 1:
            signal.setitimer(signal.ITIMER_PROF, delay)

    run(tiny_settings(), out, resume=resume, progress=progress)
    log.write_text(json.dumps(events.all))
