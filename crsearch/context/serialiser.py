"""A context or an item as the one-line JSON text that a model reads, and back.

Stable key order, no spaces, UTF-8 unescaped; what is not known is left out::

    {"profile":{"age":"25-34"},
     "history":[{"time":"2025-06","query":"防晒 衣","click":[{"title":"…","sid":"<a_23><b_1>…"}],"skip":[…]}],
     "now":{"time":"2025-06","place":"杭州","query":"冰袖"}}

(on one line). Control tokens stand only where this module writes a semantic ID: every other string passes the guard.

Source: CRS §3.1 says what a context holds; the form, the escapes and the order of dropping: details: this project.
"""

import json
import math
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple

from crsearch.config import ContextConfig
from crsearch.context.guard import Guard
from crsearch.context.view import Cut, Entry, Event, Page, View, cut_after, write
from crsearch.context.wording import INSTRUCTIONS, Language
from crsearch.errors import ModelError, SidError
from crsearch.records.store import Catalogue
from crsearch.records.types import Context, Item, Search, Time
from crsearch.sids.book import SidBook

Fields = dict[str, Any]
"""A JSON object."""

CUTS_KEPT = 16
"""Ways of cutting the past of a user that are kept tokenised; a search tries up to ten of them."""

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


@dataclass(frozen=True, slots=True)
class Encoded:
    """A text with its tokens.

    Attributes:
        text: what was tokenised.
        ids: token ids.
        clicked: token spans [start, stop) of the chosen items of the history, from title to semantic ID, oldest first.
        dropped: what was left out -> how often; empty when everything is there. Keys: ``events`` (older than
            ``max_events``), ``unknown_items`` (not in the catalogue), then in the order of dropping ``skip_titles``,
            ``skips``, ``click_titles``, ``interactions``, ``profile``; for items ``attributes``, ``title_characters``.
        branches: (number of tokens up to the end of a history query, catalogue row of the item then chosen),
            oldest first: where "what did the user choose here?" can be asked of the same prefix.
    """

    text: str
    ids: list[int]
    clicked: list[tuple[int, int]] = field(default_factory=list)
    dropped: dict[str, int] = field(default_factory=dict)
    branches: list[tuple[int, int]] = field(default_factory=list)

    def shifted(self, text: str, ids: list[int]) -> "Encoded":
        """The same after an opener."""
        n = len(ids)
        return replace(
            self,
            text=text + self.text,
            ids=ids + self.ids,
            clicked=[(a + n, b + n) for a, b in self.clicked],
            branches=[(at + n, row) for at, row in self.branches],
        )


def parse_context(text: str) -> Fields:
    """The JSON object of a serialised context.

    Raises:
        ModelError: not the text of a context.

    >>> parse_context('{"now":{"query":"a \\\\u003cb>"}}')
    {'now': {'query': 'a <b>'}}
    """
    try:
        value = json.loads(text)
    except json.JSONDecodeError as e:
        raise ModelError(f"not a serialised context: {e}") from e
    if not (isinstance(value, dict) and isinstance(value.get("now"), dict) and "query" in value["now"]):
        raise ModelError('not a serialised context: there is no {"now":{"query":…}} in it')
    return value


def format_time(time: Time | None, precision: str) -> str | None:
    """A time in words of a fixed form (English weekdays in every locale), or nothing.

    An order number says no more than the order of the history already does, so it is left out.

    >>> format_time(datetime(2025, 6, 1, 20, 11, tzinfo=UTC), "minute"), format_time(3, "minute")
    ('2025-06-01 20:11 Sun', None)
    """
    if not isinstance(time, datetime) or precision == "none":
        return None
    at = time.astimezone(UTC) if time.tzinfo else time
    if precision == "month":
        return f"{at.year:04d}-{at.month:02d}"
    clock = f" {at.hour:02d}:{at.minute:02d}" if precision == "minute" else ""
    return f"{at.year:04d}-{at.month:02d}-{at.day:02d}{clock} {_DAYS[at.weekday()]}"


