"""What a server counts, for Prometheus. Labels come from closed sets only."""

from collections.abc import Callable
from functools import lru_cache

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from crsearch.serve.contract import Answer, Rung
from crsearch.serve.seen import Seen

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.35, 0.5, 0.8, 1.2, 2.0, 5.0, 10.0)
"""Upper ends of the latency buckets."""


class Metrics:
    """Counters of one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        own = {"namespace": "crsearch", "registry": self.registry}
        self.requests = Counter("requests", "HTTP requests", ["route", "status"], **own)  # type: ignore[arg-type]
        self.answers = Counter("answers", "Searches answered, by rung", ["rung"], **own)  # type: ignore[arg-type]
        self.degraded = Counter("degraded", "Searches served below what was asked", ["reason"], **own)  # type: ignore[arg-type]
        self.parts = Histogram("search_seconds", "Time of searches by part", ["part"], buckets=SECONDS, **own)  # type: ignore[arg-type]
        self.rejected = Counter("rejected", "Searches refused because the queue was full", **own)  # type: ignore[arg-type]
        self.joined = Counter("joined", "Searches that shared the work of an equal one", **own)  # type: ignore[arg-type]
        self.client_closed = Counter("client_closed", "Streams whose reader left early", **own)  # type: ignore[arg-type]
        self.feedback_lost = Counter("feedback_lost", "Answers and judgements that could not be kept", **own)  # type: ignore[arg-type]
        self.swaps = Counter("catalogue_swaps", "Catalogue versions taken into use", ["outcome"], **own)  # type: ignore[arg-type]
        self._own = own
        # finding the series of a label costs more than counting; both come from closed sets
        self._request = lru_cache(maxsize=1_024)(lambda route, status: self.requests.labels(route, str(status)))
        self._part = lru_cache(maxsize=64)(self.parts.labels)
        for rung in Rung:
            self.answers.labels(rung.value)

    def watch(self, name: str, what: str, value: Callable[[], float]) -> None:
        """A gauge that is read when asked for."""
        Gauge(name, what, **self._own).set_function(value)  # type: ignore[arg-type]

    def request(self, seen: Seen) -> None:
        """Count a request."""
        self._request(seen.route, seen.status).inc()

    def answered(self, answer: Answer) -> None:
        """Count an answer."""
        self.answers.labels(answer.served_by.value).inc()
        for reason in answer.degraded:
            self.degraded.labels(reason).inc()
        for part, ms in answer.timings_ms.items():
            self._part(part).observe(ms / 1e3)

    def value(self, name: str) -> float:
        """The present value of a counter without labels."""
        return self.registry.get_sample_value(f"crsearch_{name}_total") or 0.0

    def text(self) -> bytes:
        """All of it in the Prometheus text format."""
        return generate_latest(self.registry)
