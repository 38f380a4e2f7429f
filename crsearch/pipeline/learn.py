"""The training stages of a run, in the order of CRS figure 1: traces, align, sft0, (rl_i, sft_i+1)*, direct control."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crsearch.config import OptimConfig
from crsearch.pipeline.stages import Work
from crsearch.pipeline.systems import SAVED_BY_TRAINER, baseline_config, baseline_start, train_baseline
from crsearch.pipeline.workspace import Workspace
from crsearch.records.types import Example
from crsearch.runs import StageRecord, read_lines, write_atomic, write_json
from crsearch.train.answer import catalogue_trie
from crsearch.train.examples import TreeBuilder, split_users
from crsearch.train.rl import policy_stage
from crsearch.train.select import correct, incorrect
from crsearch.train.supervised import Thoughts, Workbench, align, consolidate, continue_directly, first_reasoning

Numbers = Mapping[str, Any]
Outputs = tuple[Sequence[Path], Numbers]

OF_FIRST_REASONING = {"repeats", "epochs", "batch", "max_steps", "start_tags", "optim"}
"""Settings of ``distill`` that say how traces are learned, not which there are."""


class Learner:
    """Runs the training stages of a workspace; each starts from the model of the stage before."""

    def __init__(self, space: Workspace, data: StageRecord) -> None:
        self.space, self.data = space, data
        self.settings = space.settings
        train = space.training_examples()
        self.aligned, self.fresh = split_users(train, self.settings.align.share)
        self.taught = self.aligned[: self.settings.distill.users]
        """Users whose trace first reasoning may see."""
        self.by_search = {e.context.search_id: e for e in train}
        self.stages: list[tuple[str, StageRecord]] = []
        """Finished training stages in order."""

    # -- traces -------------------------------------------------------------------------------------------------------
    def distill(self) -> StageRecord:
        """Thoughts of the teacher for the taught users, sifted; with the reasons for what was refused."""

        def work(_: str) -> Outputs:
            from crsearch.pipeline.teachers import sifted_traces

            traces, reasons = sifted_traces(self.space, self.taught)
            rows = [{"search_id": t.search_id, "thought": t.thought, "source": t.source} for t in traces]
            file = self.space.path("traces", "distilled.jsonl")
            write_atomic(file, "".join(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n" for r in rows))
            return [file], {"traces": len(rows), "refused": reasons, "tokens": sum(t.tokens for t in traces)}

        config = self.settings.distill
        inputs = [
            self.data.key, self.space.sids.fingerprint(), self.settings.align.share, self.settings.context.max_events,
            config.model_dump(exclude=OF_FIRST_REASONING), *self.space.training_inputs,
        ]  # fmt: skip
        return self.space.stages.do("distill", inputs, work)

    # -- stages that train --------------------------------------------------------------------------------------------
    def align(self, base: StageRecord) -> StageRecord:
        """base -> align."""

        def work(key: str) -> Outputs:
            bench = self.bench("base", self.aligned)
            return self.trained("align", align(bench, "align", key, self.aligned))

        return self.stage("align", [base.key, self.settings.align.model_dump()], work)

    def first_reasoning(self, before: StageRecord, traces: StageRecord) -> StageRecord:
        """align -> sft0."""

        def work(key: str) -> Outputs:
            bench = self.bench("align", self.taught)
            return self.trained("sft0", first_reasoning(bench, "sft0", key, self.traces(bench)))

        config = self.settings.distill.model_dump(include=OF_FIRST_REASONING)
        return self.stage("sft0", [before.key, traces.key, config, self.settings.mixture.model_dump()], work)

    def rl(self, i: int, before: StageRecord) -> StageRecord:
        """sft_i -> rl_i on what sft_i gets wrong."""
        config, start, name = self.settings.rl, f"sft{i}", f"rl{i}"
        users = self.fresh if config.users == "fresh" else [*self.aligned, *self.fresh]
        chosen = self._selected_wrong(name, start, users, before) if config.hard_only else None

        def work(key: str) -> Outputs:
            examples = list(users)
            if chosen is not None:
                wrong = set(json.loads(self.space.path("traces", f"{name}.incorrect.json").read_text()))
                examples = [e for e in users if e.context.search_id in wrong]
            bench = self.bench(start, [*examples, *self.taught], loop=True)
            trie = catalogue_trie(bench.builder.bundle)
            numbers = policy_stage(bench, name, key, examples, trie, self.traces(bench))
            return self.trained(name, {**numbers, "examples": len(examples)})

        inputs = [
            before.key,
            chosen and chosen.key,
            config.model_dump(),
            self.settings.mixture.answer,
            self.settings.decode.think_tokens,
            self.settings.loop.seed,
        ]
        return self.stage(name, inputs, work)

    def _selected_wrong(self, name: str, start: str, users: Sequence[Example], before: StageRecord) -> StageRecord:
        """Incorrect(D, M) of a model, kept so that a resumed stage need not ask again."""
        stage = f"{name}.select"

        def work(_: str) -> Outputs:
            bench = self.bench(start, users)
            trie = catalogue_trie(bench.builder.bundle)
            wrong = incorrect(bench, users, trie, self.space.stages.ticker(stage))
            file = self.space.path("traces", f"{name}.incorrect.json")
            write_json(file, wrong)
            return [file], {"asked": len(users), "incorrect": len(wrong)}

        inputs = [before.key, self.settings.rl.users, self.settings.decode.model_dump(), len(users)]
        return self.space.stages.do(stage, inputs, work)

    def consolidate(self, i: int, start: str, before: StageRecord) -> StageRecord:
        """rl_i (or sft_i, in SFT-only rounds) -> sft_i+1 on what that model gets right."""
        config, name = self.settings.sft, f"sft{i + 1}"
        users = [*self.aligned, *self.fresh] if config.users == "all" else self.fresh
        file = self.space.path("traces", f"{name}.correct.jsonl")

        def select(_: str) -> Outputs:
            bench = self.bench(start, users, loop=True)
            trie = catalogue_trie(bench.builder.bundle)
            found = correct(bench, name, users, trie, self.space.stages.ticker(f"{name}.select"))
            decode = bench.builder.bundle.tokenizer.decode
            rows = [{"search_id": s, "thought_ids": t, "thought": decode(t)} for s, t in found]
            write_atomic(file, "".join(json.dumps(r, ensure_ascii=False, sort_keys=True) + "\n" for r in rows))
            return [file], {"asked": len(users), "correct": len(found)}

        sampling = config.model_dump(include={"samples", "temperature", "users"})
        inputs = [before.key, sampling, self.settings.decode.model_dump(), self.settings.loop.seed]
        chosen = self.space.stages.do(f"{name}.select", inputs, select)

        def work(key: str) -> Outputs:
            right = {r["search_id"]: r["thought_ids"] for r in read_lines(file)}
            bench = self.bench(start, users, loop=True)
            traces = [(e, right[e.context.search_id]) for e in users if e.context.search_id in right]
            others = [e for e in users if e.context.search_id not in right]
            return self.trained(name, consolidate(bench, name, key, traces, others))

        return self.stage(name, [chosen.key, config.model_dump(), self.settings.mixture.model_dump()], work)

    def direct(self, aligned: StageRecord, early: float, late: float) -> StageRecord:
        """The control: align goes on without thoughts on as many tokens as the stages of CRS after it.

        How many those are is known only when CRS is trained. So that the control need not wait for that, its learning
        rate stays constant for the tokens of all iterations but the last (``direct0``) and falls to zero over those
        of the last (warm-up, stable, decay).

        Args:
            aligned: where it starts.
            early: tokens of ``direct0``; 0 = there is none.
            late: tokens after it.
        """
        optim = self.settings.align.optim
        if early == 0:
            return self._directly("direct", "align", aligned, late, optim)
        begun = self.direct_begun(aligned, early)
        return self._directly("direct", "direct0", begun, late, optim.model_copy(update={"warmup": 0.0}))

    def direct_begun(self, aligned: StageRecord, tokens: float) -> StageRecord:
        """The part of the control that can be trained before CRS is."""
        optim = self.settings.align.optim.model_copy(update={"schedule": "constant"})
        return self._directly("direct0", "align", aligned, tokens, optim)

    def _directly(self, name: str, start: str, before: StageRecord, tokens: float, optim: OptimConfig) -> StageRecord:
        def work(key: str) -> Outputs:
            users = [*self.aligned, *self.fresh]
            bench = self.bench(start, users)
            return self.trained(name, continue_directly(bench, name, key, users, tokens, optim))

        config = [self.settings.align.model_dump(), self.settings.mixture.items, optim.model_dump()]
        return self.training(name, [before.key, tokens, config], work)

    def baseline(self, name: str, start: StageRecord, tokens: float) -> StageRecord:
        """A generative baseline.

        Args:
            name: of the system and of its stage.
            start: the model it starts from: ``align`` for one that reads contexts, else ``base``.
            tokens: how many it is trained on.
        """

        def work(key: str) -> Outputs:
            users = [*self.aligned, *self.fresh]
            bench = self.bench(baseline_start(name), users)
            numbers = train_baseline(bench, name, key, users, tokens)
            outputs = [self.space.path("models", name)]
            if name not in SAVED_BY_TRAINER:
                self.space.save_model(name)
            beside = sorted(self.space.path("models").glob(f"{name}.*"))  # a layer of its own, see LatentR3
            return [*outputs, *beside], numbers

        return self.training(name, [start.key, tokens, baseline_config(self.settings, name)], work)

    def tokens(self, *, aligned: bool = False) -> float:
        """Tokens that the stages of CRS after alignment (or alignment too) have been trained on so far."""
        return sum(float(r.numbers.get("tokens_sum", 0.0)) for n, r in self.stages if aligned or n != "align")

    # -- choice -------------------------------------------------------------------------------------------------------
    def validate(self, stage: str, record: StageRecord) -> StageRecord:
        """NDCG@10 of a thinking stage on validation users, as on test users; what ``loop.select`` looks at."""
        users = self.space.examples("valid")[: self.settings.loop.valid_users]
        exclude_history, decode = self.settings.evaluate.exclude_history, self.settings.decode

        def work(_: str) -> Outputs:
            from crsearch.evaluate.evaluation import evaluate
            from crsearch.searchers.crs import CrsSearcher

            builder = self.bench(stage, users).builder
            builder.bundle.model.eval()
            searcher = CrsSearcher(builder, catalogue_trie(builder.bundle), decode, name=stage)
            ids = self.space.dataset.catalogue.ids
            done = evaluate(searcher, users, ids, exclude_history=exclude_history, batch=decode.batch)
            means = {name: float(values.mean()) for name, values in done.per_query().items()}
            self.space.run.rewind("metrics.jsonl", f"valid.{stage}", -1)
            self.space.run.log(f"valid.{stage}", 0, means)
            return [], {"users": len(users), **means}

        inputs = [record.key, len(users), decode.model_dump(), exclude_history]
        return self.space.stages.do(f"valid.{stage}", inputs, work)

    def traces(self, bench: Workbench) -> Thoughts:
        """The teacher's traces as tokens."""
        return [
            (self.by_search[search_id], bench.builder.prompts.thought(text))
            for search_id, text in self.space.traces().items()
        ]

    # -- shared -------------------------------------------------------------------------------------------------------
    def bench(self, stage: str, examples: Sequence[Example], *, loop: bool = False) -> Workbench:
        """A workbench with the model of a finished stage, and the contexts of ``examples`` tokenised.

        Args:
            stage: whose model.
            examples: what will be read.
            loop: the work is part of the loop, so that ``loop.seed`` counts.
        """
        builder: TreeBuilder = self.space.builder(stage, fresh=True)
        builder.read([e.context for e in examples])
        return Workbench(
            run=self.space.run,
            settings=self.settings,
            builder=builder,
            loop_seed=self.settings.loop.seed if loop else 0,
            progress=self.space.progress,
        )

    def trained(self, stage: str, numbers: Numbers) -> Outputs:
        """Save the trained model as the result of ``stage``."""
        return [self.space.save_model(stage)], numbers

    def training(self, name: str, inputs: object, work: Work) -> StageRecord:
        """Run a training stage; its checkpoints go once the stage is on record, not before."""
        record = self.space.stages.do(name, inputs, work)
        shutil.rmtree(self.space.path("checkpoints", name), ignore_errors=True)
        return record

    def stage(self, name: str, inputs: object, work: Work) -> StageRecord:
        """A training stage that is part of CRS."""
        record = self.training(name, [inputs, self.settings.seed], work)
        self.stages.append((name, record))
        return record
