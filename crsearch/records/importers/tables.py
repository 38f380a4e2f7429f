"""Anybody's CSV, TSV, JSON lines or Parquet, read by a mapping file in TOML.

```toml
[items]
file = "products.csv"                          # relative to the source folder
# delimiter = ";"                              #   between the cells, where it is no comma (.tsv: no tab)
item_id = "sku"                                # our field = your column
title = "name"
category = { column = "path", split = " > " }
price = "price"
attributes = ["colour", "size"]                # columns that become text -> text

[users]                                        # may be left out: users of the log, nothing known about them
file = "customers.jsonl"
user_id = "id"
profile = { age = "age_band", city = "town" }  # our key = your column; or a list of columns

[searches]
file = "log.parquet"
user_id = "customer"
time = { column = "ts", format = "unix_ms" }   # iso (default), unix, unix_ms, order, or a strptime pattern
query = "q"
shown = { column = "skus", split = "," }       # or one row per shown item:
# search_id = "request"                        #   rows with this id are one search
# item = "sku"                                 #   the shown item of the row
# position = "rank"                            #   its place, if rows are not in order
# clicked = "is_click"                         #   1, true or yes
# bought = "is_order"
```

Times without a zone need one: ``{ column = "ts", zone = "Europe/Berlin" }``. Without ``time`` the order of the rows
counts; without ``search_id`` each row is a search of its own; without ``sales`` they are counted from training users.
Source: details of this project.
"""

import difflib
import re
import tomllib
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from crsearch.config import SplitConfig
from crsearch.errors import ConfigError, DataError
from crsearch.records.importers.common import ImportReport, UnknownItemsPolicy, assemble, clean, without_repeats
from crsearch.records.problems import Problem
from crsearch.records.rows import ENDED, Row, decode_cell, read_rows, suffix_of
from crsearch.records.schema import ITEMS, SEARCHES, USERS, Table
from crsearch.records.store import Catalogue, Dataset, refuse_unknown_items
from crsearch.records.types import Item, Search, User
from crsearch.records.values import BadValue, check_time, parse, short

Duplicates = Literal["error", "first", "last"]
"""Which row of a repeated item, user or search counts."""

OnError = Literal["stop", "skip"]

_FORMATS = ("iso", "unix", "unix_ms", "order")
"""Names of formats of times; any other format is a pattern of ``strptime``."""

_EXAMPLE = datetime(2025, 6, 1, 20, 11, tzinfo=UTC)

