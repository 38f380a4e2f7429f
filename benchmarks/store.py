"""A prefix store: direct searches of users whose context was read before, with a warm store, a new one and none.

    OMP_NUM_THREADS=1 python benchmarks/store.py [--runs 60]

One process, one thread, float32, the three sides alternating, CPU time, medians. Their scores must be equal to 1e-4.
"""

import argparse
import statistics
import sys

import numpy as np
import torch
from decode import FIRST_SID, catalogue, cpu_seconds, tiny_qwen3

from crsearch.decode import PrefixStore, Trie, beam_search

CONTEXT, QUERY, WIDTH = 300, 30, 10
"""Tokens that a user's prompts share, tokens that follow, beams."""


def main() -> None:
    """Print the table; exit 1 where scores differ."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=60, help="timed runs per case")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    trie, model = Trie.from_tokens(catalogue(10_000, 125, rng)), tiny_qwen3(FIRST_SID + 500)
    print(f"{'users':>5} {'none ms':>8} {'new ms':>8} {'warm ms':>8} {'none / warm':>12}")
    for users in (1, 8):
        contexts = rng.integers(0, FIRST_SID, (users, CONTEXT))
        warm = PrefixStore(2**28)
        times: dict[str, list[float]] = {"none": [], "new": [], "warm": []}
        for run in range(args.runs + 3):
            prompts = np.hstack([contexts, rng.integers(0, FIRST_SID, (users, QUERY))]).tolist()
            scores = {}
            for name, store in (("none", None), ("new", PrefixStore(2**28)), ("warm", warm)):

                def search(name: str = name, store: PrefixStore | None = store) -> None:
                    scores[name] = beam_search(model, prompts, trie, WIDTH, store=store)[1]  # noqa: B023

                seconds = cpu_seconds(search)
                if run > 2:  # the first ones warm up
                    times[name].append(seconds * 1e3)
            if not all(torch.allclose(scores["none"], s, atol=1e-4, rtol=0) for s in scores.values()):
                sys.exit(f"{users} users, run {run}: the scores differ")
        none, new, reused = (statistics.median(times[name]) for name in ("none", "new", "warm"))
        print(f"{users:>5} {none:>8.1f} {new:>8.1f} {reused:>8.1f} {none / reused:>11.2f}x")


if __name__ == "__main__":
    main()
