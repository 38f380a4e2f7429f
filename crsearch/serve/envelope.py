"""From what was found to the answer envelope.

Source: details: this project (docs/serving.md).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from crsearch.records.types import Context, RankedList
from crsearch.serve.contract import Answer, Found, Reasoning, Rung, SearchRequest
from crsearch.serve.index import Allowed, Index
from crsearch.serve.jobs import Outcome
from crsearch.serve.text import CleanText
from crsearch.serve.why import Events


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A request after cleaning, tied to one version of the catalogue.

    Attributes:
        request: as it was sent.
        clean: its query.
        index: of the catalogue version that was in use.
        context: that is read.
        trunk: its token ids.
        dropped: what the token budget left out, by kind.
        allowed: items that pass the filters; none = all.
        events: what items share with the history, where it is kept.
        began: when it came, by the monotonic clock in seconds.
        deadline: when the answer must be there.
    """

    request: SearchRequest
    clean: CleanText
    index: Index
    context: Context
    trunk: Sequence[int]
    dropped: Mapping[str, int]
    allowed: Allowed | None
    events: Events | None = None
    began: float
    deadline: float

    @property
    def left_ms(self) -> float:
        """Until the deadline."""
        return 1e3 * (self.deadline - time.monotonic())


def envelope(
    asked: Asked, outcome: Outcome, rung: Rung, found: RankedList | None, *, tokenizer: Any, model_key: str
) -> Answer:
    """The answer to a request; its ``request_id`` is still empty.

    Args:
        asked: the request.
        outcome: of the model, or why it was not asked.
        rung: that served it.
        found: list of a rung below the model; none = the model's.
        tokenizer: of the model.
        model_key: fingerprint of the model.
    """
    began = time.monotonic()
    catalogue, k = asked.index.catalogue, asked.request.top_k
    if found is None:
        item_ids: Sequence[str] = [catalogue[row].item_id for row in outcome.rows[:k]]
        scores: Sequence[float] = outcome.scores[:k]
    else:
        item_ids, scores = found.item_ids, found.scores
    reasoning = None
    if outcome.thought is not None:
        reasoning = Reasoning(
            text=tokenizer.decode(list(outcome.thought)),
            tokens=len(outcome.thought),
            cut=rung is Rung.CUT,
            cached=rung is Rung.CACHED,
        )
    items = hydrated(asked, item_ids, scores, reasoning.text if reasoning else "", rung.value)
    end = time.monotonic()
    timings = {**outcome.timings_ms, "hydrate": 1e3 * (end - began), "total": 1e3 * (end - asked.began)}
    return Answer(
        request_id="",
        query=asked.clean.text,
        items=items,
        served_by=rung,
        why_rung=outcome.why,
        reasoning=reasoning,
        degraded=tuple(dict.fromkeys(outcome.degraded)),
        truncated=_truncated(asked),
        timings_ms={part: round(ms, 3) for part, ms in timings.items()},
        versions={"model": model_key, "catalogue": asked.index.name, "sid_book": asked.index.book_key},
        user_id=asked.request.user_id,
    )


def _truncated(asked: Asked) -> dict[str, int]:
    dropped = asked.dropped
    counts = {
        "query_chars": asked.clean.cut,
        "sanitized": asked.clean.sanitized,
        "history_dropped": dropped.get("events", 0) + dropped.get("interactions", 0),
        "unknown_items": dropped.get("unknown_items", 0),
    }
    return {name: count for name, count in counts.items() if count}


def hydrated(
    asked: Asked, item_ids: Sequence[str], scores: Sequence[float], thought: str, by: str
) -> tuple[Found, ...]:
    """Items with all that a reader sees of them.

    Args:
        asked: the request that they answer.
        item_ids: best first.
        scores: of each.
        thought: after which they were ranked; "" = none.
        by: the rung, or the system that ranked.
    """
    index = asked.index
    explanation = index.explainer(asked.context, thought, asked.events)
    found = []
    for rank, (item_id, score) in enumerate(zip(item_ids, scores, strict=True), 1):
        row = index.catalogue.row(item_id)
        item = index.catalogue[row]
        found.append(
            Found(
                id=item.item_id,
                title=item.title,
                rank=rank,
                score=round(float(score), 4),
                sid=index.pieces(row),
                brand=item.brand,
                price=item.price,
                category=item.category,
                why={"matched_context": explanation(item), "rung": by},
            )
        )
    return tuple(found)
