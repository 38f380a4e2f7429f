"""Ctrl-C and kill -9 on the real program: it says how to go on, and what it says works."""

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tiny_run import tiny_arguments

from crsearch.runs import file_digest

PROGRAM = """
import signal
from crsearch.cli.main import main
signal.signal(signal.SIGINT, signal.default_int_handler)
main()
"""
"""As the installed script; an interrupt counts even where the test itself runs in the background."""


def begin(arguments: list[str]) -> subprocess.Popen[str]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def stop(process: subprocess.Popen[str], number: signal.Signals, when: Callable[[], bool]) -> str:
    """Send a signal once ``when`` holds; standard error."""
    while not when():
        assert process.poll() is None, process.stderr
        time.sleep(0.01)
    process.send_signal(number)
    return process.communicate(timeout=60)[1]


def test_a_run_interrupted_and_killed_goes_on_by_the_command_it_prints(tiny_run, tmp_path):
    out = tmp_path / "my run"
    metrics, rollouts = out / "metrics.jsonl", out / "traces/rollouts/rl0.jsonl"

    first = begin(["run", "--out", str(out), *tiny_arguments()])
    told = stop(first, signal.SIGINT, metrics.exists).splitlines()
    assert first.returncode == 130
    assert told[-1].startswith("interrupted; go on with: crsearch run --out ")
    again = shlex.split(told[-1].partition(": crsearch ")[2])
    assert again[-1] == "--resume"

    second = begin(again)
    stop(second, signal.SIGKILL, rollouts.exists)
    assert second.returncode == -signal.SIGKILL

    third = begin(again)
    assert third.communicate(timeout=120)[0].splitlines()[-1].startswith("next    crsearch search")
    assert third.returncode == 0
    for file in ("results.json", "metrics.jsonl", "models/sft1/model.safetensors"):
        assert file_digest(out / file) == file_digest(tiny_run / file), file


def test_only_what_can_go_on_says_so(crsearch, tmp_path, monkeypatch):
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crsearch.records.checks.read_folder", interrupted)
    done = crsearch("check", tmp_path)
    assert (done.exit_code, done.stderr) == (130, "interrupted\n")
