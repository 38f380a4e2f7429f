"""Test queries by kind of user, of target and of query, for tables per group."""

from bisect import bisect_left, bisect_right
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from io import BytesIO
from pathlib import Path

from crsearch.errors import DataError
from crsearch.records.types import Example, Item
from crsearch.runs import write_atomic

Groups = dict[str, tuple[str, ...]]
"""Column -> label of each query, in the order of the examples."""

MEDIUM, WARM = 1, 6
"""Fewest earlier searches of a ``medium`` and of a ``warm`` user; below is ``cold``."""

HEAD_SHARE = 0.5
"""Share of the training choices that ``head`` items hold together."""


AMBIGUOUS = 1.5
"""Effective number of categories from which a query is ``ambiguous``: two of them at 79 to 21."""

CROWDED = 10
"""Look-alikes of a ``crowded`` target: with as many, a list of ten cannot hold them all."""

NEAR_PRICE = 1.25
"""Prices whose ratio is at most this are near."""


def query_groups(
    examples: Sequence[Example],
    counts: Mapping[str, int],
    kinds: Mapping[str, str] | None = None,
    *,
    chosen: Sequence[Mapping[str, int]] | None = None,
    items: Sequence[Item] | None = None,
) -> Groups:
    """Label every test query.

    * ``history``: ``cold`` (no earlier search), ``medium`` (1 to 5) or ``warm`` (6 or more), by the history of the
      context, which is cut to the newest ``context.max_events``.
    * ``target``: ``head`` where the target is one of the most chosen items that together hold half of all training
      choices, else ``tail``.
    * ``query_kind``: from ``kinds``, only where given.
    * ``ambiguity``: over how many categories the choices of training users for the query spread: ``clear`` (an
      effective number below 1.5, see ``effective_number``), ``ambiguous``, or ``unseen`` (nobody chose anything);
      only where ``chosen`` and ``items`` are given.
    * ``look_alikes``: how many other items have the target's brand and category and nearly its price: ``alone``
      (none), ``few`` or ``crowded`` (10 or more), see ``look_alikes``; only where ``items`` are given.

    Args:
        examples: test examples.
        counts: item_id -> times chosen by training users; a missing item was never chosen.
        kinds: search_id -> kind of query, e.g. of the simulated shop; ``unknown`` for a search that it lacks.
        chosen: for each example, item_id -> times training users chose it for the same query; items that the
            catalogue lacks do not count.
        items: the catalogue, the targets among it.

    Source: CRS figure 3 (groups by number of past queries; its limits are not given); details: this project.
    """
    head = head_items(counts)
    groups: Groups = {
        "history": tuple(_history_group(len(e.context.history)) for e in examples),
        "target": tuple("head" if e.target in head else "tail" for e in examples),
    }
    if kinds is not None:
        groups["query_kind"] = tuple(kinds.get(e.context.search_id, "unknown") for e in examples)
    if items is not None:
        if chosen is not None:
            kind_of = {item.item_id: item.category or item.item_id for item in items}
            groups["ambiguity"] = tuple(_ambiguity_group(own, kind_of) for own in chosen)
        number_of = look_alikes(items)
        groups["look_alikes"] = tuple(_look_alikes_group(number_of.get(e.target, 0)) for e in examples)
    return groups


def _ambiguity_group(chosen: Mapping[str, int], kind_of: Mapping[str, object]) -> str:
    """By category; an item without one is a kind of its own."""
    times: Counter[object] = Counter()
    for item, n in chosen.items():
        if item in kind_of:
            times[kind_of[item]] += n
    number = effective_number(times.values())
    return "unseen" if not number else "clear" if number < AMBIGUOUS else "ambiguous"


def effective_number(counts: Collection[int]) -> float:
    """How many equally frequent kinds would meet as often: 1 / sum p^2; 0 where nothing was counted.

    Rare strays count little, so a query asked often is not ambiguous for that.

    >>> effective_number([5, 5]), effective_number([98, 1, 1]) < 1.05, effective_number([])
    (2.0, True, 0.0)
    """
    squares = sum(n * n for n in counts)
    return sum(counts) ** 2 / squares if squares else 0.0


def look_alikes(items: Sequence[Item]) -> dict[str, int]:
    """Item -> number of other items that the shop's facts hardly tell from it.

    These have the same brand, the same category path and a price whose ratio to its own is at most 1.25. A brand that
    both lack is the same; a price that one lacks tells nothing apart. An item with neither brand nor category has none.

    Source: details: this project. Facts of the catalogue, not semantic IDs: the groups of two runs with other codebooks
    are the same.
    """
    alike: defaultdict[tuple[str | None, tuple[str, ...]], list[Item]] = defaultdict(list)
    for item in items:
        alike[item.brand, item.category].append(item)
    number_of = {item.item_id: 0 for item in items}
    for (brand, category), own in alike.items():
        if brand is None and not category:
            continue
        prices = sorted(item.price for item in own if item.price is not None)
        for item in own:
            near = len(own)
            if item.price is not None:
                cheaper = bisect_left(prices, item.price / NEAR_PRICE)
                dearer = len(prices) - bisect_right(prices, item.price * NEAR_PRICE)
                near -= cheaper + dearer
            number_of[item.item_id] = near - 1
    return number_of


def _look_alikes_group(number: int) -> str:
    return "alone" if not number else "few" if number < CROWDED else "crowded"


def _history_group(searches: int) -> str:
    return "cold" if searches < MEDIUM else "medium" if searches < WARM else "warm"


def head_items(counts: Mapping[str, int], share: float = HEAD_SHARE) -> frozenset[str]:
    """The fewest items that hold ``share`` of all choices; equal counts go by item id.

    >>> sorted(head_items({"a": 5, "b": 3, "c": 1, "d": 1}))
    ['a']
    >>> head_items({})
    frozenset()
    """
    enough = share * sum(counts.values())
    head: list[str] = []
    held = 0
    for item in sorted(counts, key=lambda i: (-counts[i], i)):
        if held >= enough:
            break
        held += counts[item]
        head.append(item)
    return frozenset(head)


# -- on disk ----------------------------------------------------------------------------------------------------------
FILE = "groups.parquet"
"""Labels of the queries of a folder of evaluations."""


def save_groups(folder: Path, searches: Sequence[str], groups: Groups) -> None:
    """Write the labels of the queries of a folder, one row each, atomically.

    Raises:
        StorageError: no room or no permission.
    """
    import polars as pl

    table = BytesIO()
    pl.DataFrame(
        {"search_id": list(searches), **{name: list(labels) for name, labels in groups.items()}}
    ).write_parquet(table)
    write_atomic(folder / FILE, table.getvalue())


def load_groups(folder: Path, searches: Sequence[str]) -> Groups | None:
    """The labels that ``save_groups`` wrote, in the order of some searches.

    Returns:
        None where there is no such file, or where it lacks one of the searches.

    Raises:
        DataError: the file is broken.
    """
    import polars as pl

    file = folder / FILE
    if not file.is_file():
        return None
    try:
        table = pl.read_parquet(file)
    except pl.exceptions.PolarsError as e:
        raise DataError(f"{file}: not readable ({e}); `crsearch evaluate` on the run writes it again") from e
    row_of = {search: row for row, search in enumerate(table["search_id"])}
    if not row_of.keys() >= set(searches):
        return None
    rows = [row_of[search] for search in searches]
    return {name: tuple(table[name][rows]) for name in table.columns if name != "search_id"}
