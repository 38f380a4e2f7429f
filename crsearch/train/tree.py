"""Trees of tokens: one context, many continuations, one forward pass.

A *tree* is a trunk (the context) with branches (answers, thoughts, rollouts) that continue it at some token.
Trees lie in rows, as wide as the longest tree of each, and all rows one behind the other: what works token by token
sees one dense sequence, and attention stays within a row. A mask and restarted positions make the result equal to
running every trunk + branch alone. For G rollouts of one context this costs prompt + G answers instead of
G x (prompt + answer).

Source: details: this project.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from operator import itemgetter

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from crsearch.train.attention import Reads, RowMasks, last_layer, row_attention

LOGITS_AT_ONCE = 2**25
"""Most logits held at a time; more are recomputed chunk by chunk in the backward pass."""

ROW_STEP, TOKEN_STEP, TARGET_STEP = 64, 256, 256
"""Row widths, tokens of all rows and numbers of targets are rounded up to these: matrix kernels are compiled, and kept,
for each shape."""

READ_STEP = 32
"""Tokens of a row that the last layer works out are rounded up to this, for the same reason."""


def rounded_up(count: int, step: int) -> int:
    """The smallest multiple of ``step`` that is at least ``count``.

    >>> rounded_up(65, 64)
    128
    """
    return -(-count // step) * step


@dataclass(frozen=True, slots=True)
class Branch:
    """Tokens that continue a trunk.

    Attributes:
        ids: token ids, not empty.
        loss: weight of predicting each token, same length; 0 = no loss (an instruction).
        at: number of trunk tokens that come before it, 1..len(trunk).
        kind: name under which its loss is logged.
    """

    ids: Sequence[int]
    loss: Sequence[float]
    at: int
    kind: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A trunk and its branches. ``trunk_loss[i]`` is the weight of predicting ``trunk[i]``; the first is ignored."""

    trunk: Sequence[int]
    branches: Sequence[Branch] = ()
    trunk_loss: Sequence[float] = ()
    trunk_kind: str = "trunk"

    def __len__(self) -> int:
        return len(self.trunk) + sum(len(b.ids) for b in self.branches)


@dataclass(frozen=True, slots=True)
class Packed:
    """Trees laid out in rows one behind the other, and the places where there is a loss.

    Axes: N tokens of all rows, filled up with 0; M losses, in tree, branch, token order.

    Attributes:
        ids_N: tokens; rows of equal width are neighbours.
        position_N: position of each token behind its trunk.
        allowed: ``B T T`` for each width in the order of the rows, which token (last axis) each token of a row
            (second axis) may see; never one behind it, and at least one. What is left of N belongs to no row.
        source_M: place in N of the token that predicts.
        target_M: vocabulary id to predict.
        weight_M: weight of the loss.
        kind_M: index into ``kinds``.
        branch_M: number of the branch over all trees in order, -1 for trunks.
        reads: the tokens that predict, each once, for the last layer; none where that would leave no token out.
        read_M: place in R of the token that predicts.
        kinds: names of losses.
        tokens: real tokens in the rows.
        longest: tokens of the longest trunk + branch.
    """

    ids_N: Int[Tensor, " N"]
    position_N: Int[Tensor, " N"]
    allowed: tuple[Bool[Tensor, "_ _ _"], ...]
    source_M: Int[Tensor, " M"]
    target_M: Int[Tensor, " M"]
    weight_M: Float[Tensor, " M"]
    kind_M: Int[Tensor, " M"]
    branch_M: Int[Tensor, " M"]
    reads: Reads | None
    read_M: Int[Tensor, " M"]
    kinds: tuple[str, ...]
    tokens: int
    longest: int

    def to(self, device: torch.device) -> "Packed":
        """The same on another device."""
        names = ("ids_N", "position_N", "source_M", "target_M", "weight_M", "kind_M", "branch_M", "read_M")
        moved = {name: getattr(self, name).to(device) for name in names}
        reads = self.reads and replace(self.reads, place_R=self.reads.place_R.to(device))
        return replace(self, allowed=tuple(a.to(device) for a in self.allowed), reads=reads, **moved)


def fill_rows(lengths: Sequence[int], step: int) -> list[list[int]]:
    """Put trees into rows, longest first; a tree that fits nowhere opens a row of its length rounded up to ``step``.

    Returns:
        Tree numbers per row, widest row first.

    >>> fill_rows([5, 2, 3, 4], 5)
    [[0], [3], [2, 1]]
    """
    rows: list[list[int]] = []
    room: list[int] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        row = next((r for r, free in enumerate(room) if free >= lengths[i]), None)
        if row is None:
            rows.append([])
            room.append(rounded_up(lengths[i], step))
            row = len(rows) - 1
        rows[row].append(i)
        room[row] -= lengths[i]
    return rows


