"""Further processes of a run: what the main path does not wait for is done beside it.

The main path trains one model after the other on one core. Validating and measuring the finished ones, and training
the control, wait for none of that: a process of the crew does them ahead of time, through the same code and into the
same run directory. What is done ahead is found done when the main path comes to it; what is not is done then. So the
result is the same, byte for byte, with any number of processes (each with the same number of threads).

A worker is ``python -m crsearch.pipeline.crew``: it reads a line of JSON for itself and one for each job, and writes
a line for all it has to tell. It ends with its standard input, so also when the main process is killed.
"""

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from crsearch import errors
from crsearch.config import Settings
from crsearch.errors import CrsearchError, RunError
from crsearch.pipeline.workspace import Workspace
from crsearch.runs import Json, Progress, RunDirectory

Jobs = Mapping[str, Callable[..., object]]
"""Name -> what is done with the workspace and JSON-ready arguments."""


class Crew:
    """Workers of an open run.

    Args:
        space: the run.
        jobs: what can be done, by name.
        processes: those of the run, the main one counted; 1 = nothing is done ahead.
    """

    def __init__(self, space: Workspace, jobs: Jobs, processes: int) -> None:
        self.space, self.jobs, self.processes = space, jobs, processes
        self._waiting: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
        self._workers: list[_Worker] = []
        space.progress = space.stages.progress = _one_at_a_time(space.progress)

    def ahead(self, job: str, **arguments: Any) -> "Task":
        """Have a job done when a worker is free; all that it needs must be on record.

        Returns:
            What ``wait`` takes.
        """
        task = Task(job, arguments)
        if self.processes == 1:
            task.done.set()  # the main path does it when it comes to it
            return task
        self._waiting.put(task)
        while len(self._workers) < self.processes - 1:
            self._workers.append(_Worker(self.space, self._waiting))
        return task

    def wait(self, tasks: Sequence["Task"]) -> None:
        """Wait until jobs are done, and do jobs that nobody has begun meanwhile.

        Raises:
            CrsearchError: one of the jobs failed, or its process died.
        """
        while waited_for := [t for t in tasks if not t.done.is_set()]:
            try:
                mine = self._waiting.get_nowait()
            except queue.Empty:
                waited_for[0].done.wait()
                continue
            assert mine is not None
            self.jobs[mine.job](self.space, **mine.arguments)
            mine.done.set()
        for failure in [t.failure for t in tasks if t.failure is not None]:
            raise failure

    def __enter__(self) -> "Crew":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers:
            worker.kill()


@dataclass(slots=True)
class Task:
    """A job to be done ahead of time."""

    job: str
    arguments: Mapping[str, Any]
    done: threading.Event = field(default_factory=threading.Event)
    """Set when it has ended, well or not."""
    failure: BaseException | None = None

    def __str__(self) -> str:
        return " ".join([self.job, *(str(v) for v in self.arguments.values())])


class _Worker:
    """A worker process and the thread that hands it jobs and hears what it tells."""

    def __init__(self, space: Workspace, waiting: "queue.SimpleQueue[Task | None]") -> None:
        self.space, self.waiting = space, waiting
        threads = {"OMP_NUM_THREADS": str(space.settings.threads)}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "crsearch.pipeline.crew"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8", env={**os.environ, **threads},
        )  # fmt: skip
        records = None if space.records is None else str(space.records)
        sources = [str(source.path) for source in space.stages.sources]
        settings = space.settings.model_dump(mode="json")
        self._tell({"run": str(space.run.path), "settings": settings, "records": records, "sources": sources})
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()

    def kill(self) -> None:
        """End the process; its half-written files are under temporary names."""
        self.process.kill()
        self.waiting.put(None)
        self.thread.join()
        with contextlib.suppress(BrokenPipeError):
            self.process.communicate()

    def _tell(self, line: Json) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(line) + "\n")
        self.process.stdin.flush()

    def _work(self) -> None:
        while self.process.poll() is None:
            task = self.waiting.get()
            if task is None:
                return
            try:
                self._do(task)
            except Exception as e:  # raised by whoever waits for the task
                task.failure = e
            task.done.set()

    def _do(self, task: Task) -> None:
        with contextlib.suppress(BrokenPipeError):  # it has ended: said below
            self._tell({"job": task.job, "arguments": task.arguments})
        assert self.process.stdout is not None
        for line in self.process.stdout:
            told = json.loads(line)
            if "progress" in told:
                self.space.progress(*told["progress"])
            elif "entry" in told:
                self.space.run.enter(*told["entry"])
            elif "error" in told:
                kind, message = told["error"]
                raise getattr(errors, kind)(message)
            elif "crash" in told:
                raise RuntimeError(f"{task} failed in a process beside the main one:\n{told['crash']}")
            else:
                return
        code = self.process.wait()
        why = "killed; too little memory?" if code == -signal.SIGKILL else f"exit code {code}"
        raise RunError(
            f"{self.space.run.path}: the process that did {task} has ended ({why}). Nothing is lost: go on with "
            "--resume, or with --resume --set processes=1"
        )


def _one_at_a_time(progress: Progress) -> Progress:
    """A progress that several threads may call."""
    lock = threading.Lock()

    def locked(stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
        with lock:
            progress(stage, done, total, numbers)

    return locked


# -- the worker's side ------------------------------------------------------------------------------------------------
class _Lent(RunDirectory):
    """The run directory of the main process, which holds the lock and writes the manifest; it is told of changes."""

    def __init__(self, path: Path, tell: Callable[[Json], None]) -> None:
        super().__init__(path)
        self.tell = tell

    def look(self) -> None:
        """Read the manifest again."""
        self._manifest = self._read_manifest()

    def enter(self, name: str, entry: Json | None) -> None:
        """Tell the main process of a stage."""
        self.tell({"entry": [name, entry]})
        stages = {k: v for k, v in self._manifest["stages"].items() if k != name}
        self._manifest = {**self._manifest, "stages": stages if entry is None else {**stages, name: entry}}


def serve(lines: Iterator[str], tell: Callable[[Json], None], jobs: Jobs) -> None:
    """Do the jobs of ``lines`` one after the other.

    Args:
        lines: first the run, then one job each.
        tell: takes progress, entries of the manifest, errors, and an empty object at the end of each job.
        jobs: by name.
    """
    import torch

    about = json.loads(next(lines))
    settings = Settings.model_validate(about["settings"])
    torch.set_num_threads(settings.threads)
    run = _Lent(Path(about["run"]), tell)
    records = None if about["records"] is None else Path(about["records"])
    sources = [Path(source) for source in about["sources"]]
    space = Workspace(run, settings, lambda *told: tell({"progress": told}), records, sources=sources)
    for line in lines:
        task = json.loads(line)
        try:
            run.look()
            jobs[task["job"]](space, **task["arguments"])
            tell({})
        except CrsearchError as e:
            tell({"error": [type(e).__name__, str(e)]})
        except Exception:
            tell({"crash": traceback.format_exc()})


def _lines_until_the_end(source: IO[str]) -> Iterator[str]:
    """Lines as they come; when there are no more, the process ends at once, whatever it is doing."""
    waiting: queue.SimpleQueue[str] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            waiting.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        yield waiting.get()


def main() -> None:
    """A worker: jobs from standard input, answers to standard output, everything else to standard error."""
    from crsearch.pipeline.jobs import JOBS

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the main process decides
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def tell(line: Json) -> None:
        answers.write(json.dumps(line, default=float) + "\n")
        answers.flush()

    serve(_lines_until_the_end(sys.stdin), tell, JOBS)


if __name__ == "__main__":
    main()
