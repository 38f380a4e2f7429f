"""The seam: texts in, vectors out."""

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float32

Kind = Literal["item", "query"]


@runtime_checkable
class Encoder(Protocol):
    """Anything that turns texts into vectors."""

    name: str
    dim: int
    """Width of the vectors."""

    def encode(self, texts: Sequence[str], kind: Kind = "item") -> Float32[np.ndarray, "N D"]:
        """One vector of length 1 per text, in order; the zero vector where the encoder knows nothing of the text.

        Args:
            texts: none at all is fine.
            kind: what the texts are; encoders for search may read queries and items differently.
        """
        ...
