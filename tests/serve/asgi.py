"""Cases of the corpus into an application in this process."""

import asyncio
from collections.abc import Iterator
from typing import Any
from urllib.parse import unquote

from crsearch.serve.corpus import Case
from crsearch.serve.doctor import Reply, Send

PIECE = 65_536


def sender(app: Any, key: str | None = None, leave_after: bytes | None = None) -> Send:
    """Sends cases to ``app`` as a server would; the client goes when it has read ``leave_after``."""

    async def send(case: Case) -> Reply | None:
        raw, _, query = case.path.replace("$KEY", key or "").partition("?")
        headers = [
            (n.lower().encode(), v.replace("$KEY", key or "").encode("utf-8", "replace")) for n, v in case.headers
        ]
        if not any(n == b"host" for n, _ in headers):
            headers.append((b"host", b"127.0.0.1:8000"))
        if key and not case.keyed:
            headers.append((b"authorization", f"Bearer {key}".encode()))
        body = case.body_bytes()
        if body:
            headers.append((b"content-length", str(len(body)).encode()))
        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": case.method, "scheme": "http",
            "path": unquote(raw), "raw_path": raw.encode(), "query_string": query.encode(), "root_path": "",
            "headers": headers, "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 8000), "state": {},
        }  # fmt: skip
        pieces, sent, is_over = _pieces(body), [], asyncio.Event()

        async def receive() -> dict[str, Any]:
            for piece, is_last in pieces:
                return {"type": "http.request", "body": piece, "more_body": not is_last}
            await is_over.wait()
            return {"type": "http.disconnect"}

        async def take(message: dict[str, Any]) -> None:
            sent.append(message)
            is_left = leave_after is not None and leave_after in message.get("body", b"")
            if is_left or (message["type"] == "http.response.body" and not message.get("more_body")):
                is_over.set()

        await asyncio.wait_for(app(scope, receive, take), 30)
        begin = next(m for m in sent if m["type"] == "http.response.start")
        got = b"".join(m.get("body", b"") for m in sent if m["type"] == "http.response.body")
        named = {n.decode("latin-1").lower(): v.decode("latin-1") for n, v in begin["headers"]}
        return Reply(status=begin["status"], headers=named, body=got)

    return send


def _pieces(body: bytes) -> Iterator[tuple[bytes, bool]]:
    for begin in range(0, max(1, len(body)), PIECE):
        yield body[begin : begin + PIECE], begin + PIECE >= len(body)
