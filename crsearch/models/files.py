"""The files of a saved bundle, checked before anything of them is used. Nothing of torch is imported here."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from crsearch.errors import ModelError
from crsearch.runs import digest, file_digest
from crsearch.sids.book import SidBook

IDENTITY, MANIFEST = "crsearch.json", "manifest.json"
FORMAT = 1
"""Version of the two files above."""


def tokenizer_digest(tokenizer: Any) -> str:
    """Digest of all that decides which ids a text gets."""
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    del rules["truncation"], rules["padding"]  # of the last call, not of the tokenizer
    return digest(rules, tokenizer.chat_template, tokenizer.eos_token, tokenizer.pad_token)


def verify(folder: Path) -> dict[str, Any]:
    """Check the files of a saved bundle against its manifest; what ``crsearch.json`` says.

    Raises:
        ModelError: not a bundle, or a file is missing, changed, empty or not in the manifest.
    """
    if not (folder / MANIFEST).is_file():
        raise ModelError(f"{folder}: not a saved model (no {MANIFEST}): give a folder written by save_bundle")
    expected = _read(folder / MANIFEST, {"format", "sha256"})["sha256"]
    found = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    del found[MANIFEST]
    for name in sorted(found.keys() | expected.keys()):
        if name not in expected:
            raise ModelError(f"{folder}/{name}: not part of the saved model: remove it")
        if name not in found:
            raise ModelError(f"{folder}/{name}: missing: {_AGAIN}")
        if file_digest(found[name]) != expected[name]:
            size = found[name].stat().st_size
            raise ModelError(f"{folder}/{name}: not as it was saved (now {size:,} bytes): {_AGAIN}")
    return read_identity(folder)


def read_identity(folder: Path) -> dict[str, Any]:
    """``crsearch.json`` of a saved bundle: ``format``, ``fingerprint`` and ``parts``.

    Raises:
        ModelError: it is damaged.
    """
    return _read(folder / IDENTITY, {"format", "fingerprint", "parts"})


def model_key(folder: Path) -> str:
    """Fingerprint of a saved bundle's files, weights included, in 12 letters.

    Raises:
        ModelError: not a bundle.
    """
    return digest(_read(folder / MANIFEST, {"format", "sha256"})["sha256"])[:12]


def refuse_other_sids(folder: Path, identity: Mapping[str, Any], sids: SidBook) -> None:
    """Raise a ModelError if a bundle belongs to other semantic IDs; ``identity`` is what ``verify`` gave."""
    if identity["parts"]["sids"] != sids.fingerprint():
        raise ModelError(
            f"{folder}: the model belongs to other semantic IDs (fingerprint {identity['parts']['sids'][:12]}, given "
            f"{sids.fingerprint()[:12]}): load it with the sids of its own run, or train it again"
        )


_AGAIN = "copy the folder again, or use an older checkpoint"


def _read(path: Path, keys: set[str]) -> dict[str, Any]:
    """A JSON object of ours with exactly these keys."""
    try:
        value = json.loads(path.read_bytes())
    except ValueError as e:
        raise ModelError(f"{path}: unreadable ({e}): {_AGAIN}") from e
    if not isinstance(value, dict) or set(value) != keys or value["format"] != FORMAT:
        raise ModelError(f"{path}: not of this version of crsearch, or damaged: {_AGAIN}")
    return value


def compact(value: object) -> str:
    """JSON in which every byte matters, so that no change of a byte goes unseen."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
