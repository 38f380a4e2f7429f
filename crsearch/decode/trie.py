"""Which semantic IDs exist, as arrays: a prefix tree in level order (compressed sparse rows).

All SIDs have one length L. The nodes of a level lie sorted, so the children of a node are a contiguous slice of the
next level, and the number of a child is its position there; a beam carries one integer. The leaves map to rows of the
catalogue. Nothing here knows of models or imports torch.

    level 0 (root)        first[0] = [0, 2]
    level 1   a_0  a_1    token[0] = [a_0, a_1]          first[1] = [0, 2, 3]
    level 2   b_0 b_1 b_0 token[1] = [b_0, b_1, b_0]     row = [0, 1, 2]

Source: trie-constrained decoding, (GENRE, DSI, TIGER, CRS §3.4); layout: this project.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, Int32

from crsearch.errors import DataError, SidError
from crsearch.runs import sync

_MAGIC = 0x43525354
_VERSION = 1

Tokens = Int[Any, "N L"]
"""One row of vocabulary ids per item: an array, or a tensor of the CPU."""


@dataclass(frozen=True, eq=False)
class Levels:
    """One state of a trie; never changed in place, so a search keeps the state it began with."""

    token: tuple[Int32[np.ndarray, " _"], ...]
    """``token[l]``: vocabulary id of each node at depth ``l + 1``, sorted below each parent."""
    first: tuple[Int32[np.ndarray, " _"], ...]
    """``first[l][v]:first[l][v + 1]``: children, at depth ``l + 1``, of node ``v`` at depth ``l`` (0 = root)."""
    row: Int32[np.ndarray, " N"]
    """Row of the catalogue of each leaf."""
    alive_N: Bool[np.ndarray, " N"]
    """Per row of the catalogue: not removed."""
    copies: dict[Any, Any] = field(default_factory=dict, repr=False)
    """Device -> the arrays there; kept by `crsearch.decode.placed`."""

    @property
    def depth(self) -> int:
        """Tokens of an SID (L)."""
        return len(self.token)

    @cached_property
    def widest(self) -> tuple[int, ...]:
        """Per level: most children of a node. Known before a search, so that a search need not look at its nodes."""
        return tuple(int(np.diff(first).max()) for first in self.first)

    @cached_property
    def live(self) -> tuple[int, ...]:
        """Per level: nodes with a live item below them."""
        return tuple(
            len(token) if m is None else int(m.sum()) for token, m in zip(self.token, self.folded, strict=True)
        )

    @cached_property
    def folded(self) -> tuple[np.ndarray | None, ...]:
        """Per level: does a live item lie below the node? None = all do."""
        return (None,) * self.depth if self.alive_N.all() else self.fold(self.alive_N)

    def fold(self, allowed_N: Bool[np.ndarray, " N"]) -> tuple[np.ndarray, ...]:
        """Per level: does an allowed item lie below the node? Every node has children, so no slice is empty."""
        masks = [allowed_N[self.row]]
        for first in reversed(self.first[1:]):
            masks.append(np.logical_or.reduceat(masks[-1], first[:-1]))
        return tuple(reversed(masks))

    def sids(self) -> Int32[np.ndarray, "L N"]:
        """Token columns of all leaves in sorted order."""
        out = np.empty((self.depth, len(self.row)), dtype=np.int32)
        for level, token in enumerate(self.token):
            column = token
            for first in self.first[level + 1 :]:
                column = np.repeat(column, np.diff(first))
            out[level] = column
        return out


@dataclass(frozen=True, eq=False)
class TrieMask:
    """A filter on items (in stock, category, price), folded up the levels of one state of a trie."""

    state: Levels
    allowed: tuple[np.ndarray, ...]
    """Per level: does an allowed, not removed item lie below the node?"""
    copies: dict[Any, Any] = field(default_factory=dict, repr=False)
    """As of `Levels`."""

    @cached_property
    def live(self) -> tuple[int, ...]:
        """Per level: nodes with an allowed item below them."""
        return tuple(int(allowed.sum()) for allowed in self.allowed)


class Trie:
    """The valid SIDs of a catalogue; row number = item.

    >>> trie = Trie.from_tokens(np.array([[1, 1], [1, 2], [2, 1]]))
    >>> trie.allowed(()), trie.allowed((2,))
    (array([1, 2], dtype=int32), array([1], dtype=int32))
    """

    def __init__(self, state: Levels) -> None:
        self.state = state

    @classmethod
    def from_tokens(cls, tokens_NL: Tokens) -> "Trie":
        """Build the trie of a catalogue.

        Args:
            tokens_NL: vocabulary ids of every item's SID, all of one length; fill shorter ones with the end token.

        Raises:
            SidError: two rows are equal; there is no row or no column; an id is negative or 2^31 and more.
        """
        tokens_LN = _checked(tokens_NL)
        order = _order(tokens_LN)
        return cls(_levels(tokens_LN[:, order], order.astype(np.int32), np.ones(len(order), dtype=bool)))

    @property
    def depth(self) -> int:
        """Tokens of an SID (L)."""
        return self.state.depth

    @property
    def num_rows(self) -> int:
        """Rows of the catalogue, the removed ones counted."""
        return len(self.state.alive_N)

    def __len__(self) -> int:
        """Items that are not removed."""
        return int(self.state.alive_N.sum())

    @property
    def nbytes(self) -> int:
        """Memory of the arrays in bytes."""
        s = self.state
        return sum(a.nbytes for a in (*s.token, *s.first, s.row, s.alive_N))

    def allowed(self, prefix: Sequence[int], end_id: int | None = None) -> Int32[np.ndarray, " n"]:
        """Vocabulary ids that may follow a prefix, ascending.

        Args:
            prefix: the first tokens of an SID, 0 to L of them.
            end_id: the only id after a complete SID; None = nothing follows.

        Raises:
            SidError: no item that is not removed begins with the prefix. There is no fallback to the vocabulary.
        """
        s = self.state
        node, alive = 0, None if s.alive_N.all() else s.fold(s.alive_N)
        for level, token in enumerate(prefix):
            lo, hi = (int(x) for x in s.first[level][node : node + 2]) if level < s.depth else (0, 0)
            node = lo + int(np.searchsorted(s.token[level][lo:hi], token)) if lo < hi else hi
            if node == hi or s.token[level][node] != token or (alive is not None and not alive[level][node]):
                raise SidError(
                    f"prefix {tuple(prefix)}: token {token} at position {level} leads to none of the {len(self):,} "
                    "items of the trie; ask only for prefixes of their SIDs"
                )
        if len(prefix) == s.depth:
            return np.array([] if end_id is None else [end_id], dtype=np.int32)
        children = slice(*s.first[len(prefix)][node : node + 2])
        tokens = s.token[len(prefix)][children]
        return tokens if alive is None else tokens[alive[len(prefix)][children]]

    def tokens(self) -> Int32[np.ndarray, "N L"]:
        """The SIDs by row, the removed ones included."""
        out = np.empty((self.num_rows, self.depth), dtype=np.int32)
        out[self.state.row] = self.state.sids().T
        return out

    def append(self, tokens_NL: Tokens) -> Int[np.ndarray, " N"]:
        """Add items; rows that exist keep their number, and searches under way keep the state they began with.

        Returns:
            Rows of the new items, in their order.

        Raises:
            SidError: a new SID is in the trie (removed items keep theirs) or given twice, or has another length.
        """
        tokens_LN = _checked(tokens_NL)
        s, old = self.state, self.num_rows
        if len(tokens_LN) != s.depth:
            raise SidError(f"new SIDs have {len(tokens_LN)} tokens, those of the trie have {s.depth}")
        order = _order(tokens_LN, first_row=old)
        tokens_LN = tokens_LN[:, order]
        leaf, found = self._place(tokens_LN)
        if found.any():
            i = int(np.flatnonzero(found)[0])
            raise SidError(
                f"row {old + int(order[i])} (new) has the SID of row {int(s.row[leaf[i]])}: "
                f"{tuple(tokens_LN[:, i].tolist())}. Give it another deduplication code"
            )
        new = np.arange(old, old + len(order))
        sids_LN = np.stack([np.insert(o, leaf, n) for o, n in zip(s.sids(), tokens_LN, strict=True)])
        row = np.insert(s.row, leaf, (old + order).astype(np.int32))
        self.state = _levels(sids_LN, row, np.concatenate([s.alive_N, np.ones(len(order), dtype=bool)]))
        return new

    def remove(self, rows: Sequence[int] | Int[np.ndarray, " n"]) -> None:
        """Take items out of every search from now on; their rows and SIDs are not given to others.

        Raises:
            DataError: a row is out of range.
        """
        index = np.asarray(rows, dtype=np.int64)
        bad = index[(index < 0) | (index >= self.num_rows)]
        if bad.size:
            raise DataError(f"row {int(bad[0])} is not in the trie (rows 0 to {self.num_rows - 1})")
        s = self.state
        alive_N = s.alive_N.copy()
        alive_N[index] = False
        self.state = Levels(s.token, s.first, s.row, alive_N)

    def mask(self, allowed_N: Bool[Any, " N"]) -> TrieMask:
        """A filter for `beam_search`: only items marked true can be found. Valid until the trie changes.

        Raises:
            DataError: not one value per row.
        """
        allowed = np.asarray(allowed_N)
        if len(allowed) != self.num_rows:
            raise DataError(f"the filter has {len(allowed):,} values, the trie has {self.num_rows:,} rows")
        return TrieMask(self.state, self.state.fold(allowed & self.state.alive_N))

    def save(self, path: str | Path) -> None:
        """Write one ``.npy`` file of 32-bit integers, whole or not at all; who may read it says the umask."""
        path, s = Path(path), self.state
        alive = np.packbits(s.alive_N)
        alive = np.pad(alive, (0, -len(alive) % 4)).view(np.int32)
        head = np.array([_MAGIC, _VERSION, s.depth, *(len(t) for t in s.token)], dtype=np.int32)
        data = np.concatenate([head, *s.token, *s.first, s.row, alive])
        tmp = path.with_name(f".tmp-{os.getpid()}-{path.name}")
        try:
            with tmp.open("wb") as file:
                np.save(file, data)
                file.flush()
                os.fsync(file.fileno())
            tmp.replace(path)
            sync(path.parent)
        finally:
            tmp.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path, mmap: bool = True) -> "Trie":
        """Read a file of `save`.

        Args:
            path: the file.
            mmap: map it, so that pages are read when a search needs them, and processes share them.

        Raises:
            DataError: not a trie file, or cut off.
        """
        try:
            data = np.load(path, mmap_mode="c" if mmap else None, allow_pickle=False)
        except (ValueError, EOFError) as e:
            raise DataError(f"{path}: not a trie file, or cut off: {e}. Write it again with Trie.save") from e
        if data.ndim != 1 or data.dtype != np.int32 or len(data) < 4 or data[0] != _MAGIC or data[1] != _VERSION:
            raise DataError(f"{path}: not a trie file of version {_VERSION}. Write it again with Trie.save")
        depth = int(data[2])
        sizes = [int(n) for n in data[3 : 3 + depth]]
        parts = [*sizes, *(n + 1 for n in (1, *sizes[:-1])), sizes[-1], -(-sizes[-1] // 32)]
        ends = 3 + depth + np.cumsum([0, *parts])
        if ends[-1] != len(data):
            raise DataError(f"{path}: {len(data):,} numbers, {ends[-1]:,} expected. Write it again with Trie.save")
        arrays = [np.asarray(data[a:b]) for a, b in pairwise(ends)]
        alive_N = np.unpackbits(arrays[-1].view(np.uint8), count=sizes[-1]).astype(bool)
        return cls(Levels(tuple(arrays[:depth]), tuple(arrays[depth : 2 * depth]), arrays[-2], alive_N))

    def _place(self, tokens_LN: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Per sorted new SID: the leaf it would stand before, and whether that leaf already is this SID."""
        s = self.state
        node = np.zeros(tokens_LN.shape[1], dtype=np.int64)
        found = np.ones(tokens_LN.shape[1], dtype=bool)
        for level, token in enumerate(tokens_LN):
            lo = s.first[level][node].astype(np.int64)
            hi = np.where(found, s.first[level][np.minimum(node + 1, len(s.first[level]) - 1)], lo)
            node = _lower_bound(s.token[level], lo, hi, token)
            inside = node < hi
            found &= inside
            found[inside] &= s.token[level][node[inside]] == token[inside]
        return node, found


