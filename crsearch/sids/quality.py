"""How good semantic IDs are, before any model is trained on them."""

from typing import Any

import numpy as np
from jaxtyping import Float, Int64

from crsearch.sids.book import SidBook
from crsearch.sids.rows import distinct_rows


def quality(book: SidBook, embeddings_ND: Float[np.ndarray, "N D"] | None = None) -> dict[str, Any]:
    """Collisions, use of the codes, and loss of the quantiser.

    A bucket is the set of items that share all layer codes. Entropies are in nats.

    Args:
        book: the semantic IDs.
        embeddings_ND: vectors of the book's items in its order; without them the reconstruction is left out, and for
            random codes, whose codebooks hold no numbers.

    Returns:
        JSON-ready. ``no_collision_rate``: buckets / items; ``uniquely_identified_rate``: share of items alone in
        their bucket; ``collisions``: items with a deduplication code above 0; ``largest_bucket``; ``gini`` of the
        bucket sizes (0 = equal); ``entropy_ratio``: entropy of the buckets over ln(items), 1 for one item.
        ``layers``: per layer ``codes``, ``used``, ``coverage`` = used / codes, ``dead_codes``, ``entropy``,
        ``perplexity`` = exp(entropy), and, given embeddings, ``reconstruction_error`` = mean squared distance between
        a vector (projected, where the book projects) and the sum of its centroids up to this layer,
        ``relative_error`` = the same over the mean squared distance to the mean vector (0 where that is 0).

    Raises:
        SidError: the embeddings are of another width than the codebooks.

    Source: the collision figures that semantic-ID tools report (TorchEasyRec); definitions as above.
    """
    _, bucket_N = distinct_rows(book.codes_NL[:, :-1])
    sizes = np.bincount(bucket_N)
    report: dict[str, Any] = {
        "items": len(book),
        "buckets": len(sizes),
        "collisions": len(book) - len(sizes),
        "no_collision_rate": len(sizes) / len(book),
        "uniquely_identified_rate": float((sizes == 1).sum() / len(book)),
        "largest_bucket": int(sizes.max()),
        "dedup_codes": book.dedup_codes,
        "gini": _gini(sizes),
        "entropy_ratio": _entropy(sizes) / float(np.log(len(book))) if len(book) > 1 else 1.0,
        "warnings": list(book.warnings),
        "layers": [_layer(book.codes_NL[:, layer], len(codebook)) for layer, codebook in enumerate(book.codebooks)],
    }
    if embeddings_ND is not None and any(codebook.shape[1] for codebook in book.codebooks):
        book.refuse_width(embeddings_ND)
        left_ND = book.projection(embeddings_ND).astype(np.float64)
        spread = float(((left_ND - left_ND.mean(axis=0)) ** 2).sum(axis=1).mean())
        for layer, codebook in enumerate(book.codebooks):
            left_ND = left_ND - codebook[book.codes_NL[:, layer]]
            error = float((left_ND**2).sum(axis=1).mean())
            report["layers"][layer]["reconstruction_error"] = error
            report["layers"][layer]["relative_error"] = error / spread if spread > 0 else 0.0
    return report


def _layer(code_N: Int64[np.ndarray, " N"], codes: int) -> dict[str, Any]:
    count_C = np.bincount(code_N, minlength=codes)
    used = int((count_C > 0).sum())
    entropy = _entropy(count_C)
    return {
        "codes": codes,
        "used": used,
        "coverage": used / codes,
        "dead_codes": codes - used,
        "entropy": entropy,
        "perplexity": float(np.exp(entropy)),
    }


def _entropy(counts: Int64[np.ndarray, " C"]) -> float:
    share = counts[counts > 0] / counts.sum()
    return float(-(share * np.log(share)).sum()) + 0.0


def _gini(sizes: Int64[np.ndarray, " M"]) -> float:
    """Mean absolute difference of two sizes over twice their mean, by the sorted formula."""
    sizes = np.sort(sizes)
    place = np.arange(1, len(sizes) + 1)
    return float((2 * place - len(sizes) - 1) @ sizes / (len(sizes) * sizes.sum()))
