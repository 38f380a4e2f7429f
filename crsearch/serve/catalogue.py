"""The catalogue of a served run, in versions: items come and go while searches are answered, and nothing is mixed.

    RUN/serving/catalogue/
    ├── current        name of the version in use; swapped by one rename
    ├── v000001/       as the run left it
    └── v000002/       items.parquet  sids/  trie.npy  token_ids.npy  about.json  manifest.json (sha256 of the others)

A version never changes. An item keeps its row and its semantic ID for ever: new items come at the end, a removed one is
masked and stays, and comes back to its place when it is added again. So a model stays valid for every version, and
whoever holds a version can go on with it while others are made.

Source: details: this project (docs/howto/catalogue.md).
"""

import fcntl
import json
import os
import re
import shutil
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Int64

from crsearch.decode.trie import Levels, Trie
from crsearch.errors import CrsearchError, DataError, RunError, SidError, StorageError
from crsearch.records.files import parquet
from crsearch.records.frames import item_frame, read_table, to_item
from crsearch.records.schema import ITEMS
from crsearch.records.store import Catalogue
from crsearch.records.types import Item
from crsearch.runs import (
    SERVING,
    RunDirectory,
    atomic_directory,
    digest,
    file_digest,
    storage_errors,
    write_atomic,
    write_json,
)
from crsearch.serve.newcomers import Newcomers, Placed
from crsearch.serve.sealed import refuse_unsealed, seal
from crsearch.sids import SidBook

if TYPE_CHECKING:
    import polars as pl

Action = Literal["begin", "add", "remove", "replace"]

HIGH_DRIFT = 1.5
"""New items whose quantisation error is this many times that of the items of the run are worth a note."""
LOCK_SECONDS = 30.0
"""Longest wait for another process that changes the catalogue."""

_NAME = re.compile(r"v\d{6}")
_CURRENT = "current"
_UNSTORED = {"problem", "is_current"}


class CatalogueBusy(RunError):
    """Another process is changing the catalogue for long."""


@dataclass(frozen=True, kw_only=True, slots=True)
class About:
    """How a version came about; all counts are of items."""

    name: str
    parent: str | None
    """The version it was made from; none for the first."""
    action: Action
    when: str
    """UTC, ISO 8601."""
    items: int
    """That can be found."""
    rows: int
    """With those that were removed."""
    origin: str
    """Digest of the semantic IDs and the tokenizer of the run."""
    added: int = 0
    revived: int = 0
    """Removed before and added again: on their old row, with their old semantic ID."""
    removed: int = 0
    replaced: int = 0
    moved: int = 0
    """Replaced or revived items whose new text would get other layer codes than they keep."""
    unread: int = 0
    """Items of this change of which the encoder knows no word."""
    drift: float | None = None
    """Mean quantisation error of the items of this change over that of the items of the run; none = not known."""
    notes: tuple[str, ...] = ()
    """What an operator should look at."""
    problem: str = ""
    """Why the version cannot be used, as far as a look at the list tells; never stored."""
    is_current: bool = False
    """It is the one in use, in a list of versions; never stored."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Version:
    """One state of the catalogue. Row = place of an item in all parts; rows never move.

    ``dataclasses.replace(bundle, sid_ids_NL=version.sid_ids_NL)`` is the model's bundle for this version.
    """

    name: str
    catalogue: Catalogue
    """All items that ever were, the removed ones too."""
    book: SidBook
    alive_N: Bool[np.ndarray, " N"]
    """Per row: can be found."""
    trie: Trie
    """Of vocabulary ids of the run's tokenizer; removed rows are masked."""
    token_ids_V: Int64[np.ndarray, " V"]
    """Vocabulary id of each token of ``book.vocabulary()``."""
    about: About

    def __len__(self) -> int:
        """Items that can be found."""
        return int(self.alive_N.sum())

    def __contains__(self, item_id: object) -> bool:
        """Is there an item of this id that can be found?"""
        return item_id in self.catalogue and bool(self.alive_N[self.catalogue.row(str(item_id))])

    @property
    def sid_ids_NL(self) -> Int64[np.ndarray, "N L"]:
        """Vocabulary ids of every row's semantic ID."""
        return self.token_ids_V[self.book.tokens_NL]

    @property
    def items(self) -> list[Item]:
        """The items that can be found, in row order."""
        return [self.catalogue[row] for row in np.flatnonzero(self.alive_N).tolist()]


