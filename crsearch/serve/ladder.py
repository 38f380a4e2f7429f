"""Which rung of the ladder a request takes, decided before anything is decoded.

    remaining = deadline - now - margin
    L1   a cached thought is there and read + beam <= remaining
    L0   read + beam + step * long thought <= remaining   (one that runs into the deadline is closed: then it was L2)
    L2   mode think, at least one step fits, and a cut thought is better than none in this run
    L3   read + beam <= remaining; in mode auto before all of them where this run ranks better without a thought
    else the model is not asked (L4 to L6)

``read``, ``step``, ``beam`` and the longest of the newest thoughts are what this server measured. Whether a thought is
better than none, and whether a cut one is, stands in ``results.json`` of the run: in the demo a whole one is and a cut
one is not, on Amazon Beauty neither is (docs/results.md).

Source: details: this project (docs/serving.md).
"""

from collections import deque
from dataclasses import dataclass, field
from statistics import fmean
from threading import Lock

from crsearch.serve.contract import Mode, Rung


@dataclass(frozen=True, slots=True)
class Plan:
    """What the model is to do.

    Attributes:
        rung: ``FRESH``, ``CACHED`` or ``DIRECT``; none = the model is not asked.
        think_tokens: most tokens of the thought.
        why: in words.
        degraded: what stood against a better rung, or none.
    """

    rung: Rung | None
    think_tokens: int
    why: str
    degraded: str | None = None


class Measured:
    """A cost in milliseconds as a straight line over the batch size, from the newest measurements.

    >>> cost = Measured(default=5.0)
    >>> cost(1)
    5.0
    >>> for n, ms in ((1, 10.0), (9, 50.0)): cost.add(n, ms)
    >>> cost(5), cost(17)
    (30.0, 90.0)
    """

    def __init__(self, default: float, keep: int = 64) -> None:
        self._seen: deque[tuple[int, float]] = deque(maxlen=keep)
        self._lock = Lock()
        self._line = (0.0, default, 0.0, default)
        """Mean batch size, mean cost, cost of one more in the batch, least cost: read and replaced as one."""
        self.most = default
        """The largest of the newest measurements."""

    def add(self, batch: int, ms: float) -> None:
        """One measurement; any thread."""
        with self._lock:
            self._seen.append((batch, ms))
            mean_n, mean_ms = fmean(n for n, _ in self._seen), fmean(ms for _, ms in self._seen)
            spread = sum((n - mean_n) ** 2 for n, _ in self._seen)
            slope = sum((n - mean_n) * (ms - mean_ms) for n, ms in self._seen) / spread if spread else 0.0
            self._line = (mean_n, mean_ms, max(0.0, slope), min(ms for _, ms in self._seen))
            self.most = max(ms for _, ms in self._seen)

    def __call__(self, batch: int) -> float:
        """Expected milliseconds of a batch; at least those of the cheapest one seen, never less for a larger batch."""
        mean_n, mean_ms, slope, least = self._line
        return max(least, mean_ms + slope * (batch - mean_n))


@dataclass
class Costs:
    """What decoding costs on this machine, in milliseconds."""

    read: Measured = field(default_factory=lambda: Measured(30.0))
    """Reading the prompts of a batch."""
    step: Measured = field(default_factory=lambda: Measured(5.0))
    """One token of the thoughts of a batch."""
    beam: Measured = field(default_factory=lambda: Measured(20.0))
    """Ranking after the thoughts or at once."""
    thought: Measured = field(default_factory=lambda: Measured(48.0))
    """Tokens of a thought, not milliseconds; the batch size plays no part."""

    def answer(self, batch: int) -> float:
        """Milliseconds from prompt to list, without a thought."""
        return self.read(batch) + self.beam(batch)


MARGIN = 1.25
"""Costs are multiplied by this before they are held against a deadline."""

AROUND_MS = 5.0
"""What an answer takes beside the model: parsing, hydrating, sending."""


def plan(
    mode: Mode,
    remaining_ms: float,
    costs: Costs,
    batch: int,
    think_tokens: int,
    *,
    cached: bool,
    thoughts_pay: bool = True,
    cuts_pay: bool = False,
) -> Plan:
    """The best rung that keeps the deadline.

    Args:
        mode: what the caller asked for.
        remaining_ms: until the deadline.
        costs: as measured.
        batch: how many requests would be decoded together.
        think_tokens: most tokens of a thought.
        cached: a thought for this very prompt is in the cache.
        thoughts_pay: a whole thought is better than none.
        cuts_pay: a cut thought is better than none.

    >>> plan("auto", 400.0, Costs(), 1, 48, cached=False).rung, plan("auto", 100.0, Costs(), 1, 48, cached=False).rung
    (<Rung.FRESH: 'L0'>, <Rung.DIRECT: 'L3'>)
    """
    room = remaining_ms - AROUND_MS - MARGIN * costs.answer(batch)
    if room < 0:
        return Plan(None, 0, f"{max(0, remaining_ms):.0f} ms were left: too few for the model", "deadline")
    if mode == "fast" or think_tokens == 0:
        return Plan(Rung.DIRECT, 0, "no thought was asked for")
    if mode == "auto" and not thoughts_pay:
        return Plan(Rung.DIRECT, 0, "this run ranks better without a thought; mode think asks for one")
    if cached:
        return Plan(Rung.CACHED, 0, "the thought for this context was in the cache")
    tokens = int(room / (MARGIN * costs.step(batch)))
    wanted = 1 if mode == "think" and cuts_pay else min(think_tokens, costs.thought.most)
    if tokens < wanted:
        return Plan(Rung.DIRECT, 0, f"{remaining_ms:.0f} ms left no time for a thought", "think_budget")
    return Plan(Rung.FRESH, min(think_tokens, tokens), "the deadline left time for a thought")
