"""What users did with the answers of a server, kept in SQLite, and turned into records to learn from.

Two tables: the searches that were answered, and what was done with their items. Only an item that was shown can be
judged, so a stranger can neither invent searches nor push items. Both tables are bounded in size and age.

Source: details: this project (docs/howto/catalogue.md).
"""

import json
import sqlite3
import threading
import time as clock
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, get_args

from crsearch.config import SplitConfig, load_settings
from crsearch.errors import DataError, RunError, StorageError
from crsearch.records.schema import USERS
from crsearch.records.split import choose_targets
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Part, Search, Time, User
from crsearch.records.values import EARLIEST, BadValue, parse
from crsearch.runs import SERVING, storage_errors, write_atomic
from crsearch.serve.catalogue import CatalogueStore

Kind = Literal["click", "skip", "buy", "good", "bad"]
"""What can be done with an item; ``good`` and ``bad`` are judgements of its relevance, of which the last one counts."""

FORMAT = 1
"""Version of the tables; a newer one is refused."""
_EVERY = 256
"""Searches between two looks at age and size."""

_TABLES = """
CREATE TABLE IF NOT EXISTS searches (
  number INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL UNIQUE, user_id TEXT, query TEXT NOT NULL,
  time TEXT, place TEXT, shown TEXT NOT NULL, catalogue TEXT NOT NULL, rung TEXT NOT NULL, at REAL NOT NULL);
CREATE TABLE IF NOT EXISTS judgements (
  number INTEGER PRIMARY KEY AUTOINCREMENT, request_id TEXT NOT NULL REFERENCES searches(request_id) ON DELETE CASCADE,
  item_id TEXT NOT NULL, kind TEXT NOT NULL, at REAL NOT NULL, UNIQUE (request_id, item_id, kind));
CREATE INDEX IF NOT EXISTS searches_of_user ON searches(user_id);
CREATE INDEX IF NOT EXISTS searches_by_age ON searches(at);
"""


class UnknownRequest(DataError):
    """No answer of this id is remembered: it never was, or it is too old."""


def feedback_file(run: Path) -> Path:
    """Where the feedback of a run lies."""
    return run / SERVING / "feedback.sqlite"


@dataclass(frozen=True, kw_only=True, slots=True)
class Exported:
    """What an export wrote."""

    searches: int
    """Served searches with a click or a purchase, added to those of the run."""
    users: int
    """Users the run did not have, with an empty profile."""
    items: int
    """Items of the catalogue that the run did not have."""
    judgements: int
    """Lines of ``judgements.jsonl``."""
    removed: tuple[str, ...] = field(default=())
    """Items that are removed from the served catalogue and yet in the records, since searches name them."""


