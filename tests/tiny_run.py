"""A whole run in a few seconds: a shop of 40 items, 60 users, a model of width 16, two or three steps a stage."""

from pathlib import Path

from crsearch.config import Settings, load_settings

TINY = (
    "threads=1", "processes=1",
    "checkpoint_seconds=0",
    "simulate.users=60", "simulate.items=40", "simulate.departments=1", "simulate.brands=2",
    "split.test=0.3", "split.valid=0.15",
    "encoder.dim=16", "sids.codes=8", "sids.iterations=5",
    "model.width=16", "model.layers=1", "model.heads=2", "model.kv_heads=1", "model.head_dim=8",
    "model.feed_forward=16", "model.vocabulary=400",
    "align.batch=4", "align.max_steps=3",
    "distill.batch=4", "distill.max_steps=3", "distill.users=12",
    "rl.steps=3", "rl.prompts=2", "rl.group_size=3", "rl.beam=4", "rl.rank_reward=prob", "rl.reward.structure=0",
    "sft.samples=12", "sft.temperature=1.3", "sft.batch=4", "sft.max_steps=3",
    "loop.iterations=1", "loop.select=last",
    "decode.think_tokens=20",
    "evaluate.bootstrap=100",
)  # fmt: skip
"""As ``--set`` takes them."""


def tiny_settings(*changes: str) -> Settings:
    """Settings of the tiny run, with changes such as ``rl.steps=2``."""
    return load_settings(None, (*TINY, *changes), {"preset": "demo"})


def tiny_arguments(*changes: str) -> list[str]:
    """The same on the command line of ``crsearch run``."""
    return [part for text in ("preset=demo", *TINY, *changes) for part in ("--set", text)]


class Events:
    """A progress that keeps what it is told."""

    def __init__(self) -> None:
        self.all: list[tuple[str, int, int, dict[str, float]]] = []

    def __call__(self, stage, done, total, numbers) -> None:
        self.all.append((stage, done, total, dict(numbers)))

    def of(self, stage: str) -> list[tuple[int, int, dict[str, float]]]:
        """(done, total, numbers) of a stage, in order."""
        return [tuple(rest) for name, *rest in self.all if name == stage]

    @property
    def ran(self) -> list[str]:
        """Stages that were not done before, in order."""
        first: dict[str, int] = {}
        for stage, done, _, _ in self.all:
            first.setdefault(stage, done)
        return [stage for stage, done in first.items() if done == 0]


class Interrupt(Events):
    """A progress that interrupts the run once a stage stands at ``done``, as Ctrl-C would."""

    def __init__(self, stage: str, done: int) -> None:
        super().__init__()
        self.at = stage, done

    def __call__(self, stage, done, total, numbers) -> None:
        super().__call__(stage, done, total, numbers)
        if (stage, done) == self.at and total > 1:
            raise KeyboardInterrupt


def run_tiny(out: Path, *changes: str, resume: bool = False) -> Events:
    """A tiny run in ``out``; what it reported."""
    from crsearch.pipeline.run import run

    events = Events()
    run(tiny_settings(*changes), out, resume=resume, progress=events)
    return events
