"""Keys and values of prompts, kept between searches: the next search of a user reads only what is new in its prompt.

    store = PrefixStore(max_bytes=64 * 2**20)
    beam_search(model, prompts, trie, store=store, owners=["u17", "u4"])   # reads the prompts and keeps them
    beam_search(model, longer, trie, store=store, owners=["u17", "u4"])    # reads what follows the common beginning
    store.forget("u17")

A prompt is cut into blocks of 16 tokens. A block is found by the block before it and by its own tokens, so nobody says
where a prefix ends, prompts with a common beginning hold it once, and no hash can confuse two of them.

Source: blocks: vLLM's automatic prefix caching; details: this project.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from itertools import count
from weakref import WeakKeyDictionary

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from crsearch.decode.attention import BLOCK, Segment
from crsearch.errors import ConfigError, DataError, ModelError

SLAB_BYTES = 64 << 20
"""Memory that is taken for blocks at once, where the bound allows as much; the pages of it count as they are filled."""

Owners = Sequence[str | None] | str | None
"""Whose prompts they are: one for all, or one per prompt; None = nobody's in particular."""

_Key = tuple[Hashable, tuple[int, ...]]
"""The block before (its number; of a first block: model and owner), and the tokens."""


@dataclass(frozen=True, kw_only=True)
class StoreStats:
    """What a store has done so far, and what it holds now."""

    prompts: int
    """Prompts looked up, those of a single token apart: they need no reading."""
    hits: int
    """Those of them of which a block was held."""
    tokens_reused: int
    """Prompt tokens that needed no reading."""
    tokens_read: int
    """Prompt tokens that were read; the last one of a prompt, with which its beams begin, is not among them."""
    bytes: int
    """Memory of the keys and values that are held."""
    entries: int
    """Blocks that are held."""


@dataclass(frozen=True, eq=False)
class Held:
    """What a store holds of one prompt."""

    root: Hashable
    owner: str | None
    tokens: list[int]
    """What was asked for."""
    blocks: list[UInt8[Tensor, " X"]]
    """Of its beginning: keys (``H T D``) and values of layer after layer, as the bytes of one vector per block."""
    epoch: int


@dataclass(frozen=True, eq=False)
class _Block:
    number: int
    owner: str | None
    kv_X: Tensor
    room: "_Room"