@dataclass(slots=True)
class _Rows:
    """Flat arrays of one row while it is filled."""

    ids: list[int] = field(default_factory=list)
    position: list[int] = field(default_factory=list)
    parts: list[tuple[int, int, int, int]] = field(default_factory=list)
    """Of each trunk and branch: its first place, its length, the place of its trunk, and how much of that it sees."""

    def extend(self, ids: Sequence[int], first: int, trunk: int = 0) -> int:
        """Add a trunk, or a branch that sees the ``first`` tokens of the trunk that begins at place ``trunk``."""
        start = len(self.ids)
        self.ids += ids
        self.position += range(first, first + len(ids))
        self.parts.append((start, len(ids), trunk, first))
        return start


def pack(trees: Sequence[Tree]) -> Packed:
    """Lay trees out in rows. Equal trees give equal bytes.

    Raises:
        ValueError: no tree, an empty trunk, or a branch that hangs outside its trunk.
    """
    if not trees:
        raise ValueError("pack needs at least one tree")
    rows = fill_rows([len(t) for t in trees], ROW_STEP)
    widths = [rounded_up(sum(len(trees[i]) for i in row), ROW_STEP) for row in rows]
    starts = np.cumsum([0, *widths])
    filled = [_Rows() for _ in rows]
    places = {i: r for r, row in enumerate(rows) for i in row}
    first_branch = np.cumsum([0] + [len(t.branches) for t in trees])
    kinds: dict[str, int] = {}
    found: list[tuple[int, int, float, int, int]] = []  # source, target, weight, kind, branch
    for i, tree in enumerate(trees):
        row, base = filled[places[i]], int(starts[places[i]])
        n = len(tree.trunk)
        if n == 0 or any(not 1 <= b.at <= n or len(b.ids) != len(b.loss) for b in tree.branches):
            raise ValueError(f"tree {i}: trunk of {n} tokens, branches at {[b.at for b in tree.branches]}")
        start = row.extend(tree.trunk, 0)
        if tree.trunk_loss:
            kind = kinds.setdefault(tree.trunk_kind, len(kinds))
            found += [
                (base + start + j - 1, tree.trunk[j], w, kind, -1) for j, w in enumerate(tree.trunk_loss) if j and w
            ]
        for b, branch in enumerate(tree.branches):
            number = int(first_branch[i]) + b
            kind = kinds.setdefault(branch.kind, len(kinds))
            at = row.extend(branch.ids, branch.at, start)
            before = [base + start + branch.at - 1, *range(base + at, base + at + len(branch.ids) - 1)]
            found += [(s, t, w, kind, number) for s, t, w in zip(before, branch.ids, branch.loss, strict=True) if w]
    table = np.array([f[:2] + f[3:] for f in found], dtype=np.int64).reshape(-1, 4)
    total = rounded_up(int(starts[-1]), TOKEN_STEP)
    reads, read_M = _reads(table[:, 0], np.array(widths))
    return Packed(
        ids_N=_flat([r.ids for r in filled], starts, total),
        position_N=_flat([r.position for r in filled], starts, total),
        allowed=tuple(
            _allowed([r for _, r in same], width)
            for width, same in groupby(zip(widths, filled, strict=True), itemgetter(0))
        ),
        source_M=torch.from_numpy(table[:, 0].copy()),
        target_M=torch.from_numpy(table[:, 1].copy()),
        weight_M=torch.tensor([f[2] for f in found], dtype=torch.float32),
        kind_M=torch.from_numpy(table[:, 2].copy()),
        branch_M=torch.from_numpy(table[:, 3].copy()),
        reads=reads if len(reads.place_R) < total else None,
        read_M=read_M,
        kinds=tuple(kinds),
        tokens=sum(len(t) for t in trees),
        longest=max(1 + max(r.position) for r in filled),
    )


def _flat(rows: Sequence[Sequence[int]], starts: np.ndarray, total: int) -> Int[Tensor, " N"]:
    out = np.zeros(total, dtype=np.int64)
    for start, row in zip(starts, rows, strict=False):  # the last start is the end of all rows
        out[start : start + len(row)] = row
    return torch.from_numpy(out)


def _reads(source_M: np.ndarray, width_B: np.ndarray) -> tuple[Reads, Int[Tensor, " M"]]:
    """The tokens that predict, laid out in rows, and the place of each loss's own among them."""
    start_B = np.cumsum(width_B) - width_B
    token_U, own_M = np.unique(source_M, return_inverse=True)  # U: they, without filling
    row_U = np.searchsorted(start_B, token_U, side="right") - 1
    count_B = np.bincount(row_U, minlength=len(width_B))
    most = {int(w): int(count_B[width_B == w].max()) for w in dict.fromkeys(width_B)}
    per_row = {w: min(rounded_up(max(count, 1), READ_STEP), w) for w, count in most.items()}
    laid_B = np.array([per_row[int(w)] for w in width_B])
    first_B = np.cumsum(laid_B) - laid_B
    place_U = first_B[row_U] + np.arange(len(token_U)) - (np.cumsum(count_B) - count_B)[row_U]
    place_R = np.zeros(rounded_up(int(laid_B.sum()), TOKEN_STEP), dtype=np.int64)
    place_R[: laid_B.sum()] = np.repeat(start_B, laid_B)
    place_R[place_U] = token_U
    return Reads(torch.from_numpy(place_R), tuple(per_row.values())), torch.from_numpy(place_U[own_M])


