"""All systems that can stand in a table, by name: what they are, what they depend on, and how they are made."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from crsearch.config import DsiConfig, Settings
from crsearch.encoders.words import SPLITS
from crsearch.pipeline.workspace import Workspace, device, folder_digest
from crsearch.records.types import Example, Searcher
from crsearch.searchers.dense import DENSE, availability, dense_encoder, dense_searcher, encoder_config

if TYPE_CHECKING:
    from crsearch.searchers.crs import CrsSearcher, Mode
    from crsearch.train.examples import TreeBuilder
    from crsearch.train.supervised import Workbench

FINAL = "final"
"""Stands for the training stage that became ``crs``."""

Build = Callable[[Workspace, str, str], Searcher]
"""Makes a searcher of a run, the name of the system and the training stage whose model it reads."""


@dataclass(frozen=True, kw_only=True)
class System:
    """A row of the table.

    Attributes:
        what: in a few words.
        build: makes the searcher.
        stage: training stage whose model it reads: one of its own, ``FINAL``, or "" = it has none.
        depends: what of the settings it depends on beside that stage.
        lacks: why it cannot run in a run, with what mends it; none = it can.
    """

    what: str
    build: Build
    stage: str = ""
    depends: Callable[[Settings], object] = field(default=lambda _: None)
    lacks: Callable[[Workspace], str | None] = field(default=lambda _: None)


# -- CRS --------------------------------------------------------------------------------------------------------------
def model_searcher(space: Workspace, name: str, stage: str, mode: "Mode" = "think") -> "CrsSearcher":
    """The model of a finished stage of CRS as a searcher."""
    from crsearch.searchers.crs import CrsSearcher

    builder, trie = _model(space, stage)
    return CrsSearcher(builder, trie, space.settings.decode, mode=mode, name=name)


def _cut_thought(space: Workspace, name: str, stage: str) -> "CrsSearcher":
    """CRS whose thoughts are closed by force at a small budget, as a server does that is in a hurry."""
    from crsearch.searchers.crs import CrsSearcher

    builder, trie = _model(space, stage)
    config = space.settings.decode.model_copy(update={"think_tokens": cut_tokens(space.settings)})
    return CrsSearcher(builder, trie, config, name=name)


def cut_tokens(settings: Settings) -> int:
    """Most tokens of a thought of ``crs-cut-thought``; never more than a thought may have."""
    return min(settings.evaluate.cut_tokens, settings.decode.think_tokens)


def _model(space: Workspace, stage: str, *, whole: bool = False) -> tuple["TreeBuilder", Any]:
    from crsearch.train.answer import catalogue_trie

    builder = space.builder(stage, whole=whole)
    builder.bundle.model.eval()
    return builder, catalogue_trie(builder.bundle)


def _given_thoughts(space: Workspace, name: str, stage: str) -> Searcher:
    """CRS with its thought replaced, to see what it is worth."""
    from crsearch.pipeline.thoughts import replaced_thoughts
    from crsearch.searchers.crs import GivenThoughtSearcher

    builder, trie = _model(space, stage)
    thoughts = replaced_thoughts(space, name.removeprefix("crs-").removesuffix("-thought"))
    return GivenThoughtSearcher(builder, trie, space.settings.decode, thoughts, name=name)


def _no_oracle(space: Workspace) -> str | None:
    return None if space.truth is not None else "only the simulated shop knows what an oracle would think"


# -- generative baselines ---------------------------------------------------------------------------------------------
DSI_VARIANTS: Mapping[str, Mapping[str, Any]] = {
    "dsi-qg": {"pseudo_queries": 3},
    "dsi-recursive": {"identifiers": "recursive"},
}
"""Variant -> settings over those of ``baselines.dsi``."""

READS_CONTEXTS = ("latent-r3",)
"""Baselines that read contexts: they start from ``align``, as ``crs-direct`` does, and get the tokens after it."""

BASELINES = ("genre", "dsi", *DSI_VARIANTS, "ltrgr", "latent-r3", "tiger")
"""Systems with a training stage of their own, on as many tokens as CRS: from the untrained base, or from ``align``."""


SAVED_BY_TRAINER = ("tiger",)
"""Baselines whose training writes the model, since it is another than that of the bench."""


def baseline_settings(settings: Settings, name: str) -> Settings:
    """Settings under which a baseline is trained: those of the run, with what a variant changes."""
    changes = DSI_VARIANTS.get(name)
    if changes is None:
        return settings
    dsi = DsiConfig.model_validate({**settings.baselines.dsi.model_dump(), **changes})
    return settings.model_copy(update={"baselines": settings.baselines.model_copy(update={"dsi": dsi})})


def baseline_config(settings: Settings, name: str) -> object:
    """The settings that a baseline's training depends on, as JSON-ready values."""
    baselines = baseline_settings(settings, name).baselines
    section = "dsi" if name in DSI_VARIANTS else name.replace("-", "_")
    return [getattr(baselines, section).model_dump(), baselines.history_pairs]


