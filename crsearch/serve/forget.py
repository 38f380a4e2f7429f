"""Everything that a run keeps of a user, removed; and what cannot be removed, said.

Source: details: this project (docs/howto/catalogue.md). A trained model cannot unlearn: only training without the user
makes one that never saw them.
"""

import json
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from crsearch.config import load_settings
from crsearch.errors import CrsearchError
from crsearch.records.store import Dataset
from crsearch.records.types import Part
from crsearch.runs import SERVING, RunDirectory, file_digest, split_lines, storage_errors, write_atomic
from crsearch.serve.feedback import FeedbackStore, feedback_file

_NOT_OF_USERS = ("models", "sids", "checkpoints", f"{SERVING}/catalogue", f"{SERVING}/encoder")
"""Folders of a run that hold weights and items."""
_TEXTS = (".json", ".jsonl", ".trec", ".md", ".html", ".txt", ".csv", ".toml", ".log")


@dataclass(frozen=True, kw_only=True, slots=True)
class Forgotten:
    """What was removed of a user, and what was not."""

    user_id: str
    searches: int = 0
    """Of the records of the run."""
    feedback: int = 0
    """Served searches, with what was done in them."""
    files: tuple[str, ...] = ()
    """Files of the run that were rewritten, by their path inside."""
    report: str = ""
    """``rewritten`` or ``deleted``, if there was one."""
    part: Part | None = None
    """The part that the user was in."""
    left: tuple[str, ...] = ()
    """What cannot be removed here, in words."""

    @property
    def nothing(self) -> bool:
        """There was nothing of this user."""
        return not (self.searches or self.feedback or self.files)


def forget(folder: Path, user_id: str) -> Forgotten:
    """Remove a user from records, traces, per-query files, feedback and report of a run.

    The records go last, since they say which searches were the user's: a call that was interrupted can be given
    again. The manifest gets the sha256 of the rewritten files.

    Args:
        folder: a run directory that no process is training in.
        user_id: of the records or of a served search.

    Raises:
        RunError: no run, or one in use.
        DataError: the records cannot be read.
        StorageError: no room or no permission.
    """
    RunDirectory.reading(folder)
    with RunDirectory(folder) as run, storage_errors(folder):
        data = Dataset.load(folder / "data") if (folder / "data" / "searches.parquet").is_file() else None
        known = data is not None and user_id in data.users
        mine = data.searches_of(user_id) if data is not None and known else ()
        ids = {search.search_id for search in mine}
        part = _part(data, user_id, ids) if data is not None and known else None
        files = [path for path in _files(folder) if path.parent != folder / "data" and _without(path, user_id, ids)]
        store = FeedbackStore(feedback_file(folder))
        served = store.forget(user_id)
        store.close()
        report = "deleted" if (known or files) and (folder / "report").is_dir() else ""
        if report:
            shutil.rmtree(folder / "report")
        if data is not None and known:
            files += [path for path in _files(folder / "data") if _without(path, user_id, ids)]
            _records_without(data, user_id, ids).save(folder / "data")
            files += [folder / "data" / f"{name}.parquet" for name in ("items", "users", "searches", "split")]
        changed = sorted({path.relative_to(folder).as_posix() for path in files})
        _update_manifest(run, changed)
        if report:
            report = _report_again(folder)
        return Forgotten(
            user_id=user_id,
            searches=len(mine),
            feedback=served,
            files=tuple(changed),
            report=report,
            part=part,
            left=tuple(_left(folder, user_id, ids, part)) if changed or served or known else (),
        )


def _part(data: Dataset, user_id: str, ids: Collection[str]) -> Part | None:
    if any(search.user_id == user_id for search in data.training_searches):
        return "train"
    return next((data.targets[s][1] for s in sorted(ids) if s in data.targets), None)


def _records_without(data: Dataset, user_id: str, ids: Collection[str]) -> Dataset:
    return Dataset(
        data.catalogue,
        {name: user for name, user in data.users.items() if name != user_id},
        tuple(search for search in data.searches if search.user_id != user_id),
        {search_id: found for search_id, found in data.targets.items() if search_id not in ids},
        unknown_items=data.unknown_items,
        split_mode=data.split_mode,
    )


def _files(folder: Path) -> Iterator[Path]:
    """Files of a run that may name users."""
    spared = [folder / name for name in _NOT_OF_USERS]
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink() and not any(path.is_relative_to(place) for place in spared):
            yield path


# -- one file ---------------------------------------------------------------------------------------------------------
def _without(path: Path, user_id: str, ids: Collection[str]) -> bool:
    """Take the rows of a user out of a file; was there any? The four tables of the records are left to others."""
    if path.name in ("items.parquet", "users.parquet", "searches.parquet", "split.parquet"):
        return False
    take_out: dict[str, Callable[[Path, str, Collection[str]], bytes | None]] = {
        ".parquet": _table, ".jsonl": _lines, ".json": _json, ".trec": _trec,
    }  # fmt: skip
    change = take_out.get(path.suffix)
    new = change(path, user_id, ids) if change else None
    if new is None:
        return False
    write_atomic(path, new)
    return True


