"""Fast, exact generation of items: a trie of valid SIDs, beams that share their prompt, thoughts before the answer.

Works with any Hugging Face causal model (and T5-type models); knows nothing of shops.

    trie = Trie.from_tokens(tokens_NL)                       # one row of vocabulary ids per item
    rows_BK, scores_BK = beam_search(model, prompts, trie)   # prompts: lists of token ids
    ranked = think_then_rank(model, prompts, trie, close_id=close_id)   # prompts end with the opening tag
    beam_search(model, prompts, trie, store=PrefixStore(2**26))   # in later calls, only what is new in a prompt is read
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from crsearch.decode.trie import Trie, TrieMask

if TYPE_CHECKING:
    from crsearch.decode.beam import beam_search
    from crsearch.decode.store import PrefixStore, StoreStats
    from crsearch.decode.thoughts import (
        RankedThoughts,
        Thoughts,
        Watch,
        fuse_thoughts,
        rank_thoughts,
        sample_thoughts,
        think_then_rank,
    )

__all__ = [
    "PrefixStore",
    "RankedThoughts",
    "StoreStats",
    "Thoughts",
    "Trie",
    "TrieMask",
    "Watch",
    "beam_search",
    "fuse_thoughts",
    "rank_thoughts",
    "sample_thoughts",
    "think_then_rank",
]

_STORE = ("PrefixStore", "StoreStats")


def __getattr__(name: str) -> Any:
    """Import what decodes, and torch with it, when it is asked for: a trie alone needs numpy."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    part = "beam" if name == "beam_search" else "store" if name in _STORE else "thoughts"
    return getattr(import_module(f"crsearch.decode.{part}"), name)
