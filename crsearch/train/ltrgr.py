"""LTRGR: a generative retriever that then learns to rank its own candidates.

Stage 1 is GENRE. In stage 2 the model answers the training queries; where a wrong item comes close to a right one or
before it, the difference of their scores is trained beside the generation loss:

    s(q, i) = sum_t log p(y_t(i) | q, y_<t(i))
    L = max(0, s(q, i-_top) - s(q, i+_top) + m) + max(0, s(q, i-_random) - s(q, i+_random) + m') + lambda L_gen

Source: Li et al. 2023 (LTRGR); its release sums scores of many texts per item, so margins of log-probabilities of one
identifier are ours. CRS §4.1.2 gives it the identifiers of CRS. Right items by query, mining, budget: details: this
project.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from crsearch.config import LtrgrConfig
from crsearch.decode.trie import Trie
from crsearch.records.types import Example
from crsearch.runs import write_atomic
from crsearch.train.examples import draw, kind_loss
from crsearch.train.generative import (
    Pair,
    answer_logprobs,
    answer_tree,
    branch_scores,
    identifiers,
    rank_queries,
    steps_within,
)
from crsearch.train.genre import RETRIEVAL, RetrievalTask
from crsearch.train.supervised import Workbench
from crsearch.train.trainer import Losses, stream
from crsearch.train.tree import Tree

ANSWERS = 5
"""Identifiers after a query: the best right and wrong item, a random right and wrong one, the item then chosen."""


def margin_loss(right_P: Float[Tensor, " P"], wrong_P: Float[Tensor, " P"], margin: float) -> Float[Tensor, " P"]:
    """How far each wrong item's score is from lying ``margin`` below the right one's.

        max(0, s(wrong) - s(right) + m)

    >>> margin_loss(torch.tensor([-2.0, -1.0, -3.0]), torch.tensor([-2.5, -3.0, -1.0]), 1.0)
    tensor([0.5000, 0.0000, 3.0000])
    """
    return (wrong_P - right_P + margin).clamp(min=0)


@dataclass(frozen=True, slots=True)
class Contest:
    """A query with right and wrong items to be told apart."""

    pair: Pair
    """The query, and the item then chosen, which the generation loss is about."""
    right: tuple[int, ...]
    """Right items of the model's list, best first; the item of the pair where there is none."""
    wrong: tuple[int, ...]
    """Wrong items of the model's list, best first."""


def contests(
    pairs: Sequence[Pair],
    right: Mapping[str, set[int]],
    rows_BK: Int64[Tensor, "B K"],
    scores_BK: Float[Tensor, "B K"],
    own_B: Float[Tensor, " B"],
    config: LtrgrConfig,
) -> list[Contest]:
    """What there is to learn from the model's lists.

    Left out: pairs without a wrong item in their list, and those that are safe by both margins already, which would
    have no gradient.

    Args:
        pairs: training pairs.
        right: rows of all items that training users chose after a query; none of them is ever wrong.
        rows_BK: the model's list for each pair, best first, row -1 where there is none.
        scores_BK: of these items.
        own_B: score of the item of each pair, which need not be in the list.
        config: the margins.
    """
    out = []
    for pair, rows, scores, own in zip(pairs, rows_BK.tolist(), scores_BK.tolist(), own_B.tolist(), strict=True):
        listed = [(row, score) for row, score in zip(rows, scores, strict=True) if row >= 0]
        good = [x for x in listed if x[0] in right[pair.query]] or [(pair.row, own)]
        bad = [x for x in listed if x[0] not in right[pair.query]]
        if not bad:
            continue
        (_, best), (_, worst), (_, lead) = good[0], good[-1], bad[0]
        if lead - best + config.margin > 0 or lead - worst + config.margin_random > 0:
            out.append(Contest(pair, tuple(row for row, _ in good), tuple(row for row, _ in bad)))
    return out