def _generative(space: Workspace, name: str, stage: str) -> Searcher:
    from crsearch.decode.trie import Trie
    from crsearch.searchers.generative import GenerativeSearcher
    from crsearch.train.generative import identifiers

    builder, _ = _model(space, stage)
    kind = "dsi" if name in DSI_VARIANTS else name
    trie = Trie.from_tokens(identifiers(builder, baseline_settings(space.settings, name), kind))
    return GenerativeSearcher(builder, trie, space.settings.decode, name=name)


def _latent(space: Workspace, name: str, stage: str) -> Searcher:
    from crsearch.models.latent import attention_file, load_attention
    from crsearch.searchers.latent import LatentSearcher

    builder, trie = _model(space, stage, whole=True)  # it reads states of layers
    attention = load_attention(attention_file(space.path("models", stage)), builder.bundle.model)
    return LatentSearcher(builder, attention, trie, space.settings.decode, name)


def baseline_start(name: str) -> str:
    """The stage that a baseline starts from."""
    return "align" if name in READS_CONTEXTS else "base"


def train_baseline(
    bench: "Workbench", name: str, key: str, examples: Sequence[Example], tokens: float
) -> dict[str, float]:
    """Train the model of a bench as a baseline; the training stage has the name of the system.

    Args:
        bench: with the model of ``baseline_start``.
        name: one of ``BASELINES``.
        key: of the stage.
        examples: all training examples.
        tokens: how many to train on.
    """
    from crsearch.train.dsi import train_dsi
    from crsearch.train.genre import train_genre
    from crsearch.train.latent import train_latent_r3
    from crsearch.train.ltrgr import train_ltrgr
    from crsearch.train.tiger import train_tiger

    trainers = {"genre": train_genre, "ltrgr": train_ltrgr, "latent-r3": train_latent_r3, "tiger": train_tiger}
    bench = dataclasses.replace(bench, settings=baseline_settings(bench.settings, name))
    return trainers.get(name, train_dsi)(bench, name, key, examples, tokens)


def _tiger(space: Workspace, name: str, stage: str) -> Searcher:
    from crsearch.models.tiger import load_tiger
    from crsearch.searchers.tiger import TigerSearcher

    tiger = load_tiger(space.path("models", stage), space.sids)
    tiger.model.to(device(space.settings))
    return TigerSearcher(tiger, space.dataset.catalogue, space.settings.decode, name)


# -- systems that are not trained -------------------------------------------------------------------------------------
def _bm25(space: Workspace, name: str, stage: str) -> Searcher:
    from crsearch.searchers.bm25 import Bm25Searcher

    config, catalogue = space.settings.lexical, space.dataset.catalogue
    return space.shared(name, lambda: Bm25Searcher(catalogue, config.k1, config.b, split=SPLITS[config.split]))


def _tuned_bm25(space: Workspace, name: str, stage: str) -> Searcher:
    """BM25 with the k1 and b that are best on the validation users."""
    from crsearch.searchers.bm25 import Bm25Searcher, tune

    config, catalogue = space.settings.lexical, space.dataset.catalogue
    split = SPLITS[config.split]
    best = tune(
        catalogue,
        space.examples("valid"),
        default=(config.k1, config.b),
        split=split,
        exclude_history=space.settings.evaluate.exclude_history,
    ).best
    return Bm25Searcher(catalogue, best.k1, best.b, split=split)


def _tfidf(space: Workspace, name: str, stage: str) -> Searcher:
    from crsearch.searchers.tfidf import TfidfSearcher

    return TfidfSearcher(space.dataset.catalogue, split=SPLITS[space.settings.lexical.split])


def _dense(space: Workspace, name: str, stage: str) -> Searcher:
    """Items that came after the training are read by the encoder of the run, as for their semantic IDs."""
    settings, origin = space.settings, space.origin
    config = encoder_config(name, settings)
    built_in = config.name == "lsa"  # it needs neither a device nor torch
    where = "cpu" if built_in else str(device(settings))
    encoder = origin.shared(
        f"encoder {config.model_dump_json()}",
        lambda: dense_encoder(name, settings, origin.dataset.catalogue, where),
    )
    return space.shared(name, lambda: dense_searcher(name, settings, space.dataset.catalogue, encoder))


def _dense_depends(name: str, settings: Settings) -> object:
    config = encoder_config(name, settings)
    return [config.model_dump(), settings.dense.history, settings.seed, *folder_digest(config.path)]


def _hybrid(space: Workspace, name: str, stage: str) -> Searcher:
    """Dense retrieval that reads the last searches, and BM25, by reciprocal rank."""
    from crsearch.searchers.fused import FusedSearcher

    return FusedSearcher(*(SYSTEMS[part].build(space, part, stage) for part in HYBRID), name=name)


def _hybrid_depends(settings: Settings) -> object:
    return [SYSTEMS[part].depends(settings) for part in HYBRID]


