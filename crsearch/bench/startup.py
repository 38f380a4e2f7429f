"""``crsearch bench startup``: what one pays first: the import, the help, a server until it is ready."""

import asyncio
import resource
import statistics
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from crsearch.bench.figures import Figure, Measured, NotMeasured, Ratio
from crsearch.bench.load import serving
from crsearch.bench.machine import Machine
from crsearch.bench.timing import Budget, ResultsDiffer

USUAL = "import torch, transformers"
COMMANDS = {
    "ours": ["-c", "import crsearch"],
    "help": ["-m", "crsearch", "--help"],
    "bare": ["-c", "pass"],
    USUAL: ["-c", "import torch, transformers"],
}
READY_FLOOR = 5.0


@dataclass(frozen=True, kw_only=True)
class StartupSizes:
    """How much is measured."""

    runs: int = 5
    usual: bool = True
    """Whether the import of torch and transformers is timed beside."""


SIZES: dict[Budget, StartupSizes] = {"smoke": StartupSizes(usual=False), "full": StartupSizes(runs=7)}


def bench_startup(sizes: StartupSizes, machine: Machine, run: Path | None = None) -> list[Measured]:
    """Measure starts: whole processes, the interpreter's own start counted.

    Args:
        sizes: how much.
        machine: its limits.
        run: a finished run whose server is started too.

    Raises:
        ResultsDiffer: a command fails.
        RunError: the server does not get ready.
    """
    names = [name for name in COMMANDS if sizes.usual or name != USUAL]
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1 + sizes.runs):
        for name in names:
            took = child_seconds(COMMANDS[name])
            if number:  # the first one fills the caches of files
                seconds[name].append(took)
    median = {name: statistics.median(values) for name, values in seconds.items()}
    how = f"CPU time of the process, {1e3 * median['bare']:.0f} ms of it Python's own; median of {sizes.runs}"
    found: list[Measured] = [
        Figure(key="startup", what="import crsearch", value=median["ours"], unit="CPU s", floor=0.15, how=how),
        Figure(key="startup", what="crsearch --help", value=median["help"], unit="CPU s", floor=0.5, how=how),
    ]
    if sizes.usual:
        found.append(
            Ratio(
                key="startup",
                what="import crsearch",
                ours=median["ours"],
                usual=median[USUAL],
                unit="CPU s",
                usual_way=USUAL,
                how="what a package pays that imports its model library at its top",
            )
        )
    if run is None:
        found.append(
            NotMeasured(key="startup", what="server until ready", how="give a run: crsearch bench startup RUN")
        )
    else:
        ready = asyncio.run(_ready(run))
        found.append(Figure(key="startup", what="server until ready", value=ready, unit="s", floor=READY_FLOOR))
    return found


def child_seconds(arguments: list[str]) -> float:
    """CPU time of a Python process.

    Raises:
        ResultsDiffer: it fails.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise ResultsDiffer(f"python {' '.join(arguments)} ends with {done.returncode}: {done.stderr[-500:]}")
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


async def _ready(run: Path) -> float:
    async with serving(run) as server:
        return server.ready_seconds
