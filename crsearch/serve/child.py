"""The process that decodes, as its parent sees it: how it is started, and the messages between the two.

A message is its length in four bytes and a JSON list that begins with its kind. There is no pickle: neither side can
make the other run anything.

    parent                                                  child (``python -m crsearch.serve.decoding``)
    order  RUN, CONFIG                                  ->
    warm   VERSION, TRUNK, WIDTH                        ->
                                                        <-  ready   STATE          (or: failed  WHY)
    job    N, {index, trunk, mode, deadline, …}         ->
                                                        <-  token   N, ID          (of its thought, where asked for)
                                                        <-  outcome N, {rung, rows, …}, STATE      (or: list, error)
    cancel N                                            ->
    use N, VERSION · forget N, USER · ping N            ->
                                                        <-  done    N, VALUE, STATE               (or: error)

Nothing of torch is imported here, so that the child can be started before its parent has imported it. Deadlines are
times of the monotonic clock, which all processes of a machine share.

Source: details: this project (docs/serving.md).
"""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson

from crsearch.serve.config import ServeConfig

SWITCH_SECONDS = 0.0005
"""How long a thread of either process may keep the interpreter: neither the event loop nor the decoding waits 5 ms for
a thread that reads a version of the catalogue."""
END_SECONDS = 5.0
"""Longest wait for a child that was told to end."""
_LENGTH = struct.Struct("<I")


def packed(*message: Any) -> bytes:
    """A message as bytes.

    >>> list(Unpacker().feed(packed("token", 7, 42)))
    [['token', 7, 42]]
    """
    text = orjson.dumps(message, default=dict)
    return _LENGTH.pack(len(text)) + text


class Unpacker:
    """Bytes to messages, however they were cut."""

    def __init__(self) -> None:
        self._left = bytearray()

    def feed(self, data: bytes) -> Iterator[list[Any]]:
        """The messages that are whole now."""
        self._left += data
        at = 0
        while len(self._left) >= at + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._left, at)
            begin = at + _LENGTH.size
            if len(self._left) < begin + length:
                break
            at = begin + length
            yield orjson.loads(memoryview(self._left)[begin:at].tobytes())
        del self._left[:at]


class Child:
    """A decoding process that was started and told what to load.

    Args:
        run: whose model it decodes with.
        config: of the server.
    """

    def __init__(self, run: Path, config: ServeConfig) -> None:
        self.socket, theirs = socket.socketpair()
        secrets = {config.keys.search, config.keys.admin, config.keys.metrics}
        with theirs:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "crsearch.serve.decoding", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name not in secrets},
            )
        self.socket.sendall(packed("order", str(run.resolve()), config.model_dump(mode="json")))

    def end(self) -> None:
        """Wait for a process whose connection is closed, and kill it if it does not end."""
        self.socket.close()
        try:
            self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
