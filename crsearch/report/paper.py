"""What the paper reports, to be printed beside what a run shows.

Source: CRS, arXiv 2510.16925, tables 1 to 4 and figures 2 and 3. Its data are private, so its numbers can be
compared with ours in order and direction only.
"""

DATASETS = ("All-100K", "All-50K", "Fashion-27K")

STATISTICS: dict[str, tuple[float, float, float]] = {
    "users": (99_683, 49_967, 27_219),
    "items": (1_072_791, 632_196, 323_481),
    "queries": (362_859, 202_436, 103_812),
    "queries_per_user": (6.55, 6.54, 6.77),
    "clicks_per_user": (1.81, 1.81, 1.47),
    "codes": (512, 256, 256),
}
"""Table 1, and the codebook size of §4.1.3, for each of ``DATASETS``."""

NDCG_10: dict[str, tuple[float, float, float]] = {
    "tfidf": (0.0827, 0.1071, 0.0581),
    "bm25": (0.1071, 0.1322, 0.0677),
    "dense-bge": (0.1256, 0.1436, 0.0692),
    "dense-qwen3": (0.1244, 0.1451, 0.0732),
    "genre": (0.1364, 0.1215, 0.0727),
    "dsi": (0.1438, 0.1340, 0.0787),
    "ltrgr": (0.1372, 0.1317, 0.0741),
    "latent-r3": (0.1612, 0.1460, 0.0744),
    "crs": (0.1678, 0.1617, 0.1152),
}
"""Table 2, NDCG@10 for each of ``DATASETS``, under our names of the systems."""

IMPOSSIBLE = frozenset({("dense-bge", "All-50K"), ("dense-qwen3", "All-50K"), ("ltrgr", "All-50K")})
"""Cells of ``NDCG_10`` that contradict the HR@5, HR@10 and NDCG@5 of their own row (one relevant item per query)."""

STAGES_50K: dict[str, float] = {"sft0": 0.1334, "rl0": 0.1390, "rl1": 0.1508, "rl2": 0.1568}
"""NDCG@10 on All-50K after a stage: table 3, R-GRPO; sft0 worked out from the gain that goes with figure 2."""

LOOP_GAIN: dict[str, float] = {"All-100K": 0.3902, "All-50K": 0.2121}
"""Relative rise of NDCG@10 from sft0 to the end of the loop (figure 2)."""

R_GRPO_GAIN = (0.012, 0.027)
"""Least and largest relative gain in HR@1 of R-GRPO over GRPO after a stage (table 3; one run)."""

SCALE: dict[str, tuple[float, float]] = {"0.6B": (0.1690, 0.1152), "1.7B": (0.1716, 0.1172), "4B": (0.1766, 0.1214)}
"""Size of the backbone -> HR@10 and NDCG@10 (table 4)."""

FEWEST_HISTORY_GAIN = 0.0855
"""Relative gain in HR@10 over the best other system for the users with the fewest past queries (figure 3)."""


def best_other_gain() -> dict[str, float]:
    """Relative gain in NDCG@10 of CRS over the best other system of table 2, per data set.

    >>> {name: round(gain, 3) for name, gain in best_other_gain().items()}
    {'All-100K': 0.041, 'All-50K': 0.108, 'Fashion-27K': 0.464}
    """
    others = [row for name, row in NDCG_10.items() if name != "crs"]
    return {name: NDCG_10["crs"][i] / max(row[i] for row in others) - 1 for i, name in enumerate(DATASETS)}
