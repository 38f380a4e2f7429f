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
        RunError: no run, or one that is not finished.
    """
    RunDirectory.reading(folder)
    file = folder / "results.json"
    if not file.exists():
        raise RunError(f"{folder}: the run is not finished. Go on: crsearch run {folder}/settings.toml --out {folder} "
                       "--resume")  # fmt: skip
    return load_settings(folder / "settings.toml"), json.loads(file.read_text(encoding="utf-8"))
