"""Causal language models with their tokenizer and semantic IDs."""

from crsearch.models.bundle import Bundle, build_model, bundle_of, load_bundle, save_bundle, verify
from crsearch.models.causal import extend_vocabulary, generable, load_folder, tiny_model
from crsearch.models.tokenizer import train_tokenizer

__all__ = [
    "Bundle",
    "build_model",
    "bundle_of",
    "extend_vocabulary",
    "generable",
    "load_bundle",
    "load_folder",
    "save_bundle",
    "tiny_model",
    "train_tokenizer",
    "verify",
]
