"""What the stages of a run share: records, semantic IDs, prompts, and the model of each stage."""

import dataclasses
import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from crsearch import __version__
from crsearch.config import Settings, to_toml
from crsearch.encoders import build_encoder
from crsearch.errors import ConfigError
from crsearch.pipeline.refuse import TRUTH, refuse_empty_parts, refuse_impossible, refuse_other_run
from crsearch.pipeline.stages import Stages
from crsearch.records.store import Catalogue, Dataset
from crsearch.records.types import Example, Part
from crsearch.runs import (
    Progress,
    RunDirectory,
    StageRecord,
    digest,
    file_digest,
    read_lines,
    write_atomic,
    write_json,
)
from crsearch.sids import SidBook, item_text, quality, sids_from_embeddings

if TYPE_CHECKING:
    import polars as pl

    from crsearch.train.examples import TreeBuilder

T = TypeVar("T")


class Workspace:
    """A run and everything that its finished stages offer; loaded when first asked for.

    Args:
        run: the locked run directory.
        settings: resolved settings.
        progress: where stages report.
        records: folder of the records; none = what the settings say.
        only: beginning of the names of stages that may be run; "" = all.
        sources: folders of other runs, whose stages are taken over where they were done from the same inputs.
        only_decodes: models are asked and never trained, so they may do without transformers (``load_for_decoding``).

    Raises:
        RunError: a source is no run.
    """

    def __init__(
        self,
        run: RunDirectory,
        settings: Settings,
        progress: Progress,
        records: Path | None = None,
        only: str = "",
        sources: Sequence[Path] = (),
        only_decodes: bool = False,
    ) -> None:
        self.only_decodes = only_decodes
        self.run, self.settings, self.progress = run, settings, progress
        self.records = Path(settings.data) if records is None and settings.data is not None else records
        self.stages = Stages(run, progress, only, [RunDirectory.reading(source) for source in sources])
        self._dataset: Dataset | None = None
        self._truth: pl.DataFrame | None = None
        self._sids: SidBook | None = None
        self._builder: TreeBuilder | None = None
        self._loaded: tuple[str, bool] | None = None
        """Stage of the model in hand, and whether it can do more than decode."""
        self.origin: Workspace = self
        """The run with the items it was trained with, whatever came after them."""
        self._shared: dict[str, Any] = {}

    def shared(self, name: str, make: "Callable[[], T]") -> "T":
        """What several systems of the run need, made when the first of them asks for it.

        Args:
            name: of the thing.
            make: makes it.
        """
        if name not in self._shared:
            self._shared[name] = make()
        found: T = self._shared[name]
        return found

    def with_catalogue(self, catalogue: Catalogue, sids: SidBook) -> "Workspace":
        """The same run with more items than it was trained with; users, searches and models stay.

        Args:
            catalogue: that of the run, other items after it.
            sids: of all of them.
        """
        other = Workspace(self.run, self.settings, self.progress, self.records, only_decodes=self.only_decodes)
        same = catalogue == self.dataset.catalogue
        other._dataset = self.dataset if same else dataclasses.replace(self.dataset, catalogue=catalogue)
        other._sids, other.origin = sids, self.origin
        return other

    def path(self, *parts: str) -> Path:
        """A path inside the run directory."""
        return self.run.path.joinpath(*parts)

    # -- records ------------------------------------------------------------------------------------------------------
    def check(self) -> dict[str, Any]:
        """Facts of the run that the manifest keeps: data, threads and device. Nothing is written.

        Raises:
            RunError, ConfigError, ModelError, DataError: the settings cannot work, or belong to another run; see
                ``pipeline.refuse``.
        """
        settings = self.settings
        facts = {"data": digest(self._data_inputs()), "threads": settings.threads}
        where = device(settings)
        refuse_impossible(settings, self.records)
        refuse_other_run(self.run, facts, self.records)
        return {**facts, "device": str(where)}

    def begin(self) -> None:
        """Write settings, versions, threads and device, unless ``check`` refuses them."""
        settings, facts = self.settings, self.check()
        write_atomic(self.path("settings.toml"), to_toml(settings))
        versions = {name: _version(name) for name in ("torch", "transformers")}
        about = {"crsearch": __version__, "python": platform.python_version(), "seed": settings.seed}
        self.run.describe({**facts, **versions, **about})

    def _data_inputs(self) -> object:
        """What the records depend on."""
        settings = self.settings
        if self.records is None:
            shares = settings.split.model_dump(exclude={"mode"})  # a simulated shop has one mode
            return [settings.simulate.model_dump(), shares, settings.seed]
        if self._dataset is None:
            self._dataset = Dataset.load(self.records)
        return self._dataset.fingerprint()

    def prepare_data(self) -> StageRecord:
        """Records of the run: a copy of the user's data set, or the simulated shop with its truth."""
        settings = self.settings

        def work(_: str) -> tuple[list[Path], dict[str, Any]]:
            from crsearch.records.leaks import assert_no_leaks

            if self.records is None:
                from crsearch.records.simulator import simulate

                shop = simulate(settings.simulate, settings.split, settings.seed)
                self._dataset, self._truth = shop.dataset, shop.truth
                refuse_empty_parts(shop.dataset, settings)
                shop.save(self.path("data"))
            else:
                assert self._dataset is not None
                refuse_empty_parts(self._dataset, settings)
                self._dataset.save(self.path("data"))
                if (truth := self.records / TRUTH).exists():
                    write_atomic(self.path("data", TRUTH), truth.read_bytes())
            assert_no_leaks(self.dataset)
            return [self.path("data")], {}

        return self.stages.do("data", self._data_inputs(), work)

    @property
    def dataset(self) -> Dataset:
        """The records."""
        if self._dataset is None:
            self._dataset = Dataset.load(self.path("data"))
        return self._dataset

    @property
    def truth(self) -> "pl.DataFrame | None":
        """What the simulated shop knows of each example; none for real data."""
        file = self.path("data", TRUTH)
        if self._truth is None and file.exists():
            import polars as pl

            self._truth = pl.read_parquet(file)
        return self._truth

    def examples(self, part: Part) -> list[Example]:
        """Examples of a part with their contexts."""
        return self.dataset.examples(part, self.settings.context.max_events)

    def training_examples(self) -> list[Example]:
        """Examples to learn from; with ``align.history_targets`` none that is a target in a later one's history."""
        from crsearch.train.examples import newest_of_windows

        examples = self.examples("train")
        return newest_of_windows(examples) if self.settings.align.history_targets else examples

    @property
    def training_inputs(self) -> list[object]:
        """What ``training_examples`` depends on beside the records, for the keys of stages."""
        by_user = self.dataset.split_mode == "user"
        return [] if by_user else [self.settings.align.history_targets]

    def traces(self) -> dict[str, str]:
        """Thoughts of the teacher that may be learned from, by search_id."""
        return {row["search_id"]: row["thought"] for row in read_lines(self.path("traces", "distilled.jsonl"))}

    # -- semantic IDs -------------------------------------------------------------------------------------------------
    def prepare_sids(self, data: StageRecord) -> StageRecord:
        """Embeddings, residual k-means, deduplication; with a quality report."""
        settings = self.settings

        def work(_: str) -> tuple[list[Path], dict[str, Any]]:
            catalogue = self.dataset.catalogue
            texts = [item_text(item) for item in catalogue]
            embeddings_ND = build_encoder(settings.encoder, texts, settings.seed).encode(texts, kind="item")
            ids = [item.item_id for item in catalogue]
            self._sids = sids_from_embeddings(ids, embeddings_ND, settings.sids, settings.seed)
            self._sids.save(self.path("sids"))
            write_json(self.path("sids", "quality.json"), quality(self._sids, embeddings_ND))
            return [self.path("sids")], {}

        unread = set() if settings.sids.quantizer == "balanced-kmeans" else {"capacity"}
        inputs = [
            data.key, settings.encoder.model_dump(), settings.sids.model_dump(exclude=unread), settings.seed,
            *folder_digest(settings.encoder.path),
        ]  # fmt: skip
        return self.stages.do("sids", inputs, work)

    @property
    def sids(self) -> SidBook:
        """Semantic IDs of the catalogue."""
        if self._sids is None:
            self._sids = SidBook.load(self.path("sids"))
        return self._sids

    # -- models -------------------------------------------------------------------------------------------------------
    def prepare_base(self, sids: StageRecord, traces: StageRecord) -> StageRecord:
        """Tokenizer and model before any training, with the tokens of the semantic IDs."""
        settings = self.settings

        def work(_: str) -> tuple[list[Path], dict[str, Any]]:
            from crsearch.context.serialiser import Serialiser
            from crsearch.models.bundle import build_model, save_bundle

            serialiser = Serialiser(self.dataset.catalogue, self.sids, settings.context)
            contexts = [e.context for e in self.training_examples()]
            texts = [*serialiser.texts(contexts, language(settings)), *self.traces().values()]
            bundle = build_model(settings, texts, self.sids)
            save_bundle(bundle, self.path("models", "base"))
            parameters = sum(p.numel() for p in bundle.model.parameters())
            return [self.path("models", "base")], {"parameters": parameters, "vocabulary": len(bundle.tokenizer)}

        inputs = [
            sids.key, traces.key, settings.model.model_dump(), settings.context.model_dump(), settings.seed,
            *folder_digest(settings.model.path), *self.training_inputs,
        ]  # fmt: skip
        return self.stages.do("base", inputs, work)

    def builder(self, stage: str, *, fresh: bool = False, whole: bool = False) -> "TreeBuilder":
        """Model of a finished stage with prompts; token caches are shared between stages.

        Args:
            stage: name of the stage.
            fresh: read the model from disk even if it is the one in hand (which training may have changed).
            whole: it must be a model of transformers, also where it only decodes.
        """
        from crsearch.context.prompts import Prompts
        from crsearch.context.serialiser import Serialiser
        from crsearch.models.bundle import load_bundle, load_for_decoding
        from crsearch.train.examples import TreeBuilder

        whole = whole or not self.only_decodes
        if fresh or self._builder is None or self._loaded != (stage, whole):
            bundle = (load_bundle if whole else load_for_decoding)(self.path("models", stage), self.sids)
            bundle.model.to(device(self.settings))
            if self._builder is None:
                serialiser = Serialiser(self.dataset.catalogue, self.sids, self.settings.context, bundle.tokenizer)
                prompts = Prompts(serialiser, bundle.tokenizer, language=language(self.settings))
                self._builder = TreeBuilder(bundle, prompts)
            else:
                self._builder = self._builder.with_model(bundle)
            self._loaded = (stage, whole)
        return self._builder

    def save_model(self, stage: str) -> Path:
        """Write the model in hand as the result of ``stage``; it is then the one loaded."""
        from crsearch.models.bundle import save_bundle

        assert self._builder is not None
        save_bundle(self._builder.bundle, self.path("models", stage))
        self._loaded = (stage, True)
        return self.path("models", stage)


