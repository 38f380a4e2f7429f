"""What an operator sees: catalogue versions, the tree's load, rungs with quality and latency, counts, training curves.

Source: details: this project.
"""

import hashlib
import json
import secrets
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from crsearch.runs import split_lines
from crsearch.serve.answers import Bucket, Curve, Line, Percentiles, RungRow, SlowQuery, TreeLoad
from crsearch.serve.contract import Answer, Rung
from crsearch.serve.index import Index

RECENT = 2_000
"""Answers kept for percentiles."""
SLOW = 20
"""Slow or empty answers shown."""
LONGEST_QUERY = 256
"""Characters of a query that may be shown."""
MOST_BUCKETS = 300


@dataclass(frozen=True, slots=True)
class Served:
    """An answer, without what was asked."""

    at: float
    rung: Rung
    items: int
    timings_ms: Mapping[str, float]
    query: str
    """Hashed, unless queries may be logged."""


@dataclass
class Recent:
    """The newest answers of this process; queries are hashed with a secret that is gone with it, unless ``is_open``."""

    is_open: bool = False

    answers: deque[Served] = field(default_factory=lambda: deque(maxlen=RECENT))
    began: float = field(default_factory=time.monotonic)
    _secret: bytes = field(default_factory=lambda: secrets.token_bytes(16))

    def add(self, answer: Answer) -> None:
        """Keep what can be shown of an answer."""
        hashed = hashlib.blake2b(answer.query.encode("utf-8", "replace"), key=self._secret, digest_size=5).hexdigest()
        query = answer.query[:LONGEST_QUERY] if self.is_open else hashed
        self.answers.append(
            Served(time.monotonic(), answer.served_by, len(answer.items), dict(answer.timings_ms), query)
        )

    def percentiles(self, part: str, rung: Rung | None = None) -> Percentiles:
        """``p50_ms``, ``p95_ms``, ``p99_ms`` of a part."""
        ms = [a.timings_ms[part] for a in list(self.answers) if part in a.timings_ms and rung in (None, a.rung)]
        if not ms:
            return {"p50_ms": None, "p95_ms": None, "p99_ms": None}
        p50, p95, p99 = np.percentile(ms, (50, 95, 99)).tolist()
        return {"p50_ms": round(p50, 2), "p95_ms": round(p95, 2), "p99_ms": round(p99, 2)}

    def per_second(self, seconds: float = 10.0) -> float:
        """Answers a second over the last seconds."""
        now = time.monotonic()
        return sum(now - a.at < seconds for a in list(self.answers)) / min(seconds, max(1e-3, now - self.began))

    def slow(self) -> list[SlowQuery]:
        """Queries with slow and empty answers, the newest first."""
        limit = self.percentiles("total")["p95_ms"] or 0.0
        found: dict[str, list[Served]] = {}
        for answer in reversed(list(self.answers)):
            if not answer.items or answer.timings_ms.get("total", 0.0) > limit:
                found.setdefault(answer.query, []).append(answer)
        return [
            {
                "query": query,
                "is_hashed": not self.is_open,
                "times": len(answers),
                "empty": sum(not a.items for a in answers),
                "ms": max((a.timings_ms["total"] for a in answers if "total" in a.timings_ms), default=None),
                "rung": answers[0].rung,
                "items": answers[0].items,
            }
            for query, answers in list(found.items())[:SLOW]
        ]


def rung_rows(results: Mapping[str, Any], recent: Recent) -> list[RungRow]:
    """Every rung: its quality on the run's test users, and how it did here."""
    measured = results.get("rungs", {})
    counts = Counter(a.rung for a in list(recent.answers))
    rows: list[RungRow] = []
    for rung in Rung:
        quality = measured.get(rung.value, {})
        took = recent.percentiles("total", rung)
        rows.append(
            {
                "rung": rung.value,
                "system": quality.get("searcher"),
                "hr10": quality.get("HR@10", {}).get("mean"),
                "ndcg10": quality.get("NDCG@10", {}).get("mean"),
                "p50_ms": took["p50_ms"],
                "p99_ms": took["p99_ms"],
                "answers": counts[rung],
            }
        )
    return rows


def pays(results: Mapping[str, Any], rung: Rung, *, unknown: bool) -> bool:
    """Whether a rung with a thought is better in NDCG@10 than none on the run's test users.

    Args:
        results: of the run.
        rung: with a whole or with a cut thought.
        unknown: the answer where one of the two was not measured.
    """
    means = [results.get("rungs", {}).get(r, {}).get("NDCG@10", {}).get("mean") for r in (rung, Rung.DIRECT)]
    return unknown if None in means else means[0] > means[1]


def tree_load(index: Index) -> TreeLoad:
    """Load of the tree of semantic IDs, and what is left of the deduplication codes."""
    codes_NL, alive_N = index.book.codes_NL, index.alive_N
    live_NL = codes_NL[alive_N]
    prefix_PL, of_N = np.unique(codes_NL[:, :-1], axis=0, return_inverse=True)
    next_P = np.zeros(len(prefix_PL), dtype=np.int64)
    np.maximum.at(next_P, of_N.ravel(), codes_NL[:, -1] + 1)
    full_P = next_P >= index.book.dedup_codes
    buckets: list[Bucket] = []
    for code in np.unique(codes_NL[:, 0]).tolist():
        own_P = prefix_PL[:, 0] == code
        own_N = live_NL[:, 0] == code
        row = int(np.flatnonzero(codes_NL[:, 0] == code)[0])
        buckets.append(
            {
                "token": index.book.pieces(row)[0],
                "items": int(own_N.sum()),
                "prefixes": int(own_P.sum()),
                "collisions": int((live_NL[own_N, -1] > 0).sum()),
                "full": int(full_P[own_P].sum()),
            }
        )
    return {
        "layers": codes_NL.shape[1],
        "items": int(alive_N.sum()),
        "prefixes": len(prefix_PL),
        "collisions": int((live_NL[:, -1] > 0).sum()),
        "full": int(full_P.sum()),
        "spare": int((index.book.dedup_codes - next_P).clip(min=0).sum()),
        "buckets": sorted(buckets, key=lambda b: -b["items"])[:MOST_BUCKETS],
        "dedup": np.bincount(live_NL[:, -1]).tolist() if len(live_NL) else [],
    }


CURVES: Sequence[tuple[str, str, Sequence[str]]] = (
    ("loss", "loss", ("loss",)),
    ("reward", "r*", ("r_star", "hit_at_1", "target_in_beam")),
    ("validation", "NDCG@10", ("NDCG@10", "HR@10")),
)
"""(title, axis, numbers) of the curves."""


def curves(metrics_file: Path) -> list[Curve]:
    """Curves of the training run, stage after stage, steps counted on."""
    rows = list(_rows(metrics_file))
    found: list[Curve] = []
    for title, axis, names in CURVES:
        lines: dict[str, list[list[float]]] = {}
        offset = 0.0
        stage, last = "", 0.0
        for row in rows:
            if row["stage"] != stage:
                offset, stage = offset + last, row["stage"]
            last = float(row.get("step", 0))
            for name in names:
                if isinstance(row.get(name), int | float):
                    label = stage if title == "loss" else name
                    lines.setdefault(label, []).append([offset + last, float(row[name])])
        if lines:
            shown: list[Line] = [{"name": name, "points": points} for name, points in lines.items()]
            found.append({"title": title, "x": "step", "y": axis, "lines": shown})
    return found


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    if file.exists():
        for line in split_lines(file.read_text(encoding="utf-8")):
            yield json.loads(line)
