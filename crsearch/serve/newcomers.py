"""Where items that came after the training lie among the codebooks of a run.

Source: details: this project. The encoder is the one that the codebooks were made with: the built-in one is fitted on
the catalogue of the run, with its settings and seed, and kept beside the catalogue versions once that was done.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float32, Float64, Int64

from crsearch.config import Settings, load_settings
from crsearch.encoders import Encoder, LsaEncoder, build_encoder
from crsearch.errors import CrsearchError, SidError
from crsearch.pipeline.workspace import folder_digest
from crsearch.records.frames import read_table, to_item
from crsearch.records.schema import ITEMS
from crsearch.records.types import Item
from crsearch.runs import RunDirectory, atomic_directory, digest, write_json
from crsearch.serve.sealed import refuse_unsealed, seal
from crsearch.sids import SidBook, assign_codes, item_text

SAMPLE = 2_000
"""Items of the run that tell its quantisation error and whether the encoder is the right one, evenly spread."""
AGREEMENT = 0.9
"""Share of them that must get their own layer codes again; below, the encoder is another one."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Items in the space of a book."""

    embeddings_ND: Float32[np.ndarray, "N D"]
    layers_NL: Int64[np.ndarray, "N L"]
    """Nearest codes, the deduplication layer left out."""
    error_N: Float64[np.ndarray, " N"]
    """Squared distance of each vector (projected, where the book projects) to the sum of its centroids."""

    @property
    def unread(self) -> int:
        """Items of which the encoder knows no word."""
        return int((~self.embeddings_ND.any(axis=1)).sum())


@dataclass(frozen=True, eq=False)
class Newcomers:
    """The encoder of a run with the error that its codebooks have on the items they were made of."""

    encoder: Encoder
    error: float
    """Mean quantisation error of the items of the run."""

    @classmethod
    def of(cls, run: Path, book: SidBook) -> "Newcomers":
        """The encoder of a run; fitted at the first call, read from ``RUN/serving/encoder`` later.

        Args:
            run: a run directory.
            book: its semantic IDs, more items at the end allowed.

        Raises:
            SidError: random codes, to which nothing can be assigned; an encoder that gives the items of the run
                other codes than they have.
            ModelError: the encoder of the settings is gone.
        """
        if not any(codebook.shape[1] for codebook in book.codebooks):
            raise SidError(
                f"{run}: its semantic IDs are random (sids.quantizer), so new items have no place among them; serve "
                "a run whose codes come from the items"
            )
        settings = load_settings(run / "settings.toml")
        made = RunDirectory.reading(run).manifest["stages"].get("sids", {}).get("key")
        key = digest(made, settings.encoder.model_dump(), settings.seed, *folder_digest(settings.encoder.path))
        place = run / "serving" / "encoder"
        return _kept(place, key, settings) or _found(place, key, settings, run, book)

    def place(self, items: Sequence[Item], book: SidBook) -> Placed:
        """Vectors, nearest codes and quantisation errors of items, in their order.

        Raises:
            SidError: the encoder gives vectors of another width than the codebooks'.
        """
        return _placed(self.encoder, [item_text(item) for item in items], book)

    def drift(self, placed: Placed) -> float | None:
        """Mean error of placed items over that of the items of the run; none where either has nothing to compare."""
        return float(placed.error_N.mean()) / self.error if len(placed.error_N) and self.error > 0 else None


def _placed(encoder: Encoder, texts: Sequence[str], book: SidBook) -> Placed:
    embeddings_ND = encoder.encode(texts, kind="item")
    book.refuse_width(embeddings_ND)
    projected_ND = book.projection(embeddings_ND)
    layers_NL = assign_codes(projected_ND, book.codebooks)
    left_ND = projected_ND.astype(np.float64)
    for layer, codebook in enumerate(book.codebooks):
        left_ND = left_ND - codebook[layers_NL[:, layer]]
    return Placed(embeddings_ND, layers_NL, (left_ND**2).sum(axis=1))


def _kept(place: Path, key: str, settings: Settings) -> Newcomers | None:
    """What an earlier call left, if it is whole and of the same run; it can be made again, so a broken one is none."""
    try:
        refuse_unsealed(place)
        about = json.loads((place / "about.json").read_text(encoding="utf-8"))
        if about["key"] != key:
            return None
        encoder = LsaEncoder.load(place) if settings.encoder.name == "lsa" else build_encoder(settings.encoder, (), 0)
    except (CrsearchError, ValueError, KeyError):
        return None
    return Newcomers(encoder, about["error"])


def _found(place: Path, key: str, settings: Settings, run: Path, book: SidBook) -> Newcomers:
    frame = read_table(run / "data", ITEMS)
    texts = [item_text(to_item(row)) for row in frame.iter_rows(named=True)]
    if len(texts) != book.built_rows:
        raise SidError(f"{run}: {len(texts):,} items, its semantic IDs were built of {book.built_rows:,}; restore them")
    encoder = build_encoder(settings.encoder, texts, settings.seed)
    sample = np.unique(np.linspace(0, len(texts) - 1, SAMPLE).astype(np.int64))
    placed = _placed(encoder, [texts[row] for row in sample], book)
    agreement = float((placed.layers_NL == book.codes_NL[sample, :-1]).all(axis=1).mean())
    if agreement < AGREEMENT:
        raise SidError(
            f"{run}: the encoder of the settings gives only {agreement:.0%} of the run's items the codes they have, so "
            "it is not the one that the semantic IDs were built with; restore its folder (encoder.path)"
        )
    found = Newcomers(encoder, float(placed.error_N.mean()))
    with atomic_directory(place) as tmp:
        if isinstance(encoder, LsaEncoder):
            encoder.save(tmp)
        write_json(tmp / "about.json", {"key": key, "error": found.error, "agreement": agreement})
        seal(tmp)
    return found
