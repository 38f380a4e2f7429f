"""Keeps what was shown and what users did with it, behind the answers.

Source: details: this project (docs/howto/catalogue.md).
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from crsearch.errors import DataError
from crsearch.serve.contract import Answer, Judgement, SearchRequest
from crsearch.serve.feedback import FeedbackStore, UnknownRequest
from crsearch.serve.problems import Problem

JUDGE = "judge items of an answer of this server, by its request_id"


class Scribe:
    """One thread that writes, so that a judgement is kept after the answer it is about.

    Args:
        feedback: where it writes; none = nothing is kept.
    """

    def __init__(self, feedback: FeedbackStore | None) -> None:
        self._feedback = feedback
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="crsearch-scribe")

    def keep(self, answer: Answer, asked_by: SearchRequest) -> None:
        """Keep what was shown, so that clicks on it can be told later; lists of one request are added up."""
        if self._feedback is None or not answer.items:
            return
        self._thread.submit(
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

    async def judge(self, judgement: Judgement) -> None:
        """Keep what a user did with an item of an answer.

        Raises:
            Problem: no such answer is remembered, or the item was not shown in it.
        """
        if self._feedback is None:
            raise Problem("not_found", "this service keeps no feedback")
        about = (judgement.request_id, judgement.item_id, judgement.kind)
        try:
            await asyncio.wrap_future(self._thread.submit(self._feedback.judge, *about))
        except UnknownRequest as e:
            raise Problem("not_found", "no such answer is remembered", field="request_id", hint=JUDGE) from e
        except DataError as e:
            raise Problem("invalid_request", "the item was not shown in it", field="item_id", hint=JUDGE) from e

    def close(self) -> None:
        """Write what is still to be written, and close the file."""
        self._thread.shutdown()
        if self._feedback is not None:
            self._feedback.close()
