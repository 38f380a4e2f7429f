"""Latent semantic analysis: an encoder of any language that needs no download."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from crsearch.encoders.base import Kind
from crsearch.encoders.blas import limit_blas
from crsearch.encoders.words import words
from crsearch.errors import DataError
from crsearch.runs import write_atomic, write_json


class LsaEncoder:
    """TF-IDF of words, projected on the first right singular vectors of the training texts (LSA).

    Texts that share no word with the training texts, the empty one among them, get the zero vector.
    Queries and items are read alike. The same texts and seed give the same vectors, bit by bit, for any number of
    threads: the sign of each direction is fixed (its largest weight is positive).

    Source: Deerwester et al. 1990; tf-idf (raw count, smoothed idf, length 1).
    """

    name = "lsa"

    def __init__(self, vocabulary: Sequence[str], idf: Float32[np.ndarray, " V"], basis: Float32[np.ndarray, "V D"]):
        """Put an encoder together from its parts; ``fit`` finds them in texts, ``load`` in a folder.

        Args:
            vocabulary: words, one per row of ``basis``.
            idf: inverse document frequency of each word.
            basis: right singular vectors as columns, largest singular value first.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        self.dim = basis.shape[1]
        self._vocabulary = list(vocabulary)
        self._idf = idf
        self._basis = basis
        self._tfidf = TfidfVectorizer(analyzer=words, vocabulary=self._vocabulary, dtype=np.float32)
        self._tfidf.idf_ = idf

    @classmethod
    def fit(cls, texts: Sequence[str], dim: int, seed: int) -> "LsaEncoder":
        """Learn words and directions.

        Args:
            texts: training texts, in practice those of the items.
            dim: width of the vectors; where texts or words are fewer, the width is their number.
            seed: start vector of the singular value decomposition.

        Raises:
            DataError: no text holds a word.
        """
        from sklearn.feature_extraction.text import TfidfVectorizer

        tfidf = TfidfVectorizer(analyzer=words, dtype=np.float64)
        try:
            weights_NV = tfidf.fit_transform(texts)
        except ValueError as e:
            raise DataError(f"the lsa encoder found no word in {len(texts)} texts: items need titles") from e
        with limit_blas(1):
            basis_VD = _right_singular_vectors(weights_NV, dim, seed)
        return cls(tfidf.get_feature_names_out().tolist(), tfidf.idf_.astype(np.float32), basis_VD)

    def encode(self, texts: Sequence[str], kind: Kind = "item") -> Float32[np.ndarray, "N D"]:
        """One vector of length 1 per text (see the class for texts without a known word)."""
        if len(texts) == 0:
            return np.empty((0, self.dim), dtype=np.float32)
        vectors_ND = self._tfidf.transform(texts) @ self._basis
        length_N = np.linalg.norm(vectors_ND, axis=1, keepdims=True)
        return np.divide(vectors_ND, length_N, out=np.zeros_like(vectors_ND), where=length_N > 0)

    def save(self, folder: Path) -> None:
        """Write ``lsa.safetensors`` (idf, basis) and ``lsa.json`` (vocabulary), each atomically.

        Raises:
            StorageError: no room or no permission.
        """
        from safetensors.numpy import save

        write_json(folder / "lsa.json", {"vocabulary": self._vocabulary})
        write_atomic(folder / "lsa.safetensors", save({"idf": self._idf, "basis": self._basis}))

    @classmethod
    def load(cls, folder: Path) -> "LsaEncoder":
        """Read an encoder that ``save`` wrote; it gives the same vectors, bit by bit.

        Raises:
            DataError: a file is missing or broken.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            vocabulary = json.loads((folder / "lsa.json").read_text(encoding="utf-8"))["vocabulary"]
            tensors = load_file(folder / "lsa.safetensors")
            if not len(vocabulary) == len(tensors["idf"]) == len(tensors["basis"]):
                raise DataError(f"{folder}: lsa.json and lsa.safetensors are of different encoders; fit it again")
            return cls(vocabulary, tensors["idf"], tensors["basis"])
        except (FileNotFoundError, SafetensorError, json.JSONDecodeError, KeyError) as e:
            raise DataError(f"{folder}: no readable lsa encoder here ({e}); fit it again") from e


def _right_singular_vectors(weights_NV: Any, dim: int, seed: int) -> Float32[np.ndarray, "V D"]:
    """The first right singular vectors of a sparse matrix as columns, exact, with a fixed sign."""
    from scipy.sparse.linalg import svds

    dim = min(dim, *weights_NV.shape)
    if 2 * dim >= min(weights_NV.shape):  # ARPACK wants room between dim and the rank; the matrix is small or thin
        _, _, vt_DV = np.linalg.svd(weights_NV.toarray(), full_matrices=False)
        vt_DV = vt_DV[:dim]
    else:
        start = np.random.default_rng(seed).normal(size=min(weights_NV.shape))
        _, singular_D, vt_DV = svds(weights_NV, k=dim, v0=start)
        vt_DV = vt_DV[np.argsort(-singular_D, kind="stable")]
    largest_D = np.abs(vt_DV).argmax(axis=1)
    sign_D = np.where(np.take_along_axis(vt_DV, largest_D[:, None], axis=1) < 0, -1.0, 1.0)
    return np.ascontiguousarray((vt_DV * sign_D).T, dtype=np.float32)
