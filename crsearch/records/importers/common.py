"""What all importers share: the report, items outside the catalogue, clean texts, the last steps."""

import html
import math
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

from crsearch.config import SplitConfig
from crsearch.errors import ConfigError, DataError
from crsearch.records.leaks import assert_no_leaks
from crsearch.records.problems import Problem
from crsearch.records.rows import TEXT_SUFFIXES, find_table, read_rows
from crsearch.records.sales import with_training_sales
from crsearch.records.schema import TABLES
from crsearch.records.simulator.simulation import SHOP_FILE, TRUTH_FILE
from crsearch.records.split import choose_targets
from crsearch.records.store import Catalogue, Dataset, refuse_unknown_items
from crsearch.records.types import Item, Search, User
from crsearch.records.values import short

UnknownItemsPolicy = Literal["error", "drop", "text"]
"""An item of a search that is not in the catalogue: refuse, leave out, or keep as text without a semantic ID."""

MAX_TITLE = 2_000
"""Characters of a title; the rest is cut."""


class Tally(dict[str, int]):
    """Reason -> count, 0 at first. Not a Counter, which ``dataclasses.asdict`` cannot copy."""

    def __missing__(self, reason: str) -> int:
        return 0


@dataclass(frozen=True)
class ImportReport:
    """What an import read, changed and dropped, counted under the reason."""

    source: str
    read: Tally = field(default_factory=Tally)
    changed: Tally = field(default_factory=Tally)
    dropped: Tally = field(default_factory=Tally)
    unused: Tally = field(default_factory=Tally)
    """What the source has and the records have no place for."""

    def summary(self) -> str:
        """One line per count.

        >>> report = ImportReport("hem")
        >>> report.read["items"] += 1200
        >>> print(report.summary())
        hem
          read: 1,200 items
        """
        lines = [self.source]
        for name in ("read", "changed", "dropped", "unused"):
            lines += [f"  {name}: {count:,} {reason}" for reason, count in getattr(self, name).items() if count]
        return "\n".join(lines)


def clean(text: str, report: ImportReport, what: str) -> str:
    """A text without HTML entities, outer blanks and excess length; changes are counted.

    >>> clean("Salt &amp; Pepper ", ImportReport("x"), "titles")
    'Salt & Pepper'
    """
    plain = text
    while (unescaped := html.unescape(plain)) != plain:  # some sources escape twice; each round shortens the text
        plain = unescaped
    if plain != text:
        report.changed[f"{what}: HTML entities unescaped"] += 1
    plain = plain.strip()
    if len(plain) > MAX_TITLE:
        report.changed[f"{what}: cut to {MAX_TITLE:,} characters"] += 1
        plain = plain[:MAX_TITLE]
    return plain


def without_repeats(ids: Iterable[str], report: ImportReport, what: str) -> tuple[str, ...]:
    """Each id at its first place only; what is left out is counted."""
    given = tuple(ids)
    once = tuple(dict.fromkeys(given))
    if len(once) < len(given):
        report.changed[f"{what}: repeated items left out"] += len(given) - len(once)
    return once


Read = TypeVar("Read")


def readable(rows: Iterable[Read | Problem], right: Mapping[str, Any]) -> Iterator[Read]:
    """The rows of a file, or its lines.

    Args:
        rows: as read.
        right: an example of a right row, for the message.

    Raises:
        DataError: one that cannot be read: file and line, what is wrong, a right row.
    """
    for row in rows:
        if isinstance(row, Problem):
            raise DataError(f"{row}; a right row: {dict(right)}")
        yield row


@dataclass(frozen=True, slots=True)
class Line:
    """One row of a table of a source; ``line["column"]`` is a value as text, empty where it is absent."""

    file: Path
    number: int
    """Line of a text file, row of a Parquet file, from 1."""
    values: Mapping[str, Any]
    right: Mapping[str, str]
    """An example of a right row, for messages."""
    none: Container[str] = ()
    """Words by which the source says that it does not know."""

    def __getitem__(self, column: str) -> str:
        value = self.values.get(column)
        text = "" if value is None else str(value).strip()
        return "" if text in self.none else text

    def broken(self, column: str, rule: str) -> DataError:
        """The error of a value that breaks a rule: file, line and column, the value, the rule, a right row."""
        place = f"{self.file}:{self.number}:{column}"
        return DataError(f"{place}: {short(self[column])}: {rule}; a right row: {dict(self.right)}")

    def id(self, column: str) -> str:
        """A text that must be there.

        Raises:
            DataError: it is empty.
        """
        text = self[column]
        if not text:
            raise self.broken(column, "an id is needed")
        return text

    def number_of(self, column: str) -> float:
        """A finite number.

        Raises:
            DataError: it is none.
        """
        try:
            number = float(self[column])
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            raise self.broken(column, "a number is needed")
        return number


