"""What a finished run left on disk, read when it is first asked for."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crsearch.config import Settings, load_settings
from crsearch.errors import RunError
from crsearch.evaluate.evaluation import Evaluation, compare
from crsearch.evaluate.intervals import Interval
from crsearch.records.simulator.stated import FieldName, Lexicon, stated_fields
from crsearch.records.store import Dataset
from crsearch.records.types import Item
from crsearch.runs import Json, RunDirectory, read_lines
from crsearch.train.template import TemplateReader

if TYPE_CHECKING:
    import polars as pl


@dataclass(frozen=True)
class Found:
    """A finished run, to read from.

    Attributes:
        folder: of the run.
        run: its manifest and numbers.
        settings: resolved.
        results: content of ``results.json``.
    """

    folder: Path
    run: RunDirectory
    settings: Settings
    results: Json
    _evaluations: dict[str, Evaluation | None] = field(default_factory=dict)
    _differences: dict[tuple[str, str, str, tuple[str, str] | None], Interval | None] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> "Found":
        """Open a finished run.

        Raises:
            RunError: there is no run, it is not finished, or its results cannot be read.
            ConfigError: its settings cannot be read.
        """
        run = RunDirectory.reading(folder)
        file = folder / "results.json"
        if not file.exists():
            raise RunError(
                f"{folder}: the run is not finished (no results.json), so there is nothing to report. "
                f"Go on: crsearch run {folder}/settings.toml --out {folder} --resume"
            )
        return cls(folder, run, load_settings(folder / "settings.toml"), read_json(file))

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return self.folder.resolve().name

    @property
    def simulated(self) -> bool:
        """The data are a simulated shop."""
        return self.settings.data is None or self.truth is not None

    def stage_numbers(self, stage: str) -> Json:
        """What the manifest knows of a stage; empty for one that was not run."""
        entry = self.run.manifest.get("stages", {}).get(stage, {})
        return dict(entry.get("numbers", {}))

    def costs(self) -> dict[str, dict[str, float]]:
        """Stage -> ``seconds`` and ``cpu_seconds`` that it took, where the manifest knows them."""
        stages = self.run.manifest.get("stages", {})
        return {name: dict(entry["cost"]) for name, entry in stages.items() if entry.get("cost")}

    @cached_property
    def numbers(self) -> list[Json]:
        """Lines of ``metrics.jsonl``."""
        return self.run.numbers()

    def series(self, stage: str, name: str) -> tuple[list[float], list[float]]:
        """Steps and values of a logged number in a stage; empty where it was never logged."""
        rows = [r for r in self.numbers if r["stage"] == stage and r.get(name) is not None]
        return [float(r["step"]) for r in rows], [float(r[name]) for r in rows]

    @cached_property
    def dataset(self) -> Dataset:
        """The records."""
        return Dataset.load(self.folder / "data")

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {item_id: row for row, item_id in enumerate(self.dataset.catalogue.ids)}

    def item(self, item_id: str) -> Item | None:
        """An item of the catalogue; none where the catalogue lacks it."""
        row = self._rows.get(item_id)
        return None if row is None else self.dataset.catalogue[row]

    @cached_property
    def truth(self) -> "pl.DataFrame | None":
        """What the simulated shop knows of each example."""
        import polars as pl

        file = self.folder / "data" / "truth.parquet"
        return pl.read_parquet(file) if file.exists() else None

    def evaluation(self, system: str) -> Evaluation | None:
        """The answers of a measured system; none where its files are not there.

        Raises:
            DataError: its files are broken.
        """
        if system not in self._evaluations:
            files = [self.folder / "eval" / f"{system}.{ending}" for ending in ("parquet", "trec")]
            there = all(file.exists() for file in files)
            self._evaluations[system] = Evaluation.load(files[0].parent, system) if there else None
        return self._evaluations[system]

    def difference(self, system: str, other: str, metric: str, group: tuple[str, str] | None = None) -> Interval | None:
        """Mean of ``system`` - ``other`` over the same test queries, with its interval, as ``results.json`` has it.

        Args:
            system, other: measured systems.
            metric: e.g. ``NDCG@10``.
            group: column and label of the queries to look at; none = all.

        Returns:
            None where the files of one of them are not there.
        """
        key = (system, other, metric, group)
        if key not in self._differences:
            self._differences[key] = self._difference(*key)
        return self._differences[key]

    def _difference(self, system: str, other: str, metric: str, group: tuple[str, str] | None) -> Interval | None:
        a, b = self.evaluation(system), self.evaluation(other)
        if a is None or b is None:
            return None
        if group is not None:
            a, b = (e.by_group(group[0])[group[1]] for e in (a, b))
        return compare(a, [b], metric, seed=self.settings.seed)[0].difference

    def milliseconds(self, system: str) -> float | None:
        """Mean time of a query; none where nobody measured it."""
        measured = self.evaluation(system)
        mean = float("nan") if measured is None or not len(measured) else float(measured.latency_ms_B.mean())
        return None if math.isnan(mean) else mean

    def mean_tokens(self, system: str) -> dict[str, float | None]:
        """Mean ``read_tokens`` and ``thought_tokens`` of a query; none where not known."""
        measured = self.evaluation(system)
        return {} if measured is None else measured.mean_tokens()

    def thoughts(self, system: str) -> dict[str, str]:
        """search_id -> what a measured system thought; empty for one that does not think."""
        return dict(self.json("traces", "thoughts", f"{system}.json") or {})

    @cached_property
    def _lexicon(self) -> Lexicon:
        return Lexicon.from_catalogue(self.dataset.catalogue)

    @cached_property
    def _template(self) -> TemplateReader:
        return TemplateReader(self.dataset.catalogue)

    def stated(self, thoughts: Mapping[str, str]) -> dict[str, dict[FieldName, str | None]]:
        """search_id -> what a thought states of the wanted item: in the template's form, else in any words."""
        return {search_id: self._stated(thought) for search_id, thought in thoughts.items()}

    def _stated(self, thought: str) -> dict[FieldName, str | None]:
        said = self._template.read(thought)
        if said is None:
            return stated_fields(thought, self._lexicon)
        return {"category": said.category, "brand": said.brand, "price": None, "style": None}

    def quoted(self, thought: str) -> str | None:
        """Earlier choices that a thought in the template's form quotes, as written; none where it quotes none."""
        said = self._template.read(thought)
        return None if said is None else said.evidence

    def json(self, *parts: str) -> Any:
        """Content of a JSON file of the run; none where it is not there."""
        file = self.folder.joinpath(*parts)
        return read_json(file) if file.exists() else None

    def lines(self, *parts: str) -> list[Json]:
        """Rows of a JSON-lines file of the run; none where it is not there."""
        file = self.folder.joinpath(*parts)
        return read_lines(file) if file.exists() else []

    # -- stages -------------------------------------------------------------------------------------------------------
    @property
    def stages(self) -> list[Json]:
        """The training stages in order: name, tokens, mode, metrics."""
        return list(self.results.get("stages", []))

    @property
    def thinking(self) -> list[Json]:
        """The stages that think before they rank."""
        return [s for s in self.stages if s.get("mode") != "direct"]

    @property
    def rl_stages(self) -> list[str]:
        """Names of the stages of reinforcement learning."""
        return [s["name"] for s in self.stages if s["name"].startswith("rl")]


def read_json(file: Path) -> Any:
    """Content of a JSON file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise RunError(f"{file}: not readable ({e}); restore the file, or run again with --resume") from e
