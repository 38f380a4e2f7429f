"""KuaiSAR: search sessions of a video app with what was shown and clicked (Kuaishou; anonymous words).

A folder with ``src_inter`` and ``item_features`` and, if there, ``user_features``, ``rec_inter`` and
``social_network``, as CSV, plain or .gz. Texts are lists of numbers of words; here they are words joined by blanks.
Where each field goes:

| table | field | record |
|---|---|---|
| src_inter | user_id, search_session_id, keyword | user_id; rows alike in all three are one search, with this query |
| src_inter | search_session_timestamp (milliseconds), search_source | time, the earliest of a search; place |
| src_inter | item_id; where click_cnt is above 0 | shown, in the order of the rows; clicked |
| item_features | item_id, caption | item_id, title |
| item_features | first .. fourth _level_category_name | category |
| item_features | author_id, item_type, upload_type | attributes: author, type, upload |
| user_features | all but user_id | profile, under the names of the source |

There are no brands and prices; sales are the clicks of training users. Not used, and counted: rows of ``rec_inter``
(recommendations have no query) and of ``social_network``, times of upload.

Source: Sun et al., KuaiSAR, CIKM 2023, and the page of its data; the mapping is this project's.
"""

import json
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from crsearch.config import SplitConfig
from crsearch.records.importers.common import (
    ImportReport,
    Line,
    UnknownItemsPolicy,
    assemble,
    needed_table,
    readable,
    table_lines,
    without_repeats,
)
from crsearch.records.importers.tables import Column, parse_time
from crsearch.records.rows import find_table, read_rows
from crsearch.records.store import Dataset
from crsearch.records.types import Item, Search, User
from crsearch.records.values import BadValue

SHOWN = {
    "user_id": "12", "search_session_id": "7", "search_session_timestamp": "1684727940000", "keyword": "[33, 9]",
    "search_source": "USER_INPUT", "item_id": "31", "click_cnt": "1",
}  # fmt: skip
ITEM = {
    "item_id": "31", "caption": "[33, 52]", "author_id": "5", "item_type": "NORMAL", "upload_type": "ShortImport",
} | {f"{level}_level_category_name": "music" for level in ("first", "second", "third", "fourth")}  # fmt: skip
USER = {"user_id": "12"}

_NONE = ("UNKNOWN", "nan")
"""Words by which the source says that it does not know."""
_ATTRIBUTES = {"author": "author_id", "type": "item_type", "upload": "upload_type"}
_UNUSED = {
    "rec_inter": ("recommendations (they have no query)", {"user_id": "12", "item_id": "31"}),
    "social_network": ("rows of the social network", {"user_id": "12", "user_follow_id": "13"}),
}
"""Table -> what its rows are counted as, a right row."""


def import_kuaisar(
    source: Path, split: SplitConfig, *, unknown_items: UnknownItemsPolicy = "error"
) -> tuple[Dataset, ImportReport]:
    """Records of KuaiSAR; see the module for where each field goes.

    Args:
        source: the folder.
        split: mode and shares of the parts.
        unknown_items: what happens to shown items that ``item_features`` lacks or gives no caption.

    Raises:
        DataError: a missing table or column, a broken row, unknown items under ``error``.
    """
    report = ImportReport(f"kuaisar: {source}")
    items = list(_items(needed_table(source, "item_features"), report))
    searches = _searches(needed_table(source, "src_inter"), report)
    profiles = _profiles(find_table(source, "user_features"), report)
    users = {s.user_id: User(user_id=s.user_id, profile=profiles.get(s.user_id, {})) for s in searches}
    report.changed["users without a row in user_features (empty profile)"] += len(users.keys() - profiles.keys())
    for table, (what, right) in _UNUSED.items():
        if path := find_table(source, table):
            report.unused[what] += sum(1 for _ in readable(read_rows(path), right))
    return assemble(items, users, searches, split, unknown_items, report, count_sales=True), report


def _words(line: Line, column: str) -> str:
    """The words of a list of numbers, joined by blanks.

    Raises:
        DataError: not a list of numbers.
    """
    try:
        numbers = json.loads(line[column] or "[]")
    except (ValueError, RecursionError):
        numbers = None
    if not isinstance(numbers, list) or not all(type(number) is int for number in numbers):
        raise line.broken(column, "a list of whole numbers is needed")
    return " ".join(map(str, numbers))


def _items(path: Path, report: ImportReport) -> Iterator[Item]:
    first: dict[str, int] = {}
    for line in table_lines(path, ITEM, _NONE):
        report.read["items"] += 1
        report.unused["times of upload"] += bool(line["upload_time"])
        item_id, title = line.id("item_id"), _words(line, "caption")
        if first.setdefault(item_id, line.number) != line.number:
            raise line.broken("item_id", f"the item stands in line {first[item_id]} already, keep one of the rows")
        if not title:
            report.dropped["items without a caption"] += 1
            continue
        levels = [line[f"{level}_level_category_name"] for level in ("first", "second", "third", "fourth")]
        yield Item(
            item_id=item_id,
            title=title,
            category=tuple(level for level in levels if level),
            attributes={key: line[column] for key, column in _ATTRIBUTES.items() if line[column]},
        )


def _searches(path: Path, report: ImportReport) -> list[Search]:
    """Rows alike in user, session and keyword are one search."""
    now = datetime.now(UTC)
    groups: dict[tuple[str, str, str], list[tuple[datetime, str, str, bool]]] = {}
    for line in table_lines(path, SHOWN, _NONE):
        report.read["shown items"] += 1
        query = _words(line, "keyword")
        if not query:
            report.dropped["shown items without a keyword"] += 1
            continue
        row = (_time(line, now), line["search_source"], line.id("item_id"), line.number_of("click_cnt") > 0)
        groups.setdefault((line.id("user_id"), line.id("search_session_id"), query), []).append(row)
    used: Counter[tuple[str, str]] = Counter()
    searches = []
    for (user_id, session, query), rows in groups.items():
        used[user_id, session] += 1
        times, places, shown, clicks = zip(*rows, strict=True)
        searches.append(
            Search(
                search_id=f"{user_id}-{session}-{used[user_id, session]}",
                user_id=user_id,
                time=min(times),
                query=query,
                place=places[0] or None,
                shown=without_repeats(shown, report, "shown"),
                clicked=tuple(dict.fromkeys(i for i, is_clicked in zip(shown, clicks, strict=True) if is_clicked)),
            )
        )
    return searches


def _time(line: Line, now: datetime) -> datetime:
    name = "search_session_timestamp"
    try:
        time = parse_time(line[name], Column(name=name, format="unix_ms"), now)
    except BadValue as e:
        raise line.broken(name, f"{e}: milliseconds are needed") from e
    assert isinstance(time, datetime)
    return time


def _profiles(path: Path | None, report: ImportReport) -> dict[str, dict[str, str]]:
    """user_id -> what user_features knows of it."""
    profiles: dict[str, dict[str, str]] = {}
    for line in table_lines(path, USER, _NONE) if path else ():
        report.read["users"] += 1
        user_id = line.id("user_id")
        if user_id in profiles:
            raise line.broken("user_id", "the user has a row already, keep one of them")
        profiles[user_id] = {name: line[name] for name in line.values if line[name] and name != "user_id"}
    return profiles
