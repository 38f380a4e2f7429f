"""From a searcher, or a TREC run file, to ranks, metrics with intervals and comparisons."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import numpy as np
from jaxtyping import Float64, Int64

from crsearch.errors import ConfigError, DataError
from crsearch.evaluate.groups import Groups, load_groups
from crsearch.evaluate.intervals import Interval, bootstrap_intervals, holm, paired_difference, paired_permutation
from crsearch.evaluate.metrics import CUTOFFS, REPORTED, PerQuery, check_bounds, metrics_from_ranks
from crsearch.evaluate.trec import read_qrels, read_run, write_run
from crsearch.records.types import Context, Example, RankedList, Searcher
from crsearch.runs import write_atomic

RowMetrics = dict[str, Interval]
"""Metric -> mean and 95 % interval: one row of a table."""

TOKENS = ("read_tokens", "thought_tokens")
"""What is kept of the tokens of each answer."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Evaluation:
    """What one system answered to every test query, and how well."""

    searcher: str
    """Name of the system."""
    targets: Mapping[str, str]
    """search_id -> chosen item_id. Its order is the order of the queries everywhere below."""
    lists: tuple[RankedList, ...]
    """The answer to each query, without repeated items."""
    latency_ms_B: Float64[np.ndarray, " B"]
    """Milliseconds per query; NaN where nobody measured (a run file)."""
    invalid_B: Int64[np.ndarray, " B"]
    """Items of each answer that the catalogue lacks or that the answer repeats."""
    groups: Groups = field(default_factory=dict)
    """Column -> label of each query."""

    def __len__(self) -> int:
        return len(self.lists)

    @cached_property
    def ranks_B(self) -> Int64[np.ndarray, " B"]:
        """1-based rank of the target in each list, 0 where absent."""
        pairs = zip(self.lists, self.targets.values(), strict=True)
        return np.array([r.item_ids.index(t) + 1 if t in r.item_ids else 0 for r, t in pairs], dtype=np.int64)

    @property
    def invalid_items(self) -> int:
        """Items in all answers that the catalogue lacks or that an answer repeats."""
        return int(self.invalid_B.sum())

    def mean_tokens(self) -> dict[str, float | None]:
        """``read_tokens`` and ``thought_tokens`` of the answers, means; none where one is not known."""
        found = {name: [getattr(answer, name) for answer in self.lists] for name in TOKENS}
        return {name: None if None in own or not own else float(np.mean(own)) for name, own in found.items()}

    def per_query(self) -> dict[str, PerQuery]:
        """Every reported metric for each single query."""
        values = metrics_from_ranks(self.ranks_B)
        return {metric: values[metric] for metric in REPORTED}

    def metrics(self, bootstrap: int = 2_000, seed: int = 0) -> RowMetrics:
        """HR@1, HR@5, HR@10, NDCG@5, NDCG@10: means over queries with 95 % intervals.

        Args:
            bootstrap: resamples of the queries.
            seed: of the resamples.

        Raises:
            DataError: there is no query.
        """
        return _row(self.searcher, self.per_query(), bootstrap, seed)

    def by_group(self, column: str) -> dict[str, "Evaluation"]:
        """The evaluation of each group of queries alone, groups in alphabetical order.

        Raises:
            DataError: the queries have no such column.
        """
        if column not in self.groups:
            raise DataError(
                f"{self.searcher}: no group column {column!r}; there are: {', '.join(self.groups) or 'none'}"
            )
        labels = self.groups[column]
        return {
            label: self._select([i for i, own in enumerate(labels) if own == label]) for label in sorted(set(labels))
        }

    def _select(self, rows: Sequence[int]) -> "Evaluation":
        searches = tuple(self.targets)
        return Evaluation(
            searcher=self.searcher,
            targets={searches[i]: self.targets[searches[i]] for i in rows},
            lists=tuple(self.lists[i] for i in rows),
            latency_ms_B=self.latency_ms_B[list(rows)],
            invalid_B=self.invalid_B[list(rows)],
            groups={column: tuple(labels[i] for i in rows) for column, labels in self.groups.items()},
        )

    def save(self, folder: Path) -> None:
        """Write ``<searcher>.trec`` (the lists) and ``<searcher>.parquet`` (one row per query), each atomically.

        Columns: search_id, target, rank (0 = absent), invalid, latency_ms, read_tokens and thought_tokens (see
        ``RankedList``), and ``group_<column>`` for each grouping.

        Raises:
            StorageError: no room or no permission.
        """
        import polars as pl

        columns: dict[str, object] = {
            "search_id": list(self.targets),
            "target": list(self.targets.values()),
            "rank": self.ranks_B,
            "invalid": self.invalid_B,
            "latency_ms": self.latency_ms_B,
            **{name: pl.Series([getattr(a, name) for a in self.lists], dtype=pl.Int64) for name in TOKENS},
        }
        columns |= {f"group_{column}": list(labels) for column, labels in self.groups.items()}
        table = BytesIO()
        pl.DataFrame(columns).write_parquet(table)
        write_run(folder / f"{self.searcher}.trec", self.lists, self.searcher)
        write_atomic(folder / f"{self.searcher}.parquet", table.getvalue())

    @classmethod
    def load(cls, folder: Path, searcher: str) -> "Evaluation":
        """Read what ``save`` wrote. Scores are then those of the run file, and thoughts are gone.

        Labels are those of the folder (``save_groups``) where it has some for all queries, else those that were saved.

        Raises:
            DataError: a file is missing, or the two do not belong together.
        """
        import polars as pl

        path = folder / f"{searcher}.parquet"
        if not path.is_file():
            raise DataError(f"{path}: no such file; `crsearch evaluate` with --searcher {searcher} writes it")
        table = pl.read_parquet(path)
        targets = dict(zip(table["search_id"], table["target"], strict=True))
        own = {c.removeprefix("group_"): tuple(table[c]) for c in table.columns if c.startswith("group_")}
        lists = _lists_of(read_run(folder / f"{searcher}.trec"), targets, folder / f"{searcher}.trec")
        tokens = table.select(name for name in TOKENS if name in table.columns).to_dicts() or [{}] * len(lists)
        found = cls(
            searcher=searcher,
            targets=targets,
            lists=tuple(replace(answer, **own) for answer, own in zip(lists, tokens, strict=True)),
            latency_ms_B=table["latency_ms"].to_numpy(),
            invalid_B=table["invalid"].to_numpy(),
            groups=load_groups(folder, list(targets)) or own,
        )
        if (found.ranks_B != table["rank"].to_numpy()).any():
            raise DataError(f"{path}: its ranks are not those of {searcher}.trec; evaluate {searcher} again")
        return found


