"""Folders whose every byte is known: written once with a manifest of sha256, checked before they are read.

Source: details: this project (a flipped bit in a safetensors or Parquet file is not always noticed by its reader).
"""

import json
from collections.abc import Mapping
from pathlib import Path

from crsearch.errors import RunError
from crsearch.runs import file_digest, write_atomic

MANIFEST = "manifest.json"
FORMAT = 1
"""Version of the folders below ``serving``; a reader refuses a newer one."""


def seal(folder: Path) -> Mapping[str, str]:
    """Write the manifest of a finished folder: file -> sha256 of all files below it, which it returns.

    Raises:
        StorageError: no room or no permission.
    """
    sha256 = {name: file_digest(path) for name, path in _files(folder).items()}
    text = json.dumps({"format": FORMAT, "sha256": sha256}, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    write_atomic(folder / MANIFEST, text)
    return sha256


def refuse_unsealed(folder: Path) -> Mapping[str, str]:
    """Check a sealed folder byte by byte before anything of it is used; file -> sha256.

    Raises:
        RunError: no such folder, a file that is missing, changed, too many or a link, a broken manifest, or one of a
            newer format.
    """
    if not (folder / MANIFEST).is_file():
        raise RunError(f"{folder}: {'incomplete (no manifest)' if folder.is_dir() else 'no such folder'}; {_OTHER}")
    try:
        told = json.loads((folder / MANIFEST).read_bytes())
        version, expected = int(told["format"]), dict(told["sha256"])
    except (ValueError, TypeError, KeyError) as e:
        raise RunError(f"{folder / MANIFEST}: unreadable ({e}); {_OTHER}") from e
    if version > FORMAT:
        raise RunError(
            f"{folder}: written in format {version}, this crsearch reads up to {FORMAT}: upgrade crsearch, or {_OTHER}"
        )
    found = _files(folder)
    for name in sorted(found.keys() | expected.keys()):
        if name not in expected or found.get(name, folder).is_symlink():
            raise RunError(f"{folder / name}: not part of this folder; remove it, or {_OTHER}")
        if name not in found:
            raise RunError(f"{folder / name}: missing; {_OTHER}")
        if file_digest(found[name]) != expected[name]:
            raise RunError(f"{folder / name}: changed since it was written; {_OTHER}")
    return expected


_OTHER = "go back to another version: crsearch items versions RUN, then crsearch items rollback RUN VERSION"


def _files(folder: Path) -> dict[str, Path]:
    """Everything below a folder that is no folder, the manifest left out, by its path inside."""
    paths = (p for p in sorted(folder.rglob("*")) if p.is_symlink() or not p.is_dir())
    return {name: p for p in paths if (name := p.relative_to(folder).as_posix()) != MANIFEST}