_YES, _NO = {"1", "true", "yes", "y", "t"}, {"", "0", "false", "no", "n", "f", "none"}
_LONG = ("item", "position")
"""Keys of a log with one row per shown item."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Column:
    """Where a field comes from."""

    name: str
    split: str | None = None
    """Separator of the parts of a list in one text."""
    format: str = "iso"
    """How a time is written."""
    zone: str | None = None
    """Zone of times that state none."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TableMapping:
    """One section of a mapping file."""

    file: Path
    columns: Mapping[str, Column]
    """Field of the schema -> column."""
    maps: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Field of kind map -> its keys -> columns."""
    delimiter: str | None = None
    """Between the cells of a text file; none = as the ending of the file says."""


def example() -> str:
    """A mapping file with every option."""
    return (__doc__ or "").partition("```toml\n")[2].partition("```")[0]


def load_mapping(path: Path, source: Path) -> dict[str, TableMapping]:
    """The sections of a mapping file, checked; files are looked for in ``source``.

    Raises:
        ConfigError: not TOML, an unknown section, field or option, a required field without a column.
    """
    try:
        sections = tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as e:
        raise ConfigError(
            f"{path}: the mapping file cannot be read ({e.strerror}). It says which column is what:\n{example()}"
        ) from e
    except UnicodeDecodeError as e:
        line = e.object.count(b"\n", 0, e.start) + 1
        raise ConfigError(f"{path}:{line}: not UTF-8 (byte {e.object[e.start]:#04x}): save it as UTF-8") from e
    except tomllib.TOMLDecodeError as e:
        raise ConfigError(f"{path}: not valid TOML: {e}") from e
    tables = {t.name: t for t in (ITEMS, USERS, SEARCHES)}
    for name in sections:
        _refuse_unknown(name, tables, f"{path}: section")
    for name in ("items", "searches"):
        if name not in sections:
            raise ConfigError(f"{path}: section [{name}] is missing; see crsearch.records.importers.tables")
    return {name: _section(path, source, tables[name], values) for name, values in sections.items()}


def _section(path: Path, source: Path, table: Table, values: Any) -> TableMapping:
    where = f"{path}: [{table.name}]"
    if not isinstance(values, dict) or not isinstance(values.get("file"), str):
        raise ConfigError(f'{where} needs file = "..."')
    if Path(values["file"]).is_absolute() or ".." in Path(values["file"]).parts:
        raise ConfigError(f"{where} file = {values['file']!r}: name a file inside the source folder")
    columns: dict[str, Column] = {}
    maps: dict[str, dict[str, str]] = {}
    known = ["file", "delimiter", *table.names, *(_LONG if table is SEARCHES else ())]
    for name, value in values.items():
        _refuse_unknown(name, known, where)
        if name in ("file", "delimiter"):
            continue
        if name in table.names and table.field(name).kind == "map":
            maps[name] = _map_columns(value, f"{where} {name}")
        else:
            columns[name] = _column(value, f"{where} {name}")
    optional = {"search_id", "time"}
    for name in table.required:
        if name not in columns and name not in optional:
            raise ConfigError(f'{where} needs {name} = "<column>": {table.field(name).meaning}')
    if "item" in columns and "search_id" not in columns:
        raise ConfigError(f'{where} has one row per shown item (item = ...) and so needs search_id = "<column>"')
    if "item" in columns and "shown" in columns:
        raise ConfigError(f"{where} has both shown and item: give the list or one row per item, not both")
    delimiter = _delimiter(values, where)
    return TableMapping(file=source / values["file"], columns=columns, maps=maps, delimiter=delimiter)


def _delimiter(values: Mapping[str, Any], where: str) -> str | None:
    value = values.get("delimiter")
    if value is None:
        return None
    if not isinstance(value, str) or len(value) != 1 or value in '"\r\n':
        raise ConfigError(f'{where} delimiter = {value!r}: write one character, e.g. ";"')
    if suffix_of(Path(values["file"])) in (".parquet", ".jsonl", ".jsonl.gz"):
        raise ConfigError(f"{where} delimiter = {value!r}: {values['file']} has no cells; leave it out")
    return value


def _refuse_unknown(name: str, known: Any, where: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, list(known), n=1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(known)}"
        raise ConfigError(f"{where}: unknown key {name!r}; {hint}")


def _column(value: Any, where: str) -> Column:
    if isinstance(value, str):
        return Column(name=value)
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()) or "column" not in value:
        raise ConfigError(f'{where} = {value!r}: write "column" or {{ column = "...", split = "," }}')
    for option in value:
        _refuse_unknown(option, ("column", "split", "format", "zone"), where)
    column = Column(name=value["column"], **{k: v for k, v in value.items() if k != "column"})
    if column.split == "":
        raise ConfigError(f'{where}: split = "" separates nothing: write what stands between the parts, e.g. "|"')
    _refuse_format(column.format, where)
    if column.zone is not None:
        try:
            zoneinfo.ZoneInfo(column.zone)
        except (zoneinfo.ZoneInfoNotFoundError, ValueError) as e:
            raise ConfigError(f"{where}: zone = {column.zone!r} is no time zone; e.g. UTC, Europe/Berlin") from e
    return column


def _refuse_format(form: str, where: str) -> None:
    """Raise if no time can be written so.

    Raises:
        ConfigError: a word that is no format, or a pattern with a directive that ``strptime`` does not know.
    """
    if form in _FORMATS:
        return
    try:
        if "%" not in form:
            raise ValueError("there is no directive such as %Y in it")
        datetime.strptime(_EXAMPLE.strftime(form), form)
    except ValueError as e:
        near = difflib.get_close_matches(form, _FORMATS, n=1)
        hint = f"did you mean {near[0]}?" if near else f'write {", ".join(_FORMATS)} or e.g. "%d.%m.%Y %H:%M"'
        raise ConfigError(f"{where}: format = {form!r} is no format of times: {e}; {hint}") from e


def _map_columns(value: Any, where: str) -> dict[str, str]:
    if isinstance(value, list) and all(isinstance(name, str) for name in value):
        return {name: name for name in value}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value.values()):
        return dict(value)
    raise ConfigError(f'{where} = {value!r}: write a list of columns, or {{ key = "column" }}')


@dataclass
class _Reader:
    """Rows of one table by its mapping; counts what is skipped."""

    mapping: TableMapping
    table: Table
    report: ImportReport
    on_error: OnError
    max_errors: int
    now: datetime
    problems: list[Problem] = field(default_factory=list)

    def rows(self) -> Iterator[tuple[int, dict[str, Any]]]:
        """(line, field -> value); a broken row ends the import, or is counted and left out."""
        is_begun, unseen, there = False, set(self._wanted()), dict[str, Any]()
        for row in read_rows(self.mapping.file, self.mapping.delimiter):
            if isinstance(row, Problem):
                self.fail(row)
                continue
            if not is_begun and (row.is_cells or self.mapping.file.suffix == ".parquet"):
                self._refuse_missing(unseen - row.values.keys(), row.values, f"{self.mapping.file}:1: there is no")
            is_begun = True
            if unseen:
                unseen -= row.values.keys()
                there |= row.values
            try:
                yield row.line, self._values(row)
            except _Broken as e:
                self.fail(e.problem)
            self.report.read[f"{self.table.name} rows"] += 1
        if is_begun:
            self._refuse_missing(unseen, there, f"{self.mapping.file}: no row has a")

    def fail(self, problem: Problem) -> None:
        """Stop at a problem, or count it; where the rest of the file cannot be read, there is nothing to skip."""
        example = {column.name: self._example(name) for name, column in self.mapping.columns.items()}
        if self.on_error == "stop" or problem.rule == ENDED:
            raise DataError(f"{problem}\na right row: {example}")
        self.problems.append(problem)
        self.report.dropped[f"{self.table.name} rows: {problem.rule}"] += 1
        if len(self.problems) > self.max_errors:
            shown = "\n".join(map(str, self.problems[:3]))
            raise DataError(
                f"{shown}\nmore than --max-errors {self.max_errors:,} broken rows in {self.mapping.file}: mend them, "
                f"or raise the limit; a right row: {example}"
            )

    def _example(self, name: str) -> object:
        return self.table.field(name).example if name in self.table.names else {"item": "i102", "position": 1}[name]

    def _wanted(self) -> list[str]:
        """Names of all mapped columns, in order."""
        single = [column.name for column in self.mapping.columns.values()]
        return single + [name for columns in self.mapping.maps.values() for name in columns.values()]

    def _refuse_missing(self, missing: Set[str], there: Iterable[str], said: str) -> None:
        first = next((name for name in self._wanted() if name in missing), None)
        if first is not None:
            near = difflib.get_close_matches(first, list(there), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{said} column {first!r} (there are: {', '.join(there)}){hint}")

    def _values(self, row: Row) -> dict[str, Any]:
        out: dict[str, Any] = {}
        for name, column in self.mapping.columns.items():
            try:
                out[name] = self._value(name, column, row)
            except BadValue as e:
                raise self._broken(row, column.name, e) from e
        for name, columns in self.mapping.maps.items():
            given = {key: row.values.get(column) for key, column in columns.items()}
            out[name] = {key: _text(value) for key, value in given.items() if _text(value).strip()}
        return out

    def _broken(self, row: Row, column: str, error: BadValue) -> "_Broken":
        absent = "" if column in row.values else f"; the row has no {column!r}, it has {', '.join(row.values)}"
        return _Broken(
            Problem(
                file=str(self.mapping.file),
                line=row.line,
                column=column,
                rule=error.rule,
                message=f"{error}{absent}",
                fix=error.fix,
            )
        )

    def _value(self, name: str, column: Column, row: Row) -> Any:
        raw = row.values.get(column.name)
        if name in _LONG or ("item" in self.mapping.columns and name in ("clicked", "bought")):
            return _long_value(name, raw)
        described = self.table.field(name)
        if described.kind == "time":
            return parse_time(raw, column, self.now)
        if described.kind == "texts":
            raw = _list(name, raw, column, row.is_cells)
        elif described.kind == "text":
            raw = _text(raw).strip() if described.name.endswith("_id") else _text(raw)
        elif row.is_cells and raw is not None:
            raw = decode_cell(described.kind, raw)
        return parse(described, raw, self.now)


class _Broken(Exception):
    """A row that breaks a rule; never leaves this module."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(str(problem))
        self.problem = problem


