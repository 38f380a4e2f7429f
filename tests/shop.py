"""A small shop for tests: items, semantic IDs that need no embedding, users with a history."""

from datetime import UTC, datetime, timedelta

import numpy as np

from crsearch.records.store import Catalogue
from crsearch.records.types import Context, Item, Search
from crsearch.sids.book import SidBook

WORDS = ("red", "blue", "warm", "light", "cotton", "leather", "slim", "wide", "summer", "winter")
THINGS = ("phone", "case", "shoe", "coat", "lamp", "chair")
BRANDS = ("Elnova", "Nordik", "杭织")


def shop(items: int = 40) -> Catalogue:
    """Items of three brands with titles of five words."""
    rng = np.random.default_rng(0)
    return Catalogue(
        Item(
            item_id=f"i{n}",
            title=" ".join([BRANDS[n % 3], *rng.choice(WORDS + THINGS, 4)]),
            brand=BRANDS[n % 3],
            category=("Home", THINGS[n % 6]),
            price=float(5 + n * 3 % 50) + (0.5 if n % 4 == 0 else 0.0),
            sales=float(n),
            attributes={"style": WORDS[n % 8]},
        )
        for n in range(items)
    )


def book(catalogue: Catalogue, codes: int = 6) -> SidBook:
    """Semantic IDs that need no embedding: three digits of the row number and a spare deduplication code."""
    rows = np.arange(len(catalogue))
    return SidBook(
        item_ids=catalogue.ids,
        codes_NL=np.stack([rows % codes, rows // codes % codes, rows // codes**2, rows * 0], axis=1),
        codebooks=tuple(np.zeros((codes, 2), dtype=np.float32) for _ in range(3)),
        dedup_codes=2,
        built_rows=len(catalogue),
    )


def contexts(catalogue: Catalogue, count: int, searches: int = 8, seed: int = 0) -> list[Context]:
    """Users with ``searches`` earlier searches, one or two items chosen and one or two skipped in each."""
    rng = np.random.default_rng(seed)
    start = datetime(2025, 1, 3, 20, 11, tzinfo=UTC)
    out = []
    for user in range(count):
        history = []
        for n in range(searches):
            shown = [f"i{row}" for row in rng.choice(len(catalogue), 1 + rng.integers(1, 4), replace=False)]
            history.append(
                Search(
                    search_id=f"s{user}-{n}",
                    user_id=f"u{user}",
                    time=start + timedelta(days=17 * n),
                    query=" ".join(rng.choice(WORDS + THINGS, 2)),
                    shown=tuple(shown),
                    clicked=tuple(shown[: 1 + (len(shown) > 3)]),
                )
            )
        out.append(
            Context(
                search_id=f"s{user}",
                user_id=f"u{user}",
                query="phone case",
                time=start + timedelta(days=200),
                place="杭州",
                profile={"age": "25-34", "gender": "F"},
                history=tuple(history),
            )
        )
    return out
