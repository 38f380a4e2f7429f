"""The experiments by name."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from crsearch.pipeline.experiments.lab import Lab
from crsearch.pipeline.experiments.main import all_systems
from crsearch.runs import write_json

Name = Literal["main"]


@dataclass(frozen=True, slots=True)
class Experiment:
    """What an experiment shows, how, and where its result lies."""

    what: str
    do: Callable[[Lab], dict[str, Any]]
    file: str


EXPERIMENTS: Mapping[Name, Experiment] = {
    "main": Experiment("all systems", all_systems, "main.json"),
}


def conduct(name: Name, lab: Lab) -> dict[str, Any]:
    """Run an experiment, or what is missing of it, and write its result into the folder of the lab.

    Returns:
        What the file holds: that of the experiment, with ``experiment``, ``preset`` and ``seeds``.

    Raises:
        RunError, ConfigError, DataError, SidError, ModelError, StorageError, TeacherError: of an arm.
    """
    experiment = EXPERIMENTS[name]
    found = {
        "experiment": name,
        "preset": lab.settings.preset,
        "seeds": list(range(lab.seeds)),
        **experiment.do(lab),
    }
    write_json(lab.out / experiment.file, found)
    return found