def _text(value: Any) -> str:
    """A plain value as text: ids and the like are often numbers. None is empty."""
    if value is None or isinstance(value, str):
        return value or ""
    if isinstance(value, bool | int | float):
        return str(value).lower() if isinstance(value, bool) else str(value)
    raise BadValue("wrong-type", f"{short(value)} is no text", "map a column with plain values")


def _list(name: str, value: Any, column: Column, is_cell: bool) -> Any:
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = _list_as_text(name, value)
    if isinstance(value, str) and column.split is not None:
        return [part.strip() for part in value.split(column.split) if part.strip()]
    if isinstance(value, str):
        value = decode_cell("texts", value) if is_cell else [value]
    return [_text(part) for part in value] if isinstance(value, list) else value


def _list_as_text(name: str, text: str) -> Any:
    """The list that a text with a bracket stands for; a category like ``[Sale] > Shoes`` stays text.

    Raises:
        BadValue: it is a list of another language, as pandas writes ``['A-1', 'A-2']``.
    """
    value = decode_cell("texts", text)
    if isinstance(value, str) and (name != "category" or re.match(r"\s*\[\s*['\"]", text)):
        raise BadValue(
            "list-as-text",
            f"{name} = {short(text)}: a list as text that is not JSON",
            'write JSON, e.g. ["i102", "i7"], or i102|i7 with split = "|" in the mapping',
        )
    return value


