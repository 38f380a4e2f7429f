"""What a context says about the wanted item, exactly: the posterior by enumeration, and the best possible ranking.

The favourite brand of the department and the price level are enumerated together (R x P values); the favourites of
other departments are summed out. With them all likelihoods of the world are closed forms, so the probability of every
item being chosen is exact, and ranking by it is optimal for every metric that only looks at the target's rank.
Only the context's records are read, never the user's hidden traits or the target.

Source: details: this project.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from scipy.special import logsumexp, softmax

from crsearch.records.simulator.people import skip_weight
from crsearch.records.simulator.words import LEVELS, STEMS, STYLES
from crsearch.records.simulator.world import FOLLOW, LEVEL_GIVEN_AGE, Floats, Ints, QueryKind, World
from crsearch.records.types import Context, RankedList, Search

_NEVER = -30.0
"""Log-probability of what cannot be in this world; finite, so that contradictory contexts still have an answer."""


@dataclass(frozen=True, kw_only=True)
class Beliefs:
    """What is known about the wish behind each of B queries. Shares sum to 1 unless told otherwise."""

    kinds: tuple[QueryKind, ...]
    department_B: Ints
    accessory_B: np.ndarray
    """Whether an accessory is wanted."""
    from_context_B: Floats
    """Probability that the context decides the choice (1 where ``history_weight`` is 1)."""
    stem_BM: Floats
    """Which of the three mains, or whose accessory, if the context decides."""
    wish_BPR: Floats
    """Level and brand, if the context decides."""
    style_BS: Floats
    """Style, if the context decides; one-hot where the facts are known."""
    plain_stem_BM: Floats
    """Stem, if only the query counts."""
    plain_wish_BPR: Floats
    """Level and brand, if only the query counts."""

    @property
    def fields(self) -> tuple[Floats, Floats, Floats, Floats]:
        """Marginals of stem, brand, level and style, over both cases."""
        context_B1, plain_B1 = self.from_context_B[:, None], 1 - self.from_context_B[:, None]
        wish_BPR = context_B1[..., None] * self.wish_BPR + plain_B1[..., None] * self.plain_wish_BPR
        return (
            context_B1 * self.stem_BM + plain_B1 * self.plain_stem_BM,
            wish_BPR.sum(axis=1),
            wish_BPR.sum(axis=2),
            context_B1 * self.style_BS + plain_B1 / STYLES,
        )


@dataclass(frozen=True, slots=True)
class _Click:
    """An item chosen in a history."""

    context: int
    department: int
    row: int
    wanted: int
    """Brand that was wanted; -1 = the favourite, which is not known."""
    style: int


@dataclass(frozen=True, slots=True)
class _Skips:
    """Items of one search that were shown and not chosen, in the order shown."""

    context: int
    category: int
    chosen: list[int]
    skipped: list[int]


class _Evidence:
    """Contexts as events with closed likelihoods."""

    def __init__(self, world: World, contexts: Sequence[Context]) -> None:
        self.world = world
        self.clicks: list[_Click] = []
        self.named: list[tuple[int, int, int]] = []  # (context, department, favourite that a query gave away)
        self.skips: list[_Skips] = []
        self.last_main: list[dict[int, tuple[int, int]]] = [{} for _ in contexts]  # department -> (stem, brand)
        for b, context in enumerate(contexts):
            for search in context.history:
                self._add(b, context, search)

    def _add(self, b: int, context: Context, search: Search) -> None:
        world = self.world
        chosen = [world.catalogue.row(i) for i in search.chosen]
        skipped = [world.catalogue.row(i) for i in search.skipped]
        if not chosen and not skipped:
            return
        category = int(world.category_N[(chosen or skipped)[0]])
        department, accessory = category // (2 * STEMS), world.is_accessory(category)
        wanted = self.last_main[b].get(department, (-1, -1))[1] if accessory else -1
        meaning = world.meanings.get(search.query)
        if meaning is not None and meaning.kind == "brand" and wanted < 0:
            self.named.append((b, department, meaning.brand))
        style = world.wanted_style(department, search.time, search.place, context.profile)
        for row in chosen:
            self.clicks.append(_Click(b, department, row, wanted, style))
            if not accessory:
                self.last_main[b][department] = (category % STEMS, int(world.brand_N[row]))
        if skipped:
            self.skips.append(_Skips(b, category, chosen, skipped))

    def favourite_BYPR(self) -> Floats:
        """Log-likelihood of clicks and of brands typed, by department, level and favourite brand."""
        world, config = self.world, self.world.config
        log_BYPR = np.zeros((len(self.last_main), config.departments, LEVELS, config.brands))
        for b, y, r in self.named:
            log_BYPR[b, y, :, np.arange(config.brands) != r] += _NEVER
        if self.clicks:
            event = np.array([[c.context, c.department, c.row, c.wanted, c.style] for c in self.clicks])
            b_E, y_E, row_E, wanted_E, style_E = event.T
            log_EPR = np.log(np.maximum(world.choice_NPRS[row_E, :, :, style_E], np.finfo(float).tiny))
            known_EP1 = np.take_along_axis(log_EPR, np.maximum(wanted_E, 0)[:, None, None], axis=2)
            np.add.at(log_BYPR, (b_E, y_E), np.where(wanted_E[:, None, None] < 0, log_EPR, known_EP1))
        return log_BYPR

    def skips_BP(self) -> Floats:
        """Log-likelihood of the skipped items by level: drawn one after the other, no item twice."""
        world = self.world
        weight_NP = skip_weight(world.level_N[:, None], np.arange(LEVELS))
        total_CP = np.stack([weight_NP[rows].sum(axis=0) for rows in world.rows_of_category])
        log_BP = np.zeros((len(self.last_main), LEVELS))
        for s in self.skips:
            left_P = total_CP[s.category] - weight_NP[s.chosen].sum(axis=0)
            weight_KP = weight_NP[s.skipped]
            before_KP = np.cumsum(weight_KP, axis=0) - weight_KP
            log_BP[s.context] += np.log(weight_KP / (left_P - before_KP)).sum(axis=0)
        return log_BP


def believe(world: World, contexts: Sequence[Context]) -> Beliefs:
    """The exact posterior of the wish behind each context's query.

    Raises:
        DataError: a query or an item that this shop does not have.
    """
    evidence = _Evidence(world, contexts)
    meanings = [world.meaning(c.query) for c in contexts]
    department_B = np.array([m.department for m in meanings], dtype=np.int64)
    category_B = np.array([m.category for m in meanings], dtype=np.int64)
    brand_B = np.array([m.brand for m in meanings], dtype=np.int64)
    is_full_B = category_B >= 0
    accessory_B = ~is_full_B | (category_B % (2 * STEMS) >= STEMS)
    last_B2 = np.array(
        [known.get(m.department, (-1, -1)) for known, m in zip(evidence.last_main, meanings, strict=True)],
        dtype=np.int64,
    ).reshape(-1, 2)

    # 1) what the context alone says, 2) what the query adds, in both cases of who decides
    wish_BPR = _wanted(world, _level_and_favourite(world, contexts, evidence, department_B), last_B2, accessory_B)
    plain_BPR = np.broadcast_to(world.level_share_P[:, None] * world.brand_share_R, wish_BPR.shape)
    follow_BM = np.where(last_B2[:, :1] == np.arange(STEMS), FOLLOW, 0) + (1 - FOLLOW) / STEMS
    stem_BM = np.where((accessory_B & (last_B2[:, 0] >= 0))[:, None], follow_BM, 1 / STEMS)
    fits_BM = ~is_full_B[:, None] | (category_B[:, None] % STEMS == np.arange(STEMS))
    fits_BR = (brand_B[:, None] < 0) | (brand_B[:, None] == np.arange(world.config.brands))
    stem_BM, seen_stem_B = _condition(stem_BM, fits_BM)
    plain_stem_BM, plain_seen_stem_B = _condition(np.full(stem_BM.shape, 1 / STEMS), fits_BM)
    wish_BPR, seen_brand_B = _condition(wish_BPR, fits_BR[:, None])
    plain_wish_BPR, plain_seen_brand_B = _condition(plain_BPR, fits_BR[:, None])

    weight = world.config.history_weight
    from_context_B = weight * seen_stem_B * seen_brand_B
    plain_B = (1 - weight) * plain_seen_stem_B * plain_seen_brand_B
    styles = [
        world.wanted_style(m.department, c.time, c.place, c.profile) for c, m in zip(contexts, meanings, strict=True)
    ]
    style_B1 = np.array(styles, dtype=np.int64).reshape(-1, 1)
    return Beliefs(
        kinds=tuple(m.kind for m in meanings),
        department_B=department_B,
        accessory_B=accessory_B,
        from_context_B=from_context_B / (from_context_B + plain_B),
        stem_BM=stem_BM,
        wish_BPR=wish_BPR,
        style_BS=np.where(style_B1 == STYLES, 1 / STYLES, style_B1 == np.arange(STYLES)),
        plain_stem_BM=plain_stem_BM,
        plain_wish_BPR=plain_wish_BPR,
    )


def _level_and_favourite(world: World, contexts: Sequence[Context], evidence: _Evidence, department_B: Ints) -> Floats:
    """Posterior of the level and of the favourite brand in the query's department, from profile and history."""
    log_BYPR = evidence.favourite_BYPR() + np.log(world.brand_share_R)
    level_BYP = logsumexp(log_BYPR, axis=-1)  # a department's say on the level, its favourite summed out
    here_B = np.arange(len(contexts))
    others_BP = level_BYP.sum(axis=1) - level_BYP[here_B, department_B]
    prior_BP = np.stack([_level_prior(world, c) for c in contexts])
    log_BPR = log_BYPR[here_B, department_B] + (others_BP + evidence.skips_BP() + np.log(prior_BP))[..., None]
    return softmax(log_BPR, axis=(1, 2))