class CatalogueStore:
    """The versions of a run's catalogue on disk. Safe for threads and processes; changes come one after another.

    Args:
        run: a run directory with semantic IDs and a model.

    Raises (by every method):
        RunError: no such run; the version asked for is damaged, unknown or of other semantic IDs than the run's;
            another process changes the catalogue for long (``CatalogueBusy``).
        StorageError: no room or no permission; the version in use stays.
    """

    def __init__(self, run: Path) -> None:
        self.run, self.place = run, run / SERVING / "catalogue"
        self._held: Version | None = None
        self._newcomers: Newcomers | None = None
        self._mutex = threading.RLock()
        self._is_locked = False
        """This store holds the lock of the folder, which it must not ask for again."""

    # -- reading ------------------------------------------------------------------------------------------------------
    def current(self) -> str:
        """Name of the version in use; the first use of a run makes its first version. One small file is read."""
        try:
            return checked_name((self.place / _CURRENT).read_text(encoding="utf-8").strip())
        except FileNotFoundError:
            with self._changing():
                return self._begin()
        except UnicodeDecodeError as e:
            raise RunError(f"{self.place / _CURRENT}: unreadable; {_CHOOSE}") from e

    def versions(self) -> list[About]:
        """All versions, oldest first; the files of a version are not checked before it is loaded."""
        if not self._names():
            self.current()
        try:
            current = self.current()
        except RunError:  # no version is named: the list is what one chooses from
            current = ""
        return [replace(self._about(name), is_current=name == current) for name in self._names()]

    def load(self, name: str | None = None) -> Version:
        """A version, every byte of it checked before it is used; parts that the version in hand shares are not read.

        Args:
            name: e.g. ``v000002``; none = the one in use.

        Raises:
            RunError: no such version, or a file of it is missing or changed.
        """
        with self._mutex:
            if name is None or not self._names():
                here = self.current()
            name = here if name is None else checked_name(name)
            if self._held is None or self._held.name != name:
                self._held = self._read(name)
            return self._held

    def glance(self) -> Version:
        """The version in use; that of a run which was never served is made in memory and nothing is written."""
        return self.load() if (self.place / _CURRENT).exists() else self._first()[0]

    def warm(self) -> None:
        """Have the encoder ready, so that the first new item does not wait for it to be fitted."""
        self._new(self.load())

    # -- changes ------------------------------------------------------------------------------------------------------
    def add(self, items: Sequence[Item]) -> Version:
        """A version with more items; it is in use when this returns.

        New items get the nearest codes of the frozen codebooks and the next free deduplication code. An item that
        was removed before comes back on its old row with its old semantic ID, with the record as it is given now.

        Raises:
            DataError: no item, one that is there already, one given twice.
            SidError: a bucket has no deduplication code left (``sid_space_full``), or the encoder does not fit.
        """
        with self._changing():
            old = self._parent(items)
            _refuse_repeats(items)
            _refuse([i.item_id for i in items if i.item_id in old], "in the catalogue already", "items replace")
            known = set(old.catalogue.ids)
            back = [i for i in items if i.item_id in known]
            new = [i for i in items if i.item_id not in known]
            newcomers = self._new(old)
            placed = newcomers.place([*back, *new], old.book)
            ids = [item.item_id for item in new]
            book = old.book.append(ids, placed.embeddings_ND[len(back) :]) if new else old.book
            rows = [old.catalogue.row(item.item_id) for item in back]
            alive_N = np.concatenate([old.alive_N, np.ones(len(new), dtype=bool)])
            alive_N[rows] = True
            trie = Trie(old.trie.state)
            if new:
                trie.append(old.token_ids_V[book.tokens_NL[len(old.catalogue) :]])
            counts = {"added": len(new), "revived": len(back), **self._fit(newcomers, placed, book, rows)}
            return self._publish(old, "add", counts, book, _with_alive(trie, alive_N), back, new)

    def replace(self, items: Sequence[Item]) -> Version:
        """A version in which items have other records; each keeps its row and its semantic ID.

        The model has learned the item under this ID. ``about.moved`` counts the items whose new text would get other
        layer codes: where an item has become another product, remove it and add the product under a new id.

        Raises:
            DataError: no item, one that is not there, one given twice.
        """
        with self._changing():
            old = self._parent(items)
            _refuse_repeats(items)
            _refuse([i.item_id for i in items if i.item_id not in old], "not in the catalogue", "items add")
            newcomers = self._new(old)
            rows = [old.catalogue.row(item.item_id) for item in items]
            fit = self._fit(newcomers, newcomers.place(items, old.book), old.book, rows)
            return self._publish(old, "replace", {"replaced": len(items), **fit}, old.book, old.trie, items, ())

    def remove(self, item_ids: Sequence[str]) -> Version:
        """A version without some items: they are found no more, their rows and semantic IDs are kept for them.

        Raises:
            DataError: no item, one that is not there, or none would be left.
        """
        with self._changing():
            old = self._parent(item_ids)
            ids = list(dict.fromkeys(item_ids))
            _refuse([i for i in ids if i not in old], "not in the catalogue", "items list")
            if len(ids) == len(old):
                raise DataError(f"all {len(old):,} items would be removed: a catalogue needs at least one; keep some")
            trie = Trie(old.trie.state)
            trie.remove([old.catalogue.row(item_id) for item_id in ids])
            return self._publish(old, "remove", {"removed": len(ids)}, old.book, trie, (), ())

    def rollback(self, name: str | None = None) -> Version:
        """Use another version from now on, after it was checked; no version is changed or deleted.

        Args:
            name: which; none = the one that the version in use was made from.

        Raises:
            RunError: there is none before, or the version cannot be used (the one in use then stays).
        """
        with self._changing():
            if name is None:
                here = self._about(self.current())
                name = here.parent
            if name is None:
                raise RunError(f"{self.place}: {here.problem or 'there is no version before ' + here.name}; {_CHOOSE}")
            version = self.load(name)
            self._point_to(name)
            return version

    def prune(self, keep: int) -> list[str]:
        """Delete all but the newest versions, the one in use and the one it was made from.

        Args:
            keep: newest versions to keep, at least 1.

        Returns:
            The names of those deleted. A process that has one loaded can go on with it.
        """
        with self._changing():
            current = self.current()
            spared = {current, self._about(current).parent, *self._names()[-max(1, keep) :]}
            gone = [name for name in self._names() if name not in spared]
            for name in gone:
                doomed = self.place / f".tmp-{os.getpid()}-pruned-{name}"  # half a version is never seen
                with storage_errors(self.place):
                    (self.place / name).replace(doomed)
                    shutil.rmtree(doomed, ignore_errors=True)
            return gone

    # -- parts of a change --------------------------------------------------------------------------------------------
    def _begin(self) -> str:
        """Make the first version and use it, unless another process has; the lock is held."""
        if (self.place / _CURRENT).exists():
            return self.current()
        left = self._names()
        if left != [] and left != ["v000001"]:
            raise RunError(f"{self.place}: {len(left)} versions, but none is named as the one in use; {_CHOOSE}")
        if left:  # killed after the first version was written and before it was named
            self._read("v000001")
        else:
            self._publish_first()
        self._point_to("v000001")
        return "v000001"

    def _publish_first(self) -> None:
        self._write(*self._first())

    def _first(self) -> "tuple[Version, pl.DataFrame]":
        """The catalogue as the run left it, and its table."""
        run = RunDirectory.reading(self.run)
        if run.stage("sids") is None:
            raise RunError(f"{self.run}: the run has no semantic IDs yet; finish it with crsearch run --resume")
        book = SidBook.load(self.run / "sids")
        frame = read_table(self.run / "data", ITEMS)
        token_ids_V = _token_ids(self.run, book)
        about = About(
            name="v000001", parent=None, action="begin", when=_now(), items=len(book), rows=len(book),
            origin=self._origin(),
        )  # fmt: skip
        version = Version(
            name=about.name,
            catalogue=Catalogue(map(to_item, frame.iter_rows(named=True))),
            book=book,
            alive_N=np.ones(len(book), dtype=bool),
            trie=Trie.from_tokens(token_ids_V[book.tokens_NL]),
            token_ids_V=token_ids_V,
            about=about,
        )
        return version, frame

    def _parent(self, given: Sequence[object]) -> Version:
        """The version in use, its files checked even if it is in hand: the next one copies from them."""
        if not given:
            raise DataError("no item is given: nothing to change; name at least one")
        version = self.load()
        refuse_unsealed(self.place / version.name)
        return version

    def _new(self, version: Version) -> Newcomers:
        with self._mutex:
            if self._newcomers is None:
                self._newcomers = Newcomers.of(self.run, version.book)
            return self._newcomers

    def _fit(self, newcomers: Newcomers, placed: Placed, book: SidBook, rows: Sequence[int]) -> dict[str, Any]:
        """Figures of placed items; the first of them are those that have ``rows`` already."""
        drift = newcomers.drift(placed)
        moved = int((placed.layers_NL[: len(rows)] != book.codes_NL[list(rows), :-1]).any(axis=1).sum())
        notes = []
        if drift is not None and drift > HIGH_DRIFT:
            notes.append(
                f"drift {drift:.2f}: these items lie further from the codebooks than those of the run (1.00), so their "
                "semantic IDs say less about them; train again when such items are many"
            )
        if placed.unread:
            notes.append(f"{placed.unread:,} items have no word that the encoder knows: their codes say nothing")
        if moved:
            notes.append(
                f"{moved:,} items keep their semantic ID although their new text would get other codes; if they have "
                "become other products, remove them and add the products under new ids"
            )
        return {"drift": None if drift is None else round(drift, 4), "unread": placed.unread, "moved": moved,
                "notes": tuple(notes)}  # fmt: skip

    def _publish(
        self,
        old: Version,
        action: Action,
        counts: Mapping[str, Any],
        book: SidBook,
        trie: Trie,
        changed: Sequence[Item],
        new: Sequence[Item],
    ) -> Version:
        """Write the version that comes after ``old`` and use it."""
        items, frame = old.catalogue, None
        if changed or new:
            pick_N = np.arange(len(items) + len(new))
            pick_N[len(items) :] += len(changed)
            pick_N[[items.row(item.item_id) for item in changed]] = len(items) + np.arange(len(changed))
            both = (*items, *changed, *new)
            items = Catalogue([both[row] for row in pick_N.tolist()])
            frame = read_table(self.place / old.name, ITEMS).vstack(item_frame([*changed, *new]))[pick_N]
        alive_N = trie.state.alive_N
        name = f"v{int(self._names()[-1][1:]) + 1:06}"
        about = About(
            name=name, parent=old.name, action=action, when=_now(), items=int(alive_N.sum()), rows=len(items),
            origin=old.about.origin, **counts,
        )  # fmt: skip
        version = Version(
            name=name, catalogue=items, book=book, alive_N=alive_N, trie=trie, token_ids_V=old.token_ids_V, about=about
        )
        self._write(version, frame, old)
        self._point_to(name)
        self._held = version
        return version

    def _write(self, version: Version, frame: "pl.DataFrame | None", old: Version | None = None) -> None:
        """Write a version: complete under its name or not there at all.

        Args:
            frame: its items; none = those of ``old``.
            old: what it was made from; parts that are the same are copied.
        """
        _refuse_broken(version)
        with atomic_directory(self.place / version.name) as tmp:
            if frame is not None:
                parquet(frame)(tmp / "items.parquet")
            elif old is not None:
                shutil.copyfile(self.place / old.name / "items.parquet", tmp / "items.parquet")
            if old is not None and version.book is old.book:
                shutil.copytree(self.place / old.name / "sids", tmp / "sids")
            else:
                version.book.save(tmp / "sids")
            version.trie.save(tmp / "trie.npy")
            with (tmp / "token_ids.npy").open("wb") as file:
                np.save(file, version.token_ids_V, allow_pickle=False)
            write_json(tmp / "about.json", {k: v for k, v in asdict(version.about).items() if k not in _UNSTORED})
            written = seal(tmp)
            if old is not None:
                before = refuse_unsealed(self.place / old.name)
                copied = [] if frame is not None else ["items.parquet"]
                copied += [n for n in written if n.startswith("sids/")] if version.book is old.book else []
                if any(written[n] != before[n] for n in copied):
                    raise RunError(f"{tmp}: a copy differs from what was copied; look at the disk")
            if not np.array_equal(Trie.load(tmp / "trie.npy", mmap=False).tokens(), version.sid_ids_NL):
                raise RunError(f"{tmp}: the trie was not written as it is in memory; look at the disk")

    def _point_to(self, name: str) -> None:
        write_atomic(self.place / _CURRENT, f"{name}\n")

    # -- files --------------------------------------------------------------------------------------------------------
    def _names(self) -> list[str]:
        found = self.place.iterdir() if self.place.is_dir() else ()
        return sorted(p.name for p in found if _NAME.fullmatch(p.name))

    def _about(self, name: str) -> About:
        try:
            found = json.loads((self.place / name / "about.json").read_text(encoding="utf-8"))
            if found.keys() != {f.name for f in fields(About)} - _UNSTORED or found["name"] != name:
                raise ValueError("not what this version of crsearch writes")
            return About(**{**found, "notes": tuple(found["notes"])})
        except (OSError, ValueError, AttributeError, TypeError) as e:
            return About(
                name=name, parent=None, action="begin", when="", items=0, rows=0, origin="",
                problem=f"{self.place / name / 'about.json'}: unreadable ({e})",
            )  # fmt: skip

    def _origin(self) -> str:
        """Digest of what every version of a run must agree with: its semantic IDs and its tokenizer."""
        files = (
            self.run / "sids" / "codebooks.safetensors",
            self.run / "sids" / "items.parquet",
            _tokenizer_file(self.run),
        )
        try:
            return digest(*map(file_digest, files))
        except FileNotFoundError as e:
            raise RunError(f"{e.filename}: missing; finish the run first: crsearch run --resume") from e

    def _read(self, name: str) -> Version:
        """A version from disk, checked."""
        folder = self.place / name
        sha256 = refuse_unsealed(folder)
        about = self._about(name)
        if about.problem:
            raise RunError(f"{about.problem}; {_CHOOSE}")
        if about.origin != self._origin():
            raise RunError(
                f"{folder}: made for other semantic IDs or another tokenizer than {self.run} has now. The run was made "
                f"again: move {self.place} away, so that a new catalogue begins, then add the items again"
            )
        held, shared = self._held, {}
        if held is not None:
            try:
                shared = dict(refuse_unsealed(self.place / held.name))
            except CrsearchError:  # pruned or damaged since; nothing of it is taken over
                held = None
        try:
            same_items = held is not None and sha256["items.parquet"] == shared["items.parquet"]
            grown = held is not None and (about.parent, about.revived, about.replaced) == (held.name, 0, 0)
            base = held.catalogue if held and grown and self._about(held.name) == held.about else ()
            same_sids = held is not None and all(
                shared.get(name) == sha for name, sha in sha256.items() if name.startswith("sids/")
            )
            trie = Trie.load(folder / "trie.npy", mmap=False)
            version = Version(
                name=name,
                catalogue=held.catalogue if held and same_items else _catalogue(folder, base),
                book=held.book if held and same_sids else SidBook.load(folder / "sids"),
                alive_N=trie.state.alive_N,
                trie=trie,
                token_ids_V=np.load(folder / "token_ids.npy", allow_pickle=False),
                about=about,
            )
            _refuse_broken(version)
        except (CrsearchError, ValueError, KeyError, OSError) as e:
            raise RunError(f"{folder}: cannot be used ({e}); {_CHOOSE}") from e
        return version

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """One change at a time, over all threads and processes; what a killed one left half-written is removed."""
        with self._mutex:
            if self._is_locked:
                yield
                return
            RunDirectory.reading(self.run)
            file = self._take_lock()
            self._is_locked = True
            try:
                for left in self.place.glob(".tmp-*"):
                    shutil.rmtree(left, ignore_errors=True) if left.is_dir() else left.unlink(missing_ok=True)
                yield
            finally:
                self._is_locked = False
                os.close(file)

    def _take_lock(self) -> int:
        """The open, locked file; it names the holder for whoever has to wait."""
        with storage_errors(self.place):
            self.place.mkdir(parents=True, exist_ok=True)
            file = os.open(self.place / ".lock", os.O_RDWR | os.O_CREAT, 0o644)
        give_up = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > give_up:
                    holder = os.pread(file, 1_000, 0).decode("utf-8", "replace") or "another process"
                    os.close(file)
                    raise CatalogueBusy(f"{self.place}: in use by {holder}; wait for it, or stop it") from None
                time.sleep(0.01)
            except OSError as e:
                os.close(file)
                raise StorageError(f"{self.place}: files cannot be locked here ({e.strerror}); use a local disk") from e
        os.ftruncate(file, 0)
        os.pwrite(file, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        return file


_CHOOSE = "look at crsearch items versions RUN, then choose one: crsearch items rollback RUN VERSION"


def checked_name(name: str) -> str:
    """The name of a version, if it can be one: ``v`` and six digits, so never a path.

    Raises:
        RunError: it cannot.
    """
    if not _NAME.fullmatch(name):
        raise RunError(f"{name[:40]!r} is no name of a catalogue version (v000001, v000002, ...); {_CHOOSE}")
    return name


def _refuse(item_ids: Sequence[str], what: str, instead: str) -> None:
    if item_ids:
        shown = ", ".join(map(repr, item_ids[:5])) + (f" and {len(item_ids) - 5:,} more" if item_ids[5:] else "")
        verb, them = ("is", "it") if len(item_ids) == 1 else ("are", "them")
        raise DataError(f"{shown} {verb} {what}, so nothing was changed. Leave {them} out, or see crsearch {instead}")


def _refuse_repeats(items: Sequence[Item]) -> None:
    item_id, times = Counter(item.item_id for item in items).most_common(1)[0]
    if times > 1:
        raise DataError(f"item_id {item_id!r} is given {times} times, so nothing was changed: keep one row per item")


def _refuse_broken(version: Version) -> None:
    """Raise unless the parts fit: every item has a SID of its own that the trie leads to, and one can be found.

    Raises:
        SidError: they do not.
        DataError: no item can be found.
    """
    if version.catalogue.ids != version.book.item_ids:
        raise SidError(f"{version.name}: the semantic IDs are of other items than the catalogue")
    if not np.array_equal(version.trie.tokens(), version.sid_ids_NL):
        raise SidError(f"{version.name}: the trie leads to other semantic IDs than the items have")
    if not np.array_equal(version.trie.state.alive_N, version.alive_N):
        raise SidError(f"{version.name}: the trie masks other rows than were removed")
    if not version.alive_N.any():
        raise DataError(f"{version.name}: no item can be found: a catalogue needs at least one")


def _with_alive(trie: Trie, alive_N: Bool[np.ndarray, " N"]) -> Trie:
    state = trie.state
    return Trie(Levels(state.token, state.first, state.row, alive_N))


def _catalogue(folder: Path, base: Sequence[Item] = ()) -> Catalogue:
    """The items of a version; ``base`` are the first of them, in hand already."""
    rows = read_table(folder, ITEMS)[len(base) :].iter_rows(named=True)
    return Catalogue((*base, *map(to_item, rows)))


def _tokenizer_file(run: Path) -> Path:
    """The tokenizer that all models of a run share."""
    return run / "models" / "base" / "tokenizer.json"


def _token_ids(run: Path, book: SidBook) -> Int64[np.ndarray, " V"]:
    """Vocabulary ids of a book's tokens under the tokenizer of a run.

    Raises:
        RunError: there is no tokenizer yet.
        SidError: it lacks a token.
    """
    from tokenizers import Tokenizer

    file = _tokenizer_file(run)
    if not file.is_file():
        raise RunError(f"{file}: no such file, so the run has no model yet; finish it with crsearch run --resume")
    tokenizer = Tokenizer.from_file(str(file))
    ids = [tokenizer.token_to_id(token) for token in book.vocabulary()]
    if None in ids:
        raise SidError(f"{file}: lacks the token {book.vocabulary()[ids.index(None)]}; it is of other semantic IDs")
    return np.array(ids, dtype=np.int64)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
