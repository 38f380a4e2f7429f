"""The book of semantic IDs: which item has which SID, and how a new item gets one."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
from jaxtyping import Float, Float32, Int64

from crsearch.config import SidConfig
from crsearch.encoders import Encoder
from crsearch.errors import SidError
from crsearch.records.types import Item
from crsearch.runs import write_atomic, write_json
from crsearch.sids.kmeans import Quantised, assign_codes, residual_kmeans
from crsearch.sids.projection import UNPROJECTED, Projection
from crsearch.sids.rows import distinct_rows
from crsearch.sids.text import item_text

_LETTERS = "abcdefghi"


_ABOUT = "book"
"""Key of the metadata of ``codebooks.safetensors``; one, since safetensors writes several in any order."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SidBook:
    """Semantic IDs of a catalogue; row = place of the item in the catalogue.

    A SID is one code per layer and a deduplication code, ``<a_23><b_1><c_124><d_0>``; each ``<..>`` is one token.
    No two items share a SID. Codebooks never change once a model has learned the codes; items can be added.

    Raises (when made):
        SidError: two items of one id or one SID, a code outside its codebook, shapes that do not fit.
    """

    item_ids: tuple[str, ...]
    """Item of each row."""
    codes_NL: Int64[np.ndarray, "N L"]
    """Codes of each row, the deduplication code as last column."""
    codebooks: tuple[Float32[np.ndarray, "_ D"], ...]
    """Centroids of each layer, the deduplication layer not counted."""
    dedup_codes: int
    """Size of the deduplication layer; above the largest code in use, so that items can be added."""
    built_rows: int
    """Rows that were there when the codebooks were made; rows after them were added later."""
    warnings: tuple[str, ...] = ()
    """What had to be done otherwise than the settings ask."""
    projection: Projection = UNPROJECTED
    """From embeddings to the space of the codebooks (RQ-VAE); without layers they are one."""

    def __post_init__(self) -> None:
        if len(self.codebooks) >= len(_LETTERS):
            raise SidError(f"{len(self.codebooks)} layers: at most {len(_LETTERS) - 1} can be written")
        if self.codes_NL.shape != (len(self.item_ids), len(self.codebooks) + 1):
            raise SidError(
                f"codes of shape {self.codes_NL.shape} for {len(self.item_ids)} items and {len(self.codebooks)} "
                "layers + 1: the files of this book do not belong together; build it again"
            )
        outside = (self.codes_NL < 0) | (self.codes_NL >= np.array(self.layer_sizes))
        if outside.any():
            row, layer = np.argwhere(outside)[0].tolist()
            raise SidError(
                f"item {self.item_ids[row]!r}: code {self.codes_NL[row, layer]} in layer {layer + 1}, "
                f"which has {self.layer_sizes[layer]} codes; build the book again"
            )
        _refuse_repeats(self.item_ids)
        first, kind_N = distinct_rows(self.codes_NL)
        if len(first) < len(self.item_ids):
            row = int(np.flatnonzero(first[kind_N] != np.arange(len(kind_N)))[0])
            raise SidError(
                f"items {self.item_ids[first[kind_N[row]]]!r} and {self.item_ids[row]!r} share the SID "
                f"{self.sid(row)}; build the book again"
            )

    def __len__(self) -> int:
        return len(self.item_ids)

    @property
    def layer_sizes(self) -> tuple[int, ...]:
        """Codes of each layer, the deduplication layer last."""
        return (*(len(codebook) for codebook in self.codebooks), self.dedup_codes)

    @property
    def tokens_NL(self) -> Int64[np.ndarray, "N L"]:
        """Each SID as places in ``vocabulary()``."""
        return self.codes_NL + np.cumsum([0, *self.layer_sizes[:-1]])

    def vocabulary(self) -> list[str]:
        """All SID tokens, layer by layer, deduplication tokens (with the spare ones) last."""
        return [_piece(layer, code) for layer, size in enumerate(self.layer_sizes) for code in range(size)]

    def pieces(self, row: int) -> tuple[str, ...]:
        """The tokens of an item's SID."""
        return tuple(_piece(layer, code) for layer, code in enumerate(self.codes_NL[row].tolist()))

    def sid(self, row: int) -> str:
        """The SID of an item."""
        return "".join(self.pieces(row))

    def row_of(self, sid: str) -> int | None:
        """The item that has this SID, or none."""
        return self._rows.get(sid)

    @cached_property
    def sids(self) -> list[str]:
        """The SID of every row."""
        names = self.vocabulary()
        return ["".join([names[token] for token in row]) for row in self.tokens_NL.tolist()]

    @cached_property
    def _rows(self) -> dict[str, int]:
        return {sid: row for row, sid in enumerate(self.sids)}

    def _next_free(self, layers_NL: Int64[np.ndarray, "N L"]) -> list[int]:
        """For each row of layer codes one more than the largest deduplication code in use below them."""
        _, kind_M = distinct_rows(np.concatenate([self.codes_NL[:, :-1], layers_NL]))
        free = np.zeros(len(kind_M), dtype=np.int64)
        np.maximum.at(free, kind_M[: len(self)], self.codes_NL[:, -1] + 1)
        return free[kind_M[len(self) :]].tolist()

    def assign(
        self, embeddings_ND: Float[np.ndarray, "N D"], item_ids: Sequence[str] | None = None
    ) -> Int64[np.ndarray, "N L"]:
        """Codes for new items, codebooks unchanged: nearest centroids and the next free deduplication code.

        A deduplication code below one in use is not given again, nor is one given twice within a call.

        Args:
            embeddings_ND: vectors of the new items, by the encoder that the book was built with.
            item_ids: what messages call them; none = by their place in this call.

        Raises:
            SidError: another width than the codebooks', or no deduplication code is left (``sid_space_full``).
        """
        self.refuse_width(embeddings_ND)
        codes_NL = np.empty((len(embeddings_ND), len(self.codebooks) + 1), dtype=np.int64)
        codes_NL[:, :-1] = assign_codes(self.projection(embeddings_ND), self.codebooks)
        given: dict[tuple[int, ...], int] = {}
        left_out: list[int] = []
        free = self._next_free(codes_NL[:, :-1])
        for row, layers in enumerate(map(tuple, codes_NL[:, :-1].tolist())):
            code = given.get(layers, free[row])
            given[layers] = code + 1
            codes_NL[row, -1] = code
            if code >= self.dedup_codes:
                left_out.append(row)
        if left_out:
            names = [repr(item_ids[row]) if item_ids else f"{row} of this call" for row in left_out[:10]]
            full = "".join(_piece(*at) for at in enumerate(codes_NL[left_out[0], :-1].tolist()))
            others = f", nor have those of {', '.join(names[1:])}" if names[1:] else ""
            more = f" and {len(left_out) - len(names):,} more" if len(left_out) > len(names) else ""
            raise SidError(
                f"sid_space_full: {full} has no deduplication code left for new item {names[0]} (a bucket has "
                f"{self.dedup_codes}){others}{more}. Build the SIDs again with more sids.spare_duplicates or "
                "sids.codes, and train again"
            )
        return codes_NL

    def refuse_width(self, embeddings_ND: Float[np.ndarray, "N D"]) -> None:
        """Raise a SidError if these vectors cannot be of the encoder that the book was built with."""
        width = self.projection.width or self.codebooks[0].shape[1]
        if embeddings_ND.shape[1] != width:
            raise SidError(
                f"embeddings of {embeddings_ND.shape[1]} numbers for codebooks of {width}: "
                "encode with the encoder that the book was built with"
            )

    def append(self, item_ids: Sequence[str], embeddings_ND: Float[np.ndarray, "N D"]) -> "SidBook":
        """A book with more items at its end; the SIDs of the present ones and the fingerprint stay.

        Raises:
            SidError: an id that is there already, or see ``assign``.
        """
        codes_NL = np.concatenate([self.codes_NL, self.assign(embeddings_ND, item_ids)])
        return replace(self, item_ids=(*self.item_ids, *item_ids), codes_NL=codes_NL)

    def fingerprint(self) -> str:
        """sha256 (hex) of codebooks, projection, vocabulary and the SIDs of the built rows: what a model has learned.

        Items appended later do not change it, so that a model stays valid for a book that grew.
        """
        ids = json.dumps(self.item_ids[: self.built_rows], ensure_ascii=False)
        found = hashlib.sha256(f"{self.layer_sizes} {self.built_rows} {ids}".encode("utf-8", "surrogatepass"))
        for array in (*self.codebooks, *self.projection.tensors().values()):
            found.update(np.ascontiguousarray(array, dtype="<f4").tobytes())
        found.update(np.ascontiguousarray(self.codes_NL[: self.built_rows], dtype="<i8").tobytes())
        return found.hexdigest()

    def save(self, folder: Path) -> None:
        """Write ``codebooks.safetensors``, ``items.parquet`` (item_id, codes) and ``sid2item.json``, each atomically.

        ``codebooks.safetensors`` is written last and names the fingerprint, so that ``load`` notices a mixture.

        Raises:
            StorageError: no room or no permission.
        """
        import io

        import polars as pl
        from safetensors.numpy import save

        table = io.BytesIO()
        codes = pl.Series("codes", np.ascontiguousarray(self.codes_NL)).arr.to_list()
        pl.DataFrame([pl.Series("item_id", self.item_ids, dtype=pl.String), codes]).write_parquet(table)
        write_atomic(folder / "items.parquet", table.getvalue())
        write_json(folder / "sid2item.json", dict(zip(self.sids, self.item_ids, strict=True)))
        about = {
            "dedup_codes": self.dedup_codes,
            "built_rows": self.built_rows,
            "warnings": self.warnings,
            "fingerprint": self.fingerprint(),
        }
        tensors = {f"layer_{layer}": np.ascontiguousarray(book) for layer, book in enumerate(self.codebooks)}
        tensors |= {name: np.ascontiguousarray(array) for name, array in self.projection.tensors().items()}
        write_atomic(
            folder / "codebooks.safetensors", save(tensors, metadata={_ABOUT: json.dumps(about, ensure_ascii=False)})
        )

    @classmethod
    def load(cls, folder: Path) -> "SidBook":
        """Read a book that ``save`` wrote.

        Raises:
            SidError: a file is missing or broken, or the files are not of one book.
        """
        import polars as pl
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(folder / "codebooks.safetensors", framework="numpy") as file:
                about = json.loads((file.metadata() or {})[_ABOUT])
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            layers = sum(name.startswith("layer_") for name in tensors)
            codebooks = tuple(tensors[f"layer_{layer}"] for layer in range(layers))
            table = pl.read_parquet(folder / "items.parquet")
            book = cls(
                item_ids=tuple(table["item_id"].to_list()),
                codes_NL=table["codes"].cast(pl.Array(pl.Int64, len(codebooks) + 1)).to_numpy(writable=True),
                codebooks=codebooks,
                dedup_codes=about["dedup_codes"],
                built_rows=about["built_rows"],
                warnings=tuple(about["warnings"]),
                projection=Projection.from_tensors(tensors),
            )
        except FileNotFoundError as e:
            raise SidError(f"{folder}: no semantic IDs here ({e}); build them first") from e
        except (SafetensorError, pl.exceptions.PolarsError, KeyError, ValueError) as e:
            raise SidError(f"{folder}: broken semantic IDs ({e}); build them again") from e
        if book.fingerprint() != about["fingerprint"]:
            raise SidError(
                f"{folder}: items.parquet and codebooks.safetensors are of different books; build them again"
            )
        return book