def _long_value(name: str, raw: Any) -> Any:
    text = _text(raw).strip().lower()
    if name == "item":
        if not text:
            raise BadValue("empty-item", "the shown item is empty", "give it a value, or leave the row out")
        return _text(raw).strip()
    if name == "position":
        try:
            return float(text)
        except ValueError:
            raise BadValue("wrong-type", f"position = {short(raw)}: a number is needed", "write e.g. 1") from None
    if text in _YES or text in _NO:
        return text in _YES
    try:
        return float(text) > 0  # counts of clicks are common
    except ValueError:
        raise BadValue("wrong-type", f"{name} = {short(raw)}: yes or no is needed", "write 1 or 0") from None


def parse_time(raw: Any, column: Column, now: datetime) -> datetime | int:
    """A time of a log: UTC, or the order number if the format says so.

    Raises:
        BadValue: it does not fit the format, has no zone, or cannot be.
    """
    kind, text = column.format, _text(raw).strip() if not isinstance(raw, datetime) else ""
    try:
        if isinstance(raw, datetime):
            time = raw
        elif kind == "order":
            return _order_number(text)
        elif kind in ("unix", "unix_ms"):
            time = datetime.fromtimestamp(float(text) / (1_000 if kind == "unix_ms" else 1), UTC)
        else:
            time = datetime.fromisoformat(text) if kind == "iso" else datetime.strptime(text, kind)
    except (ValueError, OverflowError, OSError):
        right = {
            "iso": _EXAMPLE.isoformat(),
            "order": "17 (at most 18 digits)",
            "unix": "1748808660",
            "unix_ms": "1748808660000",
        }
        raise BadValue(
            "bad-time",
            f"time = {short(raw)} does not fit the format {kind!r}",
            f"write e.g. {right.get(kind) or _EXAMPLE.strftime(kind)}, or set format in the mapping",
        ) from None
    if time.tzinfo is None:
        if column.zone is None:
            raise BadValue(
                "naive-time",
                f"time {time.isoformat()} has no zone",
                f'write UTC, e.g. 2025-06-01T20:11:00Z, or zone = "Europe/Berlin" beside column = "{column.name}" in '
                "the mapping",
            )
        time = time.replace(tzinfo=zoneinfo.ZoneInfo(column.zone))
    return check_time(time, now)


