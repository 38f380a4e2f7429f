"""Several processes behind a port: what cannot start ends with one line and an exit code, and does not begin again."""

import os
import socket
import subprocess
import sys
from itertools import count
from pathlib import Path

import pytest
import uvicorn
from uvicorn.supervisors.multiprocess import Process

from crsearch.errors import ModelError, RunError
from crsearch.serve import workers
from crsearch.serve.workers import FOLDER, PATIENCE, Workers, tell


def serve(run: Path, port: int, *, within: float = 240) -> subprocess.CompletedProcess[str]:
    """``crsearch serve`` with two workers, until it ends by itself."""
    command = [sys.executable, "-c", "from crsearch.cli.main import main; main()", "serve", str(run)]
    return subprocess.run(
        [*command, "--port", str(port), "--set", "workers=2"],
        capture_output=True, text=True, timeout=within, check=False,
    )  # fmt: skip


@pytest.mark.slow
def test_a_broken_checkpoint_ends_the_server_with_its_cause(run_folder):
    (file,) = (run_folder / "models" / "sft1").glob("model.safetensors")
    file.write_bytes(b"broken")
    ended = serve(run_folder, 0)
    said = [line for line in ended.stderr.splitlines() if line]
    assert ended.returncode not in (0, None)
    assert len(said) == 1 and "model.safetensors" in said[0] and "copy the folder again" in said[0], ended.stderr


def test_a_port_that_is_taken_ends_the_server_before_anything_is_loaded(run_folder):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        ended = serve(run_folder, taken.getsockname()[1])
    assert ended.returncode not in (0, None)
    assert "cannot listen on 127.0.0.1" in ended.stderr and "--port" in ended.stderr


class Body:
    """What the operating system knows of a worker."""

    pids = count(1_000_000)

    def __init__(self, is_running: bool) -> None:
        self.pid, self.exitcode, self.is_running = next(self.pids), -9, is_running

    def is_alive(self) -> bool:
        return self.is_running


class Worker(Process):
    """A worker that ended, or runs."""

    def __init__(self, config=None, sockets=None, is_running=False):
        self.process = Body(is_running)

    def is_alive(self, timeout=0.0) -> bool:
        return self.process.is_running

    def start(self) -> None: ...

    def kill(self) -> None: ...

    def join(self) -> None: ...


@pytest.fixture
def supervisor(tmp_path, monkeypatch):
    monkeypatch.setattr("uvicorn.supervisors.multiprocess.Process", Worker)
    monkeypatch.setattr("uvicorn.supervisors.multiprocess.signal.signal", lambda *_: None)
    monkeypatch.setenv(FOLDER, "")
    made = Workers(uvicorn.Config("none", workers=1), [], tmp_path)
    made.processes = [Worker()]
    return made


def test_workers_that_die_before_they_are_ready_are_not_started_for_ever(supervisor):
    for _ in range(PATIENCE - 1):
        supervisor.keep_subprocess_alive()
        assert not supervisor.should_exit.is_set()
    supervisor.keep_subprocess_alive()
    assert supervisor.should_exit.is_set() and "exit code -9" in supervisor.cause and "workers=1" in supervisor.cause


def test_one_that_was_ready_is_started_again_each_time(supervisor):
    for _ in range(3 * PATIENCE):
        (supervisor.folder / str(supervisor.processes[0].pid)).touch()
        supervisor.keep_subprocess_alive()
    assert not supervisor.should_exit.is_set()


def test_a_worker_that_cannot_start_does_not_end_those_that_serve(supervisor):
    alive = Worker(is_running=True)
    supervisor.processes = [alive, Worker()]
    (supervisor.folder / str(alive.pid)).touch()
    tell(ModelError("broken"))
    supervisor.keep_subprocess_alive()
    assert not supervisor.should_exit.is_set()


def test_a_worker_tells_its_cause_in_the_words_of_the_error(supervisor):
    tell(ModelError("weights of another model: train again"))
    supervisor.run = supervisor.keep_subprocess_alive
    with pytest.raises(RunError, match="weights of another model: train again"):
        supervisor.serve()
    tell(None)
    assert (supervisor.folder / str(os.getpid())).exists()


def test_outside_of_a_worker_nothing_is_told(monkeypatch, tmp_path):
    monkeypatch.delenv(FOLDER, raising=False)
    monkeypatch.chdir(tmp_path)
    workers.tell(None)
    assert list(tmp_path.iterdir()) == []
