"""Searches recorded once and replayed: the steps of a search as one CUDA graph.

On a GPU the few steps of a search are hundreds of small kernels, and starting them takes longer than running them. The
shapes of `crsearch.decode.walk` follow from trie and width alone, so a search for as many prompts can be recorded
with buffers of its own and replayed: keys and values of the new prompts are copied into the buffers, and one call runs
all steps. Prompts are padded to whole buckets, so that few recordings serve all lengths.

Reading the prompts is not recorded. Nor are searches with filters or after thoughts: they take the ordinary way.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable
from weakref import WeakKeyDictionary

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from crsearch.decode.attention import Segment
from crsearch.decode.prefix import PrefixTree
from crsearch.decode.trie import Levels
from crsearch.decode.walk import Normalise, walk

BUCKET = 128
"""Prompts are padded to a multiple of so many tokens."""
KEPT = 8
"""Recordings that are kept for a model, each with keys and values of its batch; the one not used longest goes."""
_ALIKE = 0.05
"""Most by which scores of a recording may differ from those of the ordinary way, as padding moves sums of bfloat16."""

Found = tuple[Int64[Tensor, "n K"], Float[Tensor, "n K"]]
_log = logging.getLogger(__name__)


@runtime_checkable
class Recorder(Protocol):
    """Runs work and can run it again, with the same shapes, on what then is in the same memory."""

    def record(self, work: Callable[[], Found]) -> tuple[Found, Callable[[], None]]:
        """Results, and what renews them in place."""
        ...


class CudaRecorder:
    """CUDA graphs."""

    def record(self, work: Callable[[], Found]) -> tuple[Found, Callable[[], None]]:
        """Warm up on a stream of its own, since what is set up once must not be recorded; then record."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            work()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            found = work()
        return found, graph.replay


@dataclass(frozen=True)
class _Recording:
    """A search with buffers of its own."""

    state: Levels
    """Held, so that its identity stays its own."""
    tree: PrefixTree
    """What the recorded steps read from: prompts, lengths, first tokens."""
    found: Found
    replay: Callable[[], None]


class Graphs:
    """The recordings of one model."""

    def __init__(self, recorder: Recorder, kept: int = KEPT) -> None:
        self.recorder, self.kept = recorder, kept
        self._held: OrderedDict[Any, _Recording | None] = OrderedDict()

    def search(self, tree: PrefixTree, state: Levels, width: int, normalise: Normalise) -> Found:
        """As `walk` without filters; the first search of its shape takes the ordinary way and is recorded beside it.

        A recording that fails, or does not give what the ordinary way gives, is left out with a warning.
        """
        if not tree.cache.prompt:  # prompts of one token
            return walk(tree, state, width, [None] * len(tree.first_BG1), normalise)
        bucket = -(-tree.cache.longest // BUCKET) * BUCKET
        key = (id(state), _places(tree.model), *tree.first_BG1.shape, bucket, width, normalise)
        if key not in self._held:
            return self._first(key, tree, state, width, normalise, bucket)
        self._held.move_to_end(key)
        recording = self._held[key]
        if recording is None:
            return walk(tree, state, width, [None] * len(tree.first_BG1), normalise)
        return _replayed(recording, tree)

    def _first(self, key: Any, tree: PrefixTree, state: Levels, width: int, normalise: Normalise, bucket: int) -> Found:
        buffers = _buffers(tree, bucket)
        _fill(buffers, tree)
        none = [None] * len(tree.first_BG1)
        ordinary = walk(tree, state, width, none, normalise)
        recording = None
        try:
            found, replay = self.recorder.record(lambda: walk(_begun(buffers), state, width, none, normalise))
            recording = _Recording(state, buffers, found, replay)
            if not _alike(_replayed(recording, tree), ordinary):
                recording = None
                _log.warning("a recorded search gives other results than an ordinary one: it is not used")
        except RuntimeError as error:
            _log.warning("a search could not be recorded, searches of this shape go on without: %s", error)
        self._held[key] = recording
        if len(self._held) > self.kept:
            self._held.popitem(last=False)
        return ordinary


_GRAPHS: WeakKeyDictionary[nn.Module, Graphs] = WeakKeyDictionary()


def graphs_of(model: nn.Module) -> Graphs:
    """The recordings of a model on a GPU; they go with it."""
    return _GRAPHS.setdefault(model, Graphs(CudaRecorder()))


def _places(model: nn.Module) -> int:
    """Changes when weights move to other memory, which a recording would not notice."""
    return hash(tuple(weight.data_ptr() for weight in model.parameters()))


def _buffers(tree: PrefixTree, bucket: int) -> PrefixTree:
    """A tree like this one with memory of its own, its prompts padded to the bucket."""

    def room(kept: Tensor) -> Tensor:
        return kept.new_zeros(*kept.shape[:2], bucket, kept.shape[3])

    own, cache = copy(tree), copy(tree.cache)
    cache.longest, cache.lengths_B = bucket, cache.lengths_B.clone()
    cache.prompt = [Segment(room(s.key), room(s.value)) for s in cache.prompt]
    cache.prompt_bias = cache.bias_of(bucket)
    own.cache, own.first_BG1, own.paths_BGMS = cache, tree.first_BG1.clone(), tree.paths_BGMS.clone()
    return own


def _fill(buffers: PrefixTree, tree: PrefixTree) -> None:
    """Copy what was read of the prompts into the buffers; what they held behind it is hidden by the bias."""
    mine, theirs = buffers.cache, tree.cache
    for own, read in zip(mine.prompt, theirs.prompt, strict=True):
        own.key[:, :, : theirs.longest].copy_(read.key)
        own.value[:, :, : theirs.longest].copy_(read.value)
    mine.lengths_B.copy_(theirs.lengths_B)
    assert mine.prompt_bias is not None
    mine.prompt_bias.copy_(mine.bias_of(mine.longest))
    buffers.first_BG1.copy_(tree.first_BG1)


def _begun(buffers: PrefixTree) -> PrefixTree:
    """A tree on the same buffers before its first step."""
    tree, cache = copy(buffers), copy(buffers.cache)
    cache.branch, cache.used, cache.steps, cache.attended = [], 0, 0, 0
    tree.cache = cache
    return tree


def _replayed(recording: _Recording, tree: PrefixTree) -> Found:
    _fill(recording.tree, tree)
    recording.replay()
    rows, scores = recording.found
    return rows.clone(), scores.clone()


def _alike(found: Found, ordinary: Found) -> bool:
    return torch.allclose(found[1], ordinary[1], rtol=_ALIKE, atol=_ALIKE, equal_nan=True)
