"""Evaluation of a run: every system and every stage on the same test users, then ``results.json``.

The file holds nothing that depends on the clock, so that a resumed run writes the same bytes.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crsearch.evaluate.evaluation import Evaluation, RowMetrics, compare, evaluate
from crsearch.evaluate.groups import Groups, query_groups, save_groups
from crsearch.evaluate.metrics import REPORTED
from crsearch.evaluate.trec import write_qrels
from crsearch.pipeline.refuse import QRELS
from crsearch.pipeline.systems import FINAL, RUNGS, SYSTEMS, model_searcher
from crsearch.pipeline.workspace import Workspace
from crsearch.records.statistics import statistics
from crsearch.records.types import Example, Searcher
from crsearch.runs import StageRecord, write_atomic, write_json

if TYPE_CHECKING:
    from crsearch.searchers.crs import Mode


class Evaluator:
    """Measures systems on the test users of a run.

    Args:
        space: the run.
        final: name of the stage that is ``crs``; "" = not known yet.
        examples: queries to ask instead of those of the run's test users.
        folder: where files go; none = ``eval`` of the run.
    """

    def __init__(
        self,
        space: Workspace,
        final: str = "",
        examples: Sequence[Example] | None = None,
        folder: Path | None = None,
    ) -> None:
        self.space, self.final = space, final
        self.config = space.settings.evaluate
        self.examples = (space.examples("test") if examples is None else examples)[: self.config.max_users]
        self.item_ids = space.dataset.catalogue.ids
        self.folder = folder or space.path("eval")

    def searcher(self, name: str, stage: str = "") -> Searcher:
        """A system by name, ready to search, with the test contexts read.

        Args:
            name: of the system.
            stage: whose model; "" = the one that the system has.
        """
        system = SYSTEMS[name]
        own = self.final if system.stage == FINAL else system.stage
        return self.ready(system.build(self.space, name, stage or own))

    def ready(self, searcher: Searcher) -> Searcher:
        """Let a searcher with a model read the test contexts, all together."""
        builder = getattr(searcher, "builder", None)
        if builder is not None:
            builder.read([e.context for e in self.examples])
        return searcher

    def lacking(self) -> dict[str, str]:
        """Systems of the settings that cannot run here, with what mends it."""
        reasons = {name: SYSTEMS[name].lacks(self.space) for name in self.config.searchers}
        return {name: reason for name, reason in reasons.items() if reason is not None}

    @cached_property
    def groups(self) -> Groups:
        """Labels of the test queries."""
        from crsearch.searchers.popularity import query_key, training_counts

        truth, counts = self.space.truth, training_counts(self.space.dataset)
        kinds = None if truth is None else dict(zip(truth["search_id"], truth["query_kind"], strict=True))
        chosen = [counts.queries.get(query_key(e.context.query), {}) for e in self.examples]
        return query_groups(self.examples, counts.items, kinds, chosen=chosen, items=self.space.dataset.catalogue)

    def measure(self, name: str, inputs: object, make: "Any") -> StageRecord:
        """Evaluate one system; TREC and per-query files are its outputs.

        Args:
            name: file name of the system (``crs``, ``stage.sft0``).
            inputs: keys it depends on.
            make: gives the searcher.
        """

        def work(_: str) -> tuple[list[Path], Mapping[str, Any]]:
            searcher = make()
            searcher.name = name
            done = evaluate(
                searcher,
                self.examples,
                self.item_ids,
                exclude_history=self.config.exclude_history,
                progress=self.space.stages.ticker(f"eval.{name}"),
                groups=self.groups,
                batch=self.space.settings.decode.batch,
            )
            done.save(self.folder)
            files = [self.folder / f"{name}.trec", self.folder / f"{name}.parquet", *self._save_thoughts(name, done)]
            return files, {"invalid": done.invalid_items}

        config = [
            self.config.model_dump(exclude={"searchers", "bootstrap", "cut_tokens"}),
            self.space.settings.decode.model_dump(),
            self.space.settings.context.max_events,
        ]
        return self.space.stages.do(f"eval.{name}", [inputs, config, len(self.examples)], work)

    def measure_stage(self, stage: str, record: StageRecord) -> StageRecord:
        """Evaluate the model of a training stage: ``align`` answers at once, the others think."""
        mode: Mode = "direct" if stage == "align" else "think"
        return self.measure(
            f"stage.{stage}", record.key, lambda: self.ready(model_searcher(self.space, stage, stage, mode))
        )

    def measure_system(self, name: str, key: str) -> StageRecord:
        """Evaluate a system.

        Args:
            name: of the system.
            key: of the stage that it depends on.
        """
        depends = SYSTEMS[name].depends(self.space.settings)
        return self.measure(name, [key, name, depends], lambda: self.searcher(name))

    def measure_as(self, name: str, source: str, record: StageRecord) -> StageRecord:
        """A system that is a measured one under another name (``crs`` is the stage that validation kept)."""

        def work(_: str) -> tuple[list[Path], Mapping[str, Any]]:
            done = dataclasses.replace(self.load(source), searcher=name)
            done.save(self.folder)
            thoughts = self._thoughts(source).read_text(encoding="utf-8")
            write_atomic(self._thoughts(name), thoughts)
            files = [self.folder / f"{name}.trec", self.folder / f"{name}.parquet", self._thoughts(name)]
            return files, record.numbers

        return self.space.stages.do(f"eval.{name}", [record.key, source], work)

    def _thoughts(self, name: str) -> Path:
        return self.space.path("traces", "thoughts", f"{name}.json")

    def _save_thoughts(self, name: str, done: Evaluation) -> list[Path]:
        """Write what a system thought; the file, if it thinks."""
        thoughts = {r.search_id: r.thought for r in done.lists if r.thought is not None}
        if thoughts:
            write_json(self._thoughts(name), thoughts)
        return [self._thoughts(name)] if thoughts else []

    def write_qrels(self) -> None:
        """The targets of the test queries, for any outside tool."""
        write_qrels(self.folder / QRELS, {e.context.search_id: e.target for e in self.examples})

    def write_groups(self) -> None:
        """The labels of the test queries, for systems too that an earlier version measured with fewer columns."""
        save_groups(self.folder, [e.context.search_id for e in self.examples], self.groups)

    def load(self, name: str) -> Evaluation:
        """A measured system."""
        return Evaluation.load(self.folder, name)


def results(evaluator: Evaluator, systems: Sequence[str], stages: Sequence[tuple[str, StageRecord]]) -> dict[str, Any]:
    """The content of ``results.json`` from the evaluations on disk."""
    space, config = evaluator.space, evaluator.config
    seed = space.settings.seed
    lacking = evaluator.lacking()
    done = {name: evaluator.load(name) for name in systems if name not in lacking}
    rows = {name: e.metrics(config.bootstrap, seed) for name, e in done.items()}
    out: dict[str, Any] = {
        "data": statistics(space.dataset),
        "test_queries": len(evaluator.examples),
        "seeds": [seed],
        "invalid_items": sum(e.invalid_items for e in done.values()),
        "searchers": rows,
        "rungs": rungs(rows),
        "not_run": lacking,
        "final_stage": evaluator.final,
        "stages": [
            {
                "name": name,
                "tokens": round(float(record.numbers.get("tokens_sum", 0))),
                "mode": "direct" if name == "align" else "think",
                "metrics": evaluator.load(f"stage.{name}").metrics(config.bootstrap, seed),
            }
            for name, record in stages
        ],
        "groups": {
            name: {
                column: {
                    label: {"queries": len(part), **part.metrics(config.bootstrap, seed)}
                    for label, part in e.by_group(column).items()
                }
                for column in e.groups
            }
            for name, e in done.items()
        },
    }
    if "crs" in done and len(done) > 1:
        others = [e for name, e in done.items() if name != "crs"]
        out["significance"] = {
            metric: {
                c.other: {"difference": c.difference, "p": c.p, "p_holm": c.p_holm}
                for c in compare(done["crs"], others, metric, seed=seed)
            }
            for metric in ("HR@10", "NDCG@10")
        }
    truth = space.truth
    if truth is not None:
        from crsearch.pipeline.thoughts import thought_accuracy
        from crsearch.records.simulator import ceiling

        asked = [e.context.search_id for e in evaluator.examples]
        out["ceiling"] = ceiling(truth.filter(truth["search_id"].is_in(asked)))
        out["thoughts"] = thought_accuracy(space, [f"stage.{n}" for n, _ in stages if n != "align"])
    return out


RUNG_METRICS = ("HR@10", "NDCG@10")
"""What ``results.json`` says of a rung."""


def rungs(rows: Mapping[str, RowMetrics]) -> dict[str, dict[str, Any]]:
    """What each rung of the ladder is worth: rung -> ``searcher``, HR@10 and NDCG@10, where its system was measured.

    Args:
        rows: system -> its metrics.
    """
    return {
        rung: {"searcher": name, **{metric: rows[name][metric] for metric in RUNG_METRICS}}
        for rung, name in RUNGS.items()
        if name in rows
    }


def table(results: Mapping[str, Any]) -> list[tuple[str, dict[str, Mapping[str, float]]]]:
    """Rows of the main table, best NDCG@10 first."""
    rows = [(name, {m: row[m] for m in REPORTED}) for name, row in results["searchers"].items()]
    return sorted(rows, key=lambda r: -r[1]["NDCG@10"]["mean"])
