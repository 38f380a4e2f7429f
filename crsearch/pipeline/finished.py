"""What a finished run says of itself; read before anything is loaded."""

import json
from pathlib import Path
from typing import Any

from crsearch.config import Settings, load_settings
from crsearch.errors import RunError
from crsearch.runs import RunDirectory


def finished(folder: Path) -> tuple[Settings, dict[str, Any]]:
    """Settings and results of a finished run.

    Raises:
        RunError: no run, one that is not finished, or results that cannot be read.
    """
    RunDirectory.reading(folder)
    file = folder / "results.json"
    if not file.exists():
        raise RunError(f"{folder}: the run is not finished. Go on: crsearch run {folder}/settings.toml --out {folder} "
                       "--resume")  # fmt: skip
    return load_settings(folder / "settings.toml"), _results(file)


def _results(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        fault = "" if isinstance(found, dict) and "final_stage" in found else "no final_stage in it"
    except ValueError as e:  # not JSON, or not UTF-8
        found, fault = {}, str(e)
    if fault:
        here = file.parent
        raise RunError(
            f"{file}: not the results of a run ({fault}). Make them again: crsearch run {here}/settings.toml "
            f"--out {here} --resume"
        )
    return dict(found)
