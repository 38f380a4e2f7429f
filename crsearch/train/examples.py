"""Training examples as trees: one user's context as trunk; direct answers, item names and thoughts as branches.

Every task of a user shares the trunk, because the context comes first and the instruction last. Kinds of loss:

    item_words   the clicked items of the history, as text (teaches to read contexts; costs no token)
    direct       context -> SID                          (CRS §3.1.2, third alignment task)
    name         context -> words of the chosen item     (details: this project)
    think        context -> <think> thought </think> SID (CRS §3.2)
    item_to_sid, sid_to_item                             (CRS §3.1.2, first and second alignment task)
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache, partial

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from crsearch.context.prompts import Prompts, Task
from crsearch.context.serialiser import Encoded
from crsearch.models.bundle import Bundle
from crsearch.records.types import Context, Example
from crsearch.train.trainer import stream
from crsearch.train.tree import Branch, Packed, Tree


class TreeBuilder:
    """Makes trees from examples; keeps the tokens of contexts and items, so that stages do not tokenise twice."""

    def __init__(self, bundle: Bundle, prompts: Prompts) -> None:
        self.bundle = bundle
        self.prompts = prompts
        self.catalogue = prompts.serialiser.catalogue
        self.codes_NL = prompts.serialiser.sids.codes_NL
        """Codes of every item, the deduplication code last."""
        self._trunks: dict[str, Encoded] = {}
        self._item_tree = lru_cache(maxsize=ITEM_TREES_KEPT)(partial(_item_tree, prompts))

    def with_model(self, bundle: Bundle) -> "TreeBuilder":
        """The same prompts and token caches around another checkpoint of the run."""
        other = TreeBuilder(bundle, self.prompts)
        other._trunks, other._item_tree = self._trunks, self._item_tree
        return other

    def read(self, contexts: Sequence[Context]) -> None:
        """Tokenise many contexts together, ahead of use."""
        new = [c for c in contexts if c.search_id not in self._trunks]
        self._trunks.update(zip((c.search_id for c in new), self.prompts.trunks(new), strict=True))

    def trunk(self, context: Context) -> Encoded:
        """Tokens of the context inside its frame, without an instruction."""
        found = self._trunks.get(context.search_id)
        if found is None:
            found = self._trunks[context.search_id] = self.prompts.trunk(context)
        return found

    def prompt(self, context: Context, task: Task) -> list[int]:
        """Trunk + instruction of a task: what the model reads before it answers."""
        return [*self.trunk(context).ids, *self.prompts.suffix(task)]

    def sid(self, row: int) -> list[int]:
        """Vocabulary ids of an item's semantic ID."""
        return [int(t) for t in self.bundle.sid_ids_NL[row]]

    # -- branches -----------------------------------------------------------------------------------------------------
    def direct(self, row: int, at: int) -> Branch:
        """Instruction to answer at once, then the SID of the item."""
        return self._branch("direct", [*self.sid(row), self.bundle.end_id], at)

    def name(self, row: int, at: int) -> Branch:
        """Instruction to say the item, then the words of its record."""
        words = self.prompts.thought(self.catalogue[row].title)
        return self._branch("name", [*words, self.bundle.end_id], at)

    def think(self, thought: Sequence[int], row: int, at: int, answer: float = 0.0) -> Branch:
        """Instruction to think, then thought, closing tag and the SID of the item.

        Args:
            thought: token ids.
            row: of the item.
            at: tokens of the trunk before it.
            answer: weight of the SID as a whole beside that of all tokens as a whole, in which it has its share.
        """
        said, sid = [*thought, self.bundle.close_id], [*self.sid(row), self.bundle.end_id]
        tokens = [*said, *sid]
        weight = 1.0 + answer * len(tokens) / len(sid)
        return self._branch("think", tokens, at, [1.0] * len(said) + [weight] * len(sid))

    def _branch(self, task: Task, answer: Sequence[int], at: int, loss: Sequence[float] | None = None) -> Branch:
        suffix = self.prompts.suffix(task)
        return Branch([*suffix, *answer], [0.0] * len(suffix) + [*(loss or [1.0] * len(answer))], at, task)

    # -- trees --------------------------------------------------------------------------------------------------------
    def user(
        self,
        example: Example,
        *,
        direct: bool = True,
        history: bool = False,
        name: bool = False,
        thought: Sequence[int] | None = None,
        answer: float = 0.0,
    ) -> Tree:
        """The tree of one user: clicked items of the trunk, and the branches that are asked for.

        ``history`` asks for the choice after every earlier query too, each seeing the context up to there. ``answer``
        is the weight of the SID after the thought, see ``think``.
        """
        encoded = self.trunk(example.context)
        at, row = len(encoded.ids), self.catalogue.row(example.target)
        branches = [self.direct(row, at)] if direct else []
        if history:
            branches += [self.direct(chosen, place) for place, chosen in encoded.branches]
        if name:
            branches.append(self.name(row, at))
        if thought is not None:
            branches.append(self.think(thought, row, at, answer))
        return Tree(encoded.ids, branches, clicked_loss(encoded), "item_words")

    def item(self, row: int, rng: np.random.Generator, *, both: bool = True) -> list[Tree]:
        """The item -> SID tree (one field of the record left out at random) and the SID -> item tree."""
        item = self.catalogue[row]
        fields = [f for f in RECORD_FIELDS if getattr(item, f)]
        left_out = int(rng.integers(len(fields) + 1))  # the last number leaves nothing out
        trees = [self._item_tree("item_to_sid", row, *fields[left_out : left_out + 1])]
        if both:
            trees.append(self._item_tree("sid_to_item", row))
        return trees


