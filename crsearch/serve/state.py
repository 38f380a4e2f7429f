"""What the search page shows, as its address says it: everything that a user chose stands in the URL.

Source: details: this project.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import urlencode

from crsearch.serve.contract import Event, Filters, Mode, Persona, SearchRequest

MODES: tuple[Mode, ...] = ("auto", "think", "fast")
"""As the page offers them."""
SIZES = (5, 10, 20, 50)
"""Numbers of results that the page offers; an address may name any from 1 to 100."""

MOST_BESIDE = 4
"""Systems beside the answer."""
MOST_LISTED = 50
"""Values of one name in an address; further ones are passed over."""


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """The address of a search page, read and checked; what does not fit falls back to the default."""

    q: str = ""
    user: str = ""
    """"" = a stranger."""
    mode: Mode = "auto"
    k: int = 10
    systems: tuple[str, ...] = ()
    brands: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    price_min: float | None = None
    price_max: float | None = None
    cold: bool = False
    """Search as if the user had no history."""
    drop: tuple[int, ...] = ()
    """Places of the events of the persona's history that are set aside, ascending."""
    added: tuple[tuple[str, str], ...] = ()
    """(query, item id) of events put at the end of the history."""
    find: str = ""
    """What is looked for to be added to the history."""
    sid: tuple[str, ...] | None = None
    """The prefix that the tree shows; () = the root, None = closed."""
    lang: str = ""
    """"" = as the browser prefers."""

    @classmethod
    def read(cls, pairs: Sequence[tuple[str, str]]) -> "State":
        """The state of an address, from its decoded (name, value) pairs.

        >>> State.read([("q", "case"), ("k", "9999"), ("mode", "?"), ("brand", "a"), ("brand", "b")]).brands
        ('a', 'b')
        """
        last = dict(pairs)

        def listed(name: str) -> tuple[str, ...]:
            return tuple(dict.fromkeys(value for key, value in pairs if key == name and value))[:MOST_LISTED]

        def every(name: str) -> list[str]:
            return [value for key, value in pairs if key == name][:MOST_LISTED]

        user = (last.get("as", "").strip() or last.get("user", "").strip())[:256]
        edited = last.get("of", "") == user  # edits are of one user's history and do not pass to the next
        mode = last.get("mode", "auto")
        sid = last.get("sid")
        return cls(
            q=last.get("q", ""),
            user=user,
            mode=mode if mode in MODES else "auto",
            k=_whole(last.get("k", ""), 1, 100) or 10,
            systems=listed("system")[:MOST_BESIDE],
            brands=listed("brand"),
            categories=listed("category"),
            price_min=_price(last.get("min", "")),
            price_max=_price(last.get("max", "")),
            cold=last.get("cold") == "1",
            drop=tuple(sorted({n for value in every("drop") if (n := _whole(value, 0, 9_999)) is not None}))
            if edited
            else (),
            added=tuple((q, item) for q, item in zip(every("addq"), every("add"), strict=False) if item)
            if edited
            else (),
            find=last.get("find", ""),
            sid=None if sid is None else tuple(f"<{token}>" for token in sid.split(".") if token)[:16],
            lang=last.get("lang", ""),
        )

    def pairs(self) -> list[tuple[str, str]]:
        """The state as (name, value) pairs, defaults left out; ``read`` gives it back."""
        plain: list[tuple[str, Any]] = [
            ("q", self.q),
            ("user", self.user),
            ("mode", "" if self.mode == "auto" else self.mode),
            ("k", "" if self.k == 10 else self.k),
            *(("system", name) for name in self.systems),
            *(("brand", name) for name in self.brands),
            *(("category", name) for name in self.categories),
            ("min", "" if self.price_min is None else f"{self.price_min:g}"),
            ("max", "" if self.price_max is None else f"{self.price_max:g}"),
            ("cold", "1" if self.cold else ""),
            ("find", self.find),
            ("lang", self.lang),
        ]
        out = [(name, str(value)) for name, value in plain if value != ""]
        out += self.edits()
        if self.sid is not None:
            out.append(("sid", ".".join(token.strip("<>") for token in self.sid)))
        return out

    def edits(self) -> list[tuple[str, str]]:
        """The pairs that say how the history was edited."""
        if not (self.drop or self.added):
            return []
        return [
            ("of", self.user),
            *(("drop", str(n)) for n in self.drop),
            *(pair for query, item in self.added for pair in (("addq", query), ("add", item))),
        ]

    def url(self, **changes: Any) -> str:
        """The address with ``changes`` made.

        >>> State(q="case", k=5).url(mode="fast")
        '/?q=case&mode=fast&k=5'
        """
        pairs = replace(self, **changes).pairs()
        return "/?" + urlencode(pairs, errors="replace") if pairs else "/"

    def without(self, place: int) -> str:
        """The address with event ``place`` set aside."""
        return self.url(drop=tuple(sorted({*self.drop, place})))

    def back(self, place: int) -> str:
        """The address with event ``place`` in the history again."""
        return self.url(drop=tuple(n for n in self.drop if n != place))

    def less(self, added: int) -> str:
        """The address without the ``added``-th added event."""
        return self.url(added=self.added[:added] + self.added[added + 1 :])

    def with_event(self, query: str, item_id: str) -> str:
        """The address with a further event: ``item_id`` chosen after ``query``."""
        return self.url(added=(*(a for a in self.added if a != (query, item_id)), (query, item_id)), find="")

    @property
    def filtered(self) -> int:
        """Filters that are set."""
        return len(self.brands) + len(self.categories) + (self.price_min is not None) + (self.price_max is not None)

    def request(self, persona: Persona | None) -> SearchRequest:
        """The search that the page asks for; the history is sent only where it was edited.

        Raises:
            pydantic.ValidationError: a value is longer than the contract allows.
        """
        history: list[Event] | None = None
        if self.cold:
            history = []
        elif self.drop or self.added:
            history = [*kept(persona, self.drop), *(Event(query=q, clicked=[item]) for q, item in self.added)]
        return SearchRequest(
            query=self.q,
            user_id=self.user or None,
            history=history,
            top_k=self.k,
            mode=self.mode,
            filters=Filters(
                brands=list(self.brands),
                categories=list(self.categories),
                price_min=self.price_min,
                price_max=self.price_max,
            ),
            systems=list(self.systems),
        )


