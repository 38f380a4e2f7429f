"""A model with the tokenizer and the semantic IDs it belongs to, on disk as an ordinary Hugging Face folder.

A model is worth nothing with another tokenizer or other semantic IDs, and nothing would fail loudly: so a bundle
carries a fingerprint of the three, and the files their sha256, both checked before anything is used.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from crsearch.config import Settings
from crsearch.context.prompts import CLOSE, CONTROL, PAD, THINK, token_id
from crsearch.encoders.bars import without_bars
from crsearch.errors import ModelError
from crsearch.models.causal import extend_vocabulary, generable, load_folder, tiny_model
from crsearch.models.files import FORMAT, IDENTITY, MANIFEST, compact, refuse_other_sids, tokenizer_digest, verify
from crsearch.models.qwen3 import load_qwen3
from crsearch.models.tokenizer import train_tokenizer
from crsearch.models.tokenizer_file import load_tokenizer
from crsearch.runs import atomic_directory, digest, file_digest
from crsearch.sids.book import SidBook


@dataclass(frozen=True, slots=True)
class Bundle:
    """All that decoding and training need.

    Attributes:
        model: a causal language model of transformers, or a ``Qwen3`` that only decodes.
        tokenizer: its tokenizer.
        sid_ids_NL: vocabulary ids of every item's semantic ID, deduplication token last.
        think_id: ``<think>``.
        close_id: ``</think>``.
        end_id: end of an answer.
        pad_id: fills batches.
        parts: digests of ``tokenizer``, ``sids`` and ``model`` (shapes, not values).
    """

    model: Any
    tokenizer: Any
    sid_ids_NL: Int64[np.ndarray, "N L"]
    think_id: int
    close_id: int
    end_id: int
    pad_id: int
    parts: dict[str, str]

    @property
    def control_ids(self) -> list[int]:
        """Ids that free text never holds: tokens added to the vocabulary, and rows of the model without a token."""
        added = set(self.tokenizer.get_added_vocab().values())
        rows = generable(self.model, self.tokenizer)
        return sorted(added | set((~rows).nonzero().flatten().tolist()))

    @property
    def fingerprint(self) -> str:
        """Digest of tokenizer, semantic IDs and shapes of the model: equal for all checkpoints of one run."""
        return digest(self.parts)


def bundle_of(model: Any, tokenizer: Any, sids: SidBook) -> Bundle:
    """Tie a model, its tokenizer and semantic IDs together.

    Raises:
        ModelError: the tokenizer lacks a control token or a token of the semantic IDs, or the model has fewer rows.
    """
    rows = model.get_input_embeddings().weight.shape[0]
    if rows < len(tokenizer):
        raise ModelError(
            f"the model has {rows:,} embedding rows, the tokenizer {len(tokenizer):,} tokens: they do not belong "
            "together; load both from one folder, or extend the model with crsearch.models.extend_vocabulary"
        )
    ids = {token: token_id(tokenizer, token) for token in sids.vocabulary()}
    sid_ids_NL = np.array([[ids[t] for t in sids.pieces(n)] for n in range(len(sids.item_ids))], dtype=np.int64)
    if tokenizer.eos_token_id is None:
        raise ModelError("the tokenizer has no end token: set its eos_token")
    shapes = {name: list(p.shape) for name, p in model.named_parameters()}
    return Bundle(
        model=model,
        tokenizer=tokenizer,
        sid_ids_NL=sid_ids_NL,
        think_id=token_id(tokenizer, THINK),
        close_id=token_id(tokenizer, CLOSE),
        end_id=tokenizer.eos_token_id,
        pad_id=tokenizer.eos_token_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id,
        parts={
            "tokenizer": tokenizer_digest(tokenizer),
            "sids": sids.fingerprint(),
            "model": digest(shapes),
        },
    )


def forbidden_in_thoughts(bundle: Bundle) -> list[int]:
    """Tokens that may not stand in a thought: SIDs and control tokens other than the closing tag."""
    return sorted({*bundle.control_ids, *(int(t) for t in set(bundle.sid_ids_NL.ravel().tolist()))} - {bundle.close_id})


def build_model(settings: Settings, texts: Iterable[str], sids: SidBook) -> Bundle:
    """The model that alignment starts from (M_base).

    Args:
        settings: ``model`` says tiny from scratch or a folder; ``seed`` decides the random rows.
        texts: what a domain tokenizer learns from (``Serialiser.texts`` and thoughts); unused with a folder.
        sids: semantic IDs of the catalogue.

    Raises:
        ModelError: the folder cannot be used.
    """
    if settings.model.path is None:
        tokenizer = train_tokenizer(texts, settings.model.vocabulary, sids.vocabulary())
        model = tiny_model(
            settings.model,
            len(tokenizer),
            settings.seed,
            pad_id=tokenizer.pad_token_id,
            end_id=tokenizer.eos_token_id,
        )
        return bundle_of(model, tokenizer, sids)
    model, tokenizer = load_folder(settings.model.path)
    model.float()  # master weights; training casts by itself
    missing = [THINK, CLOSE] if tokenizer.chat_template else list(CONTROL)
    if tokenizer.pad_token is None:
        missing.append(PAD)
    generator = torch.Generator().manual_seed(settings.seed)
    extend_vocabulary(model, tokenizer, [*missing, *sids.vocabulary()], generator)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = PAD
    return bundle_of(model, tokenizer, sids)


def save_bundle(bundle: Bundle, folder: Path) -> None:
    """Write an ordinary Hugging Face folder with ``crsearch.json`` (fingerprint) and ``manifest.json`` (sha256).

    The folder appears complete or not at all.

    Raises:
        StorageError: no room or no permission; what was there stays.
    """
    with atomic_directory(folder) as tmp, without_bars():
        bundle.model.save_pretrained(tmp, safe_serialization=True)
        bundle.tokenizer.save_pretrained(tmp)
        identity = {"format": FORMAT, "fingerprint": bundle.fingerprint, "parts": bundle.parts}
        (tmp / IDENTITY).write_text(compact(identity), encoding="utf-8")
        files = {p.relative_to(tmp).as_posix(): file_digest(p) for p in sorted(tmp.rglob("*")) if p.is_file()}
        (tmp / MANIFEST).write_text(compact({"format": FORMAT, "sha256": files}), encoding="utf-8")


def load_bundle(folder: Path, sids: SidBook) -> Bundle:
    """Read a bundle after checking every byte of it, and that it belongs to ``sids``.

    Raises:
        ModelError: a file is missing, changed or not of the bundle; the semantic IDs are others.
    """
    return _loaded(folder, sids, load_folder)


def load_for_decoding(folder: Path, sids: SidBook) -> Bundle:
    """As ``load_bundle``, checks included, for a process that only decodes: without transformers where it can be.

    A plain Qwen3 becomes a ``crsearch.models.qwen3.Qwen3`` with the same logits, any other model that of transformers.

    Raises:
        ModelError: see ``load_bundle``.
    """
    return _loaded(folder, sids, _for_decoding)


def _for_decoding(folder: Path) -> tuple[Any, Any]:
    """(model, tokenizer) of a checked bundle for decoding."""
    model = load_qwen3(folder)
    return load_folder(folder) if model is None else (model, load_tokenizer(folder))


def _loaded(folder: Path, sids: SidBook, load: Callable[[Path], tuple[Any, Any]]) -> Bundle:
    identity = verify(folder)
    refuse_other_sids(folder, identity, sids)
    bundle = bundle_of(*load(folder), sids)
    for part, expected in identity["parts"].items():
        if bundle.parts.get(part) != expected:
            raise ModelError(f"{folder}: the {part} is not the one this model was saved with: save the bundle again")
    return bundle