RECORD_FIELDS = ("category", "brand", "title", "price", "sales")
"""Fields of an item's record, one of which is masked at a time."""

ITEM_TREES_KEPT = 2**14
"""Trees of items that stay tokenised, those used last; about 2 KiB each."""


def _item_tree(prompts: Prompts, kind: str, row: int, *without: str) -> Tree:
    if kind == "item_to_sid":
        prompt, answer = prompts.item_to_sid(prompts.serialiser.catalogue[row], without)
    else:
        prompt, answer = prompts.sid_to_item(row)
    return Tree(prompt, [Branch(answer, [1.0] * len(answer), len(prompt), kind)])


def clicked_loss(encoded: Encoded) -> list[float]:
    """Weight 1 on the tokens of clicked history items, 0 elsewhere."""
    weights = [0.0] * len(encoded.ids)
    for start, stop in encoded.clicked:
        weights[start:stop] = [1.0] * (stop - start)
    return weights


def kind_loss(
    logprob_M: Float[Tensor, " M"], packed: Packed, weights: Mapping[str, float]
) -> tuple[Float[Tensor, ""], dict[str, float]]:
    """Weighted sum over kinds of the token mean of each kind; a kind without a weight does not count.

        L = sum_kind w_kind * ( - sum_{t in kind} m_t log p_t / sum_{t in kind} m_t )

    Returns:
        The loss and the mean of each kind, for the log.

    Source: details: this project (the paper says SFT).
    """
    total = logprob_M.new_zeros(())
    numbers = {}
    for number, kind in enumerate(packed.kinds):
        here = packed.kind_M == number
        if not bool(here.any()):
            continue
        weight_M = packed.weight_M[here]
        mean = -(logprob_M[here] * weight_M).sum() / weight_M.sum()
        numbers[f"loss_{kind}"] = float(mean.detach())
        if weights.get(kind, 0.0):
            total = total + weights[kind] * mean
    return total, numbers


@lru_cache(maxsize=64)
def _order(seed: int, name: str, epoch: int, count: int) -> np.ndarray:
    return np.random.default_rng(stream(seed, name, epoch)).permutation(count)


def draw(seed: int, name: str, count: int, size: int, step: int) -> list[int]:
    """``size`` numbers below ``count`` for a step: epoch after epoch in shuffled order, each number once an epoch.

    >>> sorted(draw(0, "x", 4, 2, 0) + draw(0, "x", 4, 2, 1))
    [0, 1, 2, 3]
    """
    if count == 0:
        return []
    places = range(step * size, (step + 1) * size)
    return [int(_order(seed, name, p // count, count)[p % count]) for p in places]


def split_users(examples: Sequence[Example], share: float) -> tuple[list[Example], list[Example]]:
    """Examples that alignment sees, and the fresh ones; by a hash of the user id, in hash order."""
    ordered = sorted(examples, key=lambda e: stream(0, "users", e.context.user_id))
    cut = round(len(ordered) * share)
    return ordered[:cut], ordered[cut:]


def newest_of_windows(examples: Sequence[Example]) -> list[Example]:
    """The examples that stand in no later example's history, in the given order.

    Of one example per user (split by user) all stay. Where every choice is an example (leave-one-out) the others are
    branches of the tree of the one that stays, if the choices of a history are targets too.
    """
    kept: list[Example] = []
    inside: set[str] = set()
    for example in reversed(examples):
        if example.context.search_id not in inside:
            kept.append(example)
            inside.update(search.search_id for search in example.context.history)
    return kept[::-1]


def device_of(model: torch.nn.Module) -> torch.device:
    """Where the model's parameters are."""
    return next(model.parameters()).device
