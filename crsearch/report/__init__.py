"""The report of a run: one page that needs nothing but itself, and the same as Markdown."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from crsearch.report.write import write_report

__all__ = ["write_report"]


def __getattr__(name: str) -> Any:
    """Import the writer when it is asked for: the server needs `render` alone, and starts without the rest."""
    if name != "write_report":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from crsearch.report.write import write_report

    return write_report
