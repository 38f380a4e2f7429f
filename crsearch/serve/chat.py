"""The OpenAI-shaped door: one user message is the query, ``n`` ranked items come back as ``choices``.

    {"model": "crs", "messages": [{"role": "user", "content": "phone case"}], "n": 5, "user": "u17"}

A choice's message is the item's semantic ID; title, id and score stand beside, the thought in ``reasoning_content``.

Source: details: this project.
"""

import time
from typing import Annotated, Literal

from pydantic import Field

from crsearch.serve.answers import Completion
from crsearch.serve.contract import Answer, ItemId, Mode, SearchRequest, Strict
from crsearch.serve.problems import Problem


class ChatMessage(Strict):
    """A message; the last one of the user is the query."""

    role: Literal["system", "user", "assistant"]
    content: Annotated[str, Field(max_length=100_000)]


class ChatRequest(Strict):
    """What is understood of OpenAI's request; anything else is refused, so that nobody believes it has an effect."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=64)
    model: Annotated[str, Field(max_length=64)] = "crs"
    n: int = Field(default=10, ge=1, le=100)
    """Items."""
    user: ItemId | None = None
    """A user of the run."""
    reasoning_effort: Literal["none", "low", "medium", "high"] = "medium"
    """``none``: no thought; else the thought that the deadline allows."""
    stream: Literal[False] = False


def search_of(chat: ChatRequest) -> SearchRequest:
    """The search that a chat request asks for.

    Raises:
        Problem: another model, or no message of the user.
    """
    if chat.model != "crs":
        raise Problem("not_found", "there is no such model", field="model", hint="the model is crs")
    said = [m.content for m in chat.messages if m.role == "user"]
    if not said:
        raise Problem("empty_query", "no message of the user", field="messages", hint="add one with role user")
    mode: Mode = "fast" if chat.reasoning_effort == "none" else "auto"
    return SearchRequest(query=said[-1], user_id=chat.user, top_k=chat.n, mode=mode)


def completion(answer: Answer) -> Completion:
    """An answer in OpenAI's shape; choices are items, best first."""
    thought = answer.reasoning
    return {
        "id": f"chatcmpl-{answer.request_id}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "crs",
        "choices": [
            {
                "index": item.rank - 1,
                "message": {
                    "role": "assistant",
                    "content": "".join(item.sid),
                    "reasoning_content": None if thought is None else thought.text,
                },
                "item": {"id": item.id, "title": item.title, "score": item.score},
                "finish_reason": "stop",
            }
            for item in answer.items
        ],
        "usage": {"completion_tokens": 0 if thought is None else thought.tokens},
        "served_by": answer.served_by.value,
    }
