"""A real chat endpoint on this machine that misbehaves on request."""

import json
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


def completion(text: str, finish: str = "stop") -> bytes:
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": finish}
    return json.dumps({"choices": [choice], "usage": {"prompt_tokens": 7, "completion_tokens": 3}}).encode()


@dataclass
class Reply:
    """One scripted answer; the default is a good one."""

    status: int = 200
    body: bytes = field(default_factory=lambda: completion("intent: case"))
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0.0
    drip: float = 0.0
    """Seconds between single bytes of the body."""
    cut: int = 0
    """Bytes of the body that are promised but never sent."""


Script = Callable[[int, dict[str, Any]], Reply]
"""(number of the request from 0, its body) -> reply."""


class Server:
    """A chat endpoint that follows a script and remembers what it saw."""

    def __init__(self, script: Script) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.times: list[float] = []
        self.busy = self.most_busy = 0
        lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                with lock:
                    number = len(server.bodies)
                    server.bodies.append(body)
                    server.headers.append({k.lower(): v for k, v in self.headers.items()} | {"path": self.path})
                    server.times.append(time.monotonic())
                    server.busy += 1
                    server.most_busy = max(server.busy, server.most_busy)
                reply = script(number, body)
                time.sleep(reply.delay)
                with lock:
                    server.busy -= 1
                self.send_response(reply.status)
                for name, value in reply.headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(reply.body)))
                self.end_headers()
                try:
                    if reply.drip:
                        for byte in reply.body:
                            self.wfile.write(bytes([byte]))
                            self.wfile.flush()
                            time.sleep(reply.drip)
                    else:
                        self.wfile.write(reply.body[: len(reply.body) - reply.cut])
                except OSError:  # the client has had enough, which is what some tests want
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_port}/v1"
        threading.Thread(target=self._http.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()
