"""The whole path: records -> semantic IDs -> traces -> base -> align -> sft0 -> (rl, sft)* -> evaluation -> results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from crsearch.config import Settings
from crsearch.errors import RunError
from crsearch.pipeline.crew import Crew, Task
from crsearch.pipeline.jobs import JOBS
from crsearch.pipeline.learn import Learner
from crsearch.pipeline.measure import Evaluator, results
from crsearch.pipeline.refuse import refuse_unknown_searchers
from crsearch.pipeline.systems import BASELINES, SYSTEMS, baseline_start
from crsearch.pipeline.workspace import Workspace, processes, threads
from crsearch.runs import Progress, RunDirectory, StageRecord, silent, write_json


def run(
    settings: Settings,
    out: Path,
    *,
    resume: bool = False,
    redo: Sequence[str] = (),
    progress: Progress = silent,
    sources: Sequence[Path] = (),
) -> dict[str, Any]:
    """Run every stage that is not done, and write ``results.json``.

    Args:
        settings: resolved settings; what they change against an earlier run is run again, and what depends on it.
            ``threads`` = 0 means those the run began with, and all cores for a new one.
        out: run directory.
        resume: go on in a directory that already holds a run.
        redo: stages to run again although nothing changed, e.g. because a file of theirs was damaged.
        progress: called as (stage, done, total, numbers).
        sources: other runs; what they have done from the same inputs, with as many threads, is copied, not run.

    Returns:
        The content of ``results.json``.

    Raises:
        RunError: the directory holds a run and ``resume`` is off, or a run of another data set or thread count;
            an unknown stage in ``redo``; a source that is no run.
        ConfigError: an unknown searcher.
        DataError, SidError, ModelError, StorageError, TeacherError: see the stage.
    """
    refuse_unknown_searchers(settings.evaluate.searchers, SYSTEMS)
    with RunDirectory(out) as directory:
        if directory.manifest["stages"] and not resume:
            raise RunError(f"{out}: holds a run already. Go on with --resume, or choose another --out")
        for name in redo:
            _forget(directory, name)
        return finish(Workspace(directory, settings, progress, sources=sources))


def finish(space: Workspace) -> dict[str, Any]:
    """Run what is not done in an open run directory, and write ``results.json``; see ``run``."""
    number = processes(space.settings)
    space.settings = space.settings.model_copy(update={"processes": number})
    _set_threads(space, number)
    space.begin()
    with Crew(space, JOBS, number) as crew:
        made = train(space, crew)
        return _conclude(space, made, crew)


def finish_trained(space: Workspace) -> dict[str, Any]:
    """Evaluate a run whose training stages are all done, and write ``results.json``.

    Nothing runs ahead in another process, since nothing is trained; ``processes`` of the run stays what it was.

    Args:
        space: an open run that may do stages of evaluation only.

    Raises:
        RunError: something would have to be trained, or belongs to another run; nothing is written.
    """
    _set_threads(space, 1)
    space.check()
    with Crew(space, JOBS, 1) as crew:
        made = train(space, crew)
        for other in made.others.values():
            other()
        space.begin()
        return _conclude(space, made, crew)


def _set_threads(space: Workspace, number: int) -> None:
    """Settle the threads of each of so many processes: those the run began with, where the settings name none."""
    import torch

    before = next((d.manifest["threads"] for d in (space.run, *space.stages.sources) if "threads" in d.manifest), None)
    space.settings = space.settings.model_copy(update={"threads": threads(space.settings, number, before)})
    torch.set_num_threads(space.settings.threads)


def _conclude(space: Workspace, made: "Trained", crew: Crew) -> dict[str, Any]:
    evaluator = Evaluator(space, made.final)
    measure(evaluator, made, crew)
    found = results(evaluator, list(space.settings.evaluate.searchers), made.stages)
    write_json(space.path("results.json"), found)
    return found


def _forget(directory: RunDirectory, name: str) -> None:
    known = list(directory.manifest["stages"])
    if name not in known:
        raise RunError(f"--redo {name}: no such stage in {directory.path}; finished are: {', '.join(known) or 'none'}")
    directory.forget(name)


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """The training stages of a run.

    Attributes:
        data: the records.
        stages: those of CRS in order.
        final: the stage that is ``crs``.
        measured: measurements of stages that a crew does ahead.
        others: system with a training stage of its own -> trains it, or takes it from the crew.
    """

    data: StageRecord
    stages: list[tuple[str, StageRecord]]
    final: str
    measured: list[Task]
    others: Mapping[str, Callable[[], StageRecord]]


def train(space: Workspace, crew: Crew) -> Trained:
    """All stages up to the last model of CRS; other models may be under way."""
    data = space.prepare_data()
    sids = space.prepare_sids(data)
    learner = Learner(space, data)
    traces = learner.distill()
    base = space.prepare_base(sids, traces)
    aligned = learner.align(base)
    ahead = _Ahead(space.settings, crew)
    ahead.measure("align")
    record = learner.first_reasoning(aligned, traces)
    early = 0.0
    for i in range(space.settings.loop.iterations):
        if i == space.settings.loop.iterations - 1:
            early = learner.tokens()
            ahead.begin_control(early)
        ahead.measure(start := f"sft{i}")
        if space.settings.loop.rl:
            record = learner.rl(i, record)
            ahead.measure(start := f"rl{i}")
        record = learner.consolidate(i, start, record)
    others = _others(learner, ahead, base, aligned, early)
    crew.wait(ahead.validated)
    final = choose(learner, [(name, r) for name, r in learner.stages if name != "align"])
    return Trained(data=data, stages=learner.stages, final=final, measured=ahead.measured, others=others)


@dataclass
class _Ahead:
    """What a crew does while CRS is trained."""

    settings: Settings
    crew: Crew
    measured: list[Task] = field(default_factory=list)
    validated: list[Task] = field(default_factory=list)
    control: list[Task] = field(default_factory=list)

    def measure(self, stage: str) -> None:
        """Measure a finished stage, and validate it where that decides which one is kept."""
        if self.settings.loop.select == "valid" and stage != "align":
            self.validated.append(self.crew.ahead("validate", stage=stage))
        self.measured.append(self.crew.ahead("measure", stage=stage))

    def begin_control(self, tokens: float) -> None:
        """Train the first part of the control, if it is asked for."""
        if "crs-direct" in self.settings.evaluate.searchers:
            self.control = [self.crew.ahead("direct_begun", tokens=tokens)]

    def later(self, finish: Callable[[], StageRecord], job: str, **arguments: Any) -> Callable[[], StageRecord]:
        """Have a job done; what is returned waits for it, and does what is left of it."""
        task = self.crew.ahead(job, **arguments)

        def finished() -> StageRecord:
            self.crew.wait([task])
            return finish()

        return finished


def _others(
    learner: Learner, ahead: _Ahead, base: StageRecord, aligned: StageRecord, early: float
) -> dict[str, Callable[[], StageRecord]]:
    """The control and the baselines that the settings ask for, begun where a worker is free.

    Args:
        learner: with the stages of CRS, which say how many tokens the others get.
        ahead: the crew's work so far.
        base: the untrained model.
        aligned: the model after alignment.
        early: tokens of the first part of the control.
    """
    wanted = ahead.settings.evaluate.searchers
    others: dict[str, Callable[[], StageRecord]] = {}
    if "crs-direct" in wanted:
        ahead.crew.wait(ahead.control)
        late = learner.tokens() - early
        finish = partial(learner.direct, aligned, early, late)
        others["crs-direct"] = ahead.later(finish, "direct", early=early, late=late)
    for name in (n for n in BASELINES if n in wanted):
        from_base = baseline_start(name) == "base"
        tokens = learner.tokens(aligned=from_base)
        finish = partial(learner.baseline, name, base if from_base else aligned, tokens)
        others[name] = ahead.later(finish, "baseline", name=name, tokens=tokens)
    return others


def choose(learner: Learner, thinking: list[tuple[str, StageRecord]]) -> str:
    """The stage that becomes ``crs``: best NDCG@10 on validation users (the earlier one if equal), or the last."""
    if learner.settings.loop.select == "last":
        return thinking[-1][0]
    scores = [float(learner.validate(name, record).numbers["NDCG@10"]) for name, record in thinking]
    return thinking[scores.index(max(scores))][0]


def measure(evaluator: Evaluator, made: Trained, crew: Crew) -> None:
    """Evaluate the systems of the settings, and every stage, on the test users."""
    evaluator.write_qrels()
    evaluator.write_groups()
    crew.wait(made.measured)
    measured = {name: evaluator.measure_stage(name, record) for name, record in made.stages}
    final = dict(made.stages)[made.final]
    lacking = evaluator.lacking()
    for name in sorted(evaluator.config.searchers, key=lambda n: (n in made.others, n != "crs")):
        if name == "crs":
            evaluator.measure_as(name, f"stage.{made.final}", measured[made.final])
        elif name not in lacking:
            record = made.others[name]() if name in made.others else final if SYSTEMS[name].stage else made.data
            evaluator.measure_system(name, record.key)
