"""The one schema of the records: what stands in each table, stated once and read by store, checks and docs.

Source: details: this project (docs/records.md); the fields of a context are those of CRS §3.1.
"""

from dataclasses import dataclass
from typing import Literal

FORMAT_VERSION = 1
"""Version of the tables on disk; a reader refuses a newer one."""

Kind = Literal["text", "number", "order", "time", "texts", "map"]
"""``order`` counts from 0; ``time`` is UTC or an order number; ``texts`` a list; ``map`` is text -> text."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One column of a table."""

    name: str
    kind: Kind
    required: bool = False
    """A required field has a value in every row; the others may be null or empty."""
    meaning: str
    example: object
    """A right value, as it stands in JSON; error messages show it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Table:
    """One table: a file ``<name>.parquet`` of a data set folder."""

    name: str
    row: str
    """What one row is."""
    key: str
    """The field whose values are unique."""
    fields: tuple[Field, ...]

    def field(self, name: str) -> Field:
        """The field of that name; KeyError if the table has none."""
        return {f.name: f for f in self.fields}[name]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the fields, in order."""
        return tuple(f.name for f in self.fields)

    @property
    def required(self) -> tuple[str, ...]:
        """Names of the fields that every row must fill."""
        return tuple(f.name for f in self.fields if f.required)

    def example_row(self) -> dict[str, object]:
        """A right row, as it stands in JSON."""
        return {f.name: f.example for f in self.fields}


ITEMS = Table(
    name="items",
    row="a product; the order of the rows is the order of the catalogue",
    key="item_id",
    fields=(
        Field(name="item_id", kind="text", required=True, meaning="unique id", example="i102"),
        Field(name="title", kind="text", required=True, meaning="what the shop calls it", example="Red phone case"),
        Field(name="brand", kind="text", meaning="brand", example="Acme"),
        Field(name="category", kind="texts", meaning="path from root to leaf", example=["Phones", "Cases"]),
        Field(name="price", kind="number", meaning="in the shop's currency, above 0", example=12.9),
        Field(
            name="sales",
            kind="number",
            meaning="gross merchandise volume or a count, of the training users only, 0 or more",
            example=340.0,
        ),
        Field(name="attributes", kind="map", meaning="further facts", example={"colour": "red"}),
        Field(name="description", kind="text", meaning="free text", example="Fits all sizes."),
    ),
)

USERS = Table(
    name="users",
    row="a user",
    key="user_id",
    fields=(
        Field(name="user_id", kind="text", required=True, meaning="unique id", example="u17"),
        Field(name="profile", kind="map", meaning="age, gender, city, ...", example={"age": "25-34", "city": "杭州"}),
    ),
)

SEARCHES = Table(
    name="searches",
    row="one query of one user, with what was shown and chosen",
    key="search_id",
    fields=(
        Field(name="search_id", kind="text", required=True, meaning="unique id", example="s9001"),
        Field(name="user_id", kind="text", required=True, meaning="who searched", example="u17"),
        Field(
            name="time",
            kind="time",
            required=True,
            meaning="UTC time, or an order number where the source has only that; one kind in a table",
            example="2025-06-01T20:11:00Z",
        ),
        Field(
            name="seq",
            kind="order",
            meaning="place in the user's order, from 0; decides what is before what when clock times are equal",
            example=3,
        ),
        Field(name="place", kind="text", meaning="where from", example="杭州"),
        Field(name="query", kind="text", required=True, meaning="what was typed", example="phone case"),
        Field(
            name="shown", kind="texts", meaning="item ids in the order of their positions", example=["i102", "i7", "i9"]
        ),
        Field(name="clicked", kind="texts", meaning="item ids, in order", example=["i102"]),
        Field(name="bought", kind="texts", meaning="item ids, in order", example=["i102"]),
    ),
)

SPLIT = Table(
    name="split",
    row="a search that is an example; one per user where the split is by user",
    key="search_id",
    fields=(
        Field(name="search_id", kind="text", required=True, meaning="the search", example="s9001"),
        Field(name="target", kind="text", required=True, meaning="item id that the user chose", example="i102"),
        Field(name="part", kind="text", required=True, meaning="train, valid or test", example="train"),
    ),
)

TABLES: dict[str, Table] = {t.name: t for t in (ITEMS, USERS, SEARCHES, SPLIT)}
"""Every table of a data set folder, by name."""


def describe() -> str:
    """The schema as Markdown, one table each; the reference in ``docs/`` is this text.

    >>> print(describe().splitlines()[0])
    ## items
    """
    lines: list[str] = []
    for table in TABLES.values():
        lines += [
            f"## {table.name}",
            "",
            f"One row: {table.row}.",
            "",
            "| field | kind | required | meaning | example |",
        ]
        lines += ["|---|---|---|---|---|"]
        lines += [
            f"| {f.name} | {f.kind} | {'yes' if f.required else 'no'} | {f.meaning} | `{f.example}` |"
            for f in table.fields
        ]
        lines.append("")
    return "\n".join(lines)
