"""The run directory: one training or evaluation on disk, written so that a crash loses nothing.

Every write goes to a temporary name, is flushed to the disk and renamed; a stage counts as done when the
manifest says so, and the manifest names the sha256 of each artefact. Layout: DESIGN.md section 3.
"""

import errno
import hashlib
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crsearch.errors import RunError, StorageError

Json = dict[str, Any]
Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called as (stage, done, total, numbers) while a stage runs."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


def silent(stage: str, done: int, total: int, numbers: Mapping[str, float]) -> None:
    """A progress that shows nothing."""


def digest(*parts: object) -> str:
    """sha256 (hex) of values that JSON can hold, independent of dict order.

    >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
    True
    """
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False, default=str)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def file_digest(path: Path) -> str:
    """sha256 (hex) of a file's bytes."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def _sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn "no room" and "not allowed" of the operating system into an error with a remedy."""
    try:
        yield
    except OSError as e:
        if e.errno in _NO_ROOM:
            probe = path if path.exists() else path.parent
            free = shutil.disk_usage(probe).free / 2**20 if probe.exists() else 0.0
            raise StorageError(
                f"{path}: no room to write ({e.strerror}; {free:.0f} MiB free). Nothing was changed: "
                "free some room, then run the same command with --resume"
            ) from e
        if e.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise StorageError(f"{path}: not allowed to write here ({e.strerror}); choose another --out") from e
        raise


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old or the new content, never half of it.

    Raises:
        StorageError: no room or no permission; the old content stays.
    """
    tmp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tmp.open("wb") as f:
                f.write(data.encode() if isinstance(data, str) else data)
                f.flush()
                os.fsync(f.fileno())
            tmp.replace(path)
            _sync(path.parent)
        finally:
            tmp.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically: sorted keys, two spaces, UTF-8, a final newline."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``path`` when the block ends well.

    Raises:
        StorageError: no room or no permission; what was at ``path`` stays.
    """
    tmp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    old = path.with_name(f".old-{os.getpid()}-{path.name}")
    with storage_errors(path):
        try:
            shutil.rmtree(tmp, ignore_errors=True)
            tmp.mkdir(parents=True)
            yield tmp
            for file in sorted(tmp.rglob("*")):
                _sync(file)
            _sync(tmp)
            if path.exists():
                path.replace(old)
            tmp.replace(path)
            _sync(path.parent)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
            shutil.rmtree(old, ignore_errors=True)


@dataclass(frozen=True, slots=True)
class StageRecord:
    """What the manifest knows of a finished stage."""

    key: str
    """Digest of all that the stage depends on."""
    outputs: Mapping[str, str]
    """Path inside the run -> sha256."""
    numbers: Mapping[str, Any]
    """Facts for later stages and the report, e.g. tokens seen."""


