"""From the space of the embeddings to the space of the codebooks: nothing, or a trained network."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

_WEIGHT, _BIAS = "projection_weight_", "projection_bias_"


@dataclass(frozen=True, eq=False)
class Projection:
    """Layers of a multi-layer perceptron with ReLU between them; without layers, vectors stay as they are.

    NumPy alone, so that a new item gets its codes where there is no torch; sums are taken in float64, so that an item
    gets the same codes alone as in a batch.
    """

    weights: tuple[Float32[np.ndarray, "_ _"], ...] = ()
    """Of each layer, outputs x inputs."""
    biases: tuple[Float32[np.ndarray, " _"], ...] = ()
    """Of each layer."""

    def __call__(self, embeddings_ND: Float[np.ndarray, "N _"]) -> Float32[np.ndarray, "N _"]:
        """The vectors that are quantised."""
        out = np.asarray(embeddings_ND, dtype=np.float64 if self.weights else np.float32)
        for layer, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            out = (np.maximum(out, 0) if layer else out) @ weight.T.astype(np.float64) + bias
        return out.astype(np.float32)

    @property
    def width(self) -> int | None:
        """Numbers of an embedding it takes; none = any."""
        return self.weights[0].shape[1] if self.weights else None

    def tensors(self) -> dict[str, Float32[np.ndarray, "..."]]:
        """Its arrays by name, for a file."""
        named = {f"{_WEIGHT}{n}": w for n, w in enumerate(self.weights)}
        return named | {f"{_BIAS}{n}": b for n, b in enumerate(self.biases)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Float32[np.ndarray, "..."]]) -> "Projection":
        """What ``tensors`` gave, perhaps among other arrays.

        Raises:
            KeyError: a layer lacks its bias.
        """
        layers = range(sum(name.startswith(_WEIGHT) for name in tensors))
        return cls(tuple(tensors[f"{_WEIGHT}{n}"] for n in layers), tuple(tensors[f"{_BIAS}{n}"] for n in layers))


UNPROJECTED = Projection()
"""Vectors are quantised as they are."""
