"""Several server processes behind one port: one that dies is started again, but a server that cannot start ends.

Source: details: this project.
"""

import os
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from crsearch.errors import CrsearchError, RunError
from crsearch.runs import write_atomic

FOLDER = "CRSEARCH_SERVE_STARTS"
"""Environment in which a worker finds the folder where it says whether it could start."""
PATIENCE = 3
"""Workers in a row that end before they are ready, without a word, until the server gives up."""
_CAUSE = "cause"


class Workers(Multiprocess):
    """The supervisor of the workers.

    Args:
        config: of each.
        sockets: bound already.
        folder: empty, where workers say whether they could start.
    """

    def __init__(self, config: uvicorn.Config, sockets: Sequence[socket.socket], folder: Path) -> None:
        super().__init__(config, list(sockets))
        os.environ[FOLDER] = str(folder)
        self.folder, self.cause = folder, ""
        self._stillborn = 0

    def serve(self) -> None:
        """Run until a signal ends it.

        Raises:
            RunError: no worker can start; with the cause.
        """
        self.run()
        if self.cause:
            raise RunError(self.cause)

    def keep_subprocess_alive(self) -> None:
        """Start those that died again, unless no worker can start."""
        before = list(self.processes)
        super().keep_subprocess_alive()
        gone = [process for process in before if process not in self.processes]
        self._stillborn = 0 if any(map(self._was_ready, gone)) else self._stillborn + len(gone)
        if not any(process.process.is_alive() and self._was_ready(process) for process in self.processes):
            self._give_up([process.exitcode for process in gone])

    def _give_up(self, codes: Sequence[int | None]) -> None:
        """End where a worker has told why it cannot start, or several in a row were never ready."""
        told = self.folder / _CAUSE
        if told.exists():
            self.cause = told.read_text(encoding="utf-8")
        elif codes and self._stillborn >= PATIENCE:
            self.cause = (
                f"{self._stillborn} server processes in a row ended before they were ready (exit code {codes[0]}). "
                "Serve with one process to see why: --set workers=1; -9 means too little memory"
            )
        if self.cause:
            self.should_exit.set()

    def _was_ready(self, process: Process) -> bool:
        return (self.folder / str(process.pid)).exists()


def tell(failure: BaseException | None) -> None:
    """In a worker: say that it is ready, or why it cannot start."""
    folder = os.environ.get(FOLDER)
    if folder is None:
        return
    words = str(failure) if isinstance(failure, CrsearchError) else f"a server process failed: {failure!r}"
    name, text = (str(os.getpid()), "") if failure is None else (_CAUSE, words)
    write_atomic(Path(folder) / name, text)