class RankingTask:
    """Contests of a stage, mined with the model of the moment and kept on disk for an exact resume.

    Args:
        bench: what is trained.
        stage: name of the stage.
        key: digest of what it depends on.
        retrieval: the training pairs.
        trie: identifiers that the model may write.
    """

    def __init__(self, bench: Workbench, stage: str, key: str, retrieval: RetrievalTask, trie: Trie) -> None:
        self.bench, self.stage, self.key, self.retrieval, self.trie = bench, stage, key, retrieval, trie
        self.config = bench.settings.baselines.ltrgr
        self.right: dict[str, set[int]] = {}
        for pair in retrieval.pairs:
            self.right.setdefault(pair.query, set()).add(pair.row)
        self._mined: tuple[int, list[Contest]] | None = None

    def round_of(self, step: int) -> int:
        """Number of the search for candidates that a step of stage 2 (0-based) learns from."""
        if self.config.mine_every == 0:
            return 0
        return step // (self.config.mine_every * math.ceil(len(self.retrieval.pairs) / self.config.batch))

    def contests(self, number: int) -> list[Contest]:
        """The contests of a round; mined when first asked for, which must be with the model at its beginning."""
        if self._mined is None or self._mined[0] != number:
            self._mined = (number, self._from_disk(number))
        return self._mined[1]

    def _from_disk(self, number: int) -> list[Contest]:
        file = self.bench.run.path / "traces" / "mined" / f"{self.stage}.{number}.json"
        if file.exists() and (kept := json.loads(file.read_text()))["key"] == self.key:
            wrong = {query: tuple(rows) for query, rows in kept["wrong"].items()}
            return [Contest(Pair(query, row), tuple(right), wrong[query]) for query, row, right in kept["contests"]]
        found = self._mine()
        rows = [[c.pair.query, c.pair.row, c.right] for c in found]
        kept = {"key": self.key, "wrong": {c.pair.query: c.wrong for c in found}, "contests": rows}
        write_atomic(file, json.dumps(kept, ensure_ascii=False) + "\n")
        return found

    def _mine(self) -> list[Contest]:
        """Rank every training query and score every distinct pair with the present model."""
        pairs = self.retrieval.pairs
        rows_BK, scores_BK = rank_queries(
            self.bench.builder, [pair.query for pair in pairs], self.trie, self.config.candidates,
            self.bench.settings.decode.batch,
        )  # fmt: skip
        own = self._own_scores()
        own_B = torch.tensor([own[pair] for pair in pairs])
        return contests(pairs, self.right, rows_BK, scores_BK, own_B, self.config)

    def _own_scores(self) -> dict[Pair, float]:
        """Score of each distinct pair by teacher forcing, without gradient."""
        distinct = list(dict.fromkeys(self.retrieval.pairs))
        model, size, out = self.bench.builder.bundle.model, self.config.batch, []
        model.eval()
        with torch.no_grad(), torch.autocast(next(model.parameters()).device.type, enabled=False):
            for start in range(0, len(distinct), size):
                trees = [self.tree(pair.query, [pair.row]) for pair in distinct[start : start + size]]
                out += branch_scores(*answer_logprobs(model, trees)).tolist()
        return dict(zip(distinct, out, strict=True))

    def tree(self, query: str, rows: Sequence[int]) -> Tree:
        """A query with the identifiers of items as branches."""
        task = self.retrieval
        return answer_tree(task.prompts[query], [task.answers[row] for row in rows], RETRIEVAL)

    def drawn(self, step: int) -> list[tuple[Contest, int, int]]:
        """Contests of a step of stage 2, each with a random right and a random wrong item."""
        found, size = self.contests(self.round_of(step)), self.config.batch
        rng = np.random.default_rng(stream(self.bench.seed, self.stage, "random", step))
        chosen = [found[i] for i in draw(self.bench.seed, f"{self.stage}.rank", len(found), size, step)]
        return [(c, int(rng.choice(c.right)), int(rng.choice(c.wrong))) for c in chosen]

    def losses(self, step: int) -> Losses:
        """The loss of a step of stage 2; where nothing is left to rank, generation goes on alone, if it counts."""
        model, config = self.bench.builder.bundle.model, self.config
        drawn = self.drawn(step)
        model.train()
        if not drawn and not config.generation:
            return
        if not drawn:
            logprob_M, packed = answer_logprobs(model, self.retrieval.trees(self.stage, config.batch, step))
            loss, numbers = kind_loss(logprob_M, packed, {RETRIEVAL: config.generation})
            yield loss, {**numbers, "tokens_sum": float(packed.tokens)}
            return
        trees = [
            self.tree(c.pair.query, [c.right[0], c.wrong[0], right, wrong, c.pair.row]) for c, right, wrong in drawn
        ]
        logprob_M, packed = answer_logprobs(model, trees)
        top_right_B, top_wrong_B, right_B, wrong_B, _ = branch_scores(logprob_M, packed).view(-1, ANSWERS).T
        top_B = margin_loss(top_right_B, top_wrong_B, config.margin)
        random_B = margin_loss(right_B, wrong_B, config.margin_random)
        generation = -logprob_M[packed.branch_M % ANSWERS == ANSWERS - 1].mean()
        numbers = {
            "loss_rank_top": float(top_B.mean().detach()),
            "loss_rank_random": float(random_B.mean().detach()),
            "active_top": float((top_B > 0).float().mean()),
            "active_random": float((random_B > 0).float().mean()),
            "loss_retrieval": float(generation.detach()),
            "contests": float(len(self.contests(self.round_of(step)))),
        }
        loss = top_B.mean() + random_B.mean() + config.generation * generation
        yield loss, {**numbers, "tokens_sum": float(packed.tokens)}


