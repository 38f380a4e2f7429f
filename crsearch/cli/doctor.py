"""What a doctor found, on the terminal."""

from dataclasses import asdict

import typer

from crsearch.cli.show import echo_json, plain_table, shown, stdout
from crsearch.serve.doctor import Examination


def show_examination(found: Examination, url: str, *, as_json: bool) -> int:
    """Print the cases that were not answered as they must be; the exit code: 0 = there are none, else 1."""
    if as_json:
        echo_json({"url": url, **asdict(found)})
        return 1 if found.findings else 0
    if found.findings:
        table = plain_table()
        for column in ("case", "sent", "expected", "got"):
            table.add_column(column)
        for finding in found.findings:
            table.add_row(*map(shown, (finding.id, finding.sent, finding.expected, finding.got)))
        stdout().print(table)
    wrong = f"{len(found.findings)} answered wrongly" if found.findings else "all answered as they must be"
    typer.echo(f"{found.cases} cases of {found.groups} groups, {wrong} ({found.seconds:.0f} s)")
    return 1 if found.findings else 0
