"""Files as rows with line numbers: JSON lines, CSV, TSV (each also .gz) and Parquet.

A row that cannot be read is a ``Problem`` with its place, never an exception, so that one pass lists them all.
"""

import csv
import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from crsearch.errors import DataError
from crsearch.records.problems import Problem
from crsearch.records.values import short

TEXT_SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz")
SUFFIXES = (".parquet", *TEXT_SUFFIXES)
"""Endings of files that can be read."""

ENDED = "broken-file"
"""Rule of a problem after which no row of the file can be read."""

_DELIMITERS = (";", "\t", "|", ",")
"""What stands between cells in files of others, the likeliest first."""

csv.field_size_limit(2**27)  # bytes of one cell: long descriptions are legal


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file."""

    line: int
    """Line in a text file, row in a Parquet file, from 1."""
    values: dict[str, Any]
    is_cells: bool = False
    """True where every value is the text of a CSV cell."""


def suffix_of(path: Path) -> str:
    """The known ending of a file name, or an empty string.

    >>> suffix_of(Path("items.jsonl.gz"))
    '.jsonl.gz'
    """
    return next((s for s in SUFFIXES if path.name.endswith(s)), "")


def find_table(folder: Path, name: str) -> Path | None:
    """The file ``<name>.parquet``, ``.jsonl``, ``.csv``, ... of a folder; the first kind that is there."""
    return next((p for s in SUFFIXES if (p := folder / f"{name}{s}").is_file()), None)


def read_rows(path: Path, delimiter: str | None = None) -> Iterator[Row | Problem]:
    """The rows of a file in order; what cannot be read comes as a problem in its place.

    Args:
        path: the file; its ending says what it is.
        delimiter: between the cells of a text file that is a table whatever its ending says.

    Raises:
        DataError: no such file, or an ending that is not known.
    """
    suffix = suffix_of(path)
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    if delimiter is not None:
        yield from _csv(path, delimiter)
        return
    if not suffix:
        raise DataError(f"{path}: unknown kind of file; known endings: {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        yield from _parquet(path)
    elif suffix.startswith(".jsonl"):
        yield from _json_lines(path)
    else:
        yield from _csv(path, "\t" if suffix.startswith(".tsv") else ",")


def open_bytes(path: Path) -> io.BufferedIOBase:
    """A file for reading bytes, unpacked if its name ends with .gz."""
    return gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb")


def read_lines(path: Path) -> Iterator[tuple[int, str] | Problem]:
    """Numbered lines of a UTF-8 file without their ends; blank lines are left out, a byte order mark too."""
    line = 0
    with open_bytes(path) as handle:
        try:
            for line, raw in enumerate(handle, start=1):
                data = raw.removeprefix(b"\xef\xbb\xbf") if line == 1 else raw
                try:
                    text = data.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as e:
                    yield _broken(path, line, f"not UTF-8 (byte {data[e.start]:#04x})", "save it as UTF-8", e.start + 1)
                    continue
                if text.strip():
                    yield line, text
        except (EOFError, gzip.BadGzipFile, zlib.error) as e:
            yield _ended(path, line + 1, f"the compressed file is damaged here ({e})", "copy it again")


def _json_lines(path: Path) -> Iterator[Row | Problem]:
    for numbered in read_lines(path):
        if isinstance(numbered, Problem):
            yield numbered
            continue
        line, text = numbered
        try:
            values = json.loads(text, parse_constant=_no_constant, object_pairs_hook=_no_repeats)
        except json.JSONDecodeError as e:
            yield _broken(path, line, f"not JSON: {e.msg}", "write one JSON object per line", e.colno)
        except (ValueError, RecursionError) as e:
            yield _broken(path, line, f"not JSON that can be used: {e}", "write one JSON object per line")
        else:
            if isinstance(values, dict):
                yield Row(line, values)
            else:
                yield _broken(path, line, f"a JSON {type(values).__name__}", "write one JSON object per line")


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON number")


def _no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(n for n in names if names.count(n) > 1)!r} stands twice")
    return values


def _csv(path: Path, delimiter: str) -> Iterator[Row | Problem]:
    with open_bytes(path) as handle:
        text = io.TextIOWrapper(handle, encoding="utf-8-sig", newline="")  # type: ignore[type-var]
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header: list[str] | None = None
        while True:
            line = reader.line_num + 1
            try:
                cells = next(reader, None)
            except UnicodeDecodeError:  # it is decoded in blocks, so the reader is somewhere before the place
                found = next(numbered for numbered in read_lines(path) if isinstance(numbered, Problem))
                yield replace(found, rule=ENDED)
                return
            except csv.Error as e:
                yield _ended(path, line, f"not CSV: {e}", "quote cells that hold quotes, commas or line ends")
                return
            except (EOFError, gzip.BadGzipFile, zlib.error) as e:
                yield _ended(path, line, f"the compressed file is damaged here ({e})", "copy it again")
                return
            if cells is None:
                return
            if header is None:
                header = [name.strip() for name in cells]
                if len(set(header)) < len(header):
                    yield _ended(path, line, f"a column name stands twice: {', '.join(header)}", "rename one")
                    return
                if (other := _other_delimiter(header, delimiter)) is not None:
                    message = f"the header is one cell, {short(header[0])}: the columns seem to stand between {other!r}"
                    fix = (
                        f"save it with {delimiter!r}, or write delimiter = {json.dumps(other)} in the mapping of tables"
                    )
                    yield _ended(path, line, message, fix)
                    return
            elif cells and len(cells) != len(header):
                fix = f"quote cells that hold {delimiter!r}; the columns are {', '.join(header)}"
                yield _broken(path, line, f"{len(cells)} cells where the header has {len(header)}", fix)
            elif cells:
                yield Row(line, dict(zip(header, cells, strict=True)), is_cells=True)


def _other_delimiter(header: list[str], delimiter: str) -> str | None:
    """What the names of a header seem to stand between, if it was read as one cell."""
    return next((d for d in _DELIMITERS if len(header) == 1 and d != delimiter and d in header[0]), None)


def _parquet(path: Path) -> Iterator[Row | Problem]:
    import polars as pl

    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as e:
        yield Problem(
            file=str(path), line=None, rule=ENDED, message=f"not a readable Parquet file ({e})",
            fix="import the source again",
        )  # fmt: skip
        return
    pairs = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))
    maps = [name for name, dtype in frame.schema.items() if dtype == pairs]
    for row, values in enumerate(frame.iter_rows(named=True), start=1):
        for name in maps:
            values[name] = {pair["key"]: pair["value"] for pair in values[name] or ()}
        yield Row(row, values)


def decode_cell(kind: str, cell: str) -> Any:
    """The text of a CSV cell as the value it stands for; text that does not fit stays text.

    A list is JSON or parts between ``|``, a map is JSON; an empty cell is absent.

    >>> decode_cell("texts", "Phones|Cases"), decode_cell("number", "12.9"), decode_cell("number", "¥12")
    (['Phones', 'Cases'], 12.9, '¥12')
    """
    cell = cell.strip()
    if not cell:
        return None
    try:
        if kind == "number":
            return float(cell)
        if kind in ("order", "time"):
            return int(cell) if re.fullmatch(r"[+-]?\d{1,18}", cell) else cell
        if kind == "map" or (kind == "texts" and cell.startswith("[")):
            return json.loads(cell, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return cell
    return cell.split("|") if kind == "texts" else cell


def _broken(path: Path, line: int, message: str, fix: str, column: int | None = None) -> Problem:
    return Problem(file=str(path), line=line, rule="broken-line", message=message, fix=fix, column=column)


def _ended(path: Path, line: int, message: str, fix: str) -> Problem:
    return Problem(file=str(path), line=line, rule=ENDED, message=message, fix=fix)
