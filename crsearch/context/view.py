"""What of a context is written, part by part, so that parts can be dropped and found again in the text.

Source: details: this project.
"""

from dataclasses import dataclass, field
from typing import NamedTuple


class Entry(NamedTuple):
    """An item of the history: its quoted title (empty = it has none) and its semantic ID."""

    title: str
    sid: str


class Event(NamedTuple):
    """A search of the history."""

    head: str
    """Time, place and query, without the braces; ends with the quote that closes the query."""
    click: tuple[Entry, ...]
    skip: tuple[Entry, ...]
    target: int | None
    """Catalogue row of the item that was chosen in the end, or none."""


class Cut(NamedTuple):
    """How many parts of each kind are dropped, oldest first; the kinds stand in the order of dropping."""

    skip_titles: int = 0
    skips: int = 0
    click_titles: int = 0
    interactions: int = 0
    profile: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """A context in parts: JSON objects as text, and the history."""

    profile: str
    """JSON object, or empty where nothing is known."""
    history: tuple[Event, ...]
    now: str
    """JSON object; never dropped."""

    def limits(self) -> Cut:
        """How many parts of each kind there are."""
        skip = [entry for event in self.history for entry in event.skip]
        click = [entry for event in self.history for entry in event.click]
        return Cut(
            skip_titles=sum(entry.title != "" for entry in skip),
            skips=len(skip),
            click_titles=sum(entry.title != "" for entry in click),
            interactions=len(self.history),
            profile=int(self.profile != ""),
        )

    def lengths(self) -> tuple[float, ...]:
        """Characters that dropping one part of each kind saves, on average."""
        skip = [entry for event in self.history for entry in event.skip]
        click = [entry for event in self.history for entry in event.click]
        return (
            _mean([len(entry.title) + 9 for entry in skip if entry.title]),
            _mean([len(entry.sid) + 11 for entry in skip]),
            _mean([len(entry.title) + 9 for entry in click if entry.title]),
            _mean([len(e.head) + 3 + sum(len(entry.sid) + 11 for entry in e.click) for e in self.history]),
            float(len(self.profile) + 11),
        )


def _mean(values: list[int]) -> float:
    return sum(values) / len(values) if values else 0.0


def cut_after(limits: Cut, step: int) -> Cut:
    """What is dropped after ``step`` steps: kind by kind, one part per step.

    >>> cut_after(Cut(skip_titles=2, skips=3), 4)
    Cut(skip_titles=2, skips=2, click_titles=0, interactions=0, profile=0)
    """
    counts = []
    for limit in limits:
        counts.append(min(step, limit))
        step -= counts[-1]
    return Cut(*counts)


@dataclass(slots=True)
class Page:
    """Text under construction.

    Attributes:
        pieces: of the text.
        length: characters so far.
        clicked: character spans [start, stop) of chosen items, from title to semantic ID, without quotes and braces.
        branches: (character after a history query, catalogue row of the item then chosen).
    """

    pieces: list[str] = field(default_factory=list)
    length: int = 0
    clicked: list[tuple[int, int]] = field(default_factory=list)
    branches: list[tuple[int, int]] = field(default_factory=list)

    @property
    def text(self) -> str:
        """All pieces."""
        return "".join(self.pieces)

    def add(self, text: str) -> None:
        """Write on."""
        self.pieces.append(text)
        self.length += len(text)


def write(view: View, cut: Cut) -> Page:
    """The text of a context without what ``cut`` drops."""
    page = Page()
    page.add("{")
    if view.profile and not cut.profile:
        page.add(f'"profile":{view.profile},')
    # titles and skips come before interactions in the order of dropping: a dropped event has none left to count
    opener, titles, skips, clicks = '"history":[{', cut.skip_titles, cut.skips, cut.click_titles
    for event in view.history[cut.interactions :]:
        page.add(opener + event.head)
        if event.target is not None:
            page.branches.append((page.length - 1, event.target))
        clicks = _write_entries(page, "click", event.click, 0, clicks)
        gone = min(skips, len(event.skip))
        titles = _write_entries(page, "skip", event.skip, gone, titles)
        skips -= gone
        opener = "},{"
    if opener == "},{":
        page.add("}],")
    page.add(f'"now":{view.now}}}')
    return page


def _write_entries(page: Page, key: str, entries: tuple[Entry, ...], gone: int, untitled: int) -> int:
    """Write entries after the first ``gone``; titles still to be left out after these entries."""
    opener = f',"{key}":[{{'
    for n, entry in enumerate(entries):
        titled = entry.title != "" and untitled == 0
        untitled -= entry.title != "" and untitled > 0
        if n < gone:
            continue
        page.add(opener)
        # the title first: see docs/decisions/0001-title-before-sid.md
        start = page.length + 9
        page.add(f'"title":{entry.title},"sid":"{entry.sid}"' if titled else f'"sid":"{entry.sid}"')
        if key == "click":
            page.clicked.append((start if titled else start - 2, page.length - 1))
        opener = "},{"
    if opener == "},{":
        page.add("}]")
    return untitled
