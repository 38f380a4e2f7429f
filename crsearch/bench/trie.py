"""``crsearch bench trie``: building, holding, asking and appending to a trie, against dicts in dicts."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from crsearch.bench.figures import Figure, Measured, Ratio
from crsearch.bench.machine import Machine
from crsearch.bench.timing import Budget, ResultsDiffer, alternate, one_thread
from crsearch.bench.usual import DictTrie, toy_catalogue
from crsearch.decode import Trie
from crsearch.errors import SidError

USUAL = "dict trie"
FLOOR_ITEMS = 1_000_000
"""Items for which the floors stand: build in 0.2 s, 20 MB, 1,000 appended in 50 ms."""


@dataclass(frozen=True, kw_only=True)
class TrieSizes:
    """How much is measured."""

    runs: int = 5
    items: tuple[int, ...] = (10_000, 100_000, FLOOR_ITEMS)
    codes: int = 256
    appended: int = 1_000
    asked: int = 1_000
    """Prefixes whose continuations are compared."""


SIZES: dict[Budget, TrieSizes] = {"smoke": TrieSizes(items=(1_000, 10_000), appended=100), "full": TrieSizes()}


def bench_trie(sizes: TrieSizes, machine: Machine) -> list[Measured]:
    """Measure the trie.

    Raises:
        ResultsDiffer: the two tries do not hold the same items.
    """
    with one_thread():
        return [figure for items in sizes.items for figure in _of_size(sizes, items)]


def _of_size(sizes: TrieSizes, items: int) -> list[Measured]:
    extra = sizes.appended * (1 + sizes.runs)
    all_NL = toy_catalogue(items + extra, sizes.codes, np.random.default_rng(items)).astype(np.int64)
    tokens_NL, new_NL = all_NL[:items], all_NL[items:]
    floors = items == FLOOR_ITEMS
    asked = _prefixes(all_NL, sizes.asked)

    # 1) build: both anew in each round; what a round built is let go before the next one is timed
    kept: list[Trie | DictTrie] = []

    def agree(a: Trie | DictTrie, b: Trie | DictTrie) -> bool:
        kept[:] = [a, b]
        return _answers(a, asked) == _answers(b, asked)

    makers: dict[str, Callable[[int], Trie | DictTrie]] = {
        "ours": lambda _: Trie.from_tokens(tokens_NL),
        USUAL: lambda _: DictTrie(tokens_NL),
    }
    built = alternate(f"trie of {items:,} items", makers, agree, sizes.runs)
    ours, usual = kept
    assert isinstance(ours, Trie)
    assert isinstance(usual, DictTrie)
    if len(ours) != items or usual.rows != items:
        raise ResultsDiffer(f"trie of {items:,} items: ours holds {len(ours):,} and the dicts {usual.rows:,}")

    # 2) append: other items in each round
    def part(number: int) -> np.ndarray:
        return new_NL[number * sizes.appended : (number + 1) * sizes.appended]

    def append_ours(number: int) -> Trie | DictTrie:
        ours.append(part(number))
        return ours

    def append_usual(number: int) -> Trie | DictTrie:
        usual.append(part(number))
        return usual

    mega = (ours.nbytes / 1e6, usual.nbytes / 1e6)
    sides = {"ours": append_ours, USUAL: append_usual}
    added = alternate(f"append {sizes.appended:,} to {items:,}", sides, agree, sizes.runs)
    how, name = f"median of {sizes.runs}", f"{items:,} items"
    append = f"append {sizes.appended:,} to {name}"
    found: list[Measured] = [
        _ratio(f"build, {name}", 1e3 * built["ours"], 1e3 * built[USUAL], "CPU ms", how),
        _ratio(f"memory, {name}", *mega, "MB", "of the dicts without their integers"),
        _ratio(append, 1e3 * added["ours"], 1e3 * added[USUAL], "CPU ms", how),
    ]
    if floors:
        found += [
            Figure(key="trie", what=f"build, {name}", value=built["ours"], unit="CPU s", floor=0.2, how=how),
            Figure(key="trie", what=f"memory, {name}", value=mega[0], unit="MB", floor=20.0, how="of all arrays"),
            Figure(key="trie", what=append, value=1e3 * added["ours"], unit="CPU ms", floor=50.0, how=how),
        ]
    return found


def _ratio(what: str, ours: float, usual: float, unit: str, how: str) -> Ratio:
    return Ratio(key="trie", what=what, ours=ours, usual=usual, unit=unit, usual_way=USUAL, how=how)


def _prefixes(tokens_NL: np.ndarray, count: int) -> list[tuple[int, ...]]:
    """Beginnings of all lengths of some SIDs."""
    rng = np.random.default_rng(0)
    rows = tokens_NL[rng.integers(0, len(tokens_NL), count)].tolist()
    lengths = rng.integers(0, tokens_NL.shape[1], count).tolist()
    return [tuple(row[:n]) for row, n in zip(rows, lengths, strict=True)]


def _answers(trie: Trie | DictTrie, prefixes: list[tuple[int, ...]]) -> list[list[int]]:
    """What may follow each prefix, ascending; nothing where no item begins so."""
    answers = []
    for prefix in prefixes:
        try:
            allowed = trie.allowed(prefix).tolist() if isinstance(trie, Trie) else sorted(trie.below(prefix))
        except (KeyError, SidError):
            allowed = []
        answers.append(allowed)
    return answers
