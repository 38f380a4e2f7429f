"""A page as HTML and as Markdown. Every text of it is escaped: titles, queries and thoughts are not ours."""

import re
from functools import cache
from importlib import resources
from itertools import count
from typing import Any

from markupsafe import Markup

from crsearch.report.parts import Page

LONGEST = 1_000
"""Characters of a text that are shown in a report; listings are whole."""

_UNSEEN = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]")
"""Controls, marks that turn the direction of text, and halves of characters that no file can hold."""


def shown(text: str, longest: int = LONGEST) -> str:
    """Foreign text on one line, without characters that act instead of being seen.

    >>> shown("a\\n b\\u202ec")
    'a b�c'
    """
    text = _UNSEEN.sub("\ufffd", " ".join(text.split()))
    return text if len(text) <= longest else text[:longest] + " …"


_MARKED = re.compile(r"[\\`*_{}<>#|~&$!]|\[(?!-?\d+\.\d+, -?\d+\.\d+\](?![\[(:]))")
"""What Markdown may take for a command; an interval such as [0.1, 0.2] is none."""


def markdown(value: Any) -> str:
    """A text as Markdown that shows it and does nothing else; on one line.

    >>> markdown("![x](http://a) <b> 0.1 [0.0, 0.2]")
    '\\\\!\\\\[x](http://a) \\\\<b\\\\> 0.1 [0.0, 0.2]'
    """
    return _MARKED.sub(r"\\\g<0>", shown(str(value), 10 * LONGEST))


def fenced(text: str) -> Markup:
    """A code block whose fence is longer than any run of backticks in it."""
    runs = [len(run) for run in re.findall("`+", text)]
    fence = "`" * max(3, 1 + max(runs, default=0))
    return Markup(f"{fence}\n{_listing(text)}\n{fence}")


def _listing(text: str) -> str:
    return _UNSEEN.sub("\ufffd", "\n".join(text.splitlines()))


@cache
def _environment(kind: str) -> Any:
    import jinja2

    made = jinja2.Environment(
        loader=jinja2.PackageLoader("crsearch.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=None if kind == "html" else _as_markdown,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(shown=shown, fenced=fenced, listing=_listing)
    return made


def _as_markdown(value: Any) -> Markup:
    """Takes the place of HTML escaping; what a macro made is escaped already."""
    return value if isinstance(value, Markup) else Markup(markdown(value))


class _Numbers:
    """Numbers of the tables and figures of a page, each the next one when asked."""

    def __init__(self) -> None:
        self._tables, self._figures = count(1), count(1)

    def table(self) -> int:
        """Number of the next table."""
        return next(self._tables)

    def figure(self) -> int:
        """Number of the next figure."""
        return next(self._figures)


def html(page: Page) -> str:
    """The page as one HTML file that asks for nothing else."""
    css = resources.files("crsearch.report").joinpath("templates", "page.css").read_text(encoding="utf-8")
    text: str = (
        _environment("html").get_template("page.html.jinja").render(page=page, css=Markup(css), numbers=_Numbers())
    )
    return text


def md(page: Page) -> str:
    """The page as Markdown; figures are named, not drawn."""
    text: str = _environment("md").get_template("page.md.jinja").render(page=page, numbers=_Numbers())
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"
