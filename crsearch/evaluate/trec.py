"""Qrels and run files in TREC form, so that any outside tool gets our numbers from them.

    qrels   search_id 0 item_id 1                      the one relevant item of each search
    run     search_id Q0 item_id rank score system     one line per listed item

Fields are separated by white space; white space and ``%`` inside an id are written as ``%20`` and the like.
Outside tools sort a run by score, whatever the rank column says. Our scores therefore fall strictly with the rank.
A search whose list is empty has no line; tools count it as a miss because the qrels name it.
"""

from collections.abc import Iterable, Mapping
from math import isnan
from pathlib import Path
from urllib.parse import quote, unquote

from crsearch.errors import DataError
from crsearch.records.types import RankedList
from crsearch.runs import write_atomic


def write_qrels(path: Path, targets: Mapping[str, str]) -> None:
    """Write the target of each search.

    Args:
        path: file to write, atomically.
        targets: search_id -> item_id.

    Raises:
        DataError: an id is empty.
        StorageError: no room or no permission.
    """
    write_atomic(path, "".join(f"{_field(s)} 0 {_field(i)} 1\n" for s, i in targets.items()))


def write_run(path: Path, lists: Iterable[RankedList], system: str) -> None:
    """Write the ranked lists of one system.

    The score of a line counts down to 1 within its list, so it falls strictly with the rank even where the
    searcher's own scores tie. Those are not written.

    Raises:
        DataError: an id is empty.
        StorageError: no room or no permission.
    """
    lines = [
        f"{_field(ranked.search_id)} Q0 {_field(item)} {rank} {len(ranked.item_ids) - rank + 1} {_field(system)}\n"
        for ranked in lists
        for rank, item in enumerate(ranked.item_ids, start=1)
    ]
    write_atomic(path, "".join(lines))


def read_qrels(path: Path) -> dict[str, str]:
    """The relevant item of each search; lines of relevance 0 are passed over.

    Raises:
        DataError: no such file, a broken line, or a search with two relevant items.
    """
    targets: dict[str, str] = {}
    for number, (search, _, item, relevance) in _lines(path, ("search_id", "0", "item_id", "relevance")):
        if not relevance.lstrip("-").isdigit():
            raise DataError(f"{path}:{number}: relevance {relevance!r} is not a whole number")
        if int(relevance) <= 0:
            continue
        if search in targets:
            raise DataError(
                f"{path}:{number}: search {search!r} has two relevant items, {targets[search]!r} and {item!r}: "
                "HR and NDCG here are for one target per search"
            )
        targets[search] = item
    return targets


def read_run(path: Path) -> dict[str, tuple[str, ...]]:
    """The ranked list of each search, best first, as trec_eval reads it: by score, the rank column is not looked at.

    Equal scores go by item id, the later id first (byte order), so that our numbers are those of trec_eval.

    Raises:
        DataError: no such file, a broken line, or an item twice in one list.
    """
    scored: dict[str, dict[str, float]] = {}
    for number, (search, _, item, _, text, _) in _lines(
        path, ("search_id", "Q0", "item_id", "rank", "score", "system")
    ):
        try:
            score = float(text)
        except ValueError:
            score = float("nan")
        if isnan(score):
            raise DataError(f"{path}:{number}: score {text!r} is not a number")
        of_search = scored.setdefault(search, {})
        if item in of_search:
            raise DataError(f"{path}:{number}: item {item!r} is twice in the list of search {search!r}; keep the first")
        of_search[item] = score
    return {
        search: tuple(sorted(of_search, key=lambda i: (of_search[i], _field(i).encode()), reverse=True))
        for search, of_search in scored.items()
    }


def _field(text: str) -> str:
    """An id as one field of a TREC line.

    >>> _field("iPhone 15, 100%")
    'iPhone%2015,%20100%25'
    """
    if not text:
        raise DataError("an empty id cannot be written to a TREC file: give every search and item an id")
    return "".join(quote(c, safe="") if c.isspace() or c == "%" else c for c in text)


def _lines(path: Path, fields: tuple[str, ...]) -> Iterable[tuple[int, list[str]]]:
    """Number and unquoted fields of each line that is not blank."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # some editors write a BOM
    except FileNotFoundError as e:
        raise DataError(f"{path}: no such file; `crsearch evaluate` writes it") from e
    except UnicodeDecodeError as e:
        raise DataError(f"{path}: not UTF-8 text ({e.reason} at byte {e.start})") from e
    for number, line in enumerate(text.split("\n"), start=1):
        parts = line.split()
        if not parts:
            continue
        if len(parts) != len(fields):
            raise DataError(f"{path}:{number}: {len(parts)} fields, expected {len(fields)}: {' '.join(fields)}")
        yield number, [unquote(p) for p in parts]
