"""A search as recorded steps: no step waits for the device, and a recording answers for other prompts.

There is no GPU here. `OpRecorder` stands in for one: like a CUDA graph it runs the recorded operations again on the
same memory, and nothing of the Python around them.
"""

import logging
from typing import Any

import numpy as np
import pytest
import torch
from decode_tiny import catalogues, model, random_prompts
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from crsearch.decode import Trie, beam_search
from crsearch.decode.graphs import BUCKET, Graphs
from crsearch.decode.prefix import PrefixTree, decoding
from crsearch.decode.walk import walk, whole
from crsearch.errors import ConfigError, ModelError

aten = torch.ops.aten
WAITING = {
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten.is_nonzero, aten._unique2,
    aten.unique_consecutive, aten.nonzero_numpy, aten.argwhere,
}  # fmt: skip
"""Operations whose results have a size, or a use on the host, that the device must tell first."""


class NothingWaits(TorchDispatchMode):
    """Fails on operations for which the host waits for the device."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func.overloadpacket not in WAITING, f"{func} makes the host wait"
        if func.overloadpacket in (aten.index, aten.index_put, aten.index_put_):
            assert all(i is None or i.dtype is not torch.bool for i in args[1]), f"{func} with a mask makes it wait"
        return func(*args, **(kwargs or {}))


class OpRecorder(TorchDispatchMode):
    """Records operations with their tensors; replays them on the same memory."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, out))
        return out

    def record(self, work: Any) -> Any:
        with self:
            found = work()
        return found, self.replay

    def replay(self) -> None:
        self.replays += 1
        for func, args, kwargs, out in self.operations:
            if func._schema.is_mutable:
                func(*args, **kwargs)
            else:
                outs = [out] if isinstance(out, torch.Tensor) else out
                again = func(*args, **kwargs)
                for old, new in zip(outs, [again] if isinstance(again, torch.Tensor) else again, strict=True):
                    if new.data_ptr() != old.data_ptr():  # else a view, of what is renewed already
                        old.copy_(new)


def catalogue(seed: int, items: int = 200, depth: int = 4) -> Trie:
    rng = np.random.default_rng(seed)
    offset = 8 + 12 * np.arange(depth)
    return Trie.from_tokens(np.unique(rng.integers(0, 8, (items, depth)) + offset, axis=0))


def tree_of(prompts: list[list[int]], trie: Trie, width: int, *family: str) -> PrefixTree:
    return PrefixTree(model(*family), prompts, 1, 1 + width * (trie.depth - 1))


@pytest.mark.parametrize("family", ["qwen3", "llama"])
@pytest.mark.parametrize("normalise", ["full", "sid"])
def test_no_step_of_a_search_waits_for_the_device(family, normalise):
    trie = catalogue(0)
    trie.remove([3, 4])
    masks = [None, trie.mask(np.arange(trie.num_rows) % 3 == 0), trie.mask(np.arange(trie.num_rows) < 2)]
    with decoding(model(family)):
        tree = tree_of(random_prompts(0, (5, 20, 9)), trie, 10, family)
        walk(tree_of(random_prompts(0, (5, 20, 9)), trie, 10, family), trie.state, 10, masks, normalise)
        with NothingWaits():
            rows, scores = walk(tree, trie.state, 10, masks, normalise)
    found = beam_search(model(family), random_prompts(0, (5, 20, 9)), trie, 10, masks, normalise)
    assert rows.tolist() == found[0].tolist()
    assert torch.allclose(scores, found[1], atol=1e-5)


def test_the_guard_sees_what_waits():
    with NothingWaits(), pytest.raises(AssertionError, match="makes the host wait"):
        bool(torch.ones(2).any())
    with NothingWaits(), pytest.raises(AssertionError, match="with a mask"):
        torch.ones(2)[torch.tensor([True, False])]