def evaluate(
    searcher: Searcher,
    examples: Sequence[Example],
    item_ids: Iterable[str],
    k: int = 10,
    exclude_history: bool = False,
    progress: Callable[[int, int], None] | None = None,
    *,
    groups: Groups | None = None,
    batch: int = 64,
) -> Evaluation:
    """Ask a searcher every test query and find the targets in its answers.

    An answer is judged as it would be shown: an item that the catalogue lacks keeps its place in the list, an item
    named again is left out (the first place counts); both are counted as invalid.

    Args:
        searcher: the system; see ``Searcher``.
        examples: test examples, one per query.
        item_ids: the catalogue.
        k: length of the lists, 10 or more.
        exclude_history: leave out items that the history of the context says were chosen before. The searcher is
            asked for as many more as the longest history has, so that k remain. A target chosen before is a miss.
        progress: called as (queries done, queries in all) after each batch.
        groups: labels of the queries, see ``query_groups``.
        batch: queries asked at once; the latency of a query is the time of its batch divided by its queries.

    Raises:
        ConfigError: k is below the largest cutoff of the metrics.
        DataError: no examples, a search twice, a target that the catalogue lacks, labels for another number of
            queries, or a searcher that does not answer the queries it was asked, in their order.
    """
    if k < max(CUTOFFS):
        raise ConfigError(f"k = {k}: the metrics look at the first {max(CUTOFFS)} items, so ask for at least as many")
    known = frozenset(item_ids)
    targets = _checked_targets(examples, known)
    for column, labels in (groups or {}).items():
        if len(labels) != len(examples):
            raise DataError(f"group column {column!r} has {len(labels)} labels for {len(examples)} queries")
    contexts = [e.context for e in examples]
    chosen_before = [_chosen_before(c) if exclude_history else frozenset[str]() for c in contexts]
    asked = k + max(map(len, chosen_before))
    lists: list[RankedList] = []
    invalid: list[int] = []
    latency: list[float] = []
    for start in range(0, len(contexts), batch):
        block = contexts[start : start + batch]
        began = time.perf_counter()
        answers = searcher.search(block, asked)
        latency += [(time.perf_counter() - began) * 1_000 / len(block)] * len(block)
        _check_answers(searcher.name, block, answers)
        for answer, dropped in zip(answers, chosen_before[start : start + batch], strict=True):
            shown = _without_repeats(answer, asked)
            invalid.append(min(len(answer.item_ids), asked) - sum(i in known for i in shown.item_ids))
            lists.append(_first(shown, k, dropped))
        if progress is not None:
            progress(len(lists), len(contexts))
    return Evaluation(
        searcher=searcher.name,
        targets=targets,
        lists=tuple(lists),
        latency_ms_B=np.array(latency),
        invalid_B=np.array(invalid, dtype=np.int64),
        groups=dict(groups or {}),
    )


