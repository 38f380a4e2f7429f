"""What is wrong with a row, said so that it can be mended."""

from collections.abc import Sequence
from dataclasses import dataclass

from crsearch.errors import DataError


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One broken row or table.

    >>> print(Problem(file="items.csv", line=7, column="price", rule="bad-price", message="price = -5", fix="mend it"))
    items.csv:7:price: price = -5. Mend it [bad-price]
    """

    file: str
    line: int | None
    """Line of a text file, row of a Parquet file, from 1; none = the file as a whole."""
    rule: str
    """Name of the broken rule, e.g. ``unknown-item``."""
    message: str
    """What is wrong, with the value."""
    fix: str
    """What to do about it."""
    column: str | int | None = None
    """Name of the field, or position in the line where it cannot be read."""

    def __str__(self) -> str:
        where = ":".join(str(part) for part in (self.file, self.line, self.column) if part is not None)
        return f"{where}: {self.message}. {self.fix[:1].upper()}{self.fix[1:]} [{self.rule}]"


class BrokenRecords(DataError):
    """Rows that break rules.

    Attributes:
        problems: all of them, in the order of the rows.
    """

    def __init__(self, problems: Sequence[Problem], shown: int) -> None:
        more = f"\n... and {len(problems) - shown:,} more" if len(problems) > shown else ""
        super().__init__("\n".join(map(str, problems[:shown])) + more)
        self.problems = tuple(problems)


def refuse(problems: Sequence[Problem], shown: int = 3) -> None:
    """Raise if there is any problem.

    Raises:
        BrokenRecords: a DataError; the first ``shown`` problems and how many more there are.
    """
    if problems:
        raise BrokenRecords(problems, shown)
