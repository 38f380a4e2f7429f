"""Constrained beam search on a GPU: Qwen3-0.6B's architecture with random weights, ours against other engines.

    python benchmarks/gpu.py [--out gpu.json] [--runs 7] [--tiny]

Times are wall clock with the device synchronised, medians, both sides in turns on fresh prompts. Before anything is
timed, ranked lists of both must be identical in float32. Timing is in bfloat16, where near ties fall either way with
any change of the order of sums; there the share of equal items is printed beside the ratio. HF gets the largest batch,
up to ours, that fits into memory. Ours runs with CUDA graphs and without. vLLM and SGLang (``benchmarks/engines.py``)
are timed where they are installed; they do not constrain, so the share of their beams that are items stands beside.
``--tiny`` runs the whole script in seconds on a CPU, with a toy model in float32.
"""

import argparse
import importlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from crsearch.bench.figures import Measured, NotMeasured, Ratio
from crsearch.bench.machine import cpu_name
from crsearch.bench.timing import ResultsDiffer, alternate
from crsearch.bench.usual import (
    FIRST_SID,
    HuggingFace,
    installed,
    qwen3_06b,
    same_lists,
    toy_catalogue,
    toy_prompts,
    toy_qwen3,
)
from crsearch.decode import Trie, beam_search
from crsearch.decode.prefix import PrefixTree, decoding
from crsearch.runs import write_json

USUAL = "HF generate"
PUBLISHED = (
    {"who": "NVIDIA sid-gr-inference", "model": "Qwen3-1.7B", "prompt": 1000, "width": 256, "ms": 17.6, "on": "H100"},
    {"who": "SGLang, by NVIDIA", "model": "Qwen3-1.7B", "prompt": 1000, "width": 256, "ms": 33.5, "on": "H100"},
    {"who": "STATIC", "model": "one mask step", "ms": 0.033, "on": "an accelerator"},
)  # fmt: skip
"""Figures of others, as they published them: anchors, not comparisons (other models, machines, lists)."""


@dataclass(frozen=True, kw_only=True)
class GpuSizes:
    """How much is measured."""

    runs: int = 7
    items: int = 1_000_000
    codes: int = 256
    prompts: tuple[int, ...] = (512, 1000)
    widths: tuple[int, ...] = (10, 50, 256)
    batches: tuple[int, ...] = (1, 32)
    checked: tuple[tuple[int, int], ...] = ((512, 10), (512, 50))
    """(prompt tokens, width) compared in float32 first."""


TINY = GpuSizes(
    runs=2, items=300, codes=8, prompts=(16,), widths=(3, 6), batches=(1, 2), checked=((16, 3),),
)  # fmt: skip


