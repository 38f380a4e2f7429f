"""What experiments are made of: shops that are simulated once, and arms, each a run directory that resumes."""

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from crsearch.config import Nested, Settings, merge
from crsearch.errors import RunError
from crsearch.evaluate.evaluation import Evaluation
from crsearch.pipeline.run import run
from crsearch.pipeline.systems import BASELINES, FINAL, SYSTEMS, baseline_start
from crsearch.runs import Json, Progress, RunDirectory, silent

BudgetName = Literal["smoke", "hour", "full"]


@dataclass(frozen=True, slots=True)
class Budget:
    """How large an experiment is.

    Attributes:
        preset: settings of every arm.
        seeds: training seeds of every arm.
    """

    preset: str
    seeds: int


BUDGETS: Mapping[BudgetName, Budget] = {
    "smoke": Budget("smoke", seeds=1),  # minutes: does it work?
    "hour": Budget("demo", seeds=1),  # under an hour on two cores
    "full": Budget("small", seeds=5),  # a night on two cores, or one big GPU
}

Shown = Callable[[str, Settings], AbstractContextManager[Progress]]
"""Opens the progress of an arm, given its name and its settings."""


def unseen(_: str, __: Settings) -> AbstractContextManager[Progress]:
    """Shows nothing."""
    return nullcontext(silent)


def changed(settings: Settings, changes: Nested) -> Settings:
    """Settings with other values in some sections, checked as any settings are.

    >>> changed(Settings(), {"rl": {"steps": 2}}).rl.steps
    2
    """
    return Settings.model_validate(merge(settings.model_dump(), changes))


@dataclass(frozen=True)
class Arm:
    """A run of an experiment; finished, unless said otherwise."""

    folder: Path
    """The run directory; TREC files of its systems lie in ``eval/``."""

    @cached_property
    def results(self) -> Json:
        """Its ``results.json``."""
        found: Json = json.loads((self.folder / "results.json").read_text(encoding="utf-8"))
        return found

    @cached_property
    def stages(self) -> Mapping[str, Json]:
        """Its stages by name, as the manifest knows them."""
        stages: Mapping[str, Json] = RunDirectory.reading(self.folder).manifest["stages"]
        return stages

    def evaluation(self, name: str) -> Evaluation:
        """Ranks of a system, or of a stage under the name ``stage.<name>``."""
        return Evaluation.load(self.folder / "eval", name)

    @property
    def is_begun(self) -> bool:
        """A stage may be done, all need not be."""
        return (self.folder / "manifest.json").exists()

    @property
    def loop(self) -> list[str]:
        """Stages of CRS that think, in order: sft0, rl0, sft1, ..."""
        return [s["name"] for s in self.results["stages"] if s["name"] != "align"]

    def tokens(self, system: str) -> float:
        """Tokens that the model of a system was trained on, from its first weights; 0 = it is not trained here."""
        own = SYSTEMS[system].stage
        if own == FINAL:
            path = [s["name"] for s in self.results["stages"]]
            trained = path[: path.index(self.results["final_stage"]) + 1]
        else:
            first = [] if own not in BASELINES or baseline_start(own) == "base" else [baseline_start(own)]
            begun = ["direct0"] if "sft1" in self.loop else []  # the control begins at align where there is no loop
            trained = ["align", *begun, "direct"] if own == "direct" else [*first, own]
        return sum((float(self.stages[s]["numbers"].get("tokens_sum", 0)) for s in trained if s in self.stages), 0.0)

    def cpu_seconds(self, stages: Collection[str]) -> dict[str, float]:
        """CPU seconds of training stages, of choosing their examples (``rl0.select``), and ``total``.

        They are those of the process that ran the stage, so a resumed arm has the same.
        """
        seconds = {
            name: float(entry["cost"]["cpu_seconds"])
            for name, entry in self.stages.items()
            if name.split(".")[0] in stages
        }
        return {**seconds, "total": sum(seconds.values(), 0.0)}


