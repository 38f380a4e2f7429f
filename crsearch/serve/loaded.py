"""What a finished run gives to a server: its model, its semantic IDs, its catalogue. Both processes load it."""

import json
from pathlib import Path
from typing import Any

from crsearch.models.bundle import load_bundle
from crsearch.pipeline.again import finished
from crsearch.pipeline.workspace import Workspace
from crsearch.runs import RunDirectory, digest, silent
from crsearch.serve.catalogue import CatalogueStore, Version
from crsearch.serve.index import Index


class Loaded:
    """A finished run in memory.

    Args:
        run: its folder.

    Raises:
        RunError: no finished run.
        ModelError, SidError, DataError: its files are broken or do not belong together.
    """

    def __init__(self, run: Path) -> None:
        self.settings, self.results = finished(run)
        self.space = Workspace(RunDirectory.reading(run), self.settings, silent, run / "data")
        self.final: str = self.results["final_stage"]
        folder = run / "models" / self.final
        self.bundle = load_bundle(folder, self.space.sids)
        self.bundle.model.eval()
        weights: dict[str, Any] = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        self.model_key = digest(weights["sha256"])[:12]
        self.store = CatalogueStore(run)

    def index(self, version: Version, before: Index | None = None) -> Index:
        """All that answers in a version of the catalogue; what has not changed is taken from the one before."""
        return Index(self.space, version, self.bundle, self.final, before)