def build_sids(catalogue: Sequence[Item], encoder: Encoder, config: SidConfig, seed: int) -> SidBook:
    """Semantic IDs of a catalogue: text, vector, codes, deduplication.

    Raises:
        SidError: an empty catalogue, a repeated item id, more than ``max_duplicates`` items with equal layer codes.

    Source: CRS §3.1.1.
    """
    embeddings_ND = encoder.encode([item_text(item) for item in catalogue], kind="item")
    return sids_from_embeddings([item.item_id for item in catalogue], embeddings_ND, config, seed)


def sids_from_embeddings(
    item_ids: Sequence[str], embeddings_ND: Float[np.ndarray, "N D"], config: SidConfig, seed: int
) -> SidBook:
    """Semantic IDs of items from their vectors, one row each.

    Raises:
        SidError: no item, a repeated id, NaN, more than ``max_duplicates`` items with equal layer codes.
    """
    if config.quantizer == "rqvae":
        from crsearch.sids.rqvae import fit_rqvae

        return _with_dedup(item_ids, fit_rqvae(embeddings_ND, config, seed), config)
    if config.quantizer == "random":
        return _with_dedup(item_ids, _random_codes(item_ids, config, seed), config)
    capacity = config.capacity if config.quantizer == "balanced-kmeans" else None
    found = residual_kmeans(embeddings_ND, config.layers, config.codes, config.iterations, seed, capacity)
    return _with_dedup(item_ids, found, config)


