"""What a finished run gives to a server: its tokenizer, its semantic IDs, its catalogue. Both processes load it.

The model is the engine's: nothing of torch is imported here.
"""

from pathlib import Path

from crsearch.models.files import model_key, refuse_other_sids, verify
from crsearch.models.tokenizer_file import load_tokenizer
from crsearch.pipeline.finished import finished
from crsearch.pipeline.workspace import Workspace
from crsearch.runs import RunDirectory, silent
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
        self.space = Workspace(RunDirectory.reading(run), self.settings, silent, run / "data", only_decodes=True)
        self.final: str = self.results["final_stage"]
        self.folder = run / "models" / self.final
        """Of the model."""
        refuse_other_sids(self.folder, verify(self.folder), self.space.sids)
        self.tokenizer, self.model_key = load_tokenizer(self.folder), model_key(self.folder)
        self.store = CatalogueStore(run)

    def index(self, version: Version, before: Index | None = None) -> Index:
        """All that answers in a version of the catalogue; what has not changed is taken from the one before.

        Parts that only some need are made when they are asked for; ``Index.prepare`` makes those of a front.
        """
        return Index(self.space, version, self.tokenizer, self.final, before)
