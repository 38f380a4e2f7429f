"""A teacher that needs no language model: it infers the wanted item from the context and says how.

    query + history ─► kind (a category) ─► evidence (quoted choices) ─► the likeliest brand and item of the kind

What is likely is counted on training users (``Habits``), never on the user who is asked about, and the target is not
looked at: a thought is the same whatever the user went on to choose.

Source: CRS §3.2 lets a big model write; what a template says: details of this project (docs/log.md).
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from statistics import median

from crsearch.records.types import Context, Example, Item, Search
from crsearch.train.habits import Habits
from crsearch.train.teacher import Language, Trace
from crsearch.train.words import clip_words, plain, singular, words_of

_BRAND_BONUS = 3.0
"""A brand chosen before weighs as much as 20 times the choices, as in ``popularity-in-query-brand``."""
_TOGETHER = 2.0
_TOGETHER_SCALE = 5.0
"""ln(1 + 5 s) of how often an item is chosen with those of the history counts twice. Chosen on validation users of
Amazon Beauty: NDCG@10 .265 for the items in this order, .230 without."""
_QUOTES = 2
_QUOTE_WORDS = 4
_KIND_WORDS = 12
_BRAND_WORDS = 4
_LITTLE_WORDS = frozenset({"a", "and", "by", "for", "in", "of", "on", "or", "the", "to", "with"})


@dataclass(frozen=True, slots=True)
class _Frame:
    intent: str
    evidence: str
    nothing: str
    price: str
    wanted: str
    comma: str
    stop: str


_FRAMES: dict[Language, _Frame] = {
    "en": _Frame(
        intent="intent: {}",
        evidence="evidence: chose {}",
        nothing="evidence: nothing similar chosen",
        price="price: about {}",
        wanted="wanted item: {}",
        comma=", ",
        stop="; ",
    ),
    "zh": _Frame(
        intent="意图：{}",
        evidence="依据：选过{}",
        nothing="依据：没有选过类似商品",
        price="价位：{}左右",
        wanted="想要：{}",
        comma="，",
        stop="；",
    ),
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Inference:
    """What a context supports, before it is put into words."""

    kind: tuple[str, ...]
    """Category path, or the query alone where it names none; empty where there is neither."""
    evidence: tuple[Item, ...] = ()
    """Earlier choices that have to do with it, most telling first."""
    price: float | None = None
    """Median of earlier choices of the kind."""
    brand: str | None = None
    """The likeliest brand of the kind."""
    item: Item | None = None
    """The likeliest item of that brand; of the kind where no brand is known."""


class TemplateTeacher:
    """Thoughts from records alone.

    ``intent: Nails Nail Polish; evidence: chose OPI Top Coat; wanted item: Nails Nail Polish, OPI``

    Order: kind, evidence, brand, each step to be read off those before; words as item texts have them.

    * The kind is the category of most of what others chose for the query; for a query nobody else made, the category
      that it names (its words hold all words of the level); for a query without words, the category of most of what
      others chose together with the items of the history.
    * Items of the kind that this user has not chosen yet are scored::

          ln max(n, 1/2) + 3 [brand chosen before] + 2 ln(1 + 5 sum_h s_h)

      where others chose the item n times for the query, and s_h times together with item h of the history (``Habits``).
      The brand is the one with the largest sum of exp(score); its best item chooses the evidence and is not named.
    * The evidence is an earlier choice of that brand, else the one most often chosen together with the item; then the
      newest choice of the same category, or of its parent.

    What the data do not have (brand, price, category, history) is left out.
    """

    name = "template"

    def __init__(
        self, items: Iterable[Item], searches: Iterable[Search] = (), language: Language = "en", max_words: int = 60
    ) -> None:
        """
        Args:
            items: the catalogue. searches: of training users; may be empty. language: of the frame; categories, brands
                and titles stay as they are.
            max_words: longest thought; the evidence is dropped until it fits.
        """
        self._items = {item.item_id: item for item in items}
        self._habits = Habits(searches)
        self._frame = _FRAMES[language]
        self._max_words = max_words

    def thoughts(self, examples: Sequence[Example]) -> list[Trace | None]:
        """A trace for each example, None where neither query nor history gives a hint. Targets are not read."""
        return [self._trace(example.context) for example in examples]

    def _trace(self, context: Context) -> Trace | None:
        found = self.infer(context)
        if not found.kind:
            return None
        return Trace(search_id=context.search_id, thought=self._write(found), source=self.name)

    # -- what the context supports ------------------------------------------------------------------------------------
    def infer(self, context: Context) -> Inference:
        """Kind, evidence, price, brand and item that the context supports."""
        earlier = self._earlier(context)
        support = {item.item_id: self._habits.chosen_with(item.item_id, context.user_id) for item in earlier}
        has_words = bool(words_of(plain(context.query)))
        asked = self._habits.for_query(context.query, without=context.user_id) if has_words else Counter[str]()
        path = self._path(context.query, asked) if has_words else self._next_path(support)
        similar = _similar(path, earlier)
        score = self._scores(path, asked, earlier, support)
        brand, item = self._likeliest(score)
        telling = [
            *([i for i in (*similar, *earlier) if brand and self._brand_of[i.item_id] == brand][:1]
              or _most_supporting(item, earlier, support)),
            *similar[:1],
        ]  # fmt: skip
        prices = [i.price for i in earlier if i.price is not None and path and i.category[: len(path)] == path]
        return Inference(
            kind=path or ((context.query,) if has_words else ()),
            evidence=tuple({i.item_id: i for i in telling}.values())[:_QUOTES],
            price=median(prices) if prices else None,
            brand=None if brand is None else self._spelling[brand],
            item=item,
        )

    def _earlier(self, context: Context) -> list[Item]:
        """Items chosen earlier that the catalogue knows, newest first, none twice."""
        ids = (i for search in reversed(context.history) for i in reversed(search.chosen))
        return [self._items[i] for i in dict.fromkeys(ids) if i in self._items]

    def _path(self, query: str, asked: Mapping[str, int]) -> tuple[str, ...]:
        """The category that the query is about: see the class. Empty = there is none."""
        votes: Counter[tuple[str, ...]] = Counter()
        for item_id, n in asked.items():
            if item_id in self._items and self._items[item_id].category:
                votes[self._items[item_id].category] += n
        if votes:
            return max(votes, key=lambda path: (votes[path], path))
        named = {path[:depth] for path in self._of_path if (depth := _named_depth(query, path))}
        said = {singular(w) for w in words_of(query)}
        return max(
            named,
            key=lambda path: (
                len(said & {singular(w) for level in path for w in words_of(level)}),
                len(self._of_path[path]),
                path,
            ),
            default=(),
        )

    def _next_path(self, support: Mapping[str, Mapping[str, float]]) -> tuple[str, ...]:
        """The category most often chosen together with the history; what was chosen already does not count."""
        votes: defaultdict[tuple[str, ...], float] = defaultdict(float)
        for item_id, share in ((i, s) for shares in support.values() for i, s in shares.items()):
            if item_id not in support and item_id in self._items:
                votes[self._items[item_id].category] += share
        votes.pop((), None)
        return max(votes, key=lambda path: (votes[path], path), default=())

    def _scores(
        self,
        path: tuple[str, ...],
        asked: Mapping[str, int],
        earlier: Sequence[Item],
        support: Mapping[str, Mapping[str, float]],
    ) -> dict[str, float]:
        """Log-weight of every item that may be wanted."""
        gone = {item.item_id for item in earlier}
        brands = {self._brand_of[i] for i in gone} - {None}
        wanted = [i for i in dict.fromkeys((*asked, *self._of_kind(path))) if i in self._items and i not in gone]
        together = {i: sum(shares.get(i, 0.0) for shares in support.values()) for i in wanted}
        return {
            i: math.log(max(asked.get(i, 0), 0.5))
            + _BRAND_BONUS * (self._brand_of[i] in brands)
            + _TOGETHER * math.log1p(_TOGETHER_SCALE * together[i])
            for i in wanted
        }

    def _likeliest(self, score: Mapping[str, float]) -> tuple[str | None, Item | None]:
        """The brand with the largest sum of weights, and its best item; ties by catalogue order."""
        weight: defaultdict[str, float] = defaultdict(float)
        for item_id, value in score.items():
            if brand := self._brand_of[item_id]:
                weight[brand] += math.exp(value)
        brand = max(weight, key=lambda b: weight[b], default=None)
        best = max(
            (i for i in score if brand is None or self._brand_of[i] == brand), key=lambda i: score[i], default=None
        )
        return brand, None if best is None else self._items[best]

    # -- what the catalogue tells -------------------------------------------------------------------------------------
    def _of_kind(self, path: tuple[str, ...]) -> list[str]:
        """Items of exactly this category; of those below it where it has none of its own."""
        below = self._of_path.get(path, [])
        return [i for i in below if self._items[i].category == path] or below

    @cached_property
    def _of_path(self) -> dict[tuple[str, ...], list[str]]:
        """Category path of any depth -> ids of its items, in catalogue order."""
        found: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
        for item in self._items.values():
            for depth in range(1, len(item.category) + 1):
                found[item.category[:depth]].append(item.item_id)
        return dict(found)

    @cached_property
    def _spelling(self) -> dict[str, str]:
        """Brand as compared -> as first written."""
        written: dict[str, str] = {}
        for item in self._items.values():
            if brand := " ".join(words_of(item.brand or "")):
                written.setdefault(brand, plain(item.brand or ""))
        return written

    @cached_property
    def _brand_of(self) -> dict[str, str | None]:
        """Item -> its brand; where the record has none, the known brand that its title begins with."""
        return {
            i: " ".join(words_of(item.brand or "")) or self._brand_in(item.title) for i, item in self._items.items()
        }

    def _brand_in(self, title: str) -> str | None:
        words = words_of(title)
        starts = (" ".join(words[:n]) for n in range(min(len(words), _BRAND_WORDS), 0, -1))
        return next((start for start in starts if len(start) > 2 and start in self._spelling), None)

    # -- words --------------------------------------------------------------------------------------------------------
    def _write(self, found: Inference) -> str:
        """The longest version that fits."""
        frame = self._frame
        kind = _kind_text(found.kind)
        brand = clip_words(found.brand, _BRAND_WORDS) if found.brand else ""
        quotes = [q for i in found.evidence if (q := _quote(i))]
        text = ""
        for shown in (quotes, quotes[:1], []):
            parts = [
                frame.intent.format(kind),
                frame.evidence.format(frame.comma.join(shown)) if shown else frame.nothing if not quotes else "",
                frame.price.format(f"{float(f'{found.price:.2g}'):g}") if found.price else "",
                frame.wanted.format(frame.comma.join(p for p in (kind, brand) if p)),
            ]
            text = frame.stop.join(p for p in parts if p)
            if len(words_of(text)) <= self._max_words:
                return text
        return clip_words(text, self._max_words)


@dataclass(frozen=True, kw_only=True, slots=True)
class Reading:
    """What a thought in the template's form says."""

    category: str | None = None
    """Last level of the wanted kind, where the catalogue has the kind."""
    brand: str | None = None
    """The wanted brand as the catalogue spells it."""
    evidence: str | None = None
    """The quoted choices, as written."""