class FeedbackStore:
    """Feedback of one run. Safe for threads and processes.

    Write-ahead log with ``synchronous=NORMAL``: a search is remembered without waiting for the disk; a loss of power
    may lose the last ones, a killed process loses none.

    Args:
        path: the SQLite file (``feedback_file(run)``); made at the first use, with its folder.
        max_searches: searches kept; the oldest go first.
        max_days: days that a search is kept and can be judged; older ones go when the file is opened, and now and then.

    Raises (by every method):
        RunError: the file is no feedback, damaged or of a newer format.
        StorageError: no room or no permission.
    """

    def __init__(self, path: Path, *, max_searches: int = 1_000_000, max_days: float = 90.0) -> None:
        self.path, self.max_searches, self.max_days = path, max_searches, max_days
        self._connection: sqlite3.Connection | None = None
        self._mutex = threading.Lock()
        self._since_look = 0

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._mutex:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    # -- writing ------------------------------------------------------------------------------------------------------
    def served(
        self,
        request_id: str,
        user_id: str | None,
        query: str,
        time: Time | None,
        place: str | None,
        shown: Sequence[str],
        catalogue_version: str,
        rung: str,
    ) -> None:
        """Remember an answer, so that its items can be judged.

        A second one of the same id adds its items (a stream shows one list at once and another after the thought), and
        its rung and version count; a search stands once.

        Args:
            request_id: of the answer.
            user_id: none = a stranger.
            query: as it was answered.
            time: when the user searched, in UTC or as an order number; none = now.
            place: where from.
            shown: item ids, best first.
            catalogue_version: that answered.
            rung: of the ladder.
        """
        told = time.astimezone(UTC).isoformat() if isinstance(time, datetime) else None if time is None else str(time)
        row = (request_id, user_id, query, told, place, json.dumps(list(shown)), catalogue_version, rung, clock.time())
        with self._writing() as db:
            before = db.execute("SELECT shown FROM searches WHERE request_id = ?", (request_id,)).fetchone()
            if before is not None:
                both = json.dumps(list(dict.fromkeys([*json.loads(before[0]), *shown])))
                db.execute(
                    "UPDATE searches SET shown = ?, catalogue = ?, rung = ? WHERE request_id = ?",
                    (both, catalogue_version, rung, request_id),
                )
                return
            db.execute(
                "INSERT INTO searches(request_id, user_id, query, time, place, shown, catalogue, rung, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                row,
            )
            self._since_look += 1
            if self._since_look >= _EVERY or self._since_look >= self.max_searches:
                self._since_look = 0
                self._drop_old(db)

    def judge(self, request_id: str, item_id: str, kind: str) -> None:
        """Keep what a user did with an item of an answer (``Kind``); the same again changes nothing.

        Raises:
            UnknownRequest: no such answer is remembered.
            DataError: the item was not shown in it, or there is no such kind.
        """
        if kind not in get_args(Kind):
            raise DataError(f"kind = {str(kind)[:20]!r}: write {', '.join(get_args(Kind))}")
        with self._writing() as db:
            known = "SELECT shown FROM searches WHERE request_id = ? AND at >= ?"
            found = db.execute(known, (request_id, self._oldest())).fetchone()
            if found is None:
                raise UnknownRequest(
                    f"request_id: no such answer is remembered (for {self.max_days:g} days, {self.max_searches:,} "
                    "answers); judge what a search of this server showed"
                )
            if item_id not in json.loads(found[0]):
                raise DataError("item_id: not among the items of this answer; judge what was shown")
            if kind in ("good", "bad"):
                db.execute(
                    "DELETE FROM judgements WHERE request_id = ? AND item_id = ? AND kind IN ('good', 'bad')",
                    (request_id, item_id),
                )
            db.execute(
                "INSERT OR IGNORE INTO judgements(request_id, item_id, kind, at) VALUES (?, ?, ?, ?)",
                (request_id, item_id, kind, clock.time()),
            )

    def _oldest(self) -> float:
        """When the oldest search was that is still kept."""
        return clock.time() - 86_400 * self.max_days

    def _drop_old(self, db: sqlite3.Connection) -> None:
        db.execute("DELETE FROM searches WHERE at < ?", (self._oldest(),))
        db.execute(
            "DELETE FROM searches WHERE number <= (SELECT number FROM searches ORDER BY number DESC LIMIT 1 OFFSET ?)",
            (self.max_searches,),
        )

    def forget(self, user_id: str) -> int:
        """Remove every search and judgement of a user from the file, its free pages and its log; how many searches."""
        if not self.path.exists():
            return 0
        with self._open() as db:
            gone = int(db.execute("SELECT COUNT(*) FROM searches WHERE user_id = ?", (user_id,)).fetchone()[0])
            if gone:
                db.execute("DELETE FROM searches WHERE user_id = ?", (user_id,))
                for words in ("PRAGMA wal_checkpoint(TRUNCATE)", "VACUUM", "PRAGMA wal_checkpoint(TRUNCATE)"):
                    db.execute(words)
        return gone

    # -- reading ------------------------------------------------------------------------------------------------------
    def counts(self) -> dict[str, int]:
        """``searches``, and judgements by kind."""
        with self._open() as db:
            kinds = Counter(dict(db.execute("SELECT kind, COUNT(*) FROM judgements GROUP BY kind").fetchall()))
            searches = int(db.execute("SELECT COUNT(*) FROM searches").fetchone()[0])
        return {"searches": searches, **{kind: kinds[kind] for kind in get_args(Kind)}}

    def export(self, run: Path, folder: Path) -> Exported:
        """Write records to learn from: those of the run, and the served searches with a click or a purchase.

        Served searches come after those of the run in every user's order; where times are order numbers they get the
        next ones. A stranger becomes a user of one search. Items added since are in the catalogue, removed ones only
        where a search names them; ``removed.txt`` lists these, to be removed again from the catalogue of the new run.
        Good and bad go to ``judgements.jsonl``: request_id, query, item_id, label.

        Args:
            run: whose feedback this is.
            folder: made or overwritten; ``crsearch check`` and ``crsearch run --set data=FOLDER`` read it.

        Raises:
            RunError: the run or its catalogue cannot be read.
            DataError: its records cannot be read, or ``folder`` lies inside the run.
        """
        if folder.resolve().is_relative_to(run.resolve()):
            raise DataError(f"{folder}: lies inside the run, whose own records must stay; choose another folder")
        with self._open() as db:
            served = [dict(row) for row in db.execute("SELECT * FROM searches ORDER BY number")]
            judged = [dict(row) for row in db.execute("SELECT * FROM judgements ORDER BY number")]
        dataset, settings = Dataset.load(run / "data"), load_settings(run / "settings.toml")
        shares = settings.split.model_copy(update={"mode": dataset.split_mode})
        version = CatalogueStore(run).load()
        known = set(version.catalogue.ids)
        new = _searches(dataset, served, judged, known)
        searches = (*dataset.searches, *new)
        removed = {item.item_id for item in version.catalogue if item.item_id not in version}
        named = {i for s in searches for i in (*s.shown, *s.clicked, *s.bought)}
        catalogue = Catalogue(i for i in version.catalogue if i.item_id not in removed - named)
        users = dict(dataset.users) | {
            s.user_id: User(user_id=s.user_id) for s in new if s.user_id not in dataset.users
        }
        found = Dataset(
            catalogue,
            users,
            searches,
            _targets(dataset, searches, {s.user_id for s in new}, shares, catalogue),
            unknown_items=dataset.unknown_items,
            split_mode=dataset.split_mode,
        )
        queries = {row["request_id"]: row["query"] for row in served}
        lines = [
            json.dumps({"request_id": row["request_id"], "query": queries[row["request_id"]],
                        "item_id": row["item_id"], "label": row["kind"]}, ensure_ascii=False)
            for row in judged
            if row["kind"] in ("good", "bad")
        ]  # fmt: skip
        found.save(folder)
        kept = tuple(sorted(removed & named))
        write_atomic(folder / "judgements.jsonl", "".join(line + "\n" for line in lines))
        write_atomic(folder / "removed.txt", "".join(item_id + "\n" for item_id in kept))
        return Exported(
            searches=len(new),
            users=len(users) - len(dataset.users),
            items=len(set(catalogue.ids) - set(dataset.catalogue.ids)),
            judgements=len(lines),
            removed=kept,
        )

    # -- the file -----------------------------------------------------------------------------------------------------
    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """The connection, one thread at a time; its errors as ours."""
        with self._mutex, storage_errors(self.path):
            try:
                if self._connection is None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                    self._connection = self._connected()
                yield self._connection
            except sqlite3.Error as e:
                text = str(e)
                if "full" in text or "readonly" in text or "unable to open" in text or "disk I/O" in text:
                    raise StorageError(f"{self.path}: {text}; free some room or make the folder writable") from e
                if "locked" in text or "busy" in text:
                    raise RunError(f"{self.path}: in use by another process for long; try again") from e
                raise RunError(f"{self.path}: no readable feedback ({text}); move the file away to begin anew") from e

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """The connection inside a transaction, which is undone on any error."""
        with self._open() as db:
            db.execute("BEGIN IMMEDIATE")
            try:
                yield db
            except BaseException:
                db.execute("ROLLBACK")
                raise
            db.execute("COMMIT")

    def _connected(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=10.0, isolation_level=None, check_same_thread=False)
        try:
            db.row_factory = sqlite3.Row
            db.execute("PRAGMA journal_mode=WAL")
            for pragma in ("synchronous=NORMAL", "foreign_keys=ON", "secure_delete=ON"):
                db.execute(f"PRAGMA {pragma}")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version > FORMAT:
                raise RunError(
                    f"{self.path}: written in format {version}, this crsearch reads up to {FORMAT}: upgrade crsearch"
                )
            if version < FORMAT:
                db.executescript(f"{_TABLES} PRAGMA user_version={FORMAT};")
            self._drop_old(db)  # a process that ends before it has served many would never come to it
        except BaseException:
            db.close()
            raise
        return db