class _Levels:
    """Quarters of numbers within a group: ``low mid high top``; equal numbers share the lower quarter."""

    def __init__(self, numbers: Iterable[tuple[Hashable, float | None]]) -> None:
        groups: dict[Hashable, list[float]] = {}
        for group, number in numbers:
            if number is not None:
                groups.setdefault(group, []).append(number)
        self._limits = {group: _quartiles(sorted(found)) for group, found in groups.items()}

    def __call__(self, group: Hashable, number: float) -> str:
        return ("low", "mid", "high", "top")[sum(number > limit for limit in self._limits.get(group, ()))]


def _quartiles(ordered: Sequence[float]) -> tuple[float, ...]:
    return tuple(ordered[(len(ordered) - 1) * quarter // 4] for quarter in (1, 2, 3))


class Serialiser:
    """Contexts and items as text and tokens, within a token budget, the same in training and serving.

    Args:
        catalogue: items in row order.
        sids: semantic IDs of the same items in the same order.
        config: precision of times, prices, number of events, budget.
        tokenizer: a fast Hugging Face tokenizer that knows the semantic IDs, complete (tokens added to it later are
            not seen); without one only ``texts`` works.

    Raises:
        SidError: ``sids`` are of another catalogue.
        ModelError: the tokenizer is not a fast one, or cannot be guarded.
    """

    def __init__(self, catalogue: Catalogue, sids: SidBook, config: ContextConfig, tokenizer: Any = None) -> None:
        if sids.item_ids != catalogue.ids:
            raise SidError(
                f"the semantic IDs name {len(sids.item_ids):,} items, the catalogue has {len(catalogue):,} items or "
                "another order: build the semantic IDs again for this catalogue"
            )
        if tokenizer is not None and not getattr(tokenizer, "is_fast", False):
            raise ModelError(f"{type(tokenizer).__name__} gives no token offsets: use the fast tokenizer of this model")
        self.catalogue, self.sids, self.config, self.tokenizer = catalogue, sids, config, tokenizer
        self.guard = Guard(()) if tokenizer is None else Guard.from_tokenizer(tokenizer)
        self._core = None if tokenizer is None else _private_core(tokenizer)
        self._rows = {item_id: row for row, item_id in enumerate(catalogue.ids)}
        self._known: dict[int, Entry] = {}
        self._price_level = _Levels((item.category, item.price) for item in catalogue)
        self._sales_level = _Levels(((), item.sales) for item in catalogue)

    # -- contexts -----------------------------------------------------------------------------------------------------
    def context(self, context: Context) -> Encoded:
        """A context within the budget; ``now`` is kept whole even where it alone exceeds the budget."""
        return self.contexts([context])[0]

    def contexts(self, contexts: Sequence[Context]) -> list[Encoded]:
        """Many contexts; those that fit at once are tokenised in one batch."""
        views = [self._view(context) for context in contexts]
        pages = [write(view, Cut()) for view in views]
        encodings = self._encode([page.text for page in pages])
        return [
            self._encoded(*self._within_budget(view, page, encoding), self._left_out(context))
            for context, view, page, encoding in zip(contexts, views, pages, encodings, strict=True)
        ]

    def texts(self, contexts: Sequence[Context], language: Language = "en") -> Iterator[str]:
        """What a domain tokenizer learns from: all items, ``contexts`` without a budget, what is asked about both."""
        for item in self.catalogue:
            yield self._item_text(item, ())
        for context in contexts:
            yield write(self._view(context), Cut()).text
            yield from INSTRUCTIONS[language].values()

    def _within_budget(self, view: View, page: Page, encoding: Any) -> tuple[Page, Any, Cut]:
        if len(encoding.ids) <= self.config.token_budget:
            return page, encoding, Cut()
        tried: dict[Cut, tuple[Page, Any, Cut]] = {}

        def size(cut: Cut) -> int:
            tried[cut] = self._written(view, cut)
            return len(tried[cut][1].ids)

        cut = self._least_cut(view.limits(), view.lengths(), page.length, len(encoding.ids), size)
        return tried.get(cut) or self._written(view, cut)

    def _least_cut(
        self, limits: Cut, lengths: Sequence[float], characters: int, tokens: int, size: Callable[[Cut], int]
    ) -> Cut:
        """The fewest steps of dropping that fit; all of them (``now`` alone is left) where none does.

        A step shortens the text, so the count is found by bisection, starting where the mean length of the parts
        suggests: about three texts are tokenised, not one per step.

        Args:
            limits: how many parts of each kind there are.
            lengths: mean length of each kind.
            characters: of the whole text.
            tokens: of the whole text, more than the budget.
            size: tokens of the text after a cut.
        """
        budget, too_long, fits = self.config.token_budget, 0, sum(limits)
        probe, stride = _estimate(limits, lengths, (1 - budget / tokens) * characters), 1
        while fits - too_long > 1:
            if not too_long < probe < fits:
                probe = (too_long + fits) // 2
            if size(cut_after(limits, probe)) <= budget:
                fits, probe = probe, probe - stride
            else:
                too_long, probe = probe, probe + stride
            stride *= 2
        return cut_after(limits, fits)

    def _written(self, view: View, cut: Cut) -> tuple[Page, Any, Cut]:
        page = write(view, cut)
        return page, self._encode([page.text])[0], cut

    def _view(self, context: Context) -> View:
        return View(
            profile=self._pairs(dict(sorted(context.profile.items())), braces=True),
            history=tuple(map(self._event, self._kept(context))),
            now=self._now(context),
        )

    def _now(self, context: Context) -> str:
        now = {"time": format_time(context.time, self.config.time), "place": context.place}
        return f'{{{self._pairs(now, comma=True)}"query":{self.guard.quote(context.query)}}}'

    def _kept(self, context: Context) -> tuple[Search, ...]:
        """The newest ``max_events`` searches of the history."""
        return context.history[max(0, len(context.history) - self.config.max_events) :]

    def _left_out(self, context: Context) -> dict[str, int]:
        """What the text lacks even before the budget is looked at."""
        kept = self._kept(context)
        mentioned = [i for search in kept for i in (*search.chosen, *search.skipped)]
        return {
            "events": len(context.history) - len(kept),
            "unknown_items": sum(i not in self._rows for i in mentioned),
        }

    def _event(self, search: Search) -> Event:
        before = {"time": format_time(search.time, self.config.time), "place": search.place}
        return Event(
            head=f'{self._pairs(before, comma=True)}"query":{self.guard.quote(search.query)}',
            click=self._entries(search.chosen),
            skip=self._entries(search.skipped),
            target=self._rows.get(search.target or ""),
        )

    def _entries(self, item_ids: Sequence[str]) -> tuple[Entry, ...]:
        return tuple(self._entry(self._rows[i]) for i in item_ids if i in self._rows)

    def _entry(self, row: int) -> Entry:
        if row not in self._known:
            title = self.catalogue[row].title
            self._known[row] = Entry(self.guard.quote(title) if title else "", self.sids.sid(row))
        return self._known[row]

    def _pairs(self, pairs: Mapping[str, str | None], *, comma: bool = False, braces: bool = False) -> str:
        """``"key":"value"`` pairs whose value is known; nothing at all where none is."""
        text = ",".join(f"{self.guard.quote(k)}:{self.guard.quote(v)}" for k, v in pairs.items() if v)
        if not text:
            return ""
        return f"{{{text}}}" if braces else text + "," * comma

    # -- items --------------------------------------------------------------------------------------------------------
    def item(self, item: Item, without: Sequence[str] = ()) -> Encoded:
        """An item's record within the budget, broad fields first (as a thought goes from broad to narrow).

        Too long a record loses its attributes, then the end of its title.

        Args:
            item: the item.
            without: fields to leave out (``title``, ``brand``, ``category``, ``price``, ``sales``, ``attributes``).
        """
        encoded = self._record(item, without)
        dropped: dict[str, int] = {}
        if self._too_long(encoded) and item.attributes and "attributes" not in without:
            dropped["attributes"] = len(item.attributes)
            without = (*without, "attributes")
            encoded = self._record(item, without)
        if self._too_long(encoded) and "title" not in without:
            kept = self._longest_title(item, without)
            dropped["title_characters"] = len(item.title) - kept
            encoded = self._record(replace(item, title=item.title[:kept]), without)
        return replace(encoded, dropped=dropped)

    def _record(self, item: Item, without: Sequence[str]) -> Encoded:
        text = self._item_text(item, without)
        return Encoded(text, self.ids(text))

    def _too_long(self, encoded: Encoded) -> bool:
        return len(encoded.ids) > self.config.token_budget

    def _longest_title(self, item: Item, without: Sequence[str]) -> int:
        """Characters of the title that the budget has room for, perhaps none."""
        low, high = 0, len(item.title)
        while low < high:
            middle = (low + high + 1) // 2
            if self._too_long(self._record(replace(item, title=item.title[:middle]), without)):
                high = middle - 1
            else:
                low = middle
        return low

    def _item_text(self, item: Item, without: Sequence[str]) -> str:
        values: Fields = {
            "category": [name for name in item.category if name],
            "brand": item.brand,
            "price": self._price(item),
            "sales": None if item.sales is None else self._sales_level((), item.sales),
            "attributes": {k: v for k, v in sorted(item.attributes.items()) if v},
            "title": item.title,
        }
        return self._json({k: v for k, v in values.items() if k not in without and v not in (None, "", [], {})})

    def _price(self, item: Item) -> str | int | float | None:
        """The price as a number without a needless ``.0``, or its level among the items of its category."""
        if item.price is None:
            return None
        if self.config.price == "bucket":
            return self._price_level(item.category, item.price)
        return int(item.price) if float(item.price).is_integer() else item.price

    def _json(self, value: object) -> str:
        if isinstance(value, Mapping):
            return f"{{{','.join(f'{self.guard.quote(k)}:{self._json(v)}' for k, v in value.items())}}}"
        if isinstance(value, list):
            return f"[{','.join(map(self._json, value))}]"
        return self.guard.quote(value) if isinstance(value, str) else json.dumps(value)

    # -- tokens -------------------------------------------------------------------------------------------------------
    def ids(self, text: str) -> list[int]:
        """Token ids of a text that is guarded already: control tokens are parsed, none is added."""
        ids: list[int] = self._encode([text])[0].ids
        return ids

    @cached_property
    def walls(self) -> frozenset[int]:
        """Tokens at which the tokenizer divides every text before it looks at the parts."""
        added: dict[int, Any] = {} if self._core is None else self._core.get_added_tokens_decoder()
        return frozenset(
            number
            for number, token in added.items()
            if not (token.normalized or token.lstrip or token.rstrip or token.single_word)
        )

    def _encode(self, texts: list[str]) -> list[Any]:
        """One ``tokenizers.Encoding`` (ids and character offsets) per text."""
        if self._core is None:
            raise ModelError("this serialiser has no tokenizer: pass one to get tokens")
        encodings: list[Any] = self._core.encode_batch(texts, add_special_tokens=False)
        return encodings

    def _encoded(self, page: Page, encoding: Any, cut: Cut, left_out: dict[str, int]) -> Encoded:
        starts = [start for start, _ in encoding.offsets]
        ends = [end for _, end in encoding.offsets]
        return Encoded(
            text=page.text,
            ids=encoding.ids,
            clicked=[(bisect_right(ends, a), bisect_left(starts, b)) for a, b in page.clicked],
            dropped={kind: n for kind, n in (left_out | cut._asdict()).items() if n},
            branches=[(bisect_left(starts, at), row) for at, row in page.branches],
        )


def _private_core(tokenizer: Any) -> Any:
    """A copy of the tokenizer's core that neither cuts nor pads, and that no other thread changes."""
    core = type(tokenizer.backend_tokenizer).from_str(tokenizer.backend_tokenizer.to_str())
    core.no_truncation()
    core.no_padding()
    return core


def _estimate(limits: Cut, lengths: Sequence[float], to_save: float) -> int:
    """How many steps of dropping save about so many characters."""
    steps = 0
    for limit, saved in zip(limits, lengths, strict=True):
        if to_save <= limit * saved:
            return steps + math.ceil(to_save / saved)
        steps += limit
        to_save -= limit * saved
    return steps


# -- many searches of one user ----------------------------------------------------------------------------------------
class _Opening(NamedTuple):
    """A text up to where ``now`` begins, tokenised as far as what follows cannot change the tokens."""

    ids: "array[int]"
    """Up to the last control token, which is among them."""
    wall: str
    """That token; "" = there is none, and no ids."""
    rest: str
    """What comes after it."""
    characters: int
    """Of the whole text."""


class Past:
    """Profile and history of a user, written and tokenised once for all searches that come after them.

    A tokenizer divides a text at its added tokens before it does anything else, so what stands before the last semantic
    ID of a history keeps its tokens whatever is asked. Only the few characters from there to the end are read anew.

    Args:
        serialiser: writes the contexts.
        context: has the profile and the history; the rest of it counts for nothing.
    """

    def __init__(self, serialiser: Serialiser, context: Context) -> None:
        self._serialiser = serialiser
        self._view = replace(serialiser._view(context), now="")
        self._limits, self._lengths = self._view.limits(), self._view.lengths()
        self._left_out = serialiser._left_out(context)
        self._openings: dict[Cut, _Opening] = {}

    def then(self, context: Context) -> tuple[list[int], dict[str, int]]:
        """``ids`` and ``dropped`` of ``Serialiser.context``, for a context of this profile and history."""
        now, budget = self._serialiser._now(context), self._serialiser.config.token_budget
        ends: dict[str, list[int]] = {}

        def end_of(opening: _Opening) -> list[int]:
            """Tokens after the opening; of few kinds, whatever is cut."""
            found = ends.get(opening.rest)
            if found is None:
                text = f"{opening.wall}{opening.rest}{now}}}"  # the token before decides how a text begins
                found = ends[opening.rest] = self._serialiser.ids(text)[bool(opening.wall) :]
            return found

        def size(cut: Cut) -> int:
            return len(self._opening(cut).ids) + len(end_of(self._opening(cut)))

        cut, whole = Cut(), self._opening(Cut())
        if (tokens := size(cut)) > budget:
            characters = whole.characters + len(now) + 1
            cut = self._serialiser._least_cut(self._limits, self._lengths, characters, tokens, size)
        opening = self._opening(cut)
        dropped = {kind: n for kind, n in (self._left_out | cut._asdict()).items() if n}
        return [*opening.ids, *end_of(opening)], dropped

    def _opening(self, cut: Cut) -> _Opening:
        found = self._openings.get(cut)
        if found is None:
            if len(self._openings) >= CUTS_KEPT:
                self._openings.pop(next(iter(self._openings)))
            found = self._openings[cut] = self._opened(cut)
        return found

    def _opened(self, cut: Cut) -> _Opening:
        text = write(self._view, cut).text.removesuffix("}")
        encoding = self._serialiser._encode([text])[0]
        walls = self._serialiser.walls
        at = next((n for n in range(len(encoding.ids) - 1, -1, -1) if encoding.ids[n] in walls), None)
        if at is None:
            return _Opening(array("i"), "", text, len(text))
        start, stop = encoding.offsets[at]
        return _Opening(array("i", encoding.ids[: at + 1]), text[start:stop], text[stop:], len(text))
