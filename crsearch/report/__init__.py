"""The report of a run: one page that needs nothing but itself, and the same as Markdown."""

from crsearch.report.write import write_report

__all__ = ["write_report"]