def clock(device: torch.device) -> Callable[[], float]:
    """Wall clock after all work of a device is done."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    return now


def check(model: Any, trie: Trie, usual: HuggingFace, sizes: GpuSizes) -> None:
    """Compare the lists of a float32 model, twice: on a GPU the second search of a shape is a replay.

    Raises:
        ResultsDiffer: they are not identical.
    """
    usual.model = model
    for length, width in sizes.checked:
        drawn = [toy_prompts(1, length, 8, length, width, number) for number in range(2)]
        if not all(same_lists(beam_search(model, p, trie, width), usual.search(p, width)) for p in drawn):
            raise ResultsDiffer(f"prompt {length}, width {width}, float32: ours and {USUAL} give different lists")


def fitting_batch(usual: HuggingFace, length: int, width: int, most: int) -> int:
    """The largest batch of the usual way that fits into memory: ``most``, or a half of it, a quarter ...; 0 = none."""
    batch = most
    while batch:
        try:
            usual.search(toy_prompts(batch, length, 9), width)
            return batch
        except torch.cuda.OutOfMemoryError:
            torch.cuda.empty_cache()
            batch //= 2
    return 0


def compare(
    model: Any, trie: Trie, usual: HuggingFace, length: int, width: int, batch: int, sizes: GpuSizes
) -> list[Measured]:
    """Milliseconds of a batch, and of the reading of its prompts."""
    now = clock(model.device)
    what = f"prompt {length}, width {width}, batch {batch}, {len(trie):,} items"
    theirs = fitting_batch(usual, length, width, batch)

    def prompts(number: int) -> list[list[int]]:
        return toy_prompts(batch, length, 10, length, width, number)

    def ours(number: int, graphs: bool | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        return beam_search(model, prompts(number), trie, width, batch=batch, graphs=graphs)

    def read(number: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        with decoding(model):
            PrefixTree(model, prompts(number), 1, 1)
        return None

    def alone(work: Callable[[int], Any]) -> float:
        return 1e3 * alternate(what, {"alone": work}, lambda a, b: True, sizes.runs, now)["alone"]

    parts = f"{alone(read):.2f} for reading prompts"
    if model.device.type == "cuda":
        parts += f"; {alone(lambda r: ours(r, graphs=False)):.2f} without CUDA graphs"
    if not theirs:
        how = f"ours {alone(ours):.2f} ms a batch, of it {parts}; one prompt of {USUAL} does not fit into memory"
        return [NotMeasured(key="gpu", what=what, how=how)]
    overlaps: list[float] = []

    def overlap(a: tuple[torch.Tensor, torch.Tensor], b: tuple[torch.Tensor, torch.Tensor]) -> bool:
        pairs = zip(a[0].tolist(), b[0].tolist(), strict=False)  # the usual way may have had fewer prompts
        overlaps.extend(len({*x} & {*y}) / width for x, y in pairs)
        return True

    sides = {"ours": ours, USUAL: lambda r: usual.search(prompts(r)[:theirs], width)}
    took = alternate(what, sides, overlap, sizes.runs, now)
    return [
        Ratio(
            key="gpu",
            what=what,
            ours=1e3 * took["ours"] / batch,
            usual=1e3 * took[USUAL] / theirs,
            unit="ms a query",
            usual_way=USUAL,
            how=f"{1e3 * took['ours']:.2f} ms a batch, of it {parts}; {USUAL} in batches of {theirs}; "
            f"{100 * float(np.mean(overlaps)):.0f} % of items equal; median of {sizes.runs}",
        )
    ]


def others(model: Any, trie: Trie, sizes: GpuSizes) -> list[Measured]:
    """The engines that are installed, in turns with ours; of the others, how to install them."""
    driven = importlib.import_module("engines")
    found: list[Measured] = []
    for name, driver in driven.ENGINES.items():
        if not installed(name):
            found.append(NotMeasured(key="gpu", what=f"against {name}", how=f"not installed (pip install {name})"))
            continue
        with tempfile.TemporaryDirectory(prefix="crsearch-gpu-") as folder:
            place = driven.save_folder(model, Path(folder))
            dtype = str(model.dtype).removeprefix("torch.")
            try:
                engine = driver(place, max(sizes.widths), trie.depth, max(sizes.prompts), dtype)
            except Exception as error:  # of another project, whatever it raises: the table says so and goes on
                found.append(NotMeasured(key="gpu", what=f"against {name}", how=f"does not start: {error!r}"))
                continue
            cases = [(p, w, b) for p in sizes.prompts for w in sizes.widths for b in sizes.batches]
            found += [against(name, engine, model, trie, *case, sizes) for case in cases]
            engine.close()
    return found


def against(
    name: str, engine: Any, model: Any, trie: Trie, length: int, width: int, batch: int, sizes: GpuSizes
) -> Measured:
    """Milliseconds of a batch of an engine that does not constrain its beams."""
    what = f"prompt {length}, width {width}, batch {batch}, {len(trie):,} items"
    items = {tuple(sid) for sid in trie.tokens().tolist()}
    shares: list[float] = []

    def prompts(number: int) -> list[list[int]]:
        return toy_prompts(batch, length, 11, length, width, number)

    def theirs(number: int) -> list[list[list[int]]]:
        found: list[list[list[int]]] = engine.search(prompts(number), width)
        return found

    def look(_: Any, beams: list[list[list[int]]]) -> bool:
        shares.extend(float(np.mean([tuple(sid) in items for sid in beam])) for beam in beams)
        return True

    sides: dict[str, Callable[[int], Any]] = {
        "ours": lambda r: beam_search(model, prompts(r), trie, width, batch=batch), name: theirs,
    }  # fmt: skip
    try:
        took = alternate(what, sides, look, sizes.runs, clock(model.device))
    except Exception as error:  # as above
        return NotMeasured(key="gpu", what=f"{what}, against {name}", how=f"fails: {error!r}")
    how = f"not constrained: {100 * float(np.mean(shares)):.0f} % of its beams are items; median of {sizes.runs}"
    return Ratio(
        key="gpu", what=what, ours=1e3 * took["ours"] / batch, usual=1e3 * took[name] / batch, unit="ms a query",
        usual_way=name, how=how,
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write it as JSON; 1 where lists differ, 2 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, help="timed rounds per case")
    parser.add_argument("--out", type=Path, help="JSON file")
    parser.add_argument("--tiny", action="store_true", help="a toy on the CPU: does the script work?")
    args = parser.parse_args(arguments)
    if not args.tiny and not torch.cuda.is_available():
        print("no CUDA device here; try the script with --tiny", file=sys.stderr)
        return 2
    sizes = TINY if args.tiny else GpuSizes()
    sizes = sizes if args.runs is None else GpuSizes(**{**vars(sizes), "runs": args.runs})
    device = torch.device("cpu" if args.tiny else "cuda")
    tokens_NL = toy_catalogue(sizes.items, sizes.codes, np.random.default_rng(0))
    model = toy_qwen3(FIRST_SID + 4 * sizes.codes) if args.tiny else qwen3_06b(device, torch.float32)
    trie, usual = Trie.from_tokens(tokens_NL), HuggingFace(model, tokens_NL)
    try:
        check(model, trie, usual, sizes)
    except ResultsDiffer as error:
        print(error, file=sys.stderr)
        return 1
    if not args.tiny:
        model = usual.model = model.to(torch.bfloat16)
    found: list[Measured] = []
    for length in sizes.prompts:
        for width in sizes.widths:
            for batch in sizes.batches:
                found += compare(model, trie, usual, length, width, batch, sizes)
                print("  ".join(found[-1].row()[1:]), flush=True)
    rivals = others(model, trie, sizes)
    for figure in rivals:
        print("  ".join(figure.row()[1:]), flush=True)
    found += rivals
    document = {
        "bench": "gpu",
        "machine": {
            "device": cpu_name() if args.tiny else torch.cuda.get_device_name(device),
            "torch": torch.__version__,
            "dtype": str(model.dtype),
            "date": time.strftime("%Y-%m-%d"),
        },
        "published": PUBLISHED,
        "figures": [figure.plain() for figure in found],
    }
    if args.out:
        write_json(args.out, document)
    print(json.dumps(document["machine"]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
