"""Thoughts that were thought before, for the same model, prompt format, context and query."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from threading import Lock

import numpy as np


@dataclass(frozen=True, slots=True)
class Thought:
    """Token ids between the tags."""

    ids: tuple[int, ...]
    owner: str
    """User whose context it was thought for; "" = nobody's."""


def prompt_key(model: str, prompt: Sequence[int]) -> str:
    """Digest of a model and of the tokens it reads: they hold prompt format, context and query, to the last character.

    >>> prompt_key("m", [1, 2]) == prompt_key("m", [1, 2]), prompt_key("m", [1, 2]) == prompt_key("m", [12])
    (True, False)
    """
    return sha256(model.encode() + b"\0" + np.asarray(prompt, dtype=np.int64).tobytes()).hexdigest()


class ThoughtCache:
    """The newest thoughts, the least used one dropped first. Any thread.

    A thought does not depend on the catalogue, so the cache outlives a change of it. Thoughts that were cut are not
    kept, since more time would have made others.

    Args:
        size: thoughts kept; 0 = none.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._kept: OrderedDict[str, Thought] = OrderedDict()
        self._lock = Lock()
        self.hits = self.misses = self.epoch = 0
        """``epoch``: how often thoughts were forgotten."""

    def __len__(self) -> int:
        return len(self._kept)

    def __contains__(self, key: str) -> bool:
        return key in self._kept

    def get(self, key: str) -> Thought | None:
        """The thought, which then counts as used."""
        with self._lock:
            found = self._kept.get(key)
            if found is None:
                self.misses += 1
            else:
                self.hits += 1
                self._kept.move_to_end(key)
            return found

    def put(self, key: str, ids: Sequence[int], owner: str, epoch: int) -> None:
        """Keep a thought that the model closed itself.

        Args:
            key: ``prompt_key`` of what was read.
            ids: of its tokens.
            owner: user whose context it was thought for; "" = nobody's.
            epoch: of the cache when it was asked for; where somebody was forgotten since, nothing is kept.
        """
        with self._lock:
            if epoch != self.epoch:
                return
            self._kept[key] = Thought(tuple(ids), owner)
            self._kept.move_to_end(key)
            while len(self._kept) > self.size:
                self._kept.popitem(last=False)

    def forget(self, owner: str) -> int:
        """Drop all thoughts for a user's contexts; how many there were. One that is under way is not kept."""
        with self._lock:
            self.epoch += 1
            mine = [key for key, thought in self._kept.items() if thought.owner == owner]
            for key in mine:
                del self._kept[key]
            return len(mine)
