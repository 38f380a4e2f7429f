"""The run directory: one training or evaluation on disk, written so that a crash loses nothing.

Every write goes to a temporary name, is flushed to the disk and renamed; a stage counts as done when the
manifest says so, and the manifest names the sha256 of each artefact.
"""

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from crsearch.errors import CrsearchError, RunError, StorageError

Json = dict[str, Any]
Progress = Callable[[str, int, int, Mapping[str, float]], None]
"""Called as (stage, done, total, numbers) while a stage runs."""

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_NOT_ALLOWED = {errno.EACCES, errno.EPERM, errno.EROFS}
_NOT_A_FOLDER = {errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ELOOP}
_TMP, _OLD = ".tmp-", ".old-"
LOG = "metrics.jsonl"
"""File of a run with what its training stages logged, step by step."""
SAME_BITS = ("threads", "torch", "device")
"""Facts of the manifest, beside the key of a stage, that its bits depend on."""
SERVING = "serving"
"""Folder of a run that belongs to servers: catalogue versions, feedback."""


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


def sync(path: Path) -> None:
    """Force a file, or the renames in a folder, to the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn "no room", "not allowed" and "not a folder" of the operating system into an error with a remedy.

    Libraries in Rust (safetensors, tokenizers, polars) tell such errors in words only: ``... (os error 28)``.
    """
    try:
        yield
    except CrsearchError:
        raise
    except Exception as e:
        told = re.search(r"\(os error (\d+)\)", str(e))
        number = e.errno if isinstance(e, OSError) else int(told[1]) if told else None
        if number in _NO_ROOM:
            raise StorageError(
                f"{path}: no room to write ({os.strerror(number)}; {_free_mib(path):,.0f} MiB free). What was there "
                "before is unchanged: free some room, then give the same command again (a run: with --resume)"
            ) from e
        if number in _NOT_ALLOWED:
            raise StorageError(
                f"{path}: not allowed to write here ({os.strerror(number)}); choose another place"
            ) from e
        missing = isinstance(e, FileNotFoundError) and _cannot_be_made(path, e)
        if number is not None and (number in _NOT_A_FOLDER or missing):
            raise StorageError(f"{path}: cannot be a folder ({os.strerror(number)}); choose another place") from e
        raise


def _cannot_be_made(path: Path, e: FileNotFoundError) -> bool:
    """Whether what is missing is ``path``, beside it or above it, and not a file that was read on the way."""
    return e.filename is not None and Path(os.fsdecode(e.filename)).parent in path.parents


def _free_mib(path: Path) -> float:
    """Room on the disk that holds, or would hold, ``path``."""
    there = next(p for p in (path, *path.absolute().parents) if p.exists())
    return shutil.disk_usage(there).free / 2**20


def write_atomic(path: Path, data: bytes | str) -> None:
    """Write a file so that a reader sees the old or the new content, never half of it.

    Raises:
        StorageError: no room or no permission; the old content stays.
    """
    tmp = path.with_name(f"{_TMP}{os.getpid()}-{path.name}")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with tmp.open("wb") as f:
                f.write(data.encode() if isinstance(data, str) else data)
                f.flush()
                os.fsync(f.fileno())
            tmp.replace(path)
            sync(path.parent)
        finally:
            tmp.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write JSON atomically: sorted keys, two spaces, UTF-8, a final newline."""
    write_atomic(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextmanager
def atomic_directory(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``path`` when the block ends well.

    A process killed between the two renames leaves the former content under another name; the next call, or
    opening the run directory again, puts it back.

    Raises:
        StorageError: no room or no permission; what was at ``path`` stays.
    """
    tmp, old = path.with_name(f"{_TMP}{os.getpid()}-{path.name}"), path.with_name(_OLD + path.name)
    with storage_errors(path):
        try:
            _put_back(old)
            shutil.rmtree(tmp, ignore_errors=True)
            tmp.mkdir(parents=True)
            yield tmp
            for file in sorted(tmp.rglob("*")):
                sync(file)
            sync(tmp)
            if path.exists():
                path.replace(old)
            tmp.replace(path)
            sync(path.parent)
        finally:
            shutil.rmtree(tmp, ignore_errors=True)
            _put_back(old)