def _popularity(space: Workspace, name: str, stage: str) -> Searcher:
    from crsearch.searchers.popularity import PopularitySearcher, training_counts

    return PopularitySearcher(space.dataset.catalogue, training_counts(space.dataset))


def _popularity_in_query(space: Workspace, name: str, stage: str, brand_bonus: float = 0.0) -> Searcher:
    from crsearch.searchers.popularity import PopularityInQuerySearcher, training_counts

    return PopularityInQuerySearcher(space.dataset.catalogue, training_counts(space.dataset), brand_bonus=brand_bonus)


def _item_knn(space: Workspace, name: str, stage: str) -> Searcher:
    from crsearch.searchers.neighbours import ItemNeighbourSearcher

    return ItemNeighbourSearcher(space.dataset.catalogue, space.dataset)


def _lexical_depends(settings: Settings) -> object:
    return settings.lexical.model_dump()


HYBRID = ("dense-history", "bm25")
"""Systems that ``hybrid`` fuses; the first wins ties."""

REPLACED_THOUGHTS = ("crs-empty-thought", "crs-shuffled-thought", "crs-oracle-thought")
"""Systems that read thoughts made for the run's own test users."""

SYSTEMS: Mapping[str, System] = {
    "crs": System(what="thinks, then ranks: the stage that validation kept", build=model_searcher, stage=FINAL),
    "crs-direct": System(
        what="control: trained without thoughts on as many tokens",
        build=partial(model_searcher, mode="direct"),
        stage="direct",
    ),
    "crs-cut-thought": System(
        what="extra: crs, its thought closed by force after evaluate.cut_tokens",
        build=_cut_thought,
        stage=FINAL,
        depends=cut_tokens,
    ),
    "crs-no-thought": System(
        what="the model of crs, asked to answer at once", build=partial(model_searcher, mode="direct"), stage=FINAL
    ),
    "crs-fused": System(
        what="extra: the lists of crs and crs-no-thought, by the mean of their probabilities",
        build=partial(model_searcher, mode="fused"),
        stage=FINAL,
    ),
    "crs-empty-thought": System(what="crs with an empty thought", build=_given_thoughts, stage=FINAL),
    "crs-shuffled-thought": System(what="crs with another user's thought", build=_given_thoughts, stage=FINAL),
    "crs-oracle-thought": System(
        what="crs with the thought of an analyst who knows the target",
        build=_given_thoughts,
        stage=FINAL,
        lacks=_no_oracle,
    ),
    "genre": System(what="query -> identifier", build=_generative, stage="genre"),
    "dsi": System(what="query -> identifier and item -> identifier", build=_generative, stage="dsi"),
    "dsi-qg": System(what="extra: dsi with queries made of the items' words", build=_generative, stage="dsi-qg"),
    "dsi-recursive": System(
        what="extra: dsi with identifiers by recursive k-means", build=_generative, stage="dsi-recursive"
    ),
    "ltrgr": System(what="genre, then learning to rank", build=_generative, stage="ltrgr"),
    "latent-r3": System(what="context -> latent thought -> identifier", build=_latent, stage="latent-r3"),
    "tiger": System(what="extra: items chosen before -> next item; no query", build=_tiger, stage="tiger"),
    **{
        name: System(
            what=what,
            build=_dense,
            depends=partial(_dense_depends, name),
            lacks=partial(lambda name, space: availability(name, space.settings), name),
        )
        for name, what in DENSE.items()
    },
    "hybrid": System(
        what=f"extra: {' and '.join(HYBRID)}, fused by reciprocal rank",
        build=_hybrid,
        depends=_hybrid_depends,
        lacks=lambda space: availability(HYBRID[0], space.settings),
    ),
    "bm25": System(what="lexical, query only", build=_bm25, depends=_lexical_depends),
    "bm25-tuned": System(
        what="bm25 with k1 and b chosen on validation users", build=_tuned_bm25, depends=_lexical_depends
    ),
    "tfidf": System(what="lexical, query only", build=_tfidf, depends=_lexical_depends),
    "popularity": System(what="most chosen by training users", build=_popularity),
    "popularity-in-query": System(what="most chosen by training users for this query", build=_popularity_in_query),
    "popularity-in-query-brand": System(
        what="the same, brands the user chose before first", build=partial(_popularity_in_query, brand_bonus=3.0)
    ),
    "item-knn": System(what="extra: most chosen beside the items of the history; no query", build=_item_knn),
}
"""Every system, in the order in which tables name them."""

RUNGS: Mapping[str, str] = {
    "L0": "crs",
    "L1": "crs",  # a cached thought is the same thought, so the same list
    "L2": "crs-cut-thought",
    "L3": "crs-no-thought",
    "L4": "hybrid",
    "L5": "bm25",
    "L6": "popularity-in-query",
}
"""Rung of the ladder, best first -> the system whose quality it has: fresh thought, cached thought, cut thought, no
thought, dense and lexical fused, lexical, popular items (``crsearch.serve.contract.Rung``)."""
