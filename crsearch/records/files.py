"""Several files written as one: after a crash a folder holds all of the old ones or all of the new ones.

The new files are staged in a hidden folder, synced, and the folder is renamed to ``.commit``: that rename is
the moment of change. Then the files move to their places; whoever opens the folder next finishes an
interrupted move. One writer at a time (the run directory has a lock).
"""

import shutil
import tempfile
from collections.abc import Callable, Mapping
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crsearch.errors import StorageError
from crsearch.runs import sync

if TYPE_CHECKING:
    import polars as pl

_COMMIT = ".commit"
_STAGE = ".saving-"

Writer = Callable[[Path], None]
"""Writes one file at the path it is given."""


def write_together(folder: Path, writers: Mapping[str, Writer]) -> None:
    """Write files into a folder, all or none; other files of the folder stay.

    Args:
        folder: made if missing.
        writers: file name -> function that writes it.

    Raises:
        StorageError: no room or no permission; the old files are untouched.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        finish_interrupted(folder)
        for stale in folder.glob(f"{_STAGE}*"):  # left by a killed process
            shutil.rmtree(stale)
        stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=folder))
    except OSError as e:
        raise StorageError(f"{folder}: cannot be written: {e.strerror or e}; choose another folder") from e
    try:
        for name, write in writers.items():
            write(stage / name)
            sync(stage / name)
        sync(stage)
        stage.rename(folder / _COMMIT)
        sync(folder)
    except OSError as e:
        shutil.rmtree(stage, ignore_errors=True)
        raise StorageError(
            f"{folder}: saving failed: {e.strerror or e}; what was there before is untouched. Make room and try again"
        ) from e
    except BaseException:
        shutil.rmtree(stage, ignore_errors=True)
        raise
    finish_interrupted(folder)


def parquet(frame: "pl.DataFrame", **options: Any) -> Writer:
    """Writes a frame as Parquet.

    The bytes go through Python: when the disk is full, polars itself gives up without saying why.
    """

    def write(path: Path) -> None:
        buffer = BytesIO()
        frame.write_parquet(buffer, compression="zstd", **options)
        path.write_bytes(buffer.getbuffer())

    return write


def finish_interrupted(folder: Path) -> None:
    """Move the files of a committed save to their places; nothing to do if there is none.

    Raises:
        StorageError: the folder cannot be written.
    """
    commit = folder / _COMMIT
    if not commit.is_dir():
        return
    try:
        for path in sorted(commit.iterdir()):
            path.replace(folder / path.name)
        commit.rmdir()
        sync(folder)
    except OSError as e:
        raise StorageError(
            f"{commit}: an interrupted save cannot be finished: {e.strerror or e}; make the folder writable"
        ) from e