def random_sids(catalogue: Sequence[Item], config: SidConfig, seed: int) -> SidBook:
    """The negative control: as many codes of as many layers, drawn at random, so that a code means nothing.

    Items are drawn in the order of their ids. The codebooks have no numbers, so nothing can be assigned later.

    Raises:
        SidError: as ``build_sids``.
    """
    item_ids = [item.item_id for item in catalogue]
    return _with_dedup(item_ids, _random_codes(item_ids, config, seed), config)


def _random_codes(item_ids: Sequence[str], config: SidConfig, seed: int) -> Quantised:
    codes = min(config.codes, len(item_ids))
    if codes == 0:
        raise SidError("semantic IDs need at least one item: the catalogue is empty")
    codes_NL = np.empty((len(item_ids), config.layers), dtype=np.int64)
    codes_NL[_by_id(item_ids)] = np.random.default_rng(seed).integers(codes, size=codes_NL.shape)
    codebooks = (np.empty((codes, 0), dtype=np.float32),) * config.layers
    return Quantised(codebooks, codes_NL, ())


def _with_dedup(item_ids: Sequence[str], found: Quantised, config: SidConfig) -> SidBook:
    """Number the items that share all layer codes 0, 1, 2, ... by item id, and make the book.

    Source: CRS §3.1.1 adds a code where items collide; the order is a detail of this project.
    """
    _refuse_repeats(item_ids)
    _, group_N = distinct_rows(found.codes_NL)
    sizes = np.bincount(group_N)
    largest = int(sizes.max())
    by_id = _by_id(item_ids)
    if largest > config.max_duplicates:
        members = by_id[group_N[by_id] == sizes.argmax()]
        shared = "".join(_piece(*at) for at in enumerate(found.codes_NL[members[0]].tolist()))
        raise SidError(
            f"{largest} of {len(item_ids)} items share all {config.layers} codes {shared} (first: "
            f"{item_ids[members[0]]!r} and {item_ids[members[1]]!r}), sids.max_duplicates = {config.max_duplicates}. "
            f"Raise sids.codes (now {config.codes}) or sids.layers (now {config.layers}); "
            "if these items are copies of one another, drop them or raise sids.max_duplicates"
        )
    order = by_id[np.argsort(group_N[by_id], kind="stable")]
    starts = np.cumsum(sizes) - sizes
    dedup_N = np.empty(len(item_ids), dtype=np.int64)
    dedup_N[order] = np.arange(len(item_ids)) - np.repeat(starts, sizes)
    return SidBook(
        item_ids=tuple(item_ids),
        codes_NL=np.column_stack([found.codes_NL, dedup_N]),
        codebooks=found.codebooks,
        dedup_codes=min(largest + config.spare_duplicates, config.max_duplicates),
        built_rows=len(item_ids),
        warnings=found.warnings,
        projection=found.projection,
    )


def _by_id(item_ids: Sequence[str]) -> Int64[np.ndarray, " N"]:
    return np.array(sorted(range(len(item_ids)), key=item_ids.__getitem__), dtype=np.int64)


def _refuse_repeats(item_ids: Sequence[str]) -> None:
    seen: set[str] = set()
    for item_id in item_ids:
        if item_id in seen:
            raise SidError(f"item id {item_id!r} stands twice in the catalogue: give every item its own id")
        seen.add(item_id)


@lru_cache(maxsize=65_536)
def _piece(layer: int, code: int) -> str:
    return f"<{_LETTERS[layer]}_{code}>"