class TemplateReader:
    """Reads back thoughts in the form of ``TemplateTeacher``, those too that a model wrote after it.

    >>> item = Item(item_id="a", title="", brand="OPI", category=("Beauty", "Makeup", "Nails"))
    >>> TemplateReader([item]).read("intent: Makeup Nails; evidence: chose Top Coat; wanted item: Makeup Nails, OPI")
    Reading(category='Nails', brand='OPI', evidence='Top Coat')
    """

    def __init__(self, items: Iterable[Item]) -> None:
        """
        Args:
            items: the catalogue.
        """
        self._kinds: dict[tuple[str, ...], str] = {}
        self._brands: dict[tuple[str, ...], str] = {}
        for item in items:
            for depth in range(len(item.category), 0, -1):
                path = item.category[:depth]
                self._kinds.setdefault(tuple(words_of(_kind_text(path))), path[-1])
            if item.brand:
                self._brands.setdefault(tuple(words_of(clip_words(plain(item.brand), _BRAND_WORDS))), item.brand)

    def read(self, thought: str) -> Reading | None:
        """What a thought says; none where it says nothing of a wanted item in the template's words."""
        for frame in _FRAMES.values():
            _, marker, wanted = thought.rpartition(frame.wanted.format(""))
            if marker:
                words = tuple(words_of(wanted))
                ends = next((n for n in range(len(words), 0, -1) if words[:n] in self._kinds), 0)
                quoted = thought.partition(frame.evidence.format(""))[2].partition(frame.stop)[0]
                return Reading(
                    category=self._kinds.get(words[:ends]),
                    brand=self._brands.get(words[ends:]) or self._brands.get(words),
                    evidence=quoted or None,
                )
        return None


