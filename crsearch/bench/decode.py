"""``crsearch bench decode``: constrained beam search against Hugging Face ``generate`` with a Python trie.

One process, one thread, float32, both sides in turns on fresh prompts, CPU time, medians; lists of both must be equal.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from crsearch.bench.figures import Figure, Measured, Ratio
from crsearch.bench.machine import Machine, reading_flops
from crsearch.bench.timing import Budget, alternate, one_thread
from crsearch.bench.usual import FIRST_SID, HuggingFace, same_lists, toy_catalogue, toy_prompts, toy_qwen3
from crsearch.decode import PrefixStore, Trie, beam_search
from crsearch.decode.prefix import PrefixTree, decoding

USUAL = "HF generate"
FLOORS = {(512, 10): 8.0, (512, 50): 30.0}
"""(prompt tokens, width) -> ratio for one query."""
BATCH_FLOORS = {(512, 50): 50.0}
GROWTH_FLOOR = 1.3
GROWN = 1_000_000
"""Items of the largest catalogue for which the floor of growth stands."""


@dataclass(frozen=True, kw_only=True)
class DecodeSizes:
    """How much is measured."""

    runs: int = 7
    items: int = 10_000
    codes: int = 128
    cases: tuple[tuple[int, int], ...] = ((160, 10), (160, 50), (512, 10), (512, 50))
    """(prompt tokens, width) of one query."""
    batches: tuple[tuple[int, int], ...] = ((160, 10), (512, 50))
    batch_runs: int = 5
    ours_batch: int = 32
    usual_batch: int = 8
    growth: tuple[int, ...] = (1_000, 10_000, 100_000, GROWN)
    growth_codes: int = 256
    growth_case: tuple[int, int] = (512, 10)
    context: int = 300
    """Tokens that a user's prompts share, for the prefix store; 30 more follow."""
    users: tuple[int, ...] = (1, 8)
    prefill: tuple[tuple[int, int, int, int], ...] = ((128, 3, 512, 1), (128, 3, 512, 32), (384, 8, 512, 1))
    """(model width, layers, prompt tokens, prompts) whose reading is held against the machine."""


SIZES: dict[Budget, DecodeSizes] = {
    "smoke": DecodeSizes(
        runs=5, items=1_000, codes=64, cases=((64, 10), (160, 10)), batches=((64, 10),), ours_batch=8, usual_batch=4,
        growth=(1_000, 10_000), growth_case=(64, 10), context=128, users=(1,), prefill=((128, 3, 160, 1),),
    ),
    "full": DecodeSizes(),
}  # fmt: skip


def bench_decode(sizes: DecodeSizes, machine: Machine) -> list[Measured]:
    """Measure constrained decoding.

    Args:
        sizes: how much.
        machine: its limits.

    Raises:
        ResultsDiffer: a list of ours is not that of the usual way.
    """
    with one_thread():
        return [*_queries(sizes), *_growth(sizes), *_stored(sizes), *_prefill(sizes, machine)]


def _queries(sizes: DecodeSizes) -> list[Measured]:
    """One query, and batches as large as each side likes them."""
    tokens_NL = toy_catalogue(sizes.items, sizes.codes, np.random.default_rng(0))
    model = toy_qwen3(FIRST_SID + 4 * sizes.codes)
    trie, usual = Trie.from_tokens(tokens_NL), HuggingFace(model, tokens_NL)
    found = [_compared(model, trie, usual, *case, 1, 1, sizes.runs, FLOORS) for case in sizes.cases]
    both = (sizes.ours_batch, sizes.usual_batch)
    found += [_compared(model, trie, usual, *case, *both, sizes.batch_runs, BATCH_FLOORS) for case in sizes.batches]
    return found


def _compared(
    model: Any,
    trie: Trie,
    usual: HuggingFace,
    length: int,
    width: int,
    ours_batch: int,
    usual_batch: int,
    runs: int,
    floors: dict[tuple[int, int], float],
) -> Measured:
    """Milliseconds per query of both."""
    batches = "" if ours_batch == usual_batch == 1 else f", batches of {ours_batch} against {usual_batch}"
    what = f"prompt {length}, width {width}, {len(trie):,} items{batches}"

    def prompts(number: int) -> list[list[int]]:
        return toy_prompts(ours_batch, length, length, width, number)

    took = alternate(
        f"decode, {what}",
        {
            "ours": lambda r: beam_search(model, prompts(r), trie, width, batch=ours_batch),
            USUAL: lambda r: usual.search(prompts(r)[:usual_batch], width),
        },
        same_lists,
        runs,
    )
    return Ratio(
        key="decode",
        what=what,
        ours=1e3 * took["ours"] / ours_batch,
        usual=1e3 * took[USUAL] / usual_batch,
        unit="CPU ms a query",
        usual_way=USUAL,
        floor=floors.get((length, width)),
        how=f"median of {runs}",
    )


