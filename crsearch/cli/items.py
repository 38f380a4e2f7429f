"""``crsearch items``: the catalogue of a run while it is served, in versions."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from crsearch.serve.catalogue import About

app = typer.Typer(
    name="items",
    help="Change the catalogue of a run while it is served; every change makes a version to which one can go back.",
    short_help="Add, remove, replace items of a served run.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
ItemFile = Annotated[
    Path, typer.Argument(metavar="FILE", help="Items as JSON lines, CSV or Parquet, fields as in records.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command(short_help="Add items; one removed before comes back.")
def add(run_folder: RunFolder, file: ItemFile, as_json: AsJson = False) -> None:
    """Add items with semantic IDs from the frozen codebooks; an item removed before comes back with its old one."""
    from crsearch.cli.progress import working
    from crsearch.records.checks import read_items
    from crsearch.serve.catalogue import CatalogueStore

    items = read_items(file)
    with working("making the next version"):
        about = CatalogueStore(run_folder).add(items).about
    _show_change(about, as_json=as_json)


@app.command(short_help="Give items other records; they keep their IDs.")
def replace(run_folder: RunFolder, file: ItemFile, as_json: AsJson = False) -> None:
    """Replace the records of items, whole; each keeps its row and its semantic ID."""
    from crsearch.cli.progress import working
    from crsearch.records.checks import read_items
    from crsearch.serve.catalogue import CatalogueStore

    items = read_items(file)
    with working("making the next version"):
        about = CatalogueStore(run_folder).replace(items).about
    _show_change(about, as_json=as_json)


@app.command(short_help="Remove items, so that no search finds them.")
def remove(
    run_folder: RunFolder,
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="A text file with one id in a line, or a table with item_id."),
    ] = None,
    item_id: Annotated[list[str] | None, typer.Option("--id", metavar="ID", help="Item; may be repeated.")] = None,
    as_json: AsJson = False,
) -> None:
    """Remove items: no search finds them from now on; their semantic IDs are not given to others."""
    from crsearch.errors import ConfigError
    from crsearch.records.checks import read_item_ids
    from crsearch.serve.catalogue import CatalogueStore

    if file is None and not item_id:
        raise ConfigError("items remove: name the items: a FILE, or --id ID")
    ids = [*(read_item_ids(file) if file is not None else ()), *(item_id or ())]
    _show_change(CatalogueStore(run_folder).remove(ids).about, as_json=as_json)


@app.command("list", short_help="Print the items that can be found.")
def list_(
    run_folder: RunFolder,
    removed: Annotated[bool, typer.Option("--removed", help="Print the removed ones instead.")] = False,
    as_json: AsJson = False,
) -> None:
    """Print id, semantic ID and title of the items of the version in use, in row order."""
    from crsearch.cli.show import echo_json, plain_table, shown, stdout
    from crsearch.serve.catalogue import CatalogueStore

    version = CatalogueStore(run_folder).load()
    rows = [row for row, alive in enumerate(version.alive_N.tolist()) if alive != removed]
    found = [(version.catalogue[row], version.book.sids[row]) for row in rows]
    if as_json:
        echo_json(
            {
                "version": version.name,
                "items": [{"item_id": item.item_id, "sid": sid, "title": item.title} for item, sid in found],
            }
        )
        return
    table = plain_table()
    for name in ("item", "semantic ID", "title"):
        table.add_column(name, no_wrap=True)
    for item, sid in found:
        table.add_row(shown(item.item_id), sid, shown(item.title))
    stdout().print(table)


@app.command(short_help="Print the versions of the catalogue.")
def versions(run_folder: RunFolder, as_json: AsJson = False) -> None:
    """Print the versions of the catalogue, oldest first; * is the one in use."""
    import dataclasses

    from crsearch.cli.show import echo_json, plain_table, shown, stdout
    from crsearch.serve.catalogue import CatalogueStore

    found = CatalogueStore(run_folder).versions()
    if as_json:
        echo_json([dataclasses.asdict(about) for about in found])
        return
    table = plain_table()
    for name in ("version", "made from", "when", "items", "drift", "what"):
        table.add_column(name, no_wrap=True)
    for about in found:
        drift = "" if about.drift is None else f"{about.drift:.2f}"
        mark = "*" if about.is_current else ""
        what = shown(about.problem) if about.problem else _counts(about)
        table.add_row(about.name + mark, about.parent or "", about.when, f"{about.items:,}", drift, what)
    stdout().print(table)


@app.command(short_help="Use another version of the catalogue.")
def rollback(
    run_folder: RunFolder,
    version: Annotated[
        str | None, typer.Argument(metavar="[VERSION]", help="Which; default: what the present one was made from.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Use another version of the catalogue from now on; nothing is deleted, so this can be taken back too."""
    from crsearch.serve.catalogue import CatalogueStore

    _show_change(CatalogueStore(run_folder).rollback(version).about, as_json=as_json, verb="in use: ")


@app.command(short_help="Delete old versions of the catalogue.")
def prune(
    run_folder: RunFolder,
    keep: Annotated[int, typer.Option(min=1, metavar="N", help="Newest versions to keep.")] = 10,
    as_json: AsJson = False,
) -> None:
    """Delete old versions of the catalogue, but never the one in use or the one it was made from."""
    from crsearch.cli.show import echo_json
    from crsearch.serve.catalogue import CatalogueStore

    gone = CatalogueStore(run_folder).prune(keep)
    echo_json(gone) if as_json else typer.echo(f"deleted: {', '.join(gone) or 'nothing'}")


def _show_change(about: "About", *, as_json: bool, verb: str = "") -> None:
    import dataclasses

    from crsearch.cli.show import echo_json

    if as_json:
        echo_json(dataclasses.asdict(about))
        return
    drift = "" if about.drift is None else f", drift {about.drift:.2f}"
    typer.echo(f"{verb}{about.name}: {_counts(about)}{drift}; {about.items:,} items can be found")
    for note in about.notes:
        typer.echo(f"  note: {note}")


def _counts(about: "About") -> str:
    counts = {name: getattr(about, name) for name in ("added", "revived", "removed", "replaced")}
    return ", ".join(f"{count:,} {name}" for name, count in counts.items() if count) or "as the run left it"
