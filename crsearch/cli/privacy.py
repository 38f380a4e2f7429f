"""``crsearch feedback`` and ``crsearch forget``: what users did on the page, and a user who wants to be forgotten."""

from pathlib import Path
from typing import Annotated

import typer

feedback = typer.Typer(
    name="feedback",
    help="Clicks, purchases and judgements that a server has kept.",
    short_help="Turn clicks of a served run into records.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

RunFolder = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@feedback.command(short_help="Count what was kept.")
def counts(run_folder: RunFolder, as_json: AsJson = False) -> None:
    """Count the served searches that are remembered, and the judgements by kind."""
    from crsearch.cli.show import echo_json
    from crsearch.runs import RunDirectory
    from crsearch.serve.feedback import FeedbackStore, feedback_file

    RunDirectory.reading(run_folder)
    found = FeedbackStore(feedback_file(run_folder)).counts()
    if as_json:
        echo_json(found)
        return
    for name, count in found.items():
        typer.echo(f"{name:<9}{count:>9,}")


@feedback.command(short_help="Write records to learn from.")
def export(
    run_folder: RunFolder,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the records to write.")],
    as_json: AsJson = False,
) -> None:
    """Write the records of the run with the served searches that led to a click or a purchase after them.

    Good and bad go to judgements.jsonl beside; removed.txt names removed items that searches mention.
    """
    import dataclasses

    from crsearch.cli.progress import working
    from crsearch.cli.show import echo_json
    from crsearch.serve.feedback import FeedbackStore, feedback_file

    with working("writing the records"):
        found = FeedbackStore(feedback_file(run_folder)).export(run_folder, folder)
    if as_json:
        echo_json(dataclasses.asdict(found))
        return
    typer.echo(
        f"{folder}: {found.searches:,} served searches, {found.users:,} new users, {found.items:,} new items, "
        f"{found.judgements:,} judgements"
    )
    if found.removed:
        typer.echo(
            f"  note: {len(found.removed):,} removed items are among the records, since searches name them; remove "
            f"them from the new run: crsearch items remove NEW {folder / 'removed.txt'}"
        )
    typer.echo(f"next    crsearch check {folder}")


def forget(
    run_folder: RunFolder,
    user: Annotated[str, typer.Argument(metavar="USER", help="Id of the user.")],
    as_json: AsJson = False,
) -> None:
    """Remove a user from the records, traces, per-query files, feedback and report of a run.

    Says what was removed and what cannot be: a trained model does not unlearn.
    """
    import dataclasses

    from crsearch.cli.progress import working
    from crsearch.cli.show import echo_json
    from crsearch.serve.forget import forget as forget_user

    with working("removing"):
        found = forget_user(run_folder, user)
    if as_json:
        echo_json({**dataclasses.asdict(found), "nothing": found.nothing})
        return
    if found.nothing:
        typer.echo(f"{run_folder}: nothing of this user is left")
        return
    typer.echo(f"removed: {found.searches:,} searches of the records, {found.feedback:,} served searches")
    if found.files:
        typer.echo(f"rewritten: {', '.join(found.files)}")
    if found.report:
        typer.echo(f"report: {found.report}")
    for line in found.left:
        typer.echo(f"not removed: {line}")
