"""What a crew can do ahead of the main path: stages that nothing but the end of the run waits for."""

from crsearch.pipeline.crew import Jobs
from crsearch.pipeline.learn import Learner
from crsearch.pipeline.measure import Evaluator
from crsearch.pipeline.systems import baseline_start
from crsearch.pipeline.workspace import Workspace
from crsearch.runs import StageRecord


def validate(space: Workspace, stage: str) -> None:
    """Metrics of a training stage on the validation users."""
    _learner(space).validate(stage, _done(space, stage))


def measure(space: Workspace, stage: str) -> None:
    """Metrics of a training stage on the test users."""
    Evaluator(space).measure_stage(stage, _done(space, stage))


def direct_begun(space: Workspace, tokens: float) -> None:
    """The first part of the control."""
    _learner(space).direct_begun(_done(space, "align"), tokens)


def direct(space: Workspace, early: float, late: float) -> None:
    """The control."""
    _learner(space).direct(_done(space, "align"), early, late)


def baseline(space: Workspace, name: str, tokens: float) -> None:
    """A generative baseline."""
    _learner(space).baseline(name, _done(space, baseline_start(name)), tokens)


JOBS: Jobs = {
    "validate": validate,
    "measure": measure,
    "direct_begun": direct_begun,
    "direct": direct,
    "baseline": baseline,
}


def _learner(space: Workspace) -> Learner:
    return Learner(space, _done(space, "data"))


def _done(space: Workspace, stage: str) -> StageRecord:
    record = space.run.stage(stage)
    assert record is not None, f"{stage} is not on record"
    return record
