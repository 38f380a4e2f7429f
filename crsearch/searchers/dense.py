"""Dense retrieval: the items whose vectors are nearest to that of the query. Exact, no index."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float32, Float64, Int64

from crsearch.config import EncoderConfig, Settings
from crsearch.encoders import Encoder, Kind, build_encoder
from crsearch.encoders.published import GET, Published, missing_weights, published_encoder
from crsearch.errors import ConfigError, ModelError
from crsearch.records.types import Context, Item, RankedList
from crsearch.searchers.ranking import ranked_list, top_rows
from crsearch.searchers.text import item_text

BLOCK = 65_536
"""Items per matrix product; 64 queries then need 16 MB for scores."""

WITH_HISTORY = "-history"
"""End of the names of the extra systems that read the user's earlier searches too."""

_ENCODERS = {
    "dense": "the encoder of the semantic IDs",
    "dense-bge": "bge-small-zh-v1.5",
    "dense-qwen3": "Qwen3-Embedding-0.6B",
    "dense-minilm": "all-MiniLM-L6-v2 (English)",
}
DENSE: Mapping[str, str] = {
    **{name: f"nearest vectors of {encoder}, query only" for name, encoder in _ENCODERS.items()},
    **{f"{name}{WITH_HISTORY}": f"extra: {name} with the user's last searches" for name in _ENCODERS},
}
"""Names on the command line -> what they are."""

_PUBLISHED: Mapping[str, Published] = {"dense-bge": "bge", "dense-qwen3": "qwen3", "dense-minilm": "minilm"}


class DenseSearcher:
    """Ranks all items by the cosine between their vector and that of the query.

    Equal cosines go by row, and items of one text are equal. Whatever the batch, the block and the number of threads,
    the same query vector gives the same list and the same scores. Items of which the encoder knows nothing (zero
    vectors) are not listed; a query of which it knows nothing gets an empty list.

    Args:
        encoder: gives vectors of length 1; it is told which texts are items and which are queries.
        catalogue: items in row order; each different text is encoded once, here.
        name: of the system.
        history: earlier searches that stand after the query, newest first; 0 = the query only. The systems that
            CRS is compared with read the query only, so a row with history is an extra and named so.
    """

    def __init__(self, encoder: Encoder, catalogue: Sequence[Item], *, name: str = "dense", history: int = 0) -> None:
        self.name = name
        self._encoder = encoder
        self._history = history
        self._item_ids = [item.item_id for item in catalogue]
        self._titles = {item.item_id: item.title for item in catalogue}
        self._items_ND = _encode(encoder, [item_text(item) for item in catalogue], "item")
        self._known_N = np.asarray(self._items_ND.any(axis=1))

    def search(
        self, contexts: Sequence[Context], k: int, allowed_N: Bool[np.ndarray, " N"] | None = None
    ) -> list[RankedList]:
        """Rank the items nearest to each query; see ``Searcher``.

        Args:
            contexts: what was asked.
            k: items per list.
            allowed_N: True at items that may be listed, by row; none = all.
        """
        queries_BD = _encode(self._encoder, [query_text(c, self._titles, self._history) for c in contexts], "query")
        mask_N = self._known_N if allowed_N is None else np.where(allowed_N, self._known_N, False)
        found = nearest(queries_BD, self._items_ND, k, mask_N)
        return [
            ranked_list(context, self._item_ids, rows_K.tolist(), scores_K.tolist())
            for context, (rows_K, scores_K) in zip(contexts, found, strict=True)
        ]


def query_text(context: Context, titles: Mapping[str, str], history: int) -> str:
    """The query, then the newest earlier searches: their query and the titles of what was chosen.

    An encoder with a short window cuts the oldest. Chosen items that the catalogue lacks leave no trace.

    Args:
        context: what was asked.
        titles: item_id -> title.
        history: earlier searches to read, 0 = none.
    """
    newest = context.history[::-1][:history]
    earlier = [" ".join([s.query, *(titles[item] for item in s.chosen if item in titles)]).strip() for s in newest]
    return " | ".join([context.query, *filter(None, earlier)])


