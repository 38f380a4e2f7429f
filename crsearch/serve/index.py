"""Everything that answers searches in one version of the catalogue. Never changed; a new version gets a new index."""

from collections import Counter, OrderedDict, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from threading import Lock
from typing import Any

import numpy as np
from jaxtyping import Bool, Float64

from crsearch.context.prompts import Prompts
from crsearch.context.serialiser import Serialiser
from crsearch.decode.trie import TrieMask
from crsearch.errors import ConfigError
from crsearch.pipeline.systems import FINAL, REPLACED_THOUGHTS, RUNGS, SYSTEMS
from crsearch.pipeline.workspace import Workspace, language
from crsearch.records.types import Context, RankedList, Searcher
from crsearch.searchers.popularity import query_key
from crsearch.serve.answers import Facets
from crsearch.serve.catalogue import Version
from crsearch.serve.contract import Filters, Rung, SidNode
from crsearch.serve.known import Known
from crsearch.serve.why import Explainer

FILTERS_KEPT = 64
"""Filters whose folded masks are kept."""
PIECES_KEPT = 20_000
"""Items whose semantic IDs are kept in pieces."""
MORE = 5
"""A system that knows no filters is asked for this many times as many items, then filtered; where too few are left, for
this many times as many again."""


@dataclass(frozen=True)
class Allowed:
    """Items that may be found."""

    rows_N: Bool[np.ndarray, " N"]
    mask: TrieMask
    count: int


class _OfItems:
    """What depends on the items of a version, each made when it is first needed; versions of equal items share it."""

    def __init__(self, run: Workspace, version: Version, tokenizer: Any) -> None:
        self._run, self._tokenizer, self._catalogue, self._book = run, tokenizer, version.catalogue, version.book

    @cached_property
    def space(self) -> Workspace:
        return self._run.with_catalogue(self._catalogue, self._book)

    @cached_property
    def prompts(self) -> Prompts:
        settings = self._run.settings
        serialiser = Serialiser(self._catalogue, self._book, settings.context, self._tokenizer)
        return Prompts(serialiser, self._tokenizer, language=language(settings))

    @cached_property
    def explainer(self) -> Explainer:
        return Explainer(self._catalogue)

    @cached_property
    def known(self) -> Known:
        return Known(self.prompts, self.explainer)