def _checked(tokens_NL: Any) -> np.ndarray:
    """The ids as int32 columns."""
    tokens = np.asarray(tokens_NL)
    if tokens.ndim != 2 or 0 in tokens.shape or not np.issubdtype(tokens.dtype, np.integer):
        raise SidError(
            f"tokens of shape {tokens.shape}, {tokens.dtype}: a trie needs integers, one row of ids per item, "
            "at least one row and one column"
        )
    if tokens.min() < 0 or tokens.max() >= 2**31:
        row = int(np.flatnonzero(((tokens < 0) | (tokens >= 2**31)).any(1))[0])
        raise SidError(f"row {row}: {tuple(tokens[row].tolist())} is not a row of vocabulary ids (0 to 2^31 - 1)")
    return np.ascontiguousarray(tokens.T, dtype=np.int32)


def _order(tokens_LN: np.ndarray, first_row: int = 0) -> np.ndarray:
    """Order that sorts the SIDs; equal ones are an error. One packed 63-bit key per SID where it fits."""
    low = tokens_LN.min(axis=1)
    bits = [int(r).bit_length() for r in tokens_LN.max(axis=1) - low]
    if sum(bits) <= 63:
        key = np.zeros(tokens_LN.shape[1], dtype=np.int64)
        for column, base, width in zip(tokens_LN, low, bits, strict=True):
            key = (key << width) | (column - base)
        order = np.argsort(key)
        ordered = key[order]
        same = ordered[1:] == ordered[:-1]
    else:
        order = np.lexsort(tokens_LN[::-1])
        ordered = tokens_LN[:, order]
        same = (ordered[:, 1:] == ordered[:, :-1]).all(0)
    if same.any():
        i = int(np.flatnonzero(same)[0])
        a, b = sorted((int(order[i]), int(order[i + 1])))
        raise SidError(
            f"rows {first_row + a} and {first_row + b} have the same SID {tuple(tokens_LN[:, a].tolist())} "
            f"({int(same.sum()):,} such rows). Turn on the deduplication code, or use more codes"
        )
    return order