@settings(max_examples=15)
@given(
    tokens_NL=catalogues(min_items=2), seed=st.integers(0, 3), width=st.integers(1, 12),
    lengths=st.lists(st.integers(2, 20), min_size=1, max_size=3).map(tuple), normalise=st.sampled_from(["full", "sid"]),
)  # fmt: skip
def test_a_recording_answers_for_prompts_it_has_not_seen(tokens_NL, seed, width, lengths, normalise):
    trie, recorder = Trie.from_tokens(tokens_NL), OpRecorder()
    graphs = Graphs(recorder)
    for number in range(3):
        turned = lengths[number % len(lengths) :] + lengths[: number % len(lengths)]
        prompts = random_prompts(10 * seed + number, turned)
        expected = beam_search(model(), prompts, trie, width, normalise=normalise)
        with decoding(model()):
            rows, scores = whole(graphs.search(tree_of(prompts, trie, width), trie.state, width, normalise))
        assert torch.allclose(scores, expected[1], atol=1e-4)
        if bool((scores[:, :-1] - scores[:, 1:] > 1e-4).all()):
            assert rows.tolist() == expected[0].tolist()
    assert recorder.replays == 3  # one beside the first search, and one for each of the others


def test_searches_of_another_shape_or_catalogue_are_recorded_apart_and_the_oldest_goes():
    trie, made = catalogue(0), []

    class Counting:
        def record(self, work):
            made.append(recorder := OpRecorder())
            return recorder.record(work)

    graphs = Graphs(Counting(), kept=2)

    def ask(lengths: tuple[int, ...], width: int) -> None:
        prompts = random_prompts(1, lengths)
        with decoding(model()):
            rows, _ = graphs.search(tree_of(prompts, trie, width), trie.state, width, "full")
        assert rows.tolist() == beam_search(model(), prompts, trie, width)[0].tolist()

    for lengths, width, recorded in [
        ((5, 9), 5, 1), ((30, 2), 5, 1),  # the same bucket
        ((BUCKET + 2, 9), 5, 2), ((5, 9), 5, 2), ((5, 9), 6, 3), ((5, 9), 5, 3), ((BUCKET + 2, 9), 5, 4),
    ]:  # fmt: skip
        ask(lengths, width)
        assert len(made) == recorded
    trie.remove([0])
    ask((5, 9), 5)
    assert len(made) == 5
    ask((1, 1), 5)  # nothing to share: not recorded
    assert len(made) == 5


@pytest.mark.parametrize("fault", ["fails", "other results"])
def test_a_recording_that_does_not_work_is_left_out_with_a_warning(fault, caplog):
    class Broken:
        def record(self, work):
            if fault == "fails":
                raise RuntimeError("operation not permitted when stream is capturing")
            rows, scores = work()
            return (rows, scores - 1), lambda: None

    trie, graphs = catalogue(0), Graphs(Broken())
    with caplog.at_level(logging.WARNING):
        for seed in (1, 2):
            prompts = random_prompts(seed, (9, 9))
            with decoding(model()):
                rows, _ = graphs.search(tree_of(prompts, trie, 5), trie.state, 5, "full")
            assert rows.tolist() == beam_search(model(), prompts, trie, 5)[0].tolist()
    assert len(caplog.records) == 1


def test_a_recording_of_broken_weights_is_an_error_too():
    trie, graphs = catalogue(0), Graphs(OpRecorder())
    weight = model(seed=3).lm_head.weight
    before = weight.detach().clone()
    with decoding(model(seed=3)):
        prompts = random_prompts(1, (9, 9))

        def ask() -> Any:
            made = PrefixTree(model(seed=3), prompts, 1, 1 + 5 * (trie.depth - 1))
            return whole(graphs.search(made, trie.state, 5, "full"))

        ask()
        weight.data.fill_(torch.nan)
        try:
            with pytest.raises(ModelError, match="NaN"):
                ask()
        finally:
            weight.data.copy_(before)


def test_graphs_without_a_gpu_are_refused():
    with pytest.raises(ConfigError, match="need a model on a GPU"):
        beam_search(model(), [[1, 2]], catalogue(0), graphs=True)
    beam_search(model(), [[1, 2]], catalogue(0), graphs=False)


@pytest.mark.gpu
def test_cuda_graphs_give_the_lists_of_the_ordinary_way():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    trie, on_gpu = catalogue(0), model(seed=1).to("cuda")
    try:
        for seed in range(3):
            prompts = random_prompts(seed, (40, 200, 200))
            found = beam_search(on_gpu, prompts, trie, 10, graphs=True)
            ordinary = beam_search(on_gpu, prompts, trie, 10, graphs=False)
            assert torch.allclose(found[1], ordinary[1], atol=1e-3)
    finally:
        on_gpu.to("cpu")
