"""Keeps what was shown and what users did with it, behind the answers.

Source: details: this project (docs/howto/catalogue.md).
"""

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from crsearch.errors import DataError, RunError, StorageError
from crsearch.serve.contract import Answer, Judgement, SearchRequest
from crsearch.serve.feedback import FeedbackStore, UnknownRequest
from crsearch.serve.metrics import Metrics
from crsearch.serve.problems import Problem
from crsearch.serve.security import log_broken

MOST_WAITING = 4_096
"""Answers and judgements that may wait to be written; more are lost and counted: a slow disk fills no memory."""
JUDGE = "judge items of an answer of this server, by its request_id"
LATER = "send it again later; the operator finds the cause in the log"


class Scribe:
    """One thread that writes, so that a judgement is kept after the answer it is about.

    What cannot be written is logged and counted (``feedback_lost``); searches go on.

    Args:
        feedback: where it writes; none = nothing is kept.
        metrics: where losses are counted.
    """

    def __init__(self, feedback: FeedbackStore | None, metrics: Metrics) -> None:
        self._feedback, self._metrics = feedback, metrics
        self._room = threading.Semaphore(MOST_WAITING)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="crsearch-scribe")

    def keep(self, answer: Answer, asked_by: SearchRequest) -> None:
        """Keep what was shown, so that clicks on it can be told later; lists of one request are added up."""
        if self._feedback is None or not answer.items:
            return
        kept = self._submit(
            self._feedback.served,
            answer.request_id,
            asked_by.user_id,
            answer.query,
            None,  # now
            asked_by.place,
            [item.id for item in answer.items],
            answer.versions["catalogue"],
            answer.served_by.value,
        )
        if kept is not None:
            kept.add_done_callback(lambda done: self._tell(done, answer.request_id))

    async def judge(self, judgement: Judgement) -> None:
        """Keep what a user did with an item of an answer.

        Raises:
            Problem: no such answer is remembered, or the item was not shown in it; it cannot be written now.
        """
        if self._feedback is None:
            raise Problem("not_found", "this service keeps no feedback")
        kept = self._submit(self._feedback.judge, judgement.request_id, judgement.item_id, judgement.kind)
        if kept is None:
            raise Problem("not_ready", "feedback comes faster than it can be kept", hint=LATER)
        try:
            await asyncio.wrap_future(kept)
        except UnknownRequest as e:
            raise Problem("not_found", "no such answer is remembered", field="request_id", hint=JUDGE) from e
        except DataError as e:
            raise Problem("invalid_request", "the item was not shown in it", field="item_id", hint=JUDGE) from e
        except (StorageError, RunError) as e:
            self._lost(e, "")
            raise Problem("not_ready", "feedback cannot be kept now", hint=LATER) from e

    def _submit(self, write: Callable[..., None], *about: object) -> "Future[None] | None":
        """Have something written after all that waits; none = too much waits, and this is lost."""
        if not self._room.acquire(blocking=False):
            self._metrics.feedback_lost.inc()
            return None
        kept = self._thread.submit(write, *about)
        kept.add_done_callback(lambda _: self._room.release())
        return kept

    def _tell(self, kept: "Future[None]", request_id: str) -> None:
        error = None if kept.cancelled() else kept.exception()
        if isinstance(error, Exception):
            self._lost(error, request_id)

    def _lost(self, error: Exception, request_id: str) -> None:
        self._metrics.feedback_lost.inc()
        log_broken(request_id, error)

    def close(self) -> None:
        """Write what is still to be written, and close the file."""
        self._thread.shutdown()
        if self._feedback is not None:
            self._feedback.close()