def folder_digest(path: str | None) -> list[str]:
    """What a stage depends on if it reads a model folder: the bytes of its files, not its name alone."""
    if path is None:
        return []
    files = sorted(f for f in Path(path).rglob("*") if f.is_file() and not f.name.startswith("."))
    return [digest({f.relative_to(path).as_posix(): file_digest(f) for f in files})]


def language(settings: Settings) -> Any:
    """Language of the prompts: that of the simulated shop, or of the teacher for real data."""
    return settings.simulate.language if settings.data is None else settings.distill.language


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processes(settings: Settings) -> int:
    """Processes of a run: those of the settings, else two where there are cores for them and no accelerator."""
    if settings.processes:
        return settings.processes
    return 2 if device(settings).type == "cpu" and cores() >= 2 * max(1, settings.threads) else 1


def threads(settings: Settings, processes: int = 1, before: int | None = None) -> int:
    """Threads of torch in a process: of the settings, else those the run began with, else a fair share of the cores."""
    named = os.environ.get("OMP_NUM_THREADS", "")
    return settings.threads or before or (int(named) if named.isdecimal() else 0) or max(1, cores() // processes)


def device(settings: Settings) -> Any:
    """Where the model runs.

    Raises:
        ConfigError: there is no such device.
    """
    import torch

    name = settings.device
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as e:  # an unknown name; a build without CUDA; no such card
        raise ConfigError(f"device = {name!r}: {str(e).splitlines()[0]}. Use cpu, or auto") from e


def _version(package: str) -> str:
    from importlib.metadata import version

    return version(package)
