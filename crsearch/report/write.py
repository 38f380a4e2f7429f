"""From a finished run to ``report/index.html`` and ``report/report.md``."""

from pathlib import Path

from crsearch.report import about, experiments, render, systems, thoughts, training
from crsearch.report.claims import claims
from crsearch.report.cost import cost
from crsearch.report.examples import examples
from crsearch.report.found import Found
from crsearch.report.groups import groups
from crsearch.report.ladder import ladder
from crsearch.report.parts import Page
from crsearch.report.summary import summary
from crsearch.report.thinking import thought_pays
from crsearch.runs import write_atomic


def write_report(run_folder: Path) -> Path:
    """Write the report of a finished run, or of the experiments of a folder.

    The page needs no network, no script and no model; the same run gives the same bytes, wherever it lies.

    Args:
        run_folder: of the run, or with the files that experiments leave (``main.json``).

    Returns:
        Path of the HTML page; ``report.md`` lies beside it.

    Raises:
        RunError: there is no run, or it is not finished.
        ConfigError, DataError: its settings, records or evaluations are broken.
        StorageError: the report cannot be written; an earlier one stays.
    """
    results = experiments.read(run_folder)
    content = experiments.page_of(run_folder, results) if results else page_of(Found.read(run_folder))
    page = run_folder / "report" / "index.html"
    write_atomic(page.with_name("report.md"), render.md(content))
    write_atomic(page, render.html(content))
    return page


def page_of(found: Found) -> Page:
    """The content of the report, in the order in which a reader asks."""
    return Page(
        title=f"crsearch: {found.name}",
        summary=summary(found),
        sections=[
            about.data(found),
            systems.main_table(found),
            systems.significance(found),
            thought_pays(found),
            claims(found),
            training.stages(found),
            training.losses(found),
            training.rewards(found),
            groups(found),
            thoughts.statements(found),
            thoughts.quality(found),
            about.semantic_ids(found),
            cost(found),
            ladder(found),
            examples(found),
            about.remake(found),
        ],
    )
