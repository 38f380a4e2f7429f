"""Items -> semantic IDs: text, vector, residual k-means, deduplication, quality report."""

from crsearch.sids.book import SidBook, build_sids, random_sids, sids_from_embeddings
from crsearch.sids.kmeans import Quantised, assign_codes, residual_kmeans
from crsearch.sids.quality import quality
from crsearch.sids.text import item_text

__all__ = [
    "Quantised", "SidBook", "assign_codes", "build_sids", "item_text", "quality", "random_sids",
    "residual_kmeans", "sids_from_embeddings",
]  # fmt: skip
