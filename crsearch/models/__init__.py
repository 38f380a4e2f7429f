"""Causal language models with their tokenizer and semantic IDs."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crsearch.models.files import verify
from crsearch.models.tokenizer import train_tokenizer

if TYPE_CHECKING:
    from crsearch.models.bundle import Bundle, build_model, bundle_of, load_bundle, load_for_decoding, save_bundle
    from crsearch.models.causal import extend_vocabulary, generable, load_folder, tiny_model

__all__ = [
    "Bundle",
    "build_model",
    "bundle_of",
    "extend_vocabulary",
    "generable",
    "load_bundle",
    "load_folder",
    "load_for_decoding",
    "save_bundle",
    "tiny_model",
    "train_tokenizer",
    "verify",
]

_CAUSAL = ("extend_vocabulary", "generable", "load_folder", "tiny_model")


def __getattr__(name: str) -> Any:
    """Import models, and torch with them, when they are asked for: files and tokenizers do without."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"crsearch.models.{'causal' if name in _CAUSAL else 'bundle'}"), name)
