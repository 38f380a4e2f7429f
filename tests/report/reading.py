"""Reads a report back: the tags and texts of the page, the tables of the Markdown."""

import re
from html.parser import HTMLParser

VOID = {"meta", "br", "hr", "img", "input", "link", "base", "source", "embed", "area", "col", "wbr", "track"}


class Reader(HTMLParser):
    """Tags with attributes, text, and whether every tag is closed where it should be."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> without a start"
        last = self.open.pop()
        assert last == tag, f"</{tag}> closes <{last}>"

    def handle_data(self, data: str) -> None:
        self.text.append(data)

    def values(self, attribute: str) -> list[str]:
        """Values of an attribute, in order."""
        return [value for _, attributes in self.tags if (value := attributes.get(attribute)) is not None]


def tables(markdown: str) -> list[list[list[str]]]:
    """Tables of a Markdown text: rows of cells, header first, backslashes taken away."""
    found: list[list[list[str]]] = []
    place = 0  # line of the table; the second one is the rule under the header
    for line in markdown.splitlines():
        place = place + 1 if line.startswith("|") else 0
        if place == 1:
            found.append([])
        if place and place != 2:
            cells = re.split(r"(?<!\\)\|", line)[1:-1]
            found[-1].append([re.sub(r"\\(.)", r"\1", c.strip()) for c in cells])
    return found


def section(markdown: str, title: str) -> str:
    """The text under a heading of the second level."""
    return markdown.split(f"\n## {title}\n", 1)[1].split("\n## ", 1)[0]
