"""How often somebody may ask: token buckets in bounded memory."""

import time
from collections import OrderedDict
from collections.abc import Callable
from math import ceil

from crsearch.serve.problems import Problem


class RateLimit:
    """A bucket of ``burst`` requests for everybody, filled at ``rate`` a second.

    Args:
        rate: requests a second; None = no limit.
        burst: requests at once.
        most: buckets kept; beyond, the one that was used longest ago is forgotten.
        clock: seconds that never go back.

    >>> limit = RateLimit(1.0, 2, clock=lambda: 0.0)
    >>> limit.take(b"a"), limit.take(b"a")
    (None, None)
    >>> limit.take(b"a")
    Traceback (most recent call last):
    crsearch.serve.problems.Problem: too many requests
    """

    def __init__(
        self, rate: float | None, burst: int, most: int = 10_000, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._rate, self._burst, self._most, self._clock = rate, burst, most, clock
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()  # client -> (tokens, at)

    def __len__(self) -> int:
        return len(self._buckets)

    @property
    def is_on(self) -> bool:
        """Whether there is a limit at all."""
        return self._rate is not None

    def take(self, client: bytes) -> None:
        """Count a request of a client.

        Raises:
            Problem: ``too_many_requests``, with the seconds to wait.
        """
        if self._rate is None:
            return
        now = self._clock()
        tokens, at = self._buckets.pop(client, (float(self._burst), now))
        tokens = min(self._burst, tokens + (now - at) * self._rate)
        is_allowed = tokens >= 1
        self._buckets[client] = (tokens - is_allowed, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        if not is_allowed:
            wait = max(1, ceil((1 - tokens) / self._rate))
            raise Problem(
                "too_many_requests", "too many requests", hint=f"wait {wait} s, or ask for a higher limit",
                retry_after=wait,
            )  # fmt: skip
