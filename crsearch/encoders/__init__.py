"""Texts -> vectors: a small encoder that needs no download, and any Hugging Face encoder."""

from collections.abc import Sequence
from pathlib import Path

from crsearch.config import EncoderConfig
from crsearch.encoders.base import Encoder, Kind
from crsearch.encoders.lsa import LsaEncoder
from crsearch.encoders.words import words

__all__ = ["Encoder", "Kind", "LsaEncoder", "build_encoder", "words"]


def build_encoder(config: EncoderConfig, texts: Sequence[str], seed: int, device: str = "cpu") -> Encoder:
    """The encoder that the settings name.

    Args:
        config: ``name = "lsa"`` is fitted here, ``"huggingface"`` is read from ``path``.
        texts: item texts, for encoders that learn from them.
        seed: for encoders that learn.
        device: torch device of a Hugging Face encoder.

    Raises:
        DataError: no text holds a word (lsa).
        ModelError: the folder holds no encoder that can be used (huggingface).
    """
    if config.name == "lsa":
        return LsaEncoder.fit(texts, config.dim, seed)
    from crsearch.encoders.huggingface import HuggingFaceEncoder

    return HuggingFaceEncoder(
        Path(config.path or ""),
        pooling=config.pooling,
        query_instruction=config.query_instruction,
        truncate_dim=config.truncate_dim,
        batch_size=config.batch_size,
        device=device,
    )