def nearest(
    queries_BD: Float32[np.ndarray, "B D"],
    items_ND: Float32[np.ndarray, "N D"],
    k: int,
    mask_N: Bool[np.ndarray, " N"],
    block: int = BLOCK,
) -> list[tuple[Int64[np.ndarray, " K"], Float64[np.ndarray, " K"]]]:
    """Rows and scores of the k largest dot products of each query, best first, equal ones by row.

    A float32 matrix product per block finds the candidates; those within its rounding error of the k-th are scored
    again in float64, each row for itself, so that the answer is exact and depends neither on the block nor on BLAS.

    Args:
        queries_BD: vectors of length 1, or 0: such a query gets empty arrays.
        items_ND: vectors of length 1 or 0.
        k: rows wanted; fewer come where fewer are allowed.
        mask_N: rows that may be given.
        block: items per matrix product.
    """
    # A float32 score is off by D eps / 2 at most, so two of them by D eps; twice that, to be safe.
    rounding = 2 * items_ND.shape[1] * float(np.finfo(np.float32).eps)
    rows_B: list[Int64[np.ndarray, " R"]] = [np.empty(0, dtype=np.int64)] * len(queries_BD)
    rough_B: list[Float32[np.ndarray, " R"]] = [np.empty(0, dtype=np.float32)] * len(queries_BD)
    asked = np.flatnonzero(queries_BD.any(axis=1))
    for start in range(0, len(items_ND), block):
        allowed = np.flatnonzero(mask_N[start : start + block])
        scores_BN = queries_BD[asked] @ items_ND[start : start + block].T
        for b, scores_N in zip(asked, scores_BN, strict=True):
            rows = np.concatenate([rows_B[b], start + allowed])
            rough = np.concatenate([rough_B[b], scores_N[allowed]])
            keep = rough >= _kth_largest(rough, k) - rounding
            rows_B[b], rough_B[b] = rows[keep], rough[keep]
    return [_best(query_D, items_ND, rows, k) for query_D, rows in zip(queries_BD, rows_B, strict=True)]


def _best(
    query_D: Float32[np.ndarray, " D"], items_ND: Float32[np.ndarray, "N D"], rows: Int64[np.ndarray, " R"], k: int
) -> tuple[Int64[np.ndarray, " K"], Float64[np.ndarray, " K"]]:
    """The k best of some rows (ascending) by their exact scores."""
    scores = (items_ND[rows].astype(np.float64) * query_D).sum(axis=1)
    best_K = top_rows(scores, k)
    return rows[best_K], scores[best_K]


def _kth_largest(values: Float32[np.ndarray, " R"], k: int) -> float:
    """The k-th largest value; minus infinity where there are fewer."""
    return float(np.partition(values, len(values) - k)[len(values) - k]) if 0 < k <= len(values) else -np.inf


def _encode(encoder: Encoder, texts: Sequence[str], kind: Kind) -> Float32[np.ndarray, "N D"]:
    """Vectors of texts; equal texts are encoded once, so that they have equal vectors."""
    place = {text: n for n, text in enumerate(dict.fromkeys(texts))}
    return encoder.encode(list(place), kind)[np.array([place[text] for text in texts], dtype=np.int64)]


# -- by name --------------------------------------------------------------------------------------------------------
def encoder_config(name: str, settings: Settings) -> EncoderConfig:
    """The encoder of a dense system; with the files in its ``path``, all that the vectors depend on.

    Raises:
        ConfigError: no dense system has this name.
    """
    if name not in DENSE:
        raise ConfigError(f"searcher {name!r}: the dense ones are {', '.join(DENSE)}")
    which = _PUBLISHED.get(name.removesuffix(WITH_HISTORY))
    if which is None:
        return settings.encoder
    return published_encoder(which, settings.dense, settings.encoder.batch_size)


def availability(name: str, settings: Settings) -> str | None:
    """Why a system cannot run here, with what mends it; none = it can. Loads nothing.

    A system that is not dense needs no weights from elsewhere and can always run.

    >>> availability("dense-bge", Settings())[:42]
    'weights not at hand (hf download BAAI/bge-'
    """
    if name not in DENSE:
        return None
    config = encoder_config(name, settings)
    missing = missing_weights(config.path) if config.name == "huggingface" else None
    if missing is None:
        return None
    which = _PUBLISHED.get(name.removesuffix(WITH_HISTORY))
    mend = "set encoder.path to the folder of a Hugging Face encoder" if which is None else GET[which]
    return f"{missing} ({mend})"


def dense_encoder(name: str, settings: Settings, catalogue: Sequence[Item], device: str = "cpu") -> Encoder:
    """The encoder of a dense system by name.

    Args:
        name: one of ``DENSE``.
        settings: sections ``encoder`` and ``dense``, and the seed of an encoder that learns.
        catalogue: items that an encoder learns from.
        device: torch device of the encoder.

    Raises:
        ConfigError: no dense system has this name.
        ModelError: its weights are not at hand (with what mends it), or cannot be used.
        DataError: no item has a word (the built-in encoder).
    """
    config = encoder_config(name, settings)
    missing = availability(name, settings)
    if missing is not None:
        raise ModelError(f"{name}: {missing}")
    return build_encoder(config, [item_text(item) for item in catalogue], settings.seed, device)


def dense_searcher(
    name: str, settings: Settings, catalogue: Sequence[Item], encoder: Encoder | None = None
) -> DenseSearcher:
    """A dense system by name, its items encoded.

    Args:
        name: one of ``DENSE``.
        settings: as for ``dense_encoder``.
        catalogue: items in row order.
        encoder: of the system; none = it is made here, and learns from these items.

    Raises:
        ConfigError, ModelError, DataError: see ``dense_encoder``.
    """
    if encoder is None:
        encoder = dense_encoder(name, settings, catalogue)
    history = settings.dense.history if name.endswith(WITH_HISTORY) else 0
    return DenseSearcher(encoder, catalogue, name=name, history=history)
