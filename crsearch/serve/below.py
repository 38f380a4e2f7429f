"""The rungs of the ladder below the model: searchers that answer where it cannot be asked.

Source: details: this project (docs/serving.md).
"""

import time

from crsearch.records.types import Context, RankedList
from crsearch.serve.contract import Rung
from crsearch.serve.index import RUNG_SYSTEMS, Allowed, Index
from crsearch.serve.ladder import AROUND_MS, MARGIN, Measured

NEVER_MS = 1e9
"""Cost of a rung that is not warm yet."""


class Below:
    """Lists without the model, and what they take. Any thread.

    Attributes:
        ms: cost of a list of each rung.
    """

    def __init__(self) -> None:
        self.ms = {rung: Measured(NEVER_MS if rung is Rung.FUSED else 10.0) for rung in RUNG_SYSTEMS}

    def warm(self, index: Index, *rungs: Rung) -> None:
        """Make the systems of rungs, and measure them."""
        context = Context(search_id="warm", user_id="", query="a")
        for rung in rungs:
            index.searcher(RUNG_SYSTEMS[rung])
            for _ in range(2):
                self.ranked(index, context, rung, 10, None)

    def ranked(self, index: Index, context: Context, rung: Rung, k: int, allowed: Allowed | None) -> RankedList:
        """The list of a rung, ``k`` items at most; ``allowed``: those that pass the filters, none = all."""
        began = time.monotonic()
        found = index.ranked(RUNG_SYSTEMS[rung], context, k, allowed)
        self.ms[rung].add(1, 1e3 * (time.monotonic() - began))
        return found

    def falling(
        self, index: Index, context: Context, rung: Rung, k: int, allowed: Allowed | None
    ) -> tuple[Rung, RankedList]:
        """The list of the best rung from ``rung`` on that finds something; the last one's may be empty."""
        for below in (r for r in RUNG_SYSTEMS if r >= rung):
            found = self.ranked(index, context, below, k, allowed)
            if found.item_ids or below is Rung.POPULAR:
                return below, found
        raise AssertionError("the last rung answers always")

    def needs_ms(self, rung: Rung) -> float:
        """How much must be left of a deadline for an answer of a rung."""
        return AROUND_MS + MARGIN * self.ms[rung](1)