class RunDirectory:
    """One run on disk. Open it with ``with RunDirectory(path) as run``: the block holds the lock.

    Raises (on entering):
        RunError: another living process holds the lock.
        StorageError: the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest: Json = {}
        self._locked = False

    def __enter__(self) -> "RunDirectory":
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        self._take_lock()
        self._sweep()
        self._manifest = self._read_manifest()
        return self

    @classmethod
    def reading(cls, path: Path) -> "RunDirectory":
        """A run to read from, without the lock.

        Raises:
            RunError: there is no run.
        """
        if not (path / "manifest.json").exists():
            raise RunError(f"{path}: no run here (no manifest.json). Make one: crsearch demo --out {path}")
        run = cls(path)
        run._manifest = run._read_manifest()
        return run

    def __exit__(self, *_: object) -> None:
        if self._locked:
            (self.path / ".lock").unlink(missing_ok=True)
            self._locked = False

    # -- lock ---------------------------------------------------------------------------------------------------------
    def _take_lock(self) -> None:
        lock = self.path / ".lock"
        me = {"pid": os.getpid(), "host": socket.gethostname()}
        with storage_errors(lock):
            for _ in range(2):
                try:
                    with lock.open("x") as f:
                        json.dump(me, f)
                    self._locked = True
                    return
                except FileExistsError:
                    holder = _read_lock(lock)
                    if _alive(holder):
                        raise RunError(
                            f"{self.path}: in use by process {holder.get('pid')} on {holder.get('host')}. "
                            f"Wait for it, choose another --out, or remove {lock} if that process is gone"
                        ) from None
                    lock.unlink(missing_ok=True)
        raise RunError(f"{self.path}: another process took the lock at the same moment; try again")

    def _sweep(self) -> None:
        """Remove what a killed process left behind."""
        for left in [*self.path.rglob(".tmp-*"), *self.path.rglob(".old-*")]:
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    # -- manifest and stages ------------------------------------------------------------------------------------------
    def _read_manifest(self) -> Json:
        path = self.path / "manifest.json"
        if not path.exists():
            return {"stages": {}}
        try:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        except (json.JSONDecodeError, UnicodeDecodeError) as e:
            raise RunError(f"{path}: not readable ({e}); remove the file to start over in this directory") from e

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Versions, seeds, threads, data fingerprint and the finished stages."""
        return self._manifest

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Put facts (versions, seed, threads, data fingerprint) into the manifest."""
        self._manifest = {**self._manifest, **facts}
        write_json(self.path / "manifest.json", self._manifest)

    def stage(self, name: str, key: str | None = None) -> StageRecord | None:
        """The record of a finished stage, or none if it is not done, or was done from other inputs.

        Args:
            key: digest of the inputs; none = any.

        Raises:
            RunError: an artefact of the stage is missing or changed on disk.
        """
        entry = self._manifest["stages"].get(name)
        if entry is None or (key is not None and entry["key"] != key):
            return None
        for rel, sha in entry["outputs"].items():
            file = self.path / rel
            if not file.exists() or file_digest(file) != sha:
                raise RunError(
                    f"{file}: {'changed' if file.exists() else 'missing'} since stage {name} wrote it. "
                    f"Delete the entry by running with --redo {name}, or restore the file"
                )
        return StageRecord(entry["key"], entry["outputs"], entry["numbers"])

    def complete(self, name: str, key: str, outputs: list[Path], numbers: Mapping[str, Any] | None = None) -> None:
        """Record a stage as done, with the sha256 of each output (files, or folders of files)."""
        files = [f for out in outputs for f in (sorted(out.rglob("*")) if out.is_dir() else [out]) if f.is_file()]
        shas = {f.relative_to(self.path).as_posix(): file_digest(f) for f in files}
        stages = {**self._manifest["stages"], name: {"key": key, "outputs": shas, "numbers": dict(numbers or {})}}
        self.describe({"stages": stages})

    def forget(self, name: str) -> None:
        """Drop the record of a stage, so that it is run again."""
        self.describe({"stages": {k: v for k, v in self._manifest["stages"].items() if k != name}})

    # -- lines --------------------------------------------------------------------------------------------------------
    def append(self, file: str, row: Mapping[str, Any]) -> None:
        """Append one JSON line to a file of the run; ``stage`` and ``step`` in it are what ``rewind`` goes by."""
        path = self.path / file
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as f:
                f.write(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n")

    def rewind(self, file: str, stage: str, step: int) -> None:
        """Drop the lines of a stage after ``step``: a resumed stage writes them again."""
        path = self.path / file
        if path.exists():
            rows = [r for r in read_lines(path) if r["stage"] != stage or r["step"] <= step]
            write_atomic(path, "".join(json.dumps(r, sort_keys=True, ensure_ascii=False) + "\n" for r in rows))

    def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """Append one line to ``metrics.jsonl``."""
        self.append("metrics.jsonl", {"stage": stage, "step": step, **numbers})

    def numbers(self) -> list[Json]:
        """All lines of ``metrics.jsonl``, in order."""
        path = self.path / "metrics.jsonl"
        return read_lines(path) if path.exists() else []


def read_lines(path: Path) -> list[Json]:
    """Rows of a JSON-lines file of a run; a last line cut by a crash is dropped.

    Raises:
        RunError: a line before the last is not JSON.
    """
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = []
    for i, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if i < len(lines) - 1:
                raise RunError(f"{path}:{i + 1}: not a JSON line; restore the file or delete this line") from None
    return rows


def _read_lock(lock: Path) -> Json:
    try:
        return dict(json.loads(lock.read_text()))
    except (OSError, json.JSONDecodeError):
        return {}


def _alive(holder: Json) -> bool:
    """Whether the process that wrote the lock still runs (other hosts: assumed to run)."""
    if holder.get("host") != socket.gethostname():
        return bool(holder)
    try:
        os.kill(int(holder["pid"]), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
