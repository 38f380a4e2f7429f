"""The doctor's corpus against the server itself, in bounded time, at the press of a button.

Source: details: this project (docs/security.md).
"""

import os
import time
from datetime import UTC, datetime

from crsearch.serve.answers import FindingRow, SelfTest
from crsearch.serve.config import KeyConfig
from crsearch.serve.corpus import Case, corpus
from crsearch.serve.doctor import GOOD, Finding, Line, examine_some
from crsearch.serve.problems import Problem

SECONDS = 30.0
"""Longest time; what is left of the corpus then is not sent."""
PLACES = 1
"""Places that a text of the corpus is put into, taking turns."""
MOST_FINDINGS = 20
"""That are shown."""


class SelfTests:
    """Runs one at a time, and remembers the last.

    Args:
        names: of the variables that hold keys; the corpus is sent with the search key, never with another.
    """

    def __init__(self, names: KeyConfig) -> None:
        self.names = names
        self.last: SelfTest | None = None
        self._is_running = False

    async def run(self, address: tuple[str, int]) -> SelfTest:
        """Send the corpus to this server.

        Args:
            address: on which it was reached.

        Raises:
            Problem: one is running, or the server has keys but none for searches.
        """
        if self._is_running:
            raise Problem("conflict", "a self-test is running", hint="wait for its end")
        key = os.environ.get(self.names.search) or None
        if key is None and any(os.environ.get(n) for n in (self.names.admin, self.names.metrics)):
            raise Problem("conflict", "there is no key for searches", hint=f"set {self.names.search}")
        host = f"[{address[0]}]" if ":" in address[0] else address[0]
        self._is_running = True
        try:
            self.last = await _examined(Line(f"http://{host}:{address[1]}", key), key is not None)
        finally:
            self._is_running = False
        return self.last


async def _examined(line: Line, is_keyed: bool) -> SelfTest:
    cases = [c for c in corpus(places=PLACES) if not c.is_slow and (is_keyed or not c.keyed)]
    begun = time.monotonic()
    order = _mixed(cases)
    sent, findings = await examine_some(line.send, order, until=begun + SECONDS)
    return {
        "when": datetime.now(UTC).isoformat(timespec="seconds"),
        "cases": sent,
        "of": len(order),
        "seconds": round(time.monotonic() - begun, 1),
        "wrong": len(findings),
        "findings": [_shown(finding) for finding in findings[:MOST_FINDINGS]],
    }


def _mixed(cases: list[Case]) -> list[Case]:
    """Cases so that the first part of them is of all groups; a good search after each hundred."""
    groups: dict[str, list[Case]] = {}
    for case in cases:
        groups.setdefault(case.group, []).append(case)
    order = sorted(
        ((n / len(group), g, case) for g, group in enumerate(groups.values()) for n, case in enumerate(group)),
        key=lambda o: o[:2],
    )
    mixed = [case for _, _, case in order]
    return [case for n, one in enumerate(mixed) for case in ((one, GOOD) if n % 100 == 99 else (one,))]


def _shown(finding: Finding) -> FindingRow:
    return {"id": finding.id, "sent": finding.sent, "expected": finding.expected, "got": finding.got}