def _order_number(text: str) -> int:
    """The number, if 64 bits hold it; ValueError if not."""
    number = int(text)
    if abs(number) >= 2**63:
        raise ValueError(text)
    return number


def source_files(source: Path) -> list[Path]:
    """The tables that a mapping file names; ``source`` as for ``import_tables``.

    Raises:
        ConfigError: the mapping file.
    """
    folder, path = _located(source, None)
    return [section.file for section in load_mapping(path, folder).values()]


def _located(source: Path, mapping: Path | None) -> tuple[Path, Path]:
    """Folder of the tables and mapping file."""
    if mapping is None and source.suffix == ".toml":
        return source.parent, source
    return source, mapping if mapping is not None else source / "mapping.toml"


def import_tables(
    source: Path,
    split: SplitConfig,
    *,
    unknown_items: UnknownItemsPolicy = "error",
    mapping: Path | None = None,
    duplicates: Duplicates = "error",
    on_error: OnError = "stop",
    max_errors: int = 100,
    now: datetime | None = None,
) -> tuple[Dataset, ImportReport]:
    """Records from tables of any naming, by a mapping file (see the module).

    Args:
        source: folder of the tables, or the mapping file if that lies in it.
        split: shares of the parts.
        unknown_items: what happens to items of searches that the items table lacks.
        mapping: the mapping file; default ``mapping.toml`` in the folder.
        duplicates: which row of a repeated item or user counts; searches that repeat are an error unless the
            log has one row per shown item.
        on_error: stop at the first broken row, or skip and count them.
        max_errors: with ``skip``, more than so many broken rows of a table stop the import.
        now: times more than a day later are refused; default: the clock.

    Raises:
        ConfigError: the mapping file.
        DataError: file, line, column, rule and a right row.
    """
    source, path = _located(source, mapping)
    sections = load_mapping(path, source)
    report = ImportReport(f"tables: {source}")
    clock = now or datetime.now(UTC)

    readers = {
        table.name: _Reader(sections[table.name], table, report, on_error, max_errors, clock)
        for table in (ITEMS, USERS, SEARCHES)
        if table.name in sections
    }
    items = [_item(values, report) for values in _unique(readers["items"], duplicates)]
    users: dict[str, User] = {}
    if "users" in sections:
        users = {row["user_id"]: User(**row) for row in _unique(readers["users"], duplicates)}
    log = readers["searches"]
    make = _long_searches if "item" in log.mapping.columns else _wide_searches
    lines = make(log, report)
    searches = [search for _, search in lines]
    for search in searches:
        if search.user_id not in users:
            users[search.user_id] = User(user_id=search.user_id)
            report.changed["users of the log without a row in users (empty profile)"] += 1
    count_sales = "sales" not in sections["items"].columns
    try:
        if not items:
            raise DataError(f"{readers['items'].mapping.file}: the catalogue is empty: at least one item is needed")
        if not searches:
            raise DataError(f"{log.mapping.file}: there is no search in it: at least one row is needed")
        if unknown_items == "error":
            places = {search.search_id: f"{log.mapping.file}:{line}" for line, search in lines}
            refuse_unknown_items(searches, Catalogue(items), places)
        return assemble(items, users, searches, split, unknown_items, report, count_sales=count_sales), report
    except DataError as e:
        raise DataError("\n".join([str(e), *_told_skips(readers.values())])) from e


def _told_skips(readers: Iterable[_Reader]) -> list[str]:
    """A line for each table with broken rows that were left out: a later failure may come of them."""
    return [
        f"{len(r.problems):,} broken rows of {r.table.name} were skipped before; the first: {r.problems[0]}"
        for r in readers
        if r.problems
    ]


