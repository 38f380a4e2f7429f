"""Constrained beam search: ours against Hugging Face ``generate`` with a Python dict as trie.

    OMP_NUM_THREADS=1 python benchmarks/decode.py [--runs 7] [--out decode.json]

One process, one thread, float32, both sides alternating, CPU time, medians. The lists of both must be equal.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from crsearch.decode import Trie, beam_search

CASES = ((160, 10), (160, 20), (512, 10), (512, 50))
"""(prompt tokens, width); one query each."""
GOALS = {(512, 10): 8.0, (512, 50): 30.0}
FIRST_SID = 2_000


def tiny_qwen3(vocabulary: int) -> Any:
    """0.6 M parameters without embeddings; weights sharp enough that lists are not a matter of rounding."""
    config = Qwen3Config(
        vocab_size=vocabulary, hidden_size=128, intermediate_size=384, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, head_dim=32, max_position_embeddings=2048, tie_word_embeddings=True,
    )  # fmt: skip
    model = Qwen3ForCausalLM(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.mul_(4)
    return model


def catalogue(items: int, codes: int, rng: np.random.Generator) -> np.ndarray:
    """SIDs of three codes and a deduplication code, as vocabulary ids."""
    codes_NL = rng.integers(0, codes, (items, 3))
    seen: dict[tuple[int, ...], int] = {}
    dedup = []
    for row in map(tuple, codes_NL.tolist()):
        dedup.append(seen.get(row, 0))
        seen[row] = dedup[-1] + 1
    offsets = FIRST_SID + codes * np.arange(4)
    return np.column_stack([codes_NL, dedup]) + offsets


class HuggingFace:
    """The usual way: ``num_beams``, ``prefix_allowed_tokens_fn`` and a dict from prefix to allowed ids."""

    def __init__(self, model: Any, tokens_NL: np.ndarray) -> None:
        self.model, self.depth = model, tokens_NL.shape[1]
        self.row_of = {tuple(sid): row for row, sid in enumerate(tokens_NL.tolist())}
        after: dict[tuple[int, ...], set[int]] = {}
        for sid in self.row_of:
            for i in range(self.depth):
                after.setdefault(sid[:i], set()).add(sid[i])
        self.after = {prefix: sorted(ids) for prefix, ids in after.items()}

    @torch.inference_mode()
    def search(self, prompt: list[int], width: int) -> tuple[list[int], torch.Tensor]:
        """Rows, best first, and their scores."""
        start = len(prompt)
        out = self.model.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, start, dtype=torch.int64), num_beams=width,
            num_return_sequences=width, max_new_tokens=self.depth, do_sample=False, length_penalty=0.0,
            early_stopping=False, pad_token_id=0, eos_token_id=None, output_scores=True, return_dict_in_generate=True,
            prefix_allowed_tokens_fn=lambda _, ids: self.after[tuple(ids[start:].tolist())],
        )  # fmt: skip
        return [self.row_of[tuple(s)] for s in out.sequences[:, start:].tolist()], out.sequences_scores


def cpu_seconds(run: Callable[[], object]) -> float:
    """CPU time of one call."""
    begin = time.process_time()
    run()
    return time.process_time() - begin


def compare(model: Any, tokens_NL: np.ndarray, length: int, width: int, runs: int, rng: np.random.Generator) -> dict:
    """Median CPU milliseconds of both, on fresh prompts, and whether the lists are equal."""
    trie, usual = Trie.from_tokens(tokens_NL), HuggingFace(model, tokens_NL)
    ours, theirs, difference = [], [], 0.0
    for run in range(runs + 1):
        prompt = rng.integers(0, FIRST_SID, length).tolist()
        rows, scores = usual.search(prompt, width)
        rows_1K, scores_1K = beam_search(model, [prompt], trie, width)
        if rows_1K[0].tolist() != rows:
            sys.exit(f"prompt of {length} tokens, width {width}: the lists differ: {rows_1K[0].tolist()} and {rows}")
        difference = max(difference, float((scores_1K[0] - scores).abs().max()))
        if run:  # the first warms up
            theirs.append(cpu_seconds(lambda p=prompt: usual.search(p, width)))
            ours.append(cpu_seconds(lambda p=prompt: beam_search(model, [p], trie, width)))
    mine, other = statistics.median(ours) * 1e3, statistics.median(theirs) * 1e3
    return {
        "prompt": length, "width": width, "items": len(tokens_NL), "ours_ms": round(mine, 2),
        "hugging_face_ms": round(other, 2), "ratio": round(other / mine, 1), "goal": GOALS.get((length, width)),
        "largest_score_difference": difference,
    }  # fmt: skip


def main() -> None:
    """Print the table, write it as JSON, exit 1 where a goal is missed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=7, help="timed runs per case")
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--codes", type=int, default=125)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file")
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    tokens_NL = catalogue(args.items, args.codes, rng)
    model = tiny_qwen3(FIRST_SID + 4 * args.codes)
    rows = []
    print(f"{'prompt':>6} {'width':>5} {'ours ms':>9} {'HF ms':>9} {'ratio':>7} {'goal':>5}  lists")
    for length, width in CASES:
        row = compare(model, tokens_NL, length, width, args.runs, rng)
        rows.append(row)
        goal = f"{row['goal']:.0f}x" if row["goal"] else ""
        print(
            f"{length:>6} {width:>5} {row['ours_ms']:>9.2f} {row['hugging_face_ms']:>9.2f} {row['ratio']:>6.1f}x "
            f"{goal:>5}  equal"
        )
    if args.out:
        args.out.write_text(json.dumps({"torch": torch.__version__, "threads": 1, "cases": rows}, indent=2) + "\n")
    missed = [r for r in rows if r["goal"] and r["ratio"] < r["goal"]]
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