def evaluate_run_file(path: Path, qrels: Path, item_ids: Iterable[str] | None = None) -> Evaluation:
    """Evaluate the run file of any tool; its name (``<system>.trec``) becomes the system's.

    A search that the qrels name and the run lacks is a miss, as in the tools.

    Args:
        path: run file, see ``read_run`` for how ties are read.
        qrels: file with the target of each search.
        item_ids: the catalogue, to count invalid items; none = not counted.

    Raises:
        DataError: a broken file, no queries, searches in the run that the qrels lack, or more than half of the
            listed items not in the catalogue.
    """
    targets = read_qrels(qrels)
    if not targets:
        raise DataError(f"{qrels}: no relevant item in it, so there is nothing to evaluate")
    lists = _lists_of(read_run(path), targets, path)
    known = None if item_ids is None else frozenset(item_ids)
    if known is not None:
        _check_catalogue(path, lists, known)
    return Evaluation(
        searcher=path.stem,
        targets=targets,
        lists=lists,
        latency_ms_B=np.full(len(lists), np.nan),
        invalid_B=np.array([0 if known is None else len(set(r.item_ids) - known) for r in lists], dtype=np.int64),
    )


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How one system differs from another on the same queries."""

    system: str
    other: str
    metric: str
    difference: Interval
    """``system`` minus ``other``."""
    p: float
    """Two-sided paired permutation test."""
    p_holm: float
    """The same, corrected for all comparisons made together."""


def compare(
    system: Evaluation, others: Sequence[Evaluation], metric: str = "NDCG@10", resamples: int = 10_000, seed: int = 0
) -> tuple[Comparison, ...]:
    """Compare a system with each of the others, query by query; the others form one family for Holm's correction.

    Args:
        system: usually ``crs``.
        others: evaluations on the same queries, in any order of queries.
        metric: one of ``REPORTED``.
        resamples: of the permutation test and of the interval of the difference.
        seed: of both.

    Raises:
        ConfigError: there is no such metric.
        DataError: two evaluations have different queries or targets, or two of the others have one name.
    """
    if metric not in REPORTED:
        raise ConfigError(f"metric {metric!r}: there are {', '.join(REPORTED)}")
    own_B = system.per_query()[metric]
    differences: dict[str, tuple[Interval, float]] = {}
    for other in others:
        if other.searcher in differences:
            raise DataError(f"two systems to compare with are called {other.searcher!r}: give each its own name")
        _check_same_queries(system, other)
        other_B = _in_order_of(system, other)[metric]
        differences[other.searcher] = (
            paired_difference(own_B, other_B, resamples, seed),
            paired_permutation(own_B, other_B, resamples, seed),
        )
    corrected = holm({name: p for name, (_, p) in differences.items()})
    return tuple(
        Comparison(
            system=system.searcher, other=name, metric=metric, difference=difference, p=p, p_holm=corrected[name]
        )
        for name, (difference, p) in differences.items()
    )


def metrics_over_seeds(evaluations: Sequence[Evaluation], bootstrap: int = 2_000, seed: int = 0) -> RowMetrics:
    """The row of a system trained with several seeds: each query counts with its mean over the seeds.

    The interval is over queries; the spread between seeds is part of each query's mean.

    Raises:
        DataError: no evaluation, or different queries or targets.
    """
    if not evaluations:
        raise DataError("no evaluation to average: give one per seed")
    first = evaluations[0]
    for other in evaluations[1:]:
        _check_same_queries(first, other)
    values = [_in_order_of(first, e) for e in evaluations]
    mean_B = {metric: np.mean([v[metric] for v in values], axis=0) for metric in REPORTED}
    return _row(first.searcher, mean_B, bootstrap, seed)


def _row(name: str, values: Mapping[str, PerQuery], bootstrap: int, seed: int) -> RowMetrics:
    row = bootstrap_intervals(values, bootstrap, seed)
    check_bounds({metric: interval["mean"] for metric, interval in row.items()}, name)
    return row


def _in_order_of(first: Evaluation, other: Evaluation) -> dict[str, PerQuery]:
    """Metrics per query of ``other``, its queries in the order of ``first``."""
    row_of = {search: i for i, search in enumerate(other.targets)}
    order = [row_of[search] for search in first.targets]
    return {metric: values[order] for metric, values in other.per_query().items()}


def _check_same_queries(a: Evaluation, b: Evaluation) -> None:
    if a.targets == b.targets:
        return
    lacking = sorted(a.targets.keys() ^ b.targets.keys())
    if lacking:
        has, lacks = (a, b) if lacking[0] in a.targets else (b, a)
        what = (
            f"search {lacking[0]!r} is in {has.searcher} only ({len(lacking)} such searches), not in {lacks.searcher}"
        )
    else:
        search = next(s for s in a.targets if a.targets[s] != b.targets[s])
        what = (
            f"the target of search {search!r} is {a.targets[search]!r} in {a.searcher} "
            f"and {b.targets[search]!r} in {b.searcher}"
        )
    raise DataError(
        f"{a.searcher} ({len(a)} queries) and {b.searcher} ({len(b)} queries) were not tested on the same queries: "
        f"{what}. Evaluate both on one split."
    )


def _checked_targets(examples: Sequence[Example], known: frozenset[str]) -> dict[str, str]:
    if not examples:
        raise DataError("no examples to evaluate on: the test part is empty; see split.test")
    targets: dict[str, str] = {}
    for e in examples:
        search = e.context.search_id
        if search in targets:
            raise DataError(f"search {search!r} is twice in the examples: give every search its own search_id")
        if e.target not in known:
            raise DataError(
                f"search {search!r}: its target {e.target!r} is not in the catalogue ({len(known):,} items). "
                "Import the item, or leave the search out of the split."
            )
        targets[search] = e.target
    return targets


def _chosen_before(context: Context) -> frozenset[str]:
    return frozenset(item for search in context.history for item in search.chosen)


def _check_answers(name: str, contexts: Sequence[Context], answers: Sequence[RankedList]) -> None:
    want = [c.search_id for c in contexts]
    got = [a.search_id for a in answers]
    if want != got:
        at = next((i for i, (w, g) in enumerate(zip(want, got, strict=False)) if w != g), min(len(want), len(got)))
        raise DataError(
            f"searcher {name!r} was asked {len(want)} searches and answered {len(got)}; the first that differs is "
            f"{want[at : at + 1]} asked, {got[at : at + 1]} answered: return one list per context, in their order"
        )
    for answer in answers:
        if len(answer.item_ids) != len(answer.scores):
            raise DataError(
                f"searcher {name!r}, search {answer.search_id!r}: {len(answer.item_ids)} items but "
                f"{len(answer.scores)} scores: return one score per item"
            )


def _check_catalogue(path: Path, lists: Sequence[RankedList], known: frozenset[str]) -> None:
    """A tool may make up some items; one that makes up most of them ranks something else."""
    listed = [item for answer in lists for item in answer.item_ids]
    strangers = [item for item in listed if item not in known]
    if len(strangers) > len(listed) / 2:
        raise DataError(
            f"{path}: {len(strangers):,} of {len(listed):,} listed items (first: {strangers[0]!r}) are not among the "
            f"{len(known):,} of the catalogue: it is a run over another catalogue"
        )


def _without_repeats(answer: RankedList, asked: int) -> RankedList:
    """The first ``asked`` entries, of which each item keeps its first place."""
    first_place = {item: i for i, item in reversed(list(enumerate(answer.item_ids[:asked])))}
    return _pick(answer, sorted(first_place.values()))


def _first(answer: RankedList, k: int, dropped: frozenset[str]) -> RankedList:
    """The first k items that are not dropped."""
    return _pick(answer, [i for i, item in enumerate(answer.item_ids) if item not in dropped][:k])


def _pick(answer: RankedList, places: Sequence[int]) -> RankedList:
    return replace(
        answer,
        item_ids=tuple(answer.item_ids[i] for i in places),
        scores=tuple(answer.scores[i] for i in places),
    )


def _lists_of(run: Mapping[str, tuple[str, ...]], targets: Mapping[str, str], path: Path) -> tuple[RankedList, ...]:
    """The list of each target's search, empty where the run lacks it; scores count down to 1."""
    strangers = [search for search in run if search not in targets]
    if strangers:
        raise DataError(
            f"{path}: search {strangers[0]!r} is not in the qrels ({len(strangers)} such searches of {len(run)}, the "
            f"qrels have {len(targets)}): run and qrels are of different splits"
        )
    return tuple(
        RankedList(search_id=s, item_ids=items, scores=tuple(float(n) for n in range(len(items), 0, -1)))
        for s, items in ((s, run.get(s, ())) for s in targets)
    )
