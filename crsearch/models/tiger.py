"""TIGER's model: a small encoder-decoder of T5 type over semantic IDs and user tokens, with its files.

    vocabulary   0 filling and start   1 end   2.. tokens of the semantic IDs   then user tokens

Source: TIGER as METHODS describes it; sizes and the order of the vocabulary: details of this project.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64

from crsearch.config import TigerConfig
from crsearch.encoders.bars import without_bars
from crsearch.errors import ModelError
from crsearch.models.causal import checked_config
from crsearch.runs import atomic_directory, digest
from crsearch.sids.book import SidBook

PAD, END, FIRST_SID = 0, 1, 2
"""Ids of filling (and start of an answer), of the end of a history, and of the first semantic-ID token."""
ABOUT = "tiger.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tiger:
    """A model with what it needs to read a history.

    Attributes:
        model: ``T5ForConditionalGeneration``.
        sid_ids_NL: vocabulary ids of every item's semantic ID, deduplication token last.
        first_user: id of the first user token.
        users: user tokens; 0 = none.
        max_items: newest items of a history that are read.
        sids: fingerprint of the semantic IDs.
    """

    model: Any
    sid_ids_NL: Int64[np.ndarray, "N L"]
    first_user: int
    users: int
    max_items: int
    sids: str

    def prompt(self, user_id: str, rows: Sequence[int]) -> list[int]:
        """What the encoder reads: the user's token, the items' semantic IDs from oldest to newest, the end.

        Args:
            user_id: hashed into one of the user tokens.
            rows: catalogue rows of the history, oldest first; perhaps none.
        """
        user = [self.first_user + int(digest(user_id)[:15], 16) % self.users] if self.users else []
        kept = rows[max(0, len(rows) - self.max_items) :]
        return [*user, *(int(t) for row in kept for t in self.sid_ids_NL[row]), END]


def fresh_tiger(sids: SidBook, config: TigerConfig, seed: int) -> Tiger:
    """An untrained model; the same weights for the same arguments, the global random state is left alone."""
    from transformers import T5Config, T5ForConditionalGeneration

    t5 = T5Config(
        vocab_size=FIRST_SID + sum(sids.layer_sizes) + config.users,
        d_model=config.width,
        d_kv=config.head_dim,
        d_ff=config.feed_forward,
        num_layers=config.layers,
        num_decoder_layers=config.layers,
        num_heads=config.heads,
        dropout_rate=config.dropout,
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=PAD,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = T5ForConditionalGeneration(t5)
    return _tiger(model, sids, config.users, config.max_items)


def _tiger(model: Any, sids: SidBook, users: int, max_items: int) -> Tiger:
    return Tiger(
        model=model,
        sid_ids_NL=sids.tokens_NL + FIRST_SID,
        first_user=FIRST_SID + sum(sids.layer_sizes),
        users=users,
        max_items=max_items,
        sids=sids.fingerprint(),
    )


def save_tiger(tiger: Tiger, folder: Path) -> None:
    """Write an ordinary Hugging Face folder with ``tiger.json``; it appears complete or not at all.

    Raises:
        StorageError: no room or no permission; what was there stays.
    """
    about = {"sids": tiger.sids, "users": tiger.users, "max_items": tiger.max_items}
    with atomic_directory(folder) as tmp, without_bars():
        tiger.model.save_pretrained(tmp, safe_serialization=True)
        (tmp / ABOUT).write_text(json.dumps(about, sort_keys=True), encoding="utf-8")


def load_tiger(folder: Path, sids: SidBook) -> Tiger:
    """Read what ``save_tiger`` wrote.

    Raises:
        ModelError: a file is missing or broken, or the model belongs to other semantic IDs.
    """
    from transformers import T5ForConditionalGeneration

    checked_config(folder)
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        owner, users, max_items = about["sids"], int(about["users"]), int(about["max_items"])
        with without_bars():
            model = T5ForConditionalGeneration.from_pretrained(
                str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False
            )
    except Exception as e:  # transformers raises errors of many libraries here; each means an unusable folder
        raise ModelError(f"{folder}: cannot load this TIGER model: {e}. Train tiger again") from e
    if owner != sids.fingerprint():
        raise ModelError(f"{folder}: the model belongs to other semantic IDs: use those of its own run, or train again")
    return _tiger(model.eval(), sids, users, max_items)