def table_lines(
    path: Path, right: Mapping[str, str], none: Container[str] = (), delimiter: str | None = None
) -> Iterator[Line]:
    """The rows of a table that has the columns of the example of a right row.

    Args:
        path: CSV, TSV, JSON lines or Parquet.
        right: the example.
        none: words by which the source says that it does not know.
        delimiter: between cells, where the ending of the file does not tell.

    Raises:
        DataError: no such file, a row that cannot be read, a column that is not there.
    """
    for row in readable(read_rows(path, delimiter), right):
        if not right.keys() <= row.values.keys():
            missing = [name for name in right if name not in row.values]
            there = ", ".join(row.values)
            raise DataError(
                f"{path}:{row.line}: there is no column {missing[0]!r} (there are: {there}); a right row: {dict(right)}"
            )
        yield Line(path, row.line, row.values, right, none)


def needed_table(source: Path, *names: str) -> Path:
    """The file of a table, under the first of its names that is there.

    Raises:
        DataError: there is none.
    """
    found = [path for name in names if (path := find_table(source, name)) is not None]
    if not found:
        there = ", ".join(sorted(p.name for p in source.iterdir())) if source.is_dir() else "no such folder"
        raise DataError(
            f"{source}: there is no table {' or '.join(names)} (.parquet, {', '.join(TEXT_SUFFIXES)}); "
            f"there are: {there or 'no files'}"
        )
    return found[0]


def resolve_unknown_items(
    searches: Iterable[Search], catalogue: Catalogue, policy: UnknownItemsPolicy, report: ImportReport
) -> list[Search]:
    """Searches after the rule for items outside the catalogue.

    With ``drop`` an unknown item is left out of its lists; a search all of whose chosen items are unknown goes
    as a whole, since without them it would read as a search without a click.

    Raises:
        DataError: the policy is ``error`` and there is such an item; with the counts.
    """
    searches = list(searches)
    if policy == "error":
        refuse_unknown_items(searches, catalogue)
        return searches
    known = set(catalogue.ids)
    kept: list[Search] = []
    for search in searches:
        unknown = {*search.shown, *search.chosen} - known
        if not unknown:
            kept.append(search)
        elif policy == "text":
            report.changed["mentions of items outside the catalogue kept as text"] += len(unknown)
            kept.append(search)
        elif search.chosen and known.isdisjoint(search.chosen):
            report.dropped["searches whose chosen items are all outside the catalogue"] += 1
        else:
            report.dropped["mentions of items outside the catalogue"] += len(unknown)
            kept.append(_only(search, known.__contains__))
    return kept


def _only(search: Search, is_kept: Callable[[str], bool]) -> Search:
    return replace(
        search,
        shown=tuple(filter(is_kept, search.shown)),
        clicked=tuple(filter(is_kept, search.clicked)),
        bought=tuple(filter(is_kept, search.bought)),
    )


def refuse_leave_one_out(split: SplitConfig, source: str, reason: str) -> None:
    """Raise if a source cannot be split by leave-one-out.

    Raises:
        ConfigError: with the reason.
    """
    if split.mode == "leave-one-out":
        raise ConfigError(f'split.mode = "leave-one-out": {source} is split by user only: {reason}; leave it out')


def refuse_overwriting(folder: Path, sources: Iterable[Path]) -> None:
    """Raise if records that are saved in a folder would overwrite what they come from, or lie beside another truth.

    Args:
        folder: of the records; it may be missing.
        sources: files that are read; a folder stands for the files in it.

    Raises:
        DataError: with the file, before anything is written.
    """
    read = [file for path in sources for file in (path.iterdir() if path.is_dir() else [path])]
    for written in (folder / f"{name}.parquet" for name in TABLES):
        if written.exists() and any(file.exists() and file.samefile(written) for file in read):
            raise DataError(
                f"{written}: this file is read, and the records would overwrite it: choose another folder for them"
            )
    for name in (TRUTH_FILE, SHOP_FILE):
        if (folder / name).exists():
            raise DataError(
                f"{folder / name}: belongs to a simulated shop, and would lie beside records that are not its own: "
                "choose another folder, or remove the shop first"
            )


def assemble(
    items: Sequence[Item],
    users: Mapping[str, User],
    searches: Iterable[Search],
    split: SplitConfig,
    unknown_items: UnknownItemsPolicy,
    report: ImportReport,
    *,
    count_sales: bool,
) -> Dataset:
    """The data set: unknown items resolved, examples chosen, sales counted, leaks refused.

    Args:
        searches: equal times in the order of the source.
        count_sales: set the items' sales to their counts among training users.

    Raises:
        DataError: no items, unknown items under ``error``, a leak, a broken reference.
    """
    if not items:
        raise DataError(f"{report.source}: the catalogue is empty: at least one item is needed")
    catalogue = Catalogue(items)
    kept = resolve_unknown_items(searches, catalogue, unknown_items, report)
    ordered = Dataset(
        catalogue, users, tuple(kept), {}, unknown_items="text" if unknown_items == "text" else "error",
        split_mode=split.mode,
    )  # fmt: skip
    data = replace(ordered, targets=choose_targets(ordered.searches, split, catalogue))
    asked = {search.user_id for search in data.searches if search.search_id in data.targets}
    report.changed["users without a choice in the catalogue (no example)"] += len(users) - len(asked)
    if count_sales:
        data = with_training_sales(data)
    assert_no_leaks(data, report.source)
    return data
