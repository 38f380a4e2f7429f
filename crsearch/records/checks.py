"""Every broken row of a data set folder, with file, line and what to do.

The folder holds the tables ``items``, ``users``, ``searches`` and, once imported, ``split``, each as Parquet,
JSON lines, CSV or TSV. All problems of a pass come together, so that they can be mended together.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from crsearch.errors import DataError
from crsearch.records.leaks import find_leaks
from crsearch.records.problems import Problem, refuse
from crsearch.records.rows import SUFFIXES, Row, decode_cell, find_table, read_lines, read_rows, suffix_of
from crsearch.records.schema import FORMAT_VERSION, ITEMS, SEARCHES, SPLIT, TABLES, Table
from crsearch.records.store import Catalogue, Dataset, UnknownItems
from crsearch.records.types import Item, Search, SplitMode, User
from crsearch.records.values import EARLIEST, BadValue, parse, short


@dataclass(frozen=True, slots=True)
class Parsed:
    """The rows of one table that could be read."""

    file: str
    rows: list[tuple[int, dict[str, Any]]]
    """(line, field -> value); a value that broke a rule is absent."""

    def lines(self, key: str) -> dict[str, int]:
        """Value of the field -> first line that has it."""
        out: dict[str, int] = {}
        for line, values in self.rows:
            if values[key] is not None:
                out.setdefault(values[key], line)
        return out


def check_folder(path: Path, now: datetime | None = None) -> list[Problem]:
    """All problems of a data set folder, table by table in the order of the rows; empty = all is well.

    Args:
        path: the folder. ``split`` may be missing (it is made on import), the others may not.
        now: times more than a day later are reported; default: the clock.
    """
    return read_folder(path, now)[0]


def read_folder(path: Path, now: datetime | None = None) -> tuple[list[Problem], Dataset | None]:
    """The problems of a data set folder and, if there are none, its records; see ``check_folder``.

    Without a ``split`` table the records have no examples.
    """
    if not path.is_dir():
        return [_no_folder(path)], None
    now = now or datetime.now(UTC)
    problems: list[Problem] = []
    parsed: dict[str, Parsed] = {}
    for table in TABLES.values():
        file = find_table(path, table.name)
        if file is None:
            if table is not SPLIT:
                problems.append(_missing_table(path, table))
            continue
        problems += _check_format(file)
        parsed[table.name] = parse_table(file, table, now, problems)
        problems += _duplicates(parsed[table.name], table)
    if "items" in parsed and not parsed["items"].rows:
        problems.append(_empty_catalogue(parsed["items"].file))
    if "searches" in parsed and not parsed["searches"].rows:
        problems.append(_no_searches(parsed["searches"].file))
    if "searches" in parsed:
        problems += _check_searches(parsed, _unknown_items_policy(path))
    if "split" in parsed:
        problems += _check_split(parsed, _split_mode(path))
    if problems:
        return problems, None
    data = _dataset(parsed, _unknown_items_policy(path), _split_mode(path))
    leaks = find_leaks(data, parsed["split"].file if "split" in parsed else str(path))
    return leaks, None if leaks else data


def read_items(file: Path, now: datetime | None = None) -> list[Item]:
    """The items of one file of the items table, in order.

    Args:
        file: JSON lines, CSV, TSV or Parquet.
        now: see ``check_folder``.

    Raises:
        DataError: no such file, or broken rows, each with its line and the fix; an item that stands twice.
    """
    problems: list[Problem] = []
    parsed = parse_table(file, ITEMS, now or datetime.now(UTC), problems)
    problems += _duplicates(parsed, ITEMS)
    refuse(problems)
    return [Item(**row) for _, row in parsed.rows]


def read_item_ids(file: Path) -> list[str]:
    """The item ids of a file, in order: those of a table with a column item_id, or one in each line of any other file.

    Raises:
        DataError: no such file, or a row without a right id, with its line.
    """
    if not file.is_file():
        raise DataError(f"{file}: no such file")
    problems: list[Problem] = []
    ids: list[str] = []
    lines = read_lines(file) if not suffix_of(file) else read_rows(file)
    for found in lines:
        if isinstance(found, Problem):
            problems.append(found)
            continue
        line, value = (found.line, found.values.get("item_id")) if isinstance(found, Row) else found
        try:
            ids.append(parse(ITEMS.field("item_id"), value.strip() if isinstance(value, str) else value, EARLIEST))
        except BadValue as e:
            problems.append(
                Problem(file=str(file), line=line, column="item_id", rule=e.rule, message=str(e), fix=e.fix)
            )
    refuse(problems)
    return ids


def items_of(rows: Sequence[Mapping[str, Any]], source: str, now: datetime | None = None) -> list[Item]:
    """The same for rows that are JSON values already, e.g. of a request; ``source`` is what messages call them.

    Raises:
        BrokenRecords: a DataError; broken rows (numbered from 1), an item that stands twice.
    """
    problems: list[Problem] = []
    now = now or datetime.now(UTC)
    numbered = [Row(number, dict(row)) for number, row in enumerate(rows, start=1)]
    for row in numbered:
        unknown = sorted(row.values.keys() - set(ITEMS.names))
        problems += [_unknown_field(Path(source), row.line, name, ITEMS) for name in unknown]
    parsed = Parsed(source, [(row.line, parse_row(Path(source), row, ITEMS, now, problems)) for row in numbered])
    problems += _duplicates(parsed, ITEMS)
    refuse(problems)
    return [Item(**row) for _, row in parsed.rows]


def parse_table(file: Path, table: Table, now: datetime, problems: list[Problem]) -> Parsed:
    """The rows of a table by the schema; what breaks a rule is appended to ``problems``."""
    rows: list[tuple[int, dict[str, Any]]] = []
    absent: set[str] = set()
    unknown: set[str] = set()
    for number, row in enumerate(read_rows(file)):
        if isinstance(row, Problem):
            problems.append(row)
            continue
        if number == 0 and (row.is_cells or file.suffix == ".parquet"):
            absent = {name for name in table.required if name not in row.values}
            problems += [_missing_column(file, row.line, name, row, table) for name in sorted(absent)]
        for name in row.values.keys() - set(table.names) - unknown:
            unknown.add(name)
            problems.append(_unknown_field(file, row.line, name, table))
        rows.append((row.line, parse_row(file, row, table, now, problems, skip=absent)))
    return Parsed(str(file), rows)


def parse_row(
    file: Path, row: Row, table: Table, now: datetime, problems: list[Problem], skip: Iterable[str] = ()
) -> dict[str, Any]:
    """The fields of one row; what breaks a rule is appended to ``problems`` and absent."""
    values: dict[str, Any] = {}
    for field in table.fields:
        raw = row.values.get(field.name)
        if row.is_cells and raw is not None:
            raw = decode_cell(field.kind, raw)
        try:
            values[field.name] = None if field.name in skip else parse(field, raw, now)
        except BadValue as e:
            values[field.name] = {"texts": (), "map": {}}.get(field.kind)
            problems.append(
                Problem(file=str(file), line=row.line, column=field.name, rule=e.rule, message=str(e), fix=e.fix)
            )
    return values


def _no_folder(path: Path) -> Problem:
    return Problem(
        file=str(path),
        line=None,
        rule="no-folder",
        message="this is a file, and records are a folder" if path.exists() else "there is no such folder",
        fix=f"give the folder of the tables {', '.join(TABLES)}, as `crsearch import` writes it",
    )


def _no_searches(file: str) -> Problem:
    return Problem(
        file=file,
        line=None,
        rule="no-searches",
        message="there is no search",
        fix=f"add at least one; a right row: {SEARCHES.example_row()}",
    )


def _missing_table(folder: Path, table: Table) -> Problem:
    return Problem(
        file=str(folder),
        line=None,
        rule="missing-table",
        message=f"there is no {table.name} table ({table.name}{', '.join(SUFFIXES)})",
        fix=f"add it; a right row: {table.example_row()}",
    )


def _missing_column(file: Path, line: int, name: str, row: Row, table: Table) -> Problem:
    return Problem(
        file=str(file),
        line=line,
        column=name,
        rule="missing-column",
        message=f"there is no column {name!r} (there are: {', '.join(row.values)})",
        fix=f"add it, e.g. {table.field(name).example!r}",
    )


def _unknown_field(file: Path, line: int, name: str, table: Table) -> Problem:
    near = difflib.get_close_matches(name, table.names, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"the fields are {', '.join(table.names)}"
    return Problem(
        file=str(file),
        line=line,
        column=name,
        rule="unknown-field",
        message=f"{table.name} have no field {short(name)}",
        fix=hint,
    )


def _empty_catalogue(file: str) -> Problem:
    return Problem(
        file=file,
        line=None,
        rule="empty-catalogue",
        message="there is no item",
        fix=f"add at least one; a right row: {ITEMS.example_row()}",
    )


def _check_format(file: Path) -> Iterator[Problem]:
    if file.suffix != ".parquet":
        return
    from crsearch.records.frames import format_of

    try:
        version = format_of(file)
    except DataError:  # the rows say so, with the cause
        return
    if version > FORMAT_VERSION:
        yield Problem(
            file=str(file),
            line=None,
            rule="newer-format",
            message=f"written in format {version}, this crsearch reads up to {FORMAT_VERSION}",
            fix="upgrade crsearch, or import the source again",
        )


def _unknown_items_policy(folder: Path) -> UnknownItems:
    from crsearch.records.frames import unknown_items_of

    file = folder / "searches.parquet"
    try:
        return unknown_items_of(file) if file.is_file() else "error"
    except DataError:  # reported as a broken file
        return "error"


def _split_mode(folder: Path) -> SplitMode:
    from crsearch.records.frames import split_mode_of

    file = folder / "split.parquet"
    try:
        return split_mode_of(file) if file.is_file() else "user"
    except DataError:  # reported as a broken file
        return "user"


def _duplicates(parsed: Parsed, table: Table) -> Iterator[Problem]:
    first = parsed.lines(table.key)
    for line, values in parsed.rows:
        key = values[table.key]
        if key is not None and first[key] != line:
            yield Problem(
                file=parsed.file,
                line=line,
                column=table.key,
                rule="duplicate",
                message=f"{table.key} {short(key)} stands in line {first[key]} already",
                fix="keep one of the rows",
            )


def _check_searches(parsed: Mapping[str, Parsed], unknown_items: UnknownItems) -> Iterator[Problem]:
    searches = parsed["searches"]
    items = parsed["items"].lines("item_id") if "items" in parsed and unknown_items == "error" else None
    users = parsed["users"].lines("user_id") if "users" in parsed else None
    kinds: dict[type, int] = {}
    for line, row in searches.rows:
        for column, rule, message, fix in _search_faults(row, items, users):
            yield Problem(file=searches.file, line=line, column=column, rule=rule, message=message, fix=fix)
        if row["time"] is not None and kinds.setdefault(type(row["time"]), line) == line and len(kinds) > 1:
            yield Problem(
                file=searches.file,
                line=line,
                column="time",
                rule="mixed-times",
                message=f"time {row['time']} is of another kind than in line {min(kinds.values())}",
                fix="give all searches a UTC time, or all an order number",
            )
    if len(kinds) < 2:
        yield from _check_order(searches)


def _search_faults(
    row: Mapping[str, Any], items: Mapping[str, int] | None, users: Mapping[str, int] | None
) -> Iterator[tuple[str, str, str, str]]:
    """(column, rule, message, fix) of what does not fit in one search; no items or users = not checked."""
    if users is not None and row["user_id"] is not None and row["user_id"] not in users:
        text = f"user_id {short(row['user_id'])} is not among the users ({len(users):,})"
        yield "user_id", "unknown-user", text, "add the user, with an empty profile if nothing is known"
    for column in ("shown", "clicked", "bought"):
        for item_id in dict.fromkeys(i for i in row[column] if items is not None and i not in items):
            text = f"item_id {short(item_id)} is not in the catalogue ({len(items or ()):,} items)"
            yield column, "unknown-item", text, "add the item, or import with --unknown-items drop or text"
        if len(set(row[column])) < len(row[column]):
            yield column, "repeated-item", f"an item stands twice in {column}", "keep its first place"
    for column in ("clicked", "bought"):
        for item_id in dict.fromkeys(i for i in row[column] if row["shown"] and i not in row["shown"]):
            text = f"item_id {short(item_id)} was {column} but not shown"
            yield column, "not-shown", text, "add it to shown in its place, or leave shown empty"


def _check_order(searches: Parsed) -> Iterator[Problem]:
    """``seq`` counts up with the time within a user, no number twice."""
    by_user: dict[str, list[tuple[int, Any, int]]] = {}
    for line, row in searches.rows:
        if None not in (row["user_id"], row["seq"], row["time"]):
            by_user.setdefault(row["user_id"], []).append((row["seq"], row["time"], line))
    for events in by_user.values():
        events.sort(key=lambda event: (event[0], event[2]))
        for (seq, time, other), (next_seq, next_time, line) in pairwise(events):
            if next_seq == seq or next_time < time:
                yield Problem(
                    file=searches.file,
                    line=line,
                    column="seq",
                    rule="bad-order",
                    message=f"seq {next_seq} at {next_time} against seq {seq} at {time} in line {other}",
                    fix="number the searches of a user from 0 in the order of time",
                )


def _check_split(parsed: Mapping[str, Parsed], mode: SplitMode) -> Iterator[Problem]:
    split = parsed["split"]
    searches = {row["search_id"]: row for _, row in parsed["searches"].rows} if "searches" in parsed else {}
    items = parsed["items"].lines("item_id") if "items" in parsed else {}
    seen: dict[str, tuple[int, str]] = {}
    for line, row in split.rows:
        search = searches.get(row["search_id"])

        def problem(column: str, rule: str, message: str, fix: str, line: int = line) -> Problem:
            return Problem(file=split.file, line=line, column=column, rule=rule, message=message, fix=fix)

        if search is None:
            text = f"search_id {short(row['search_id'])} is not among the searches"
            yield problem("search_id", "unknown-search", text, "import the source again")
            continue
        if row["target"] not in items:
            text = f"target {short(row['target'])} is not in the catalogue"
            yield problem("target", "unknown-item", text, "import the source again")
        elif row["target"] not in (*search["clicked"], *search["bought"]):
            text = f"target {short(row['target'])} was not chosen in search {short(row['search_id'])}"
            yield problem("target", "target-not-chosen", text, "import the source again")
        if mode != "user":
            continue
        first, part = seen.setdefault(search["user_id"], (line, row["part"]))
        if part != row["part"]:
            text = f"user {short(search['user_id'])} is in {row['part']} here and in {part} in line {first}"
            yield problem("part", "user-on-both-sides", text, "split by user: import the source again")
        elif first != line:
            text = f"user {short(search['user_id'])} has an example in line {first} already"
            yield problem("search_id", "second-example", text, "keep the user's last search with a choice")


def _dataset(parsed: Mapping[str, Parsed], unknown_items: UnknownItems, mode: SplitMode) -> Dataset:
    """The records of tables without problems."""
    rows = {name: [row for _, row in table.rows] for name, table in parsed.items()}
    catalogue = Catalogue(Item(**row) for row in rows["items"])
    users = {row["user_id"]: User(**row) for row in rows["users"]}
    ordered = sorted(rows["searches"], key=lambda row: row["seq"] or 0)
    searches = tuple(Search(**{name: v for name, v in row.items() if name != "seq"}) for row in ordered)
    targets = {row["search_id"]: (row["target"], row["part"]) for row in rows.get("split", ())}
    return Dataset(catalogue, users, searches, targets, unknown_items=unknown_items, split_mode=mode)
