"""Records as polars frames and Parquet files.

Maps are lists of (key, value) pairs, so that every Parquet reader understands them. Each file carries the
format version and the fingerprint of its data set, so that files of different saves are never mixed unseen.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from crsearch.errors import DataError
from crsearch.records.files import finish_interrupted, parquet, write_together
from crsearch.records.schema import FORMAT_VERSION, ITEMS, SEARCHES, SPLIT, TABLES, USERS, Table
from crsearch.records.types import Item, Search, User

if TYPE_CHECKING:
    from crsearch.records.store import Dataset, UnknownItems
    from crsearch.records.types import SplitMode

UTC_TIME = pl.Datetime("us", "UTC")
PAIRS = pl.List(pl.Struct({"key": pl.String, "value": pl.String}))
DTYPES: dict[str, Any] = {
    "text": pl.String(),
    "number": pl.Float64(),
    "order": pl.Int64(),
    "time": UTC_TIME,
    "texts": pl.List(pl.String),
    "map": PAIRS,
}
"""Kind of a field -> column type; ``time`` is Int64 where the source has order numbers."""

_FORMAT, _FINGERPRINT = "crsearch.format", "crsearch.fingerprint"
_UNKNOWN, _SPLIT = "crsearch.unknown_items", "crsearch.split"


def to_frames(data: "Dataset") -> dict[str, pl.DataFrame]:
    """Table name -> frame, in the schema's columns and types."""
    from crsearch.records.store import seq_numbers

    users = [{"user_id": u.user_id, "profile": _pairs(u.profile)} for _, u in sorted(data.users.items())]
    searches = [
        {
            "search_id": s.search_id, "user_id": s.user_id, "time": s.time, "seq": seq, "place": s.place,
            "query": s.query, "shown": list(s.shown), "clicked": list(s.clicked), "bought": list(s.bought),
        }
        for s, seq in zip(data.searches, seq_numbers(data.searches), strict=True)
    ]  # fmt: skip
    split = [
        {"search_id": s, "target": target, "part": part} for s, (target, part) in sorted(data.targets.items())
    ]  # fmt: skip
    ordered = any(isinstance(s.time, int) for s in data.searches[:1])
    return {
        "items": item_frame(data.catalogue),
        "users": _frame(users, USERS),
        "searches": _frame(searches, SEARCHES, ordered=ordered),
        "split": _frame(split, SPLIT),
    }


def item_frame(items: Iterable[Item]) -> pl.DataFrame:
    """Items as the rows of their table."""
    rows = [
        {
            "item_id": i.item_id, "title": i.title, "brand": i.brand, "category": list(i.category), "price": i.price,
            "sales": i.sales, "attributes": _pairs(i.attributes), "description": i.description,
        }
        for i in items
    ]  # fmt: skip
    return _frame(rows, ITEMS)


def save_dataset(data: "Dataset", folder: Path) -> None:
    """Write the four tables, all or none (see ``files.write_together``)."""
    metadata = {
        _FORMAT: str(FORMAT_VERSION),
        _FINGERPRINT: data.fingerprint(),
        _UNKNOWN: data.unknown_items,
        _SPLIT: data.split_mode,
    }

    frames = to_frames(data)
    write_together(folder, {f"{name}.parquet": parquet(frame, metadata=metadata) for name, frame in frames.items()})


def load_dataset(folder: Path) -> dict[str, Any]:
    """The arguments of ``Dataset`` from the four tables of a folder.

    Raises:
        DataError: a table is missing, unreadable, of another schema, of a newer format or of another save.
    """
    from crsearch.records.store import Catalogue

    finish_interrupted(folder)
    frames = {name: read_table(folder, table) for name, table in TABLES.items()}
    metadata = {name: read_metadata(folder / f"{name}.parquet") for name in TABLES}
    _refuse_mixed_saves(folder, metadata)
    return {
        "catalogue": Catalogue(map(to_item, frames["items"].iter_rows(named=True))),
        "users": {u.user_id: u for u in map(to_user, frames["users"].iter_rows(named=True))},
        "searches": tuple(map(to_search, _in_seq_order(frames["searches"], folder).iter_rows(named=True))),
        "targets": {s: (target, part) for s, target, part in frames["split"].select(SPLIT.names).iter_rows()},
        "unknown_items": unknown_items_of(folder / "searches.parquet"),
        "split_mode": split_mode_of(folder / "split.parquet"),
    }


def read_table(folder: Path, table: Table) -> pl.DataFrame:
    """One Parquet table, its columns checked and brought to the schema's types; missing ones are filled.

    Raises:
        DataError: missing or broken file, newer format, missing required column, wrong type, null where a
            value is required.
    """
    path = folder / f"{table.name}.parquet"
    if not path.is_file():
        raise DataError(
            f"{path}: no such file. A data set is a folder with {', '.join(f'{n}.parquet' for n in TABLES)}: "
            "make one with `crsearch import` or `crsearch simulate`"
        )
    version = format_of(path)
    if version > FORMAT_VERSION:
        raise DataError(
            f"{path}: written in format {version}, this crsearch reads up to {FORMAT_VERSION}: "
            "upgrade crsearch, or import the source again"
        )
    try:
        frame = pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError) as e:
        raise DataError(f"{path}: not a readable Parquet file ({e}): import the source again") from e
    return _conform(frame, table, path)


def read_metadata(path: Path) -> dict[str, str]:
    """The key-value notes in a Parquet file.

    Raises:
        DataError: not a Parquet file.
    """
    try:
        return pl.read_parquet_metadata(path)
    except (pl.exceptions.PolarsError, OSError) as e:
        raise DataError(f"{path}: not a readable Parquet file ({e}): import the source again") from e