def _searches(
    dataset: Dataset, served: Sequence[Mapping[str, Any]], judged: Sequence[Mapping[str, Any]], known: set[str]
) -> list[Search]:
    """Served searches with a choice, in the order they were served, each after all its user did before."""
    done: dict[str, dict[str, list[str]]] = {}
    for row in judged:
        done.setdefault(row["request_id"], {}).setdefault(row["kind"], []).append(row["item_id"])
    ordered = any(isinstance(s.time, int) for s in dataset.searches[:1])
    next_number = 1 + max((s.time for s in dataset.searches if isinstance(s.time, int)), default=-1)
    latest = {s.user_id: s.time for s in dataset.searches if isinstance(s.time, datetime)}
    out: list[Search] = []
    for row in served:
        chosen = done.get(row["request_id"], {})
        clicked, bought = ([i for i in chosen.get(kind, ()) if i in known] for kind in ("click", "buy"))
        if not (clicked or bought) or not row["query"].strip():
            continue
        user_id = _user_id(row["user_id"]) or f"served-{row['request_id']}"
        time: Time = next_number + len(out)
        if not ordered:
            time = _after(latest.get(user_id), row)
            latest[user_id] = time
        out.append(
            Search(
                search_id=f"served-{row['request_id']}",
                user_id=user_id,
                time=time,
                query=row["query"],
                place=row["place"],
                shown=tuple(dict.fromkeys(i for i in json.loads(row["shown"]) if i in known)),
                clicked=tuple(clicked),
                bought=tuple(bought),
            )
        )
    return out