def _level_prior(world: World, context: Context) -> Floats:
    age = world.trait("ages", context.profile.get("age"))
    return world.level_share_P if age is None else LEVEL_GIVEN_AGE[age]


def _wanted(world: World, favourite_BPR: Floats, last_B2: Ints, accessory_B: np.ndarray) -> Floats:
    """Level and brand wanted: the brand of the last main item for its accessory, else the favourite."""
    is_last_BR = last_B2[:, 1:] == np.arange(world.config.brands)
    share_BR = np.where(is_last_BR, 1.0, np.exp(_NEVER))
    compatible_BPR = (
        favourite_BPR.sum(axis=2, keepdims=True) * (share_BR / share_BR.sum(axis=1, keepdims=True))[:, None]
    )
    return np.where((accessory_B & (last_B2[:, 1] >= 0))[:, None, None], compatible_BPR, favourite_BPR)


def _condition(share: Floats, fits: np.ndarray) -> tuple[Floats, Floats]:
    """Shares given that only what fits is possible, and the probability of that."""
    kept = np.where(fits, share, 0.0)
    total = kept.sum(axis=tuple(range(1, share.ndim)), keepdims=True)
    return kept / total, total.reshape(len(share))


def probabilities(world: World, beliefs: Beliefs) -> Float[np.ndarray, "B N"]:
    """Probability of every item to be the one chosen; each row sums to 1."""
    out_BN = np.zeros((len(beliefs.kinds), world.config.items))
    context_BPRS = beliefs.wish_BPR[..., None] * beliefs.style_BS[:, None, None]
    plain_BPRS = np.broadcast_to(beliefs.plain_wish_BPR[..., None] / STYLES, context_BPRS.shape)
    for category, rows in enumerate(world.rows_of_category):
        department, stem = divmod(category, 2 * STEMS)
        is_here_B = (beliefs.department_B == department) & (beliefs.accessory_B == (stem >= STEMS))
        b = np.flatnonzero(is_here_B)
        if not len(b):
            continue
        choice_IW = world.choice_NPRS[rows][..., :STYLES].reshape(len(rows), -1)
        context_B1 = (beliefs.from_context_B[b] * beliefs.stem_BM[b, stem % STEMS])[:, None]
        plain_B1 = ((1 - beliefs.from_context_B[b]) * beliefs.plain_stem_BM[b, stem % STEMS])[:, None]
        out_BN[np.ix_(b, rows)] = context_B1 * (context_BPRS[b].reshape(len(b), -1) @ choice_IW.T) + plain_B1 * (
            plain_BPRS[b].reshape(len(b), -1) @ choice_IW.T
        )
    return out_BN


