"""From what was found to the answer envelope.

Source: details: this project (docs/serving.md).
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
    asked: Asked,
    outcome: Outcome,
    rung: Rung,
    found: RankedList | None,
    *,
    present: Index,
    tokenizer: Any,
    model_key: str,
) -> Answer:
    """The answer to a request; its ``request_id`` is still empty.

    Args:
        asked: the request.
        outcome: of the model, or why it was not asked.
        rung: that served it.
        found: list of a rung below the model; none = the model's.
        present: of the version in use now; what was removed since the search began is left out.
        tokenizer: of the model.
        model_key: fingerprint of the model.
    """
    began = time.monotonic()
    if found is None:
        item_ids: Sequence[str] = [asked.index.catalogue[row].item_id for row in outcome.rows]
        scores: Sequence[float] = outcome.scores
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
    items = hydrated(asked, item_ids, scores, reasoning.text if reasoning else "", rung.value, present)
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
    asked: Asked, item_ids: Sequence[str], scores: Sequence[float], thought: str, by: str, present: Index
) -> tuple[Found, ...]:
    """Items with all that a reader sees of them, as many as were asked for.

    Args:
        asked: the request that they answer.
        item_ids: best first; where there are more than were asked for, they fill the places of those left out.
        scores: of each.
        thought: after which they were ranked; "" = none.
        by: the rung, or the system that ranked.
        present: of the version in use now; what was removed since the search began is left out.
    """
    index = asked.index
    explanation = index.explainer(asked.context, thought, asked.events)
    ranked = [pair for pair in zip(item_ids, scores, strict=True) if not present.has_removed(pair[0])]
    found = []
    for rank, (item_id, score) in enumerate(ranked[: asked.request.top_k], 1):
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


def still_there(found: Sequence[Found], present: Index) -> tuple[Found, ...]:
    """A list that has waited, without what was removed meanwhile; the others move up."""
    kept = [item for item in found if not present.has_removed(item.id)]
    return tuple(item if item.rank == rank else replace(item, rank=rank) for rank, item in enumerate(kept, 1))