def _user_id(told: str | None) -> str | None:
    """The id, if records may have it; who came with another one is a stranger."""
    try:
        return None if told is None else parse(USERS.field("user_id"), told, EARLIEST)
    except BadValue:
        return None


def _after(last: datetime | None, row: Mapping[str, Any]) -> datetime:
    """When a search was: as it was told, not after it was served, and after what the user did before."""
    served = datetime.fromtimestamp(row["at"], UTC)
    told = row["time"]
    is_clock = told is not None and not told.lstrip("-").isdecimal()
    time = min(served, datetime.fromisoformat(told)) if is_clock else served
    return time if last is None or time > last else last + timedelta(microseconds=1)


def _targets(
    dataset: Dataset, searches: Sequence[Search], changed: set[str], split: SplitConfig, catalogue: Catalogue
) -> dict[str, tuple[str, Part]]:
    """The examples: as they are for users who did nothing since, chosen anew for the others, who keep their part."""
    theirs = [s for s in searches if s.user_id in changed]
    anew = choose_targets(theirs, split, catalogue)
    if dataset.split_mode == "user":
        user_of = {s.search_id: s.user_id for s in theirs}
        anew = {s: (target, dataset.parts.get(user_of[s], part)) for s, (target, part) in anew.items()}
    old = {s.search_id for s in theirs}
    return {**{s: found for s, found in dataset.targets.items() if s not in old}, **anew}