def _kind_text(path: Sequence[str]) -> str:
    """A category path in words; its root is left out of one that is deep."""
    levels = path[1:] if len(path) > 2 else path
    return clip_words(" ".join(plain(level) for level in levels), _KIND_WORDS)


def _most_supporting(
    item: Item | None, earlier: Sequence[Item], support: Mapping[str, Mapping[str, float]]
) -> list[Item]:
    """The earlier choice that most speaks for an item, if any does."""
    if item is None:
        return []
    best = max(earlier, key=lambda i: support[i.item_id].get(item.item_id, 0.0), default=None)
    return [best] if best is not None and item.item_id in support[best.item_id] else []


def _similar(path: Sequence[str], earlier: Sequence[Item]) -> list[Item]:
    """Choices of the same category, then of its parent (which is not the root), each newest first."""
    least = max(len(path) - 1, min(len(path), 2))
    near = [item for item in earlier if path and _shared_levels(path, item.category) >= least]
    return sorted(near, key=lambda item: -_shared_levels(path, item.category))


def _shared_levels(path: Sequence[str], other: Sequence[str]) -> int:
    """Levels from the root that two category paths have in common."""
    pairs = takewhile(lambda pair: pair[0] == pair[1], zip(path, other, strict=False))
    return sum(1 for _ in pairs)


def _named_depth(query: str, category: Sequence[str]) -> int:
    """How many levels of a category path the query names: the deepest level whose words it holds; 0 = none."""
    said = {singular(w) for w in words_of(query)}
    said_text = "".join(words_of(query))
    for depth in range(len(category), 0, -1):
        words = [w for w in words_of(category[depth - 1]) if w not in _LITTLE_WORDS]
        if any("\u3400" <= w <= "\u9fff" for w in words):
            is_named = "".join(words) in said_text  # characters count as a word only in their order
        else:
            is_named = {singular(w) for w in words} <= said
        if words and is_named:
            return depth
    return 0


def _quote(item: Item) -> str:
    """An item in few words, those that its text in a context begins with; brand and category where it has no title."""
    title = plain(item.title)
    return (
        clip_words(title, _QUOTE_WORDS)
        if words_of(title)
        else " ".join(map(plain, (item.brand or "", *item.category[-1:]))).strip()
    )
