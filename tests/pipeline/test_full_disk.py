"""A disk that is full: the run says so, leaves nothing half-written, and goes on once there is room."""

import os
import resource
from pathlib import Path

import pytest
from crash import in_child
from tiny_run import Interrupt, tiny_arguments, tiny_settings

from crsearch.pipeline.run import run
from crsearch.runs import file_digest


def run_with_room(out: Path, size: int | None, told: Path) -> None:
    """``crsearch run`` in a process that cannot write files above ``size`` bytes; standard error in ``told``."""
    from crsearch.cli.main import app

    if size is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    os.dup2(os.open(told, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    app(["run", "--out", str(out), *tiny_arguments(), *(["--resume"] if out.exists() else [])])


@pytest.mark.parametrize(
    "size, place",
    [(1_000, "settings.toml"), (8_000, "data"), (12_000, "data"), (24_000, "models/base")],
)
def test_a_full_disk_is_named_and_nothing_is_half_written(tmp_path, size, place):
    out, told = tmp_path / "run", tmp_path / "told"
    assert in_child(run_with_room, out, size, told) == 2
    last = told.read_text().splitlines()[-1]
    assert last.startswith(f"StorageError: {out}/{place}")
    assert "Traceback" not in told.read_text()
    assert not [f for f in out.rglob("*") if f.name.startswith(".") and f.name != ".lock"]


def test_with_room_again_the_run_goes_on(tmp_path, tiny_run):
    out, told = tmp_path / "run", tmp_path / "told"
    assert in_child(run_with_room, out, 24_000, told) == 2
    events = Interrupt("align", 3)
    with pytest.raises(KeyboardInterrupt):
        run(tiny_settings(), out, resume=True, progress=events)
    assert events.ran == ["base", "align"]
    for file in ("model.safetensors", "tokenizer.json"):
        assert file_digest(out / "models/base" / file) == file_digest(tiny_run / "models/base" / file)