def _levels(sids_LN: np.ndarray, row: np.ndarray, alive_N: np.ndarray) -> Levels:
    """Level arrays of sorted, distinct SIDs: a node begins where the prefix differs from the one before."""
    n = sids_LN.shape[1]
    token, first = [], []
    begins = np.zeros(n, dtype=bool)
    begins[0] = True
    parents = np.zeros(1, dtype=np.int64)
    for column in sids_LN:
        begins[1:] |= column[1:] != column[:-1]
        nodes = np.flatnonzero(begins)
        token.append(column[nodes])
        first.append(np.append(np.searchsorted(nodes, parents), len(nodes)).astype(np.int32))
        parents = nodes
    return Levels(tuple(token), tuple(first), row, alive_N)


def _lower_bound(values: np.ndarray, lo: np.ndarray, hi: np.ndarray, target: np.ndarray) -> np.ndarray:
    """First position in ``[lo, hi)`` whose value is not below the target, for many slices at once."""
    lo, hi = lo.copy(), hi.copy()
    while (lo < hi).any():
        mid = (lo + hi) // 2
        below = (lo < hi) & (values[np.minimum(mid, len(values) - 1)] < target)
        lo, hi = np.where(below, mid + 1, lo), np.where(below, hi, np.minimum(hi, mid))
    return lo