def _growth(sizes: DecodeSizes) -> list[Measured]:
    """The same query on larger and larger catalogues of one vocabulary."""
    model = toy_qwen3(FIRST_SID + 4 * sizes.growth_codes)
    found: list[Measured] = []
    ours = []
    for items in sizes.growth:
        tokens_NL = toy_catalogue(items, sizes.growth_codes, np.random.default_rng(items))
        trie, usual = Trie.from_tokens(tokens_NL), HuggingFace(model, tokens_NL)
        one = _compared(model, trie, usual, *sizes.growth_case, 1, 1, sizes.runs, {})
        assert isinstance(one, Ratio)
        ours.append(one.ours)
        found.append(one)
        del trie, usual
    grown = Figure(
        key="decode",
        what=f"cost of a query, {sizes.growth[0]:,} -> {sizes.growth[-1]:,} items",
        value=ours[-1] / ours[0],
        unit="x",
        floor=GROWTH_FLOOR if sizes.growth[-1] == GROWN else None,
        how=f"prompt {sizes.growth_case[0]}, width {sizes.growth_case[1]}; "
        + ", ".join(f"{ms:.1f}" for ms in ours)
        + " CPU ms",
    )
    return [*found, grown]


def _stored(sizes: DecodeSizes) -> list[Measured]:
    """Users whose context was read before, with a warm prefix store, a new one and none."""
    tokens_NL = toy_catalogue(sizes.items, sizes.codes, np.random.default_rng(0))
    model, trie = toy_qwen3(FIRST_SID + 4 * sizes.codes), Trie.from_tokens(tokens_NL)
    return [_store_of(model, trie, sizes, users) for users in sizes.users]


def _store_of(model: Any, trie: Trie, sizes: DecodeSizes, users: int) -> Measured:
    contexts, warm = toy_prompts(users, sizes.context, 1, users), PrefixStore(2**28)

    def run(number: int, store: PrefixStore | None) -> torch.Tensor:
        queries = toy_prompts(users, 30, 2, users, number)
        prompts = [c + q for c, q in zip(contexts, queries, strict=True)]
        return beam_search(model, prompts, trie, 10, store=store)[1]

    sides = {
        "warm": lambda r: run(r, warm),
        "none": lambda r: run(r, None),
        "new": lambda r: run(r, PrefixStore(2**28)),
    }
    what = f"prefix store, {sizes.context} of {sizes.context + 30} tokens read before, users: {users}"
    took = alternate(what, sides, lambda a, b: torch.allclose(a, b, atol=1e-4, rtol=0), sizes.runs)
    ms = {name: 1e3 * seconds for name, seconds in took.items()}
    return Ratio(
        key="decode",
        what=what,
        ours=ms["warm"],
        usual=ms["none"],
        unit="CPU ms a batch",
        usual_way="ours without a store",
        how=f"{ms['new']:.1f} with a new store, which reads and keeps; median of {sizes.runs}",
    )


def _prefill(sizes: DecodeSizes, machine: Machine) -> list[Measured]:
    """The share of the machine's matrix rate that reading prompts reaches."""
    found: list[Measured] = []
    for width, layers, length, count in sizes.prefill:
        model = toy_qwen3(FIRST_SID, width=width, layers=layers)

        def read(number: int, model: Any = model, count: int = count, length: int = length) -> None:
            with decoding(model):
                PrefixTree(model, toy_prompts(count, length, 3, number), 1, 1)

        seconds = alternate("prefill", {"ours": read}, lambda a, b: True, sizes.runs)["ours"]
        flops = count * reading_flops(model.config, length - 1)  # the last token of a prompt is read with its beams
        rate = flops / seconds / 1e9
        found.append(
            Figure(
                key="decode",
                what=f"prefill, {layers} layers x {width}, prompts {count} x {length}: share of the matmul rate",
                value=100 * rate / machine.float32_gflops,
                unit="%",
                better="higher",
                how=f"{1e3 * seconds:.1f} CPU ms, {rate:.0f} of {machine.float32_gflops:.0f} GFLOP/s in float32",
            )
        )
    return found