def _allowed(rows: Sequence[_Rows], width: int) -> Bool[Tensor, "B T T"]:
    """Own trunk or branch up to here, and the part of the own trunk that the branch continues."""
    before = np.tri(width, dtype=bool)
    out = np.zeros((len(rows), width, width), dtype=bool)
    for own, row in zip(out, rows, strict=True):
        for start, length, trunk, seen in row.parts:
            own[start : start + length, start : start + length] = before[:length, :length]
            own[start : start + length, trunk : trunk + seen] = True
        np.fill_diagonal(own, True)  # filling looks at itself: no NaN
    return torch.from_numpy(out)


def target_logprob(
    logits_MV: Float[Tensor, "M V"], target_M: Int[Tensor, " M"], smoothing: float = 0.0
) -> Float[Tensor, " M"]:
    """Log-probability of each target, ``smoothing`` of which is that of an average token.

        (1 - s) log p(y) + s mean_v log p(v),   v over the whole vocabulary

    Its negative is the label-smoothed cross-entropy.

    >>> target_logprob(torch.tensor([[0.0, 0.0, 2.0]]), torch.tensor([2]), smoothing=0.1).round(decimals=4)
    tensor([-0.3729])
    """
    logprob_MV = logits_MV.log_softmax(-1)  # one pass; with logsumexp it is five, and as many backward
    chosen_M = logprob_MV.gather(-1, target_M[:, None])[:, 0]
    return (1 - smoothing) * chosen_M + smoothing * logprob_MV.mean(-1) if smoothing else chosen_M


def target_logprobs(
    model: torch.nn.Module,
    packed: Packed,
    temperature_M: Float[Tensor, " M"] | None = None,
    smoothing: float = 0.0,
) -> Float[Tensor, " M"]:
    """Log-probability (float32, full vocabulary) of every token with a loss, with gradient.

    Args:
        temperature_M: logits are divided by it; none = 1 everywhere.
        smoothing: of the labels, see ``target_logprob``; 0 = the log-probability itself.

    Works for any Hugging Face causal LM: logits are computed only where there is a loss, and chunk by chunk
    (recomputed in the backward pass) where the vocabulary is large. So is the last layer, but for its keys and values,
    in models of Llama's kind (`last_layer`).
    """
    body = getattr(model, str(model.base_model_prefix))
    reads = packed.reads if last_layer(model) is not None else None
    with row_attention(model, RowMasks(packed.allowed, packed.longest, reads)):
        hidden_1ND = body(
            input_ids=packed.ids_N[None],
            attention_mask=packed.ids_N.new_ones(1, 1, 1, 1),  # stands for the masks of the rows: models make none
            position_ids=packed.position_N[None],
            use_cache=False,
        ).last_hidden_state
    hidden_MD = hidden_1ND.squeeze(0)[packed.source_M if reads is None else packed.read_M]
    return state_logprobs(model, hidden_MD, packed.target_M, temperature_M, smoothing)


def state_logprobs(
    model: torch.nn.Module,
    hidden_MD: Float[Tensor, "M D"],
    target_M: Int[Tensor, " M"],
    temperature_M: Float[Tensor, " M"] | None = None,
    smoothing: float = 0.0,
) -> Float[Tensor, " M"]:
    """Log-probability of each target after a last state of the model; other arguments as of ``target_logprobs``.

    Chunk by chunk (recomputed in the backward pass) where the vocabulary is large.
    """
    count = len(target_M)
    filling = (0, rounded_up(count, TARGET_STEP) - count)
    columns = [nn.functional.pad(hidden_MD, (0, 0, *filling)), nn.functional.pad(target_M, filling)]
    if temperature_M is not None:
        columns.append(nn.functional.pad(temperature_M, filling, value=1.0))
    head = model.get_output_embeddings()  # type: ignore[operator]

    def score(hidden: Tensor, target: Tensor, temperature: Tensor | None = None) -> Tensor:
        logits = head(hidden).float()
        return target_logprob(logits if temperature is None else logits / temperature[:, None], target, smoothing)

    rows = max(1, LOGITS_AT_ONCE // int(head.weight.shape[0]))
    if len(columns[1]) <= rows:
        return score(*columns)[:count]
    chunks = zip(*(column.split(rows) for column in columns), strict=True)
    return torch.cat([checkpoint(score, *chunk, use_reentrant=False) for chunk in chunks])[:count]