def _table(path: Path, user_id: str, ids: Collection[str]) -> bytes | None:
    import polars as pl

    frame = pl.read_parquet(path)
    theirs = pl.lit(False)
    if frame.schema.get("user_id") == pl.String:
        theirs = theirs | (pl.col("user_id") == user_id)
    if frame.schema.get("search_id") == pl.String:
        theirs = theirs | pl.col("search_id").is_in(sorted(ids))
    kept = frame.filter(~theirs.fill_null(False))
    if kept.height == frame.height:
        return None
    out, metadata = BytesIO(), pl.read_parquet_metadata(path)
    kept.write_parquet(out, metadata={k: v for k, v in metadata.items() if k.startswith("crsearch.")})
    return out.getvalue()


def _is_theirs(value: Any, user_id: str, ids: Collection[str]) -> bool:
    if isinstance(value, dict):
        return value.get("user_id") == user_id or value.get("search_id") in ids
    return isinstance(value, str) and value in ids


def _lines(path: Path, user_id: str, ids: Collection[str]) -> bytes | None:
    lines = split_lines(path.read_text(encoding="utf-8"))
    kept = [line for line in lines if not (line.strip() and _is_theirs(_value(line), user_id, ids))]
    return None if len(kept) == len(lines) else _text(kept)


def _text(lines: Sequence[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:  # a line that a crash cut off: a reader drops it too
        return None


def _json(path: Path, user_id: str, ids: Collection[str]) -> bytes | None:
    """A map by search_id, or a list of searches; other JSON is not about users."""
    value = _value(path.read_text(encoding="utf-8"))
    kept: Any = value
    if isinstance(value, dict):
        kept = {k: v for k, v in value.items() if k not in ids and k != user_id}
    elif isinstance(value, list):
        kept = [v for v in value if not _is_theirs(v, user_id, ids)]
    if value is None or len(kept) == len(value):
        return None
    return (json.dumps(kept, indent=2, sort_keys=True, ensure_ascii=False) + "\n").encode()


def _trec(path: Path, user_id: str, ids: Collection[str]) -> bytes | None:
    lines = split_lines(path.read_text(encoding="utf-8"))
    kept = [line for line in lines if not line.strip() or unquote(line.split()[0]) not in ids]
    return None if len(kept) == len(lines) else _text(kept)


# -- what is told -----------------------------------------------------------------------------------------------------
def _update_manifest(run: RunDirectory, changed: Collection[str]) -> None:
    """Stages stay done: their outputs are what they are now."""
    for name, entry in list(run.manifest["stages"].items()):
        now = {
            rel: file_digest(run.path / rel) if rel in changed else sha
            for rel, sha in entry["outputs"].items()
            if (run.path / rel).exists() or rel not in changed
        }
        if now != entry["outputs"]:
            run.enter(name, {**entry, "outputs": now})
    if changed:
        run.describe({"forgotten_users": int(run.manifest.get("forgotten_users", 0)) + 1})


def _report_again(folder: Path) -> str:
    """Write the report from what is left; without one it stays deleted."""
    from crsearch.report import write_report

    try:
        write_report(folder)
    except CrsearchError:  # e.g. the last test user is gone
        return "deleted"
    return "rewritten"


def _left(folder: Path, user_id: str, ids: Collection[str], part: Part | None) -> Iterator[str]:
    settings = load_settings(folder / "settings.toml") if (folder / "settings.toml").is_file() else None
    if part == "train":
        yield (
            "models: the user was a training user, so weights and tokenizer have learned from their searches; train "
            "again without them to have models that never did"
        )
    elif part is not None:
        yield f"models: the user was a {part} user; no model was trained on their searches"
    if part is not None:
        yield (
            "results.json: its numbers count the user still; evaluated again they differ, as does the fingerprint of "
            "the records"
        )
    if settings is not None and settings.data is not None:
        yield f"{settings.data}: the records this run was made from lie outside it; remove the user there too"
        yield "crsearch evaluate and run --resume will ask to train again, since the records of the run have changed"
    elif part is not None:
        yield "the simulated shop makes this user again when it is simulated with the same seed"
    yield "exports, backups and copies of this run elsewhere, and servers that were started before: restart them"
    names = sorted(_mentions(folder, {user_id, *ids}))
    if names:
        yield f"still named in {', '.join(names)}: look there"


def _mentions(folder: Path, ids: Collection[str]) -> Iterator[str]:
    """Text files of the run that hold one of these ids as a word of its own."""
    found = re.compile(r"(?<![\w-])(?:" + "|".join(map(re.escape, sorted(ids))) + r")(?![\w-])")
    for path in _files(folder):
        if path.suffix in _TEXTS and found.search(path.read_text(encoding="utf-8", errors="replace")):
            yield path.relative_to(folder).as_posix()