class _Room:
    """Places for blocks of one size on one device, cut from slabs, so that blocks that come and go leave no holes.

    Blocks in memory of their own pin the heap between the large tensors of a search, which then never shrinks.
    """

    def __init__(self, size: int, device: torch.device, max_bytes: int) -> None:
        self.size, self.device, self.count = size, device, max(1, min(max_bytes, SLAB_BYTES) // size)
        self.free: list[UInt8[Tensor, " X"]] = []

    @torch.inference_mode()
    def take_back(self, kv_X: UInt8[Tensor, " X"]) -> None:
        """Have a place free again, and nothing left in it."""
        self.free.append(kv_X.zero_())

    @torch.inference_mode()
    def put(self, kv_X: UInt8[Tensor, " X"]) -> UInt8[Tensor, " X"]:
        """A copy of a block in a place that was free."""
        if not self.free:
            slab = torch.empty(self.count, self.size, dtype=torch.uint8, device=self.device)
            self.free = list(slab.unbind(0))
        place = self.free.pop()
        return place.copy_(kv_X)


class PrefixStore:
    """Keys and values of prompt beginnings within a bound of memory; the least recently used go first.

    Blocks lie in slabs of at most the bound, or of 64 MiB, whichever is less: so the memory of a store is its bound and
    less than a slab, however long it is used.

    Blocks are shared within an owner only: what one user's prompts hold can neither speed up nor slow down another's,
    and all of it goes with `forget`. The price: a beginning that all users share is held once per owner.

    Blocks belong to a model object as it is: other weights, another dtype or device, and they are not found again. What
    torch does not see (weights changed through ``.data``, an adapter switched on) asks for `clear`.
    One thread searches at a time; `stats`, `forget` and `clear` may be called from others.
    """

    def __init__(self, max_bytes: int) -> None:
        """An empty store.

        Args:
            max_bytes: most memory of keys and values; 0 = nothing is kept.

        Raises:
            ConfigError: a negative bound.
        """
        if max_bytes < 0:
            raise ConfigError(f"max_bytes = {max_bytes}: at least 0, and 0 keeps nothing")
        self.max_bytes = max_bytes
        self._lock = threading.RLock()
        # from least to most recently used; a block always comes before the one that it follows in its prompt,
        # so the first one of all has no other that needs it
        self._blocks: OrderedDict[_Key, _Block] = OrderedDict()
        self._rooms: dict[tuple[int, torch.device], _Room] = {}
        self._numbers = count()
        self._models: WeakKeyDictionary[nn.Module, tuple[int, tuple[object, ...]]] = WeakKeyDictionary()
        self._bytes = self._prompts = self._hits = self._reused = self._read = self._epoch = 0

    @property
    def stats(self) -> StoreStats:
        """Counts since the store was made, and what it holds now."""
        with self._lock:
            return StoreStats(
                prompts=self._prompts,
                hits=self._hits,
                tokens_reused=self._reused,
                tokens_read=self._read,
                bytes=self._bytes,
                entries=len(self._blocks),
            )

    def forget(self, owner: str | Callable[[str | None], bool] | None) -> int:
        """Drop all that is held of an owner, or of the owners for whom a predicate is true; None = nobody's prompts.

        A search under way meanwhile ends as it would have, and keeps nothing.

        Returns:
            Blocks dropped.
        """
        gone = owner if callable(owner) else (lambda other: other == owner)
        with self._lock:
            self._epoch += 1
            keys = [key for key, block in self._blocks.items() if gone(block.owner)]
            for key in keys:
                self._drop(key)
        return len(keys)

    def clear(self) -> None:
        """Drop everything; the counts go on."""
        self.forget(lambda owner: True)

    def find(self, model: nn.Module, tokens: Sequence[int] | Tensor, owner: str | None = None) -> Held:
        """The longest beginning of a prompt that is held, in whole blocks; its last token is always left to read.

        Raises:
            ModelError: the model's positions depend on the length of the text.
        """
        ids = torch.as_tensor(tokens).tolist()
        with self._lock:
            root = self._root(model, owner)
            keys = self._walk(root, ids, (len(ids) - 1) // BLOCK)
            self._touch(keys)
            self._prompts += bool(ids)
            self._hits += bool(keys)
            self._reused += len(keys) * BLOCK
            self._read += len(ids) - len(keys) * BLOCK
            # copied, since what is forgotten meanwhile is overwritten
            blocks = torch.stack([self._blocks[key].kv_X for key in keys]).unbind(0) if keys else ()
            return Held(root, owner, ids, list(blocks), self._epoch)

    def keep(self, held: Held, prompt: Sequence[Segment], row: int) -> None:
        """Keep the whole blocks of a prompt that has been read.

        Args:
            held: what `find` returned for it.
            prompt: keys and values of the batch (``B H T D``), layer by layer.
            row: the prompt's place in the batch.
        """
        with self._lock:
            whole = len(held.tokens) // BLOCK
            keys = self._walk(held.root, held.tokens, whole)
            self._touch(keys)
            if held.epoch != self._epoch or len(keys) == whole:
                return
            kv_nX = _packed(prompt, row, len(keys), whole)
            size = kv_nX[0].nbytes
            while self._bytes + kv_nX.nbytes > self.max_bytes and len(self._blocks) > len(keys):
                self._drop(next(iter(self._blocks)))
            for kv_X in kv_nX[: (self.max_bytes - self._bytes) // size]:
                key = self._key(held.root, keys, held.tokens)
                room = self._room(kv_X)
                self._blocks[key] = _Block(next(self._numbers), held.owner, room.put(kv_X), room)
                self._bytes += size
                keys.append(key)
            self._touch(keys)

    def _walk(self, root: Hashable, ids: list[int], most: int) -> list[_Key]:
        """Keys of the first blocks of a prompt, as far as they are held."""
        keys: list[_Key] = []
        while len(keys) < most and (key := self._key(root, keys, ids)) in self._blocks:
            keys.append(key)
        return keys

    def _key(self, root: Hashable, before: list[_Key], ids: list[int]) -> _Key:
        """Key of the block that follows some blocks of a prompt."""
        at = len(before) * BLOCK
        return self._blocks[before[-1]].number if before else root, tuple(ids[at : at + BLOCK])

    def _touch(self, keys: list[_Key]) -> None:
        """Mark blocks of one prompt as used now, the first one last."""
        for key in reversed(keys):
            self._blocks.move_to_end(key)

    def _room(self, kv_X: UInt8[Tensor, " X"]) -> _Room:
        """Where blocks of this size and device lie; one without blocks is given back when another is begun."""
        at = (len(kv_X), kv_X.device)
        if at not in self._rooms:
            used = {id(block.room) for block in self._blocks.values()}
            self._rooms = {key: room for key, room in self._rooms.items() if id(room) in used}
            self._rooms[at] = _Room(*at, self.max_bytes)
        return self._rooms[at]

    def _drop(self, key: _Key) -> None:
        block = self._blocks.pop(key)
        block.room.take_back(block.kv_X)
        self._bytes -= block.kv_X.nbytes

    def _root(self, model: nn.Module, owner: str | None) -> Hashable:
        """What two prompts must share before their tokens are compared."""
        state = tuple((w.data_ptr(), 0 if w.is_inference() else w._version, w.dtype) for w in model.parameters())
        number, known = self._models.get(model, (-1, ()))
        if state != known:
            _refuse_moving_positions(model)
            number = next(self._numbers)
            self._models[model] = number, state
        device = next(model.parameters()).device
        autocast = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else None
        return "root", number, autocast, device, owner


def _refuse_moving_positions(model: nn.Module) -> None:
    """Raise if the position codes of a text's beginning depend on how long the text is."""
    for module in model.modules():
        if (kind := getattr(module, "rope_type", None)) in ("dynamic", "longrope"):
            raise ModelError(
                f"{type(model).__name__}: positions of type {kind} change with the length of the text, so a prefix "
                "cannot be reused: pass store=None"
            )


def per_owner(owners: Owners, count: int) -> list[str | None]:
    """One owner or None per prompt.

    Raises:
        DataError: not one per prompt.
    """
    if owners is None or isinstance(owners, str):
        return [owners] * count
    if len(owners) != count:
        raise DataError(f"{len(owners)} owners for {count} prompts: give one per prompt, or a single one for all")
    return list(owners)


def _packed(prompt: Sequence[Segment], row: int, first: int, end: int) -> UInt8[Tensor, "n X"]:
    """Blocks ``first`` to ``end`` of a prompt of a batch, each as one vector of bytes: dtypes may be mixed."""
    parts = [x[row, :, first * BLOCK : end * BLOCK] for s in prompt for x in (s.key, s.value)]
    return torch.cat([x.unflatten(1, (-1, BLOCK)).transpose(0, 1).flatten(1).view(torch.uint8) for x in parts], dim=1)