class Index:
    """Prompts, trie, filters, other systems and suggestions for one version of the catalogue.

    Args:
        space: the run; its catalogue and semantic IDs are put aside for those of the version.
        version: of the catalogue.
        tokenizer: of the model that is ``crs``, shared by all versions.
        final: training stage of that model.
        before: index of the version in use. What does not change is taken from it; its other systems answer until
            ``renew`` has made new ones, without the items that were removed, not yet with those that were added, and
            after a rollback without those that are not there any more.
    """

    _searchers: dict[str, Searcher]

    def __init__(
        self, space: Workspace, version: Version, tokenizer: Any, final: str, before: "Index | None" = None
    ) -> None:
        self.name, self.final = version.name, final
        self.catalogue, self.book, self.trie, self.alive_N = (
            version.catalogue, version.book, version.trie, version.alive_N,
        )  # fmt: skip
        self.book_key = version.book.fingerprint()[:12]
        self.pieces = lru_cache(maxsize=PIECES_KEPT)(version.book.pieces)
        """The tokens of an item's semantic ID."""
        self._allowed: OrderedDict[str, Allowed] = OrderedDict()
        self._suggested: tuple[frozenset[str], list[tuple[str, str]]] | None = None
        self._lock = Lock()
        same = None if before is None or before.catalogue != version.catalogue else before._of_items
        self.is_stale: bool = before is not None and (before.is_stale or same is None)
        """Its other systems were made for other items."""
        # after ``is_stale``: a renewal that ends in between leaves new systems that are made once more
        self._searchers = {} if before is None else dict(before._searchers)
        self._of_items: _OfItems = same or _OfItems(space, version, tokenizer)

    @property
    def space(self) -> Workspace:
        """The run with the items of this version."""
        return self._of_items.space

    @property
    def prompts(self) -> Prompts:
        """What the model reads."""
        return self._of_items.prompts

    @property
    def explainer(self) -> Explainer:
        """What an item shares with a context."""
        return self._of_items.explainer

    @property
    def known(self) -> Known:
        """What is kept of users who searched."""
        return self._of_items.known

    def prepare(self) -> None:
        """Make what every answer needs, so that no search waits for it; a process that only decodes needs less."""
        self.space, self.prompts, self.explainer  # noqa: B018 - made when first asked for

    def renew(self, names: Collection[str]) -> None:
        """Make some systems anew where the items have changed; the others when they are asked for."""
        if self.is_stale:
            fresh = {name: self._built(name) for name in names}
            self._searchers, self.is_stale = fresh, False

    @cached_property
    def num_alive(self) -> int:
        """Items that can be found."""
        return int(self.alive_N.sum())

    def has_removed(self, item_id: str) -> bool:
        """The item was there and was removed; False of one that this version never had."""
        return item_id in self.explainer.known and not self.alive_N[self.catalogue.row(item_id)]

    # -- filters ------------------------------------------------------------------------------------------------------
    def allowed(self, filters: Filters) -> Allowed | None:
        """The items that pass; none = every item that was not removed."""
        if filters == Filters():
            return None
        key = filters.model_dump_json()
        with self._lock:
            found = self._allowed.get(key)
            if found is None:
                rows_N = self._passing(filters) & self.alive_N
                found = self._allowed[key] = Allowed(rows_N, self.trie.mask(rows_N), int(rows_N.sum()))
            self._allowed.move_to_end(key)
            while len(self._allowed) > FILTERS_KEPT:
                self._allowed.popitem(last=False)
            return found

    def _passing(self, filters: Filters) -> Bool[np.ndarray, " N"]:
        rows_N = np.ones(len(self.catalogue), dtype=bool)
        if filters.brands:
            rows_N &= self._has(self._brand_rows, filters.brands)
        if filters.categories:
            rows_N &= self._has(self._category_rows, filters.categories)
        if filters.price_min is not None:
            rows_N &= self._price_N >= filters.price_min  # NaN (no price) compares false
        if filters.price_max is not None:
            rows_N &= self._price_N <= filters.price_max
        return rows_N

    def _has(self, rows_of: Mapping[str, Sequence[int]], names: Sequence[str]) -> Bool[np.ndarray, " N"]:
        rows_N = np.zeros(len(self.catalogue), dtype=bool)
        for name in names:
            rows_N[list(rows_of.get(name.casefold(), ()))] = True
        return rows_N

    @cached_property
    def _price_N(self) -> Float64[np.ndarray, " N"]:
        return np.array([np.nan if item.price is None else item.price for item in self.catalogue], dtype=np.float64)

    @cached_property
    def _brand_rows(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self.catalogue):
            if item.brand:
                rows.setdefault(item.brand.casefold(), []).append(row)
        return rows

    @cached_property
    def _category_rows(self) -> dict[str, list[int]]:
        rows: dict[str, list[int]] = {}
        for row, item in enumerate(self.catalogue):
            for name in dict.fromkeys(n.casefold() for n in item.category if n):
                rows.setdefault(name, []).append(row)
        return rows

    @cached_property
    def facets(self) -> Facets:
        """What can be filtered by: names with most items first, and the range of prices."""
        live = [item for item, alive in zip(self.catalogue, self.alive_N, strict=True) if alive]
        prices = [item.price for item in live if item.price is not None]
        brands = Counter(item.brand for item in live if item.brand)
        categories = Counter(name for item in live for name in dict.fromkeys(item.category) if name)
        return {
            "brands": [name for name, _ in brands.most_common(200)],
            "categories": [name for name, _ in categories.most_common(200)],
            "price": (min(prices), max(prices)) if prices else None,
        }

    # -- other systems ------------------------------------------------------------------------------------------------
    @cached_property
    def systems(self) -> dict[str, str]:
        """Systems that can stand beside: name -> what it is. Those with a model of their own must be trained."""
        trained = self.space.run.manifest["stages"]
        return {
            name: system.what
            for name, system in SYSTEMS.items()
            if (system.stage in ("", FINAL) or system.stage in trained)
            and name not in (*REPLACED_THOUGHTS, "bm25-tuned")  # these need the run's test users
            and system.lacks(self.space) is None
        }

    def searcher(self, name: str) -> Searcher:
        """A system by name; made on the first call. Those with models belong to the engine's thread.

        Raises:
            ConfigError: it cannot stand beside.
        """
        if name not in self._searchers:
            if name not in self.systems:
                raise ConfigError(f"system {name!r}: there are {', '.join(self.systems)}")
            self._searchers[name] = self._built(name)
        return self._searchers[name]

    def _built(self, name: str) -> Searcher:
        system = SYSTEMS[name]
        return system.build(self.space, name, self.final if system.stage == FINAL else system.stage)

    def ranked(self, name: str, context: Context, k: int, allowed: Allowed | None) -> RankedList:
        """The list of a system for one context, without removed and filtered items.

        It has ``k`` items, or all that pass and that the system lists; of a system with a model, whose search would
        take too long, those of its first ``5 k``.
        """
        rows_N, num_left = (self.alive_N, self.num_alive) if allowed is None else (allowed.rows_N, allowed.count)
        known, has_model = self.explainer.known, bool(SYSTEMS[name].stage)
        wanted = k if rows_N.all() and not self.is_stale else MORE * k
        while True:
            found = self.searcher(name).search([context], wanted)[0]
            kept = [
                (item_id, score)
                for item_id, score in zip(found.item_ids, found.scores, strict=True)
                if item_id in known and rows_N[self.catalogue.row(item_id)]
            ][:k]
            if has_model or len(kept) >= min(k, num_left) or len(found.item_ids) < wanted:
                break
            wanted *= MORE
        return replace(found, item_ids=tuple(i for i, _ in kept), scores=tuple(s for _, s in kept))

    # -- looking around -----------------------------------------------------------------------------------------------
    def suggestions(self, forgotten: Collection[str] = ()) -> list[tuple[str, str]]:
        """(key, query) of queries that several training users chose something for, those of most users first.

        Args:
            forgotten: users who do not count; the list is made anew where they are others than the last time.
        """
        gone, kept = frozenset(forgotten), self._suggested
        if kept is None or kept[0] != gone:
            kept = self._suggested = gone, self._suggestions(gone)
        return kept[1]

    def _suggestions(self, forgotten: Collection[str]) -> list[tuple[str, str]]:
        users: defaultdict[str, set[str]] = defaultdict(set)
        spelled: dict[str, str] = {}
        for search in self.space.dataset.training_searches:
            key = query_key(search.query)
            if search.chosen and key and search.user_id not in forgotten:
                users[key].add(search.user_id)
                spelled.setdefault(key, search.query)
        counts = Counter({key: len(own) for key, own in users.items()})
        return [(key, spelled[key]) for key, n in counts.most_common() if n >= RARE]

    def node(self, prefix: Sequence[str], limit: int = 200) -> SidNode | None:
        """The tree of semantic IDs below a prefix; none = no item that is not removed begins with it."""
        depth = self.book.codes_NL.shape[1]
        if len(prefix) > depth:
            return None
        codes = self._codes(prefix)
        if codes is None:
            return None
        below = self.alive_N & (self.book.codes_NL[:, : len(codes)] == codes).all(1)
        rows = np.flatnonzero(below)
        if not len(rows):
            return None
        children: tuple[tuple[str, int], ...] = ()
        if len(prefix) < depth:
            tokens = Counter(self.book.pieces(int(row))[len(prefix)] for row in rows)
            children = tuple(sorted(tokens.items(), key=lambda c: (-c[1], c[0]))[:limit])
        shown = rows[: 8 if len(prefix) < depth - 1 else limit].tolist()
        return SidNode(
            prefix=tuple(prefix),
            items=len(rows),
            children=children,
            examples=tuple((self.catalogue[row].item_id, self.catalogue[row].title) for row in shown),
        )

    def _codes(self, prefix: Sequence[str]) -> list[int] | None:
        """Codes of tokens such as ``<a_23>``; none = not tokens of these layers."""
        places = {piece: n for n, piece in enumerate(self.book.vocabulary())} if prefix else {}
        starts = np.cumsum([0, *self.book.layer_sizes])
        codes = []
        for layer, piece in enumerate(prefix):
            place = places.get(piece, -1)
            if not starts[layer] <= place < starts[layer + 1]:
                return None
            codes.append(int(place - starts[layer]))
        return codes


RARE = 2
"""A query is suggested when at least so many training users had it: that of a single one may tell on them, even if they
asked it often."""

RUNG_SYSTEMS: Mapping[Rung, str] = {rung: RUNGS[rung.value] for rung in (Rung.FUSED, Rung.LEXICAL, Rung.POPULAR)}
"""The systems behind the rungs that do not ask the model."""