def _unique(reader: _Reader, duplicates: Duplicates) -> list[dict[str, Any]]:
    """The rows of a table, each key once, in the order of first mention."""
    key = reader.table.key
    rows: dict[str, dict[str, Any]] = {}
    lines: dict[str, int] = {}
    for line, values in reader.rows():
        name = values[key]
        if name not in rows:
            rows[name], lines[name] = values, line
            continue
        if duplicates == "error":
            reader.fail(
                Problem(
                    file=str(reader.mapping.file),
                    line=line,
                    column=reader.mapping.columns[key].name,
                    rule="duplicate",
                    message=f"{key} {short(name)} stands in line {lines[name]} already",
                    fix="keep one of the rows, or choose which one counts with --duplicates first or last",
                )
            )
            continue
        reader.report.dropped[f"{reader.table.name} rows: repeated {key}, {duplicates} kept"] += 1
        if duplicates == "last":
            rows[name] = values
    return list(rows.values())


def _item(values: Mapping[str, Any], report: ImportReport) -> Item:
    plain = dict(values) | {"title": clean(values["title"], report, "titles")}
    if plain.get("brand"):
        plain["brand"] = clean(plain["brand"], report, "brands")
    return Item(**plain)


def _wide_searches(reader: _Reader, report: ImportReport) -> list[tuple[int, Search]]:
    """Line and search of each row, in order of ``seq`` where that is mapped."""
    searches: list[tuple[int, Search]] = []
    first: dict[str, int] = {}
    ordered = reader.mapping.columns.get("seq") is not None
    rows = list(reader.rows())
    if ordered:
        rows.sort(key=lambda row: row[1]["seq"] or 0)
    for line, values in rows:
        search_id = values.get("search_id")
        if search_id is not None and first.setdefault(search_id, line) != line:
            reader.fail(
                Problem(
                    file=str(reader.mapping.file),
                    line=line,
                    column=reader.mapping.columns["search_id"].name,
                    rule="duplicate",
                    message=f"search_id {short(search_id)} stands in line {first[search_id]} already",
                    fix="keep one of the rows; where a row is one shown item, map it with item = ... in place of shown",
                )
            )
            continue
        lists = {n: without_repeats(values.get(n) or (), report, n) for n in ("shown", "clicked", "bought")}
        searches.append((line, _search(values, lists, line)))
    return searches


def _long_searches(reader: _Reader, report: ImportReport) -> list[tuple[int, Search]]:
    """First line and search of the rows with one search id; items by position, else in the order of the rows."""
    groups: dict[str, list[tuple[int, dict[str, Any]]]] = {}
    for line, values in reader.rows():
        groups.setdefault(values["search_id"], []).append((line, values))
    searches: list[tuple[int, Search]] = []
    for rows in groups.values():
        first_line, first = rows[0]
        other = next((line for line, v in rows if any(v.get(n) != first.get(n) for n in ("user_id", "query"))), None)
        if other is not None:
            raise DataError(
                f"{reader.mapping.file}:{other}: search {first['search_id']!r} has another user or query than in line "
                f"{first_line}: rows with one search_id are one search"
            )
        shown = sorted(rows, key=lambda row: row[1].get("position", 0.0))
        lists = {
            name: without_repeats(_items_where(shown, is_in), report, name)
            for name, is_in in (("shown", _always), ("clicked", _flag("clicked")), ("bought", _flag("bought")))
        }
        searches.append((first_line, _search(first, lists, first_line)))
    return searches


def _items_where(
    rows: Sequence[tuple[int, Mapping[str, Any]]], is_in: Callable[[Mapping[str, Any]], bool]
) -> list[str]:
    return [values["item"] for _, values in rows if is_in(values)]


def _always(values: Mapping[str, Any]) -> bool:
    return True


def _flag(name: str) -> Callable[[Mapping[str, Any]], bool]:
    return lambda values: bool(values.get(name))


def _search(values: Mapping[str, Any], lists: Mapping[str, tuple[str, ...]], line: int) -> Search:
    return Search(
        search_id=values.get("search_id") or f"s{line}",
        user_id=values["user_id"],
        time=values.get("time", line),
        query=values["query"],
        place=values.get("place"),
        **lists,
    )