def run_arm(settings: Settings, folder: Path, progress: Shown, sources: Sequence[Path] = ()) -> Arm:
    """Run an arm, or what is missing of it.

    Args:
        settings: resolved settings.
        folder: its run directory.
        progress: opens its progress, under the names of its folder and of the one above.
        sources: other runs, whose stages are taken over where they were done from the same inputs.

    Raises:
        RunError, ConfigError, DataError, SidError, ModelError, StorageError, TeacherError: see ``pipeline.run``.
    """
    with progress("/".join(folder.parts[-2:]), settings) as shown:
        run(settings, folder, resume=True, progress=shown, sources=sources)
    return Arm(folder)


def teachers(settings: Settings) -> Mapping[str, Nested]:
    """Name -> settings: the analyst that is right and the one that errs, or the teacher of the settings."""
    teacher = settings.distill.teacher
    if teacher != "analyst":
        return {teacher: {}}
    return {name: {"distill": {"analyst": name}} for name in ("map", "noisy")}


@dataclass(frozen=True, kw_only=True)
class Lab:
    """What an experiment works with.

    Attributes:
        settings: of every arm, but for what the experiment varies. ``data`` = records to use in place of a simulated
            shop.
        seeds: training seeds, from 0; the shop is the same for all.
        out: folder of the shops, of the arms and of the result.
        progress: opens the progress of an arm.
        runs: runs to take over from what is the same there; ``cold`` looks at them in place of arms.
    """

    settings: Settings
    seeds: int
    out: Path
    progress: Shown = unseen
    runs: Sequence[Path] = ()

    def shop(self, name: str = "data", changes: Nested | None = None) -> Path:
        """Records with their truth, simulated on the first call; those of the settings where these name some.

        Args:
            name: folder below ``out``.
            changes: settings in which the shop differs.

        Raises:
            RunError: the folder holds a shop of other settings.
        """
        from crsearch.records.simulator import simulate
        from crsearch.records.simulator.simulation import SHOP_FILE

        if self.settings.data is not None:
            return Path(self.settings.data)
        settings, folder = changed(self.settings, changes or {}), self.out / name
        file = folder / SHOP_FILE
        if not file.exists():
            simulate(settings.simulate, settings.split, settings.seed).save(folder)
            return folder
        wanted = {
            "config": settings.simulate.model_dump(mode="json"),
            "split": settings.split.model_dump(mode="json"),
            "seed": settings.seed,
        }
        found = json.loads(file.read_text(encoding="utf-8"))
        if {key: found[key] for key in wanted} != wanted:
            raise RunError(
                f"{folder}: holds a shop of other settings (simulate, split or seed). Go on with the settings it was "
                "made with, or choose another --out"
            )
        return folder

    def arm(self, name: str, records: Path, seed: int, changes: Nested | None = None) -> Arm:
        """Run an arm, or what neither it nor an arm beside it nor a given run has done; see ``run_arm``.

        Args:
            name: folder below ``out``.
            records: what it learns from and is tested on.
            seed: of its training.
            changes: settings in which it differs.
        """
        own: Nested = {"data": str(records), "seed": seed}
        if self.settings.data is None:
            own["distill"] = {"language": self.settings.simulate.language}
        settings = changed(self.settings, merge(own, changes or {}))
        beside = {m.parent for depth in ("*", "*/*") for m in self.out.glob(f"{depth}/manifest.json")}
        return run_arm(settings, self.out / name, self.progress, [*self.runs, *sorted(beside - {self.out / name})])

    def arms(self, name: str, records: Path, changes: Nested | None = None) -> list[Arm]:
        """One arm per seed, ``<name>/seed-<n>``."""
        return [self.arm(f"{name}/seed-{seed}", records, seed, changes) for seed in range(self.seeds)]

    def relative(self, arms: Sequence[Arm]) -> list[str]:
        """Folders of arms, below ``out``."""
        return [arm.folder.relative_to(self.out).as_posix() for arm in arms]


def mean_tokens(arms: Sequence[Arm], system: str) -> int:
    """Training tokens of a system, mean over arms."""
    return round(sum(arm.tokens(system) for arm in arms) / len(arms))


def facts_of(arm: Arm) -> dict[str, Any]:
    """What all arms on one shop share: number of test queries, and the best that is possible where that is known."""
    return {key: arm.results[key] for key in ("test_queries", "ceiling") if key in arm.results}