def format_of(path: Path) -> int:
    """Format version of a table; files of other tools count as the present one.

    Raises:
        DataError: not a Parquet file, or its version is no number.
    """
    version = read_metadata(path).get(_FORMAT, str(FORMAT_VERSION))
    if not version.isdecimal():
        raise DataError(f"{path}: {_FORMAT} = {version!r} is no version: import the source again")
    return int(version)


def unknown_items_of(path: Path) -> "UnknownItems":
    """What items outside the catalogue are in a searches table; ``error`` in files of other tools.

    Raises:
        DataError: not a Parquet file.
    """
    return "text" if read_metadata(path).get(_UNKNOWN) == "text" else "error"


def split_mode_of(path: Path) -> "SplitMode":
    """How a split table was made; ``user`` in files of other tools.

    Raises:
        DataError: not a Parquet file.
    """
    return "leave-one-out" if read_metadata(path).get(_SPLIT) == "leave-one-out" else "user"


def to_item(row: Mapping[str, Any]) -> Item:
    """A row of the items table."""
    return Item(
        item_id=row["item_id"],
        title=row["title"],
        brand=row["brand"],
        category=tuple(row["category"] or ()),
        price=row["price"],
        sales=row["sales"],
        attributes=_map(row["attributes"]),
        description=row["description"],
    )


def to_user(row: Mapping[str, Any]) -> User:
    """A row of the users table."""
    return User(user_id=row["user_id"], profile=_map(row["profile"]))


def to_search(row: Mapping[str, Any]) -> Search:
    """A row of the searches table."""
    return Search(
        search_id=row["search_id"],
        user_id=row["user_id"],
        time=row["time"],
        query=row["query"],
        place=row["place"],
        shown=tuple(row["shown"] or ()),
        clicked=tuple(row["clicked"] or ()),
        bought=tuple(row["bought"] or ()),
    )


def _pairs(mapping: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in mapping.items()]


def _map(pairs: Iterable[Mapping[str, str]] | None) -> dict[str, str]:
    return {pair["key"]: pair["value"] for pair in pairs or ()}


def _frame(rows: Sequence[Mapping[str, Any]], table: Table, *, ordered: bool = False) -> pl.DataFrame:
    schema = {f.name: DTYPES[f.kind] for f in table.fields}
    if ordered:
        schema["time"] = pl.Int64()
    return pl.DataFrame(rows, schema=schema, strict=True)


def _conform(frame: pl.DataFrame, table: Table, path: Path) -> pl.DataFrame:
    missing = [name for name in table.required if name not in frame.columns]
    if missing:
        raise DataError(
            f"{path}: column {missing[0]!r} is missing (there are: {', '.join(frame.columns) or 'none'}); "
            f"a right row: {table.example_row()}"
        )
    for f in table.fields:
        if f.name not in frame.columns:
            frame = frame.with_columns(pl.lit(None, dtype=DTYPES[f.kind]).alias(f.name))
        elif f.kind == "time":
            frame = _conform_time(frame, path)
        else:
            frame = _cast(frame, f.name, DTYPES[f.kind], path)
        if f.required and frame[f.name].null_count():
            line = frame[f.name].is_null().arg_max()
            raise DataError(f"{path}: row {(line or 0) + 1}: {f.name} is empty; it needs a value, e.g. {f.example!r}")
    return frame.select(table.names)


def _cast(frame: pl.DataFrame, name: str, dtype: Any, path: Path) -> pl.DataFrame:
    found = frame.schema[name]
    compatible = found == dtype or found == pl.Null or (dtype.is_numeric() and found.is_numeric())
    nested = isinstance(dtype, pl.List) and isinstance(found, pl.List) and found.inner in (pl.Null, dtype.inner)
    if not compatible and not nested:
        raise DataError(f"{path}: column {name!r} has type {found}, {dtype} is needed")
    return frame.with_columns(pl.col(name).cast(dtype))


def _conform_time(frame: pl.DataFrame, path: Path) -> pl.DataFrame:
    found = frame.schema["time"]
    if found.is_integer():
        return frame.with_columns(pl.col("time").cast(pl.Int64))
    if not isinstance(found, pl.Datetime):
        raise DataError(f"{path}: column 'time' has type {found}: UTC times or whole order numbers are needed")
    if found.time_zone is None:
        raise DataError(f"{path}: column 'time' has no time zone: write UTC times")
    return frame.with_columns(pl.col("time").dt.convert_time_zone("UTC").dt.cast_time_unit("us"))


def _in_seq_order(searches: pl.DataFrame, folder: Path) -> pl.DataFrame:
    """By user and stored order; without stored order by time, equal times as they stand in the file."""
    if searches["seq"].null_count() == searches.height:
        return searches.sort("user_id", "time", maintain_order=True)
    searches = searches.sort("user_id", "seq", maintain_order=True)
    backwards = searches.filter(
        (pl.col("user_id") == pl.col("user_id").shift()) & (pl.col("time") < pl.col("time").shift())
    )
    if backwards.height:
        raise DataError(
            f"{folder / 'searches.parquet'}: search {backwards['search_id'][0]!r}: its seq puts it after a search "
            "with a later time: let seq follow the time"
        )
    return searches


def _refuse_mixed_saves(folder: Path, metadata: Mapping[str, Mapping[str, str]]) -> None:
    marks = {name: m[_FINGERPRINT][:12] for name, m in metadata.items() if _FINGERPRINT in m}
    if len(set(marks.values())) > 1:
        found = ", ".join(f"{name} {mark}" for name, mark in marks.items())
        raise DataError(f"{folder}: the tables are of different saves ({found}): import the source again")
