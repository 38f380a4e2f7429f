"""Records of a shop with as many items as are asked for, to serve and measure; nothing can be learned from them.

    python benchmarks/large_catalogue.py data/large --items 100000
    crsearch run --set preset=beauty --set 'data="data/large"' ... --out runs/large    (whole in docs/promises.md)
    crsearch bench serve runs/large

Titles are made of syllables: a brand, three qualities, a kind of product and a size. A user names a kind of product,
sees ten of it and chooses one, six times. What a search costs depends on the size of the catalogue, of the model and
of contexts, not on what was learned.
"""

import argparse
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from crsearch.config import SplitConfig
from crsearch.records.split import choose_targets
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Item, Search, User

SYLLABLES = ("ba", "do", "ka", "lu", "mi", "no", "pe", "ra", "si", "tu", "ve", "zo")
BEGIN = datetime(2025, 1, 1, tzinfo=UTC)


def words(n: int, syllables: int, prefix: str = "") -> list[str]:
    """The first ``n`` words of so many syllables.

    >>> words(3, 2)
    ['baba', 'bado', 'baka']
    """
    base = len(SYLLABLES)
    return [prefix + "".join(SYLLABLES[i // base**k % base] for k in reversed(range(syllables))) for i in range(n)]


def catalogue(items: int, rng: np.random.Generator) -> list[Item]:
    """Items with a brand, a path of two categories, a price and a title that hardly any other has."""
    brands, qualities, kinds = words(2_000, 4, "B"), words(400, 3), words(600, 3, "k")
    made = []
    for n in range(items):
        kind = int(rng.integers(len(kinds)))
        brand = brands[int(rng.integers(len(brands)))]
        title = [brand, *(qualities[i] for i in rng.integers(len(qualities), size=3)), kinds[kind], f"{n % 97} cm"]
        made.append(
            Item(
                item_id=f"i{n:07}",
                title=" ".join(title),
                brand=brand,
                category=(f"department {kind % 24}", kinds[kind]),
                price=round(float(rng.lognormal(3, 1)), 2) + 0.01,
            )
        )
    return made


def searches(items: Sequence[Item], users: int, rng: np.random.Generator) -> list[Search]:
    """Six searches of each user, of which each shows ten items of a kind and ends with a choice."""
    of_kind: dict[str, list[str]] = {}
    for item in items:
        of_kind.setdefault(item.category[-1], []).append(item.item_id)
    kinds = sorted(of_kind)
    made = []
    for user in range(users):
        for n in range(6):
            kind = kinds[int(rng.integers(len(kinds)))]
            shown = rng.permutation(of_kind[kind])[:10].tolist()
            when = BEGIN + timedelta(days=30 * n + int(rng.integers(30)), minutes=user)
            made.append(
                Search(search_id=f"s{user}-{n}", user_id=f"u{user:05}", time=when, query=kind, shown=tuple(shown),
                       clicked=(shown[int(rng.integers(len(shown)))],))
            )  # fmt: skip
    return made


def main() -> None:
    """Write the records."""
    ask = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    ask.add_argument("folder", type=Path)
    ask.add_argument("--items", type=int, default=100_000)
    ask.add_argument("--users", type=int, default=20_000)
    ask.add_argument("--seed", type=int, default=0)
    args = ask.parse_args()
    if args.items < 1 or args.users < 1:
        ask.error("--items and --users: at least 1")
    rng = np.random.default_rng(args.seed)
    items = Catalogue(catalogue(args.items, rng))
    log = tuple(searches(items, args.users, rng))
    users = {f"u{n:05}": User(user_id=f"u{n:05}") for n in range(args.users)}
    Dataset(items, users, log, choose_targets(log, SplitConfig(), items)).save(args.folder)
    print(f"{args.folder}: {len(items):,} items, {len(users):,} users, {len(log):,} searches")


if __name__ == "__main__":
    main()
