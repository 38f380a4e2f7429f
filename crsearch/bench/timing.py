"""Two ways of doing the same thing, timed in turns, and compared before a ratio is believed."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Literal, TypeVar

from crsearch.errors import CrsearchError

T = TypeVar("T")
Budget = Literal["smoke", "full"]


class ResultsDiffer(CrsearchError):
    """Two ways that must give the same do not: there is nothing to compare."""


@contextmanager
def one_thread() -> Iterator[None]:
    """Matrix products of torch and NumPy on one thread, so that CPU time is time."""
    import torch

    from crsearch.encoders.blas import limit_blas

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with limit_blas(1):
            yield
    finally:
        torch.set_num_threads(before)


def cpu_seconds(run: Callable[[], T], clock: Callable[[], float] = time.process_time) -> tuple[float, T]:
    """CPU time of this process for one call (or what another clock says), and what it returned."""
    begun = clock()
    result = run()
    return clock() - begun, result


def alternate(
    what: str,
    sides: Mapping[str, Callable[[int], T]],
    equal: Callable[[T, T], bool],
    runs: int,
    clock: Callable[[], float] = time.process_time,
) -> dict[str, float]:
    """Median CPU seconds of each side, taken in turns on the same material.

    In round r every side is called with r, in an order that turns from round to round; then all results are compared
    with those of the first side. Round 0 warms up and is not counted.

    Args:
        what: is done, for the error.
        sides: name -> the work; the first one is ours.
        equal: whether a result of ours and one of another side are the same.
        runs: rounds that count.
        clock: seconds; by default the CPU time of this process.

    Raises:
        ResultsDiffer: they are not.

    >>> sorted(alternate("double", {"ours": lambda r: r + r, "usual": lambda r: 2 * r}, int.__eq__, runs=5))
    ['ours', 'usual']
    """
    names = list(sides)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(1 + runs):
        results: dict[str, T] = {}
        at = number % len(names)
        for name in [*names[at:], *names[:at]]:
            took, results[name] = cpu_seconds(partial(sides[name], number), clock)
            if number:
                seconds[name].append(took)
        for name in names[1:]:
            if not equal(results[names[0]], results[name]):
                raise ResultsDiffer(
                    f"{what}: {names[0]} and {name} give different results in round {number}. Without equal results "
                    "there is no ratio; run the tests of the part that is measured"
                )
    return {name: statistics.median(values) for name, values in seconds.items()}