def _put_back(old: Path) -> None:
    """Settle what ``atomic_directory`` moved aside: back to its place if that is empty, else it is out of date."""
    place = old.with_name(old.name.removeprefix(_OLD))
    if place.exists():
        shutil.rmtree(old, ignore_errors=True)
    elif old.exists():
        old.replace(place)


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

    The lock is the operating system's (flock on ``.lock``): it ends with the process, however that ends.

    Raises (on entering):
        RunError: another process holds the lock, or the manifest cannot be read.
        StorageError: the folder cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._manifest: Json = {}
        self._lock: int | None = None
        self._changing = threading.RLock()

    def __enter__(self) -> "RunDirectory":
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = self._take_lock()
        try:
            self._sweep()
            self._manifest = self._read_manifest()
        except BaseException:
            self.__exit__()
            raise
        return self

    @classmethod
    def reading(cls, path: Path) -> "RunDirectory":
        """A run to read from, without the lock.

        Raises:
            RunError: there is no run.
        """
        if not (path / "manifest.json").exists():
            raise RunError(
                f"{path}: not a run directory (no manifest.json in it); give the folder of a run, e.g. runs/demo"
                if path.exists()
                else f"{path}: no such run directory. Make one: crsearch demo --out {path}"
            )
        run = cls(path)
        run._manifest = run._read_manifest()
        return run

    def __exit__(self, *_: object) -> None:
        if self._lock is None:
            return
        if os.listdir(self.path) == [".lock"]:  # nothing came of it: leave no empty run behind
            (self.path / ".lock").unlink()
            self.path.rmdir()
        os.close(self._lock)
        self._lock = None

    # -- lock ---------------------------------------------------------------------------------------------------------
    def _take_lock(self) -> int:
        """The open, locked file; it names the holder for whoever comes second."""
        file = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(file, 1_000, 0).decode("utf-8", "replace") or "another process"
            os.close(file)
            raise RunError(
                f"{self.path}: in use by {holder}. Wait for it, stop it, or choose another run directory"
            ) from None
        except OSError as e:
            os.close(file)
            raise StorageError(f"{self.path}: files cannot be locked here ({e.strerror}); choose a local disk") from e
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return file

    def _sweep(self) -> None:
        """Remove what a killed process left half-written; put back what it had moved aside.

        Not below ``serving``: a server may be writing there, under locks of its own.
        """
        parts = [p for p in self.path.iterdir() if p.name != SERVING] if self.path.exists() else []
        found = [p for part in parts for p in (part, *(part.rglob("*") if part.is_dir() else ()))]
        for old in (p for p in found if p.name.startswith(_OLD)):
            _put_back(old)
        for left in (p for p in found if p.name.startswith(_TMP)):
            shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)

    # -- manifest and stages ------------------------------------------------------------------------------------------
    def _read_manifest(self) -> Json:
        path = self.path / "manifest.json"
        if not path.exists():
            return {"stages": {}}
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except (json.JSONDecodeError, UnicodeDecodeError) as e:
            raise RunError(f"{path}: not readable ({e}); remove the file to start over in this directory") from e
        if not isinstance(found, dict) or not isinstance(found.get("stages"), dict):
            raise RunError(f"{path}: not the manifest of a run (no stages); choose another directory")
        return found

    @property
    def manifest(self) -> Mapping[str, Any]:
        """Versions, seeds, threads, data fingerprint and the finished stages."""
        return self._manifest

    def describe(self, facts: Mapping[str, Any]) -> None:
        """Put facts (versions, seed, threads, data fingerprint) into the manifest."""
        with self._changing:
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
                    f"Restore the file, or make it again: run with --resume --redo {name}"
                )
        return StageRecord(entry["key"], entry["outputs"], entry["numbers"])

    def complete(
        self,
        name: str,
        key: str,
        outputs: Sequence[Path],
        numbers: Mapping[str, Any] | None = None,
        cost: Mapping[str, float] | None = None,
    ) -> None:
        """Record a stage as done, with the sha256 of each output (files, or folders of files).

        Args:
            numbers: facts for later stages and the report; nothing that depends on the clock.
            cost: what it took, e.g. ``seconds``.
        """
        files = [f for out in outputs for f in (sorted(out.rglob("*")) if out.is_dir() else [out]) if f.is_file()]
        shas = {f.relative_to(self.path).as_posix(): file_digest(f) for f in files}
        self.enter(name, {"key": key, "outputs": shas, "numbers": dict(numbers or {}), "cost": dict(cost or {})})

    def take_over(self, other: "RunDirectory", name: str, key: str) -> bool:
        """Copy a stage that another run has done from the same inputs, with what it logged and what it cost.

        Returns:
            Whether the other has it, and would make the same bits: threads, torch and device are those of this run.

        Raises:
            RunError: an artefact of the other is missing or changed on disk.
            StorageError: no room.
        """
        alike = all(self.manifest.get(fact) == other.manifest.get(fact) for fact in SAME_BITS)
        if not alike or other.stage(name, key) is None:
            return False
        self.forget(name)
        entry = other.manifest["stages"][name]
        with storage_errors(self.path):
            for file in entry["outputs"]:
                (self.path / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(other.path / file, self.path / file)
        self.rewind(LOG, name, -1)
        for row in (r for r in other.numbers() if r["stage"] == name):
            self.append(LOG, row)
        self.enter(name, entry)
        return True

    def forget(self, name: str) -> None:
        """Drop the record of a stage, so that it is run again; nothing to do if there is none."""
        if name in self._manifest["stages"]:
            self.enter(name, None)

    def enter(self, name: str, entry: Json | None) -> None:
        """Put the entry of a stage into the manifest; none takes it out. Threads may call it at the same time."""
        with self._changing:
            stages = {k: v for k, v in self._manifest["stages"].items() if k != name}
            self.describe({"stages": stages if entry is None else {**stages, name: entry}})

    # -- lines --------------------------------------------------------------------------------------------------------
    def append(self, file: str, row: Mapping[str, Any]) -> None:
        """Append one JSON line to a file of the run; ``stage`` and ``step`` in it are what ``rewind`` goes by."""
        path = self.path / file
        with self._lines(path), path.open("a", encoding="utf-8") as f:
            f.write(json.dumps(row, sort_keys=True, ensure_ascii=False) + "\n")

    def rewind(self, file: str, stage: str, step: int) -> None:
        """Drop the lines of a stage after ``step``: a resumed stage writes them again."""
        path = self.path / file
        if path.exists():
            with self._lines(path):
                rows = [r for r in read_lines(path) if r["stage"] != stage or r["step"] <= step]
                write_atomic(path, "".join(json.dumps(r, sort_keys=True, ensure_ascii=False) + "\n" for r in rows))

    @contextmanager
    def _lines(self, path: Path) -> Iterator[None]:
        """One writer of lines at a time, over all processes of the run."""
        with storage_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with (self.path / ".lines.lock").open("w") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX)
                yield

    def log(self, stage: str, step: int, numbers: Mapping[str, float]) -> None:
        """Append one line to ``metrics.jsonl``."""
        self.append(LOG, {"stage": stage, "step": step, **numbers})

    def numbers(self) -> list[Json]:
        """All lines of ``metrics.jsonl``, in order."""
        path = self.path / LOG
        return read_lines(path) if path.exists() else []


def split_lines(text: str) -> list[str]:
    """Lines of a file of ours, without their ends; only a line feed ends one.

    ``str.splitlines`` would split at what texts may hold as well: JSON leaves U+2028, U+2029 and U+0085 as they are.

    >>> split_lines("red\\u2028case\\nblue\\n")
    ['red\\u2028case', 'blue']
    """
    return text.removesuffix("\n").split("\n") if text else []


def read_lines(path: Path) -> list[Json]:
    """Rows of a JSON-lines file of a run; a last line cut by a crash is dropped.

    Raises:
        RunError: a line before the last is not JSON.
    """
    lines = split_lines(path.read_text(encoding="utf-8"))
    rows = []
    for i, line in enumerate(lines):
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            if i < len(lines) - 1:
                raise RunError(f"{path}:{i + 1}: not a JSON line; restore the file or delete this line") from None
    return rows