def rank(probability_BN: Float[np.ndarray, "B N"], k: int) -> Int[np.ndarray, "B K"]:
    """Rows of the k most probable items, best first; equal ones by row."""
    return np.argsort(-probability_BN, axis=1, kind="stable")[:, :k]


def rank_of(probability_BN: Float[np.ndarray, "B N"], row_B: Int[np.ndarray, " B"]) -> Int[np.ndarray, " B"]:
    """Rank (from 1) of one item per context in the ranking of ``rank``."""
    mine_B1 = np.take_along_axis(probability_BN, row_B[:, None], axis=1)
    ties_before_BN = (probability_BN == mine_B1) & (np.arange(probability_BN.shape[1]) < row_B[:, None])
    return 1 + (probability_BN > mine_B1).sum(axis=1) + ties_before_BN.sum(axis=1)


class BayesSearcher:
    """The best possible searcher of a simulated shop: it knows the world's law, and of the user only the context."""

    name = "bayes"

    def __init__(self, world: World) -> None:
        self.world = world

    def search(self, contexts: Sequence[Context], k: int) -> list[RankedList]:
        """The k items that are most probably chosen, with log-probabilities.

        Raises:
            DataError: a query or an item that this shop does not have.
        """
        if not contexts:
            return []
        probability_BN = probabilities(self.world, believe(self.world, contexts))
        top_BK = rank(probability_BN, k)
        score_BK = np.log(np.maximum(np.take_along_axis(probability_BN, top_BK, axis=1), np.finfo(float).tiny))
        ids = self.world.item_ids
        return [
            RankedList(
                search_id=context.search_id,
                item_ids=tuple(ids[row] for row in rows),
                scores=tuple(scores.tolist()),
            )
            for context, rows, scores in zip(contexts, top_BK, score_BK, strict=True)
        ]