def kept(persona: Persona | None, drop: Iterable[int]) -> list[Event]:
    """The events of a persona's history that are not set aside."""
    away = set(drop)
    events = () if persona is None else persona.history
    return [
        Event(
            query=event.query,
            clicked=[item for item, _ in event.clicked],
            skipped=[item for item, _ in event.skipped],
            time=event.time,
            place=event.place,
        )
        for place, event in enumerate(events)
        if place not in away
    ]


def _whole(text: str, low: int, high: int) -> int | None:
    """A whole number within bounds, else none."""
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        return None
    return number if low <= (number := int(text)) <= high else None


def _price(text: str) -> float | None:
    """A price that is not below 0, else none."""
    try:
        price = float(text[:32])
    except ValueError:
        return None
    return price if 0 <= price < 1e15 else None


def language(wanted: str, accepted: str, languages: Mapping[str, Any]) -> str:
    """The language of the page: the one in the address, else the browser's first that we have, else English.

    >>> language("", "de;q=0.9, zh-CN;q=0.8, en;q=0.7", {"en": 1, "zh": 1})
    'zh'
    """
    if wanted in languages:
        return wanted
    ranked: list[tuple[float, str]] = []
    for part in accepted[:500].split(","):
        tag, _, weight = part.strip().partition(";q=")
        try:
            ranked.append((-float(weight or 1), tag.split("-")[0].lower()))
        except ValueError:
            continue
    found: Literal["en"] | str = next((tag for _, tag in sorted(ranked, key=lambda r: r[0]) if tag in languages), "en")
    return found