def train_ltrgr(bench: Workbench, stage: str, key: str, examples: Sequence[Example], tokens: float) -> dict[str, float]:
    """Train generation, then ranking: base -> ltrgr. Without an example nothing changes.

    Both stages are one run of the trainer, so that one schedule spans them.

    Args:
        bench: with the untrained model.
        stage: name of the stage.
        key: digest of what it depends on.
        examples: training examples.
        tokens: how many to train on in both stages, prompts counted; the numbers of steps follow.

    Returns:
        Sums over the stage (``tokens_sum``).
    """
    config = bench.settings.baselines.ltrgr
    identifiers_NL = identifiers(bench.builder, bench.settings, "ltrgr")
    retrieval = RetrievalTask(bench, examples, identifiers_NL)
    if not retrieval.pairs:
        return {}
    first, second = stage_steps(config, tokens, retrieval.tokens, identifiers_NL.shape[1])
    ranking = RankingTask(bench, stage, key, retrieval, Trie.from_tokens(identifiers_NL))
    model = bench.builder.bundle.model

    def losses(step: int) -> Losses:
        if step >= first:
            yield from ranking.losses(step - first)
            return
        model.train()
        trees = retrieval.trees(stage, config.batch, step)
        logprob_M, packed = answer_logprobs(model, trees, config.smoothing)
        loss, numbers = kind_loss(logprob_M, packed, {RETRIEVAL: 1.0})
        yield loss, {**numbers, "tokens_sum": float(packed.tokens)}

    return bench.trainer(stage, key, config.optim).train(first + second, losses)


def stage_steps(config: LtrgrConfig, tokens: float, pair_tokens: float, length: int) -> tuple[int, int]:
    """Steps of generation and of ranking, ``config.share`` of the tokens being for ranking.

    Args:
        tokens: the budget.
        pair_tokens: tokens of an average pair.
        length: tokens of an identifier, of which a ranking example has four more.

    >>> stage_steps(LtrgrConfig(share=0.5, batch=10), 8e3, 20.0, 4)
    (20, 11)
    """
    ranked = pair_tokens + (ANSWERS - 1) * length
    first = steps_within((1 - config.share) * tokens, config.batch * pair_tokens, None) if config.share < 1 else 0
    second = steps_within(config.share * tokens, config.batch * ranked, None) if config.share > 0 else 0
    if config.max_steps is not None:
        first = min(first, math.ceil((1 - config.share) * config.max_steps))
        second = min(second, config.max_steps - first)
    return first, second
