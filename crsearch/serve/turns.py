"""One piece of work a turn of the event loop, so that between two pieces it looks at what came meanwhile.

A batch that comes back from the model makes sixteen answers possible at once. Made in one turn, whoever comes meanwhile
waits for all of them, even to be refused; made one a turn, for one.

Source: details: this project.
"""

import asyncio
import time
from collections import deque

NEW = 0.1
"""Weight of the newest turn in the mean."""


class Turns:
    """Lets work on, first come first served.

    >>> async def work():
    ...     turns, done = Turns(), []
    ...     async def piece(n):
    ...         await turns.next()
    ...         done.append(n)
    ...     pieces = [asyncio.create_task(piece(n)) for n in range(3)]
    ...     seen = []
    ...     for _ in range(4):
    ...         await asyncio.sleep(0)
    ...         seen.append(len(done))
    ...     return done, seen
    >>> asyncio.run(work())
    ([0, 1, 2], [1, 1, 2, 3])
    """

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._is_taken = False
        """Somebody works in this turn."""
        self._let_on: float | None = None
        """When the last one was let on, while others waited."""
        self._ms = 0.0

    async def next(self) -> None:
        """Wait for a turn; at once where nobody works in this one."""
        loop = asyncio.get_running_loop()
        if self._is_taken:
            mine = loop.create_future()
            self._waiting.append(mine)
            await mine
        else:
            self._is_taken = True
            loop.call_soon(self._over)

    def _over(self) -> None:
        """The turn is over: the next begins for whoever waits longest."""
        now = time.monotonic()
        if self._let_on is not None:
            self._ms += NEW * (1e3 * (now - self._let_on) - self._ms)
        while self._waiting and self._waiting[0].done():  # left meanwhile
            self._waiting.popleft()
        if self._waiting:
            self._waiting.popleft().set_result(None)
            self._let_on = now
            asyncio.get_running_loop().call_soon(self._over)
        else:
            self._is_taken, self._let_on = False, None

    @property
    def wait_ms(self) -> float:
        """Expected wait of who comes now."""
        return len(self._waiting) * self._ms
