"""Think, then rank: sampled reasoning after one reading of the prompt, and a beam from the end of each thought.

    prompt ... <think> | thought </think> | SID          G thoughts per prompt, K SIDs per thought

The keys of a prompt are shared by its thoughts, those of a thought by its beams; nothing is read twice.

Source: CRS §3.4 and, as rollout, §3.3. Sampling, forced closing and fusion: this project.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from crsearch.decode.beam import Masks, Prompts, beam_search, per_prompt
from crsearch.decode.prefix import PrefixTree, check_prompts, decoding
from crsearch.decode.store import Owners, PrefixStore, per_owner
from crsearch.decode.trie import Trie
from crsearch.decode.walk import Normalise, best, search
from crsearch.errors import ConfigError, DataError


@dataclass(frozen=True, kw_only=True)
class Thoughts:
    """G thoughts of each of B prompts."""

    thoughts: list[list[list[int]]]
    """``[b][g]``: token ids between the tags, the closing one left out; at most ``max_tokens``."""
    logprob_BGT: Float[Tensor, "B G T"]
    """Log-probability of each token and then of the closing one, 0 after it: of the policy over its whole vocabulary
    at the temperature of sampling (at 1 for greedy)."""
    closed_BG: Bool[Tensor, "B G"]
    """The model closed the thought itself; False = it was closed by force, at ``max_tokens`` or by the watch."""

    @property
    def forced_BG(self) -> Bool[Tensor, "B G"]:
        """The thought was closed by force."""
        return ~self.closed_BG


@dataclass(frozen=True, kw_only=True)
class RankedThoughts(Thoughts):
    """Thoughts, and the ranked list after each."""

    rows_BGK: Int64[Tensor, "B G K"]
    """Rows of the trie, best first; -1 where there are fewer."""
    scores_BGK: Float[Tensor, "B G K"]
    """Log-probability of each item, given prompt and thought; -inf where there are fewer."""


@runtime_checkable
class Watch(Protocol):
    """Follows thoughts as they are written and may end them: a token budget, a deadline, a client that left.

    Called after each step of sampling until all thoughts are closed. What it raises ends the search.
    Source: details: this project.
    """

    def __call__(self, token_BG: Int64[Tensor, "B G"]) -> Bool[Tensor, "B G"] | None:
        """Look at one step.

        Args:
            token_BG: the token that each trajectory has just written, on the CPU; the closing tag where it is closed
                now, by itself or by force, and -1 where it was closed before. All others are unfinished.

        Returns:
            Trajectories to close now, finished ones do not matter; None = none.
        """
        ...


@dataclass(frozen=True)
class _Grown:
    """A tree whose last tokens are read already, as a `Stepper`."""

    tree: PrefixTree
    logits: Tensor

    def start(self) -> Float[Tensor, "n 1 V"]:
        """Logits after each branch."""
        return self.logits

    def step(self, parents: Int64[Tensor, "n M"], tokens: Int64[Tensor, "n M"]) -> Float[Tensor, "n M V"]:
        """One more token per row."""
        return self.tree.step(parents, tokens)


def sample_thoughts(
    model: nn.Module,
    prompts: Prompts,
    *,
    close_id: int,
    group_size: int = 1,
    max_tokens: int | Sequence[int] = 48,
    forbidden: Sequence[int] = (),
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    watch: Watch | None = None,
    store: PrefixStore | None = None,
    owners: Owners = None,
) -> Thoughts:
    """Let the model reason after each prompt; the arguments are those of `think_then_rank`."""
    with decoding(model):
        _, thoughts = _think(
            model, prompts, close_id, group_size, max_tokens, forbidden, temperature, generator, watch, store, owners, 0
        )
    return thoughts


def think_then_rank(
    model: nn.Module,
    prompts: Prompts,
    trie: Trie,
    *,
    close_id: int,
    width: int = 10,
    group_size: int = 1,
    max_tokens: int | Sequence[int] = 48,
    forbidden: Sequence[int] = (),
    temperature: float = 0.0,
    generator: torch.Generator | None = None,
    watch: Watch | None = None,
    mask: Masks = None,
    normalise: Normalise = "full",
    store: PrefixStore | None = None,
    owners: Owners = None,
) -> RankedThoughts:
    """Reason after each prompt, then rank the items of a trie after each thought.

    Every trajectory has its own random numbers, drawn prompt by prompt before anything is sampled: a batch gives the
    thoughts that its prompts give one after the other from the same generator, and a thought that is closed early
    changes no other one.

    Args:
        model: a transformers causal model; its device is used.
        prompts: token ids of each context, ending with the opening tag.
        trie: the catalogue; an SID follows the closing tag directly.
        close_id: the closing tag.
        width: items per thought (K).
        group_size: thoughts per prompt (G).
        max_tokens: most tokens between the tags, for all prompts or one number per prompt; then the thought is closed
            by force.
        forbidden: ids that never stand in a thought (SIDs, padding, control tokens); not the closing tag.
        temperature: 0 = the most probable token at each place.
        generator: source of randomness; needed unless the temperature is 0.
        watch: told each token as it is written; may close thoughts by force, as if ``max_tokens`` had been reached.
        mask: as in `beam_search`.
        normalise: as in `beam_search`.
        store: as in `beam_search`; keeps prompts, not thoughts.
        owners: as in `beam_search`.

    Raises:
        ConfigError: an argument out of range, the closing tag forbidden, or sampling without a generator.
        DataError: an empty prompt; a mask that does not fit, also one of the watch; not one ``max_tokens`` or owner per
            prompt.
    """
    if width < 1:
        raise ConfigError(f"width = {width}: at least 1")
    masks = [m for m in per_prompt(mask, len(prompts), trie) for _ in range(group_size)]
    with decoding(model):
        room = width * (trie.depth - 1)
        source, thoughts = _think(
            model,
            prompts,
            close_id,
            group_size,
            max_tokens,
            forbidden,
            temperature,
            generator,
            watch,
            store,
            owners,
            room,
        )
        if source is None:
            rows = torch.full((0, group_size, width), -1)
            scores = torch.full((0, group_size, width), -torch.inf)
        else:
            rows, scores = (x.unflatten(0, (-1, group_size)) for x in search(source, trie, width, masks, normalise))
    return RankedThoughts(**vars(thoughts), rows_BGK=rows.cpu(), scores_BGK=scores.cpu())


def rank_thoughts(
    model: nn.Module,
    prompts: Prompts,
    thoughts: Sequence[Sequence[int]],
    trie: Trie,
    *,
    close_id: int,
    width: int = 10,
    mask: Masks = None,
    normalise: Normalise = "full",
    store: PrefixStore | None = None,
    owners: Owners = None,
) -> tuple[Int64[Tensor, "B K"], Float[Tensor, "B K"]]:
    """Rank after thoughts that someone else wrote (a teacher, a user who edits one): one per prompt.

    The other arguments are those of `think_then_rank`; a store keeps the thoughts too.

    Raises:
        DataError: not one thought per prompt.
    """
    if len(prompts) != len(thoughts):
        raise DataError(f"{len(thoughts)} thoughts for {len(prompts)} prompts: give one per prompt")
    texts = [[*p, *t, close_id] for p, t in zip(prompts, thoughts, strict=True)]
    return beam_search(model, texts, trie, width, mask=mask, normalise=normalise, store=store, owners=owners)


def fuse_thoughts(
    rows_BGK: Int64[Tensor, "B G K"], scores_BGK: Float[Tensor, "B G K"], width: int
) -> tuple[Int64[Tensor, "B K2"], Float[Tensor, "B K2"]]:
    """One list from the lists of G thoughts: items by the mean of their probabilities.

        p(item | prompt) = 1/G sum_g p(item | prompt, thought_g)

    An item that a list lacks counts 0 there. Ties: the smaller row first.

    Args:
        rows_BGK: rows of items, -1 where there are fewer.
        scores_BGK: their log-probabilities.
        width: items of the fused list; row -1, score -inf where there are fewer.

    Source: CRS §3.4 names no fusion; details: this project.

    >>> rows, scores = fuse_thoughts(torch.tensor([[[0, 1], [1, 0]]]), torch.tensor([[[.6, .4], [.8, .2]]]).log(), 2)
    >>> rows.tolist(), scores.exp().round(decimals=3).tolist()
    ([[1, 0]], [[0.6000000238418579, 0.4000000059604645]])
    """
    G = rows_BGK.shape[1]
    rows_BX, scores_BX = rows_BGK.flatten(1), scores_BGK.flatten(1)
    same_BXX = rows_BX[:, :, None] == rows_BX[:, None, :]
    total_BX = torch.where(same_BXX, scores_BX[:, None, :], -torch.inf).logsumexp(-1) - torch.tensor(G).log()
    repeated_BX = same_BXX.tril(-1).any(-1)
    total_BX = total_BX.masked_fill(repeated_BX | (rows_BX < 0), -torch.inf)
    missing = max(0, width - rows_BX.shape[1])
    total_BX = nn.functional.pad(total_BX, (0, missing), value=-torch.inf)
    rows_BX = nn.functional.pad(rows_BX, (0, missing), value=-1)
    index_BK = best(total_BX, rows_BX, width)
    scores_BK = total_BX.gather(1, index_BK)
    return rows_BX.gather(1, index_BK).masked_fill(scores_BK == -torch.inf, -1), scores_BK


def _think(
    model: nn.Module,
    prompts: Prompts,
    close_id: int,
    group_size: int,
    max_tokens: int | Sequence[int],
    forbidden: Sequence[int],
    temperature: float,
    generator: torch.Generator | None,
    watch: Watch | None,
    store: PrefixStore | None,
    owners: Owners,
    room: int,
) -> tuple[_Grown | None, Thoughts]:
    """Sample all thoughts and read their closing tags; ``room`` slots per branch stay free for beams."""
    limits = [max_tokens] * len(prompts) if isinstance(max_tokens, int) else [int(n) for n in max_tokens]
    if len(limits) != len(prompts):
        raise DataError(
            f"{len(limits)} max_tokens for {len(prompts)} prompts: give one per prompt, or a single one for all"
        )
    if group_size < 1 or min(limits, default=0) < 0 or temperature < 0:
        raise ConfigError(
            f"group_size = {group_size}, max_tokens = {max_tokens}, temperature = {temperature}: at least 1, 0 and 0"
        )
    if close_id in forbidden:
        raise ConfigError(f"close_id = {close_id} is among the forbidden ids: no thought could end")
    if temperature > 0 and generator is None:
        raise ConfigError(f"temperature = {temperature} needs a torch.Generator: seeds are passed in, never global")
    check_prompts(prompts)
    owner_of = per_owner(owners, len(prompts))
    B, G, T = len(prompts), group_size, max(limits, default=0)
    if not B:
        return None, Thoughts(
            thoughts=[], logprob_BGT=torch.zeros(0, G, 1), closed_BG=torch.zeros(0, G, dtype=torch.bool)
        )
    # 1) the random numbers of every trajectory
    random_BGT = torch.zeros(B, G, T, dtype=torch.float64)
    if generator is not None and temperature > 0:
        for random_GT, n in zip(random_BGT, limits, strict=True):
            random_GT[:, :n] = torch.rand(G, n, generator=generator, device=generator.device, dtype=torch.float64)
    # 2) all thoughts in step, finished ones left out
    tree = PrefixTree(model, prompts, G, T + 2 + room, store, owner_of)
    logits_BGV = tree.start().unflatten(0, (B, G))[:, :, 0]
    device, V = logits_BGV.device, logits_BGV.shape[-1]
    random_BGT = random_BGT.to(device)
    barred_V = torch.zeros(V, dtype=torch.bool, device=device)
    barred_V[torch.as_tensor(sorted(set(forbidden)), dtype=torch.int64, device=device)] = True
    limit_BG = torch.tensor(limits, device=device)[:, None].repeat(1, G)
    token_BGT = torch.full((B, G, T + 1), close_id, device=device)
    logprob_BGT = torch.zeros(B, G, T + 1, device=device)
    running = Running(tree, slots=T + 2)
    for t in range(T + 1):
        where = running.where
        logits_RV = logits_BGV[running.runs_BG]
        token_R = torch.full((len(logits_RV),), close_id, device=device)
        if t < T:
            chosen_R = choose(logits_RV, random_BGT[(*where, t)], temperature, barred_V)
            token_R = torch.where(limit_BG[where] > t, chosen_R, token_R)
        token_BGT[(*where, t)] = token_R
        policy_RV = (logits_RV / (temperature or 1.0)).log_softmax(-1)
        logprob_BGT[(*where, t)] = policy_RV.gather(1, token_R[:, None]).squeeze(1)
        if watch is not None:
            now_BG = _closed_by(watch, token_R, where, limit_BG.shape).to(device)
            limit_BG = torch.where(now_BG, limit_BG.clamp(max=t + 1), limit_BG)
        if t == T or not running.keep(token_R != close_id):
            break
        logits_BGV = running.extend(token_BGT[..., t])
    length_BG = (token_BGT == close_id).int().argmax(-1)
    closed_BG = length_BG < limit_BG
    # 3) the closing tags
    running.finish(length_BG)
    logits = tree.extend(torch.full((B, G, 1), close_id, device=device)).flatten(0, 1)
    thoughts = [
        [ids[:n] for ids, n in zip(*group, strict=True)]
        for group in zip(token_BGT.tolist(), length_BG.tolist(), strict=True)
    ]
    kept = logprob_BGT[..., : int(length_BG.max()) + 1]
    return _Grown(tree, logits), Thoughts(thoughts=thoughts, logprob_BGT=kept.cpu(), closed_BG=closed_BG.cpu())


def _closed_by(
    watch: Watch, token_R: Int64[Tensor, " R"], where: tuple[Tensor, Tensor], shape: tuple[int, ...]
) -> Bool[Tensor, "B G"]:
    """Tell the watch what the unfinished trajectories have written; which does it close?"""
    token_BG = torch.full(shape, -1)
    token_BG[where[0].cpu(), where[1].cpu()] = token_R.cpu()
    closed_BG = watch(token_BG)
    if closed_BG is None:
        return torch.zeros(shape, dtype=torch.bool)
    if closed_BG.dtype != torch.bool or closed_BG.shape != token_BG.shape:
        raise DataError(
            f"the watch returned {tuple(closed_BG.shape)} of {closed_BG.dtype}: it has to return a boolean mask "
            f"of shape {tuple(shape)} (prompts, thoughts per prompt), or None"
        )
    return closed_BG


def choose(
    logits_RV: Float[Tensor, "R V"], random_R: Float[Tensor, " R"], temperature: float, barred_V: Bool[Tensor, " V"]
) -> Int64[Tensor, " R"]:
    """One token per row from its own random number in [0, 1), by the inverse of the cumulative distribution.

    A token of probability 0 is never chosen. Temperature 0: the most probable one.
    """
    logits_RV = logits_RV.masked_fill(barred_V, -torch.inf)
    if temperature == 0:
        return logits_RV.argmax(-1)
    cumulative_RV = (logits_RV / temperature).softmax(-1).double().cumsum(-1)
    level_R1 = (random_R * cumulative_RV[:, -1])[:, None]
    return torch.searchsorted(cumulative_RV, level_R1, right=True).squeeze(1)


class Running:
    """The trajectories that are not finished, within the tree of all.

    When half of the rows are finished, the others go on in a smaller tree; their keys return at the end.
    """

    def __init__(self, tree: PrefixTree, slots: int) -> None:
        """All trajectories run; the smaller trees need ``slots`` slots."""
        self.all = self.part = tree
        self.slots = slots
        B, G = tree.paths_BGMS.shape[:2]
        device = tree.paths_BGMS.device
        self.context_BG, self.branch_BG = torch.meshgrid(
            torch.arange(B, device=device), torch.arange(G, device=device), indexing="ij"
        )
        self.held_BG = torch.ones(B, G, dtype=torch.bool, device=device)
        """Rows of the smaller tree that are trajectories, not filling."""
        self.runs_BG = self.held_BG

    @property
    def where(self) -> tuple[Tensor, Tensor]:
        """Context and branch of each unfinished trajectory."""
        return self.context_BG[self.runs_BG], self.branch_BG[self.runs_BG]

    def keep(self, goes_on_R: Bool[Tensor, " R"]) -> bool:
        """Drop the rows that finished; is any left?"""
        self.runs_BG = self.runs_BG.masked_scatter(self.runs_BG, goes_on_R)
        count_B = self.runs_BG.sum(1)
        group, context_B = int(count_B.max()), count_B.nonzero().squeeze(1)
        if group and 2 * group * len(context_B) <= self.runs_BG.numel():
            self._shrink(context_B, group)
        return group > 0

    def extend(self, token_BG: Int64[Tensor, "B G"]) -> Float[Tensor, "b g V"]:
        """Read one token of each row (given for all B x G); logits after it, for the rows of the smaller tree."""
        return self.part.extend(token_BG[self.context_BG, self.branch_BG][..., None])[:, :, 0]

    def finish(self, length_BG: Int64[Tensor, "B G"]) -> None:
        """Bring all keys home; each branch holds its first token and its thought."""
        self._bring_home()
        home, part = self.all.cache, self.part.cache
        home.used, home.steps, home.attended = part.used, part.steps, part.attended
        slot_S = torch.arange(self.all.paths_BGMS.shape[-1], device=length_BG.device)
        self.all.paths_BGMS = (slot_S <= length_BG[..., None])[:, :, None]

    def _shrink(self, context_B: Int64[Tensor, " b"], group: int) -> None:
        """Go on with the unfinished trajectories of some contexts, moved to the left; shorter groups are filled up."""
        self._bring_home()
        runs_BG = self.runs_BG[context_B]
        left_BG = (~runs_BG).int().argsort(dim=1, stable=True)[:, :group]
        self.part = self.part.subset(context_B, left_BG, self.slots)
        self.context_BG = self.context_BG[context_B].gather(1, left_BG)
        self.branch_BG = self.branch_BG[context_B].gather(1, left_BG)
        self.runs_BG = self.held_BG = runs_BG.gather(1, left_BG)

    def _bring_home(self) -> None:
        if self.part is not self.all:
            home = (self.context_BG[self.held_BG], self.branch_BG[self.held_BG])
            self.all.cache.put_back(self.part.cache, home, self.held_BG)
