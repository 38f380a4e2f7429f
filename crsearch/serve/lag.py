"""How far the event loop is behind: the time that whatever comes now waits before anybody looks at it.

Source: details: this project.
"""

import asyncio
import time

STEP_SECONDS = 0.02


class Lag:
    """Wakes up every ``STEP_SECONDS`` and sees how late that was."""

    def __init__(self) -> None:
        self._last_ms = 0.0
        self._woke: float | None = None

    async def watch(self) -> None:
        """Measure until cancelled."""
        while True:
            self._woke = time.monotonic()
            await asyncio.sleep(STEP_SECONDS)
            self._last_ms = self._late_ms()

    def _late_ms(self) -> float:
        return 0.0 if self._woke is None else max(0.0, 1e3 * (time.monotonic() - self._woke - STEP_SECONDS))

    @property
    def ms(self) -> float:
        """Of the last turn of the loop, or of this one if it is longer already."""
        return max(self._last_ms, self._late_ms())
