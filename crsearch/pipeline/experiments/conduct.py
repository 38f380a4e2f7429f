"""The experiments by name, but for rgrpo, which starts from given runs (``rgrpo.compare_loops``)."""

from collections.abc import Callable, Mapping
from typing import Any, Literal

from crsearch.pipeline.experiments.cold import by_history
from crsearch.pipeline.experiments.controls import negative_controls
from crsearch.pipeline.experiments.lab import Lab
from crsearch.pipeline.experiments.loop import half_iterations
from crsearch.pipeline.experiments.main import all_systems
from crsearch.pipeline.experiments.scale import backbones
from crsearch.runs import write_json

Name = Literal["main", "loop", "cold", "scale", "controls"]


EXPERIMENTS: Mapping[Name, Callable[[Lab], dict[str, Any]]] = {
    "main": all_systems,  # table 2
    "loop": half_iterations,  # figure 2
    "cold": by_history,  # figure 3
    "scale": backbones,  # table 4
    "controls": negative_controls,
}


def conduct(name: Name, lab: Lab) -> dict[str, Any]:
    """Run an experiment, or what is missing of it, and write ``<name>.json`` into the folder of the lab.

    Returns:
        What the file holds: that of the experiment, with ``experiment``, ``preset`` and ``seeds``.

    Raises:
        RunError, ConfigError, DataError, SidError, ModelError, StorageError, TeacherError: of an arm.
    """
    about = {"experiment": name, "preset": lab.settings.preset, "seeds": list(range(lab.seeds))}
    found = {**about, **EXPERIMENTS[name](lab)}
    write_json(lab.out / f"{name}.json", found)
    return found
