"""The whole path: records -> semantic IDs -> traces -> base -> align -> sft0 -> (rl, sft)* -> evaluation -> results."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from crsearch.config import Settings
from crsearch.errors import RunError
from crsearch.pipeline.learn import Learner
from crsearch.pipeline.measure import SEARCHERS, Evaluator, results
from crsearch.pipeline.refuse import refuse_unknown_searchers
from crsearch.pipeline.workspace import Workspace, threads
from crsearch.runs import Progress, RunDirectory, StageRecord, silent, write_json


def run(
    settings: Settings, out: Path, *, resume: bool = False, redo: Sequence[str] = (), progress: Progress = silent
) -> dict[str, Any]:
    """Run every stage that is not done, and write ``results.json``.

    Args:
        settings: resolved settings; what they change against an earlier run is run again, and what depends on it.
            ``threads`` = 0 means those the run began with, and all cores for a new one.
        out: run directory.
        resume: go on in a directory that already holds a run.
        redo: stages to run again although nothing changed, e.g. because a file of theirs was damaged.
        progress: called as (stage, done, total, numbers).

    Returns:
        The content of ``results.json``.

    Raises:
        RunError: the directory holds a run and ``resume`` is off, or a run of another data set or thread count;
            an unknown stage in ``redo``.
        ConfigError: an unknown searcher.
        DataError, SidError, ModelError, StorageError, TeacherError: see the stage.
    """
    refuse_unknown_searchers(settings.evaluate.searchers, SEARCHERS)
    with RunDirectory(out) as directory:
        if directory.manifest["stages"] and not resume:
            raise RunError(f"{out}: holds a run already. Go on with --resume, or choose another --out")
        for name in redo:
            _forget(directory, name)
        return finish(Workspace(directory, settings, progress))


def finish(space: Workspace) -> dict[str, Any]:
    """Run what is not done in an open run directory, and write ``results.json``; see ``run``."""
    import torch

    number = threads(space.settings, space.run.manifest.get("threads"))
    space.settings = space.settings.model_copy(update={"threads": number})
    torch.set_num_threads(number)
    space.begin()
    final, systems, stages = train(space)
    evaluator = Evaluator(space, final)
    measure(evaluator, systems, stages)
    found = results(evaluator, list(space.settings.evaluate.searchers), stages)
    write_json(space.path("results.json"), found)
    return found


def _forget(directory: RunDirectory, name: str) -> None:
    known = list(directory.manifest["stages"])
    if name not in known:
        raise RunError(f"--redo {name}: no such stage in {directory.path}; finished are: {', '.join(known) or 'none'}")
    directory.forget(name)


Keys = dict[str, str]
"""System -> key of what it depends on."""


def train(space: Workspace) -> tuple[str, Keys, list[tuple[str, StageRecord]]]:
    """All stages up to the last model.

    Returns:
        The stage that is ``crs``, what each system depends on, and the training stages in order.
    """
    settings = space.settings
    data = space.prepare_data()
    sids = space.prepare_sids(data)
    learner = Learner(space, data)
    traces = learner.distill()
    base = space.prepare_base(sids, traces)
    aligned = learner.align(base)
    record = learner.first_reasoning(aligned, traces)
    for i in range(settings.loop.iterations):
        start = f"sft{i}"
        if settings.loop.rl:
            record = learner.rl(i, record)
            start = f"rl{i}"
        record = learner.consolidate(i, start, record)
    keys = dict.fromkeys(SEARCHERS, data.key)
    if "crs-direct" in settings.evaluate.searchers:
        keys["crs-direct"] = learner.direct(aligned).key
    thinking = [(name, r) for name, r in learner.stages if name != "align"]
    final = choose(learner, thinking)
    keys["crs"] = keys["crs-no-thought"] = keys["crs-fused"] = dict(thinking)[final].key
    return final, keys, learner.stages


def choose(learner: Learner, thinking: list[tuple[str, StageRecord]]) -> str:
    """The stage that becomes ``crs``: best NDCG@10 on validation users (the earlier one if equal), or the last."""
    if learner.settings.loop.select == "last":
        return thinking[-1][0]
    scores = [float(learner.validate(name, record).numbers["NDCG@10"]) for name, record in thinking]
    return thinking[scores.index(max(scores))][0]


def measure(evaluator: Evaluator, systems: Keys, stages: list[tuple[str, StageRecord]]) -> None:
    """Evaluate the systems of the settings, and every stage, on the test users."""
    evaluator.write_qrels()
    measured = {
        name: evaluator.measure(
            f"stage.{name}",
            record.key,
            lambda n=name: evaluator.model_searcher(n, n, "direct" if n == "align" else "think"),
        )
        for name, record in stages
    }
    for name in evaluator.config.searchers:
        if name == "crs":
            evaluator.measure_as(name, f"stage.{evaluator.final}", measured[evaluator.final])
        else:
            evaluator.measure(name, [systems[name], name], lambda n=name: evaluator.searcher(n))
