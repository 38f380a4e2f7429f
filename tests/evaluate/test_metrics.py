import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from crsearch.errors import DataError
from crsearch.evaluate.metrics import REPORTED, check_bounds, metrics_from_ranks

RANKS = st.lists(st.integers(0, 15), min_size=1, max_size=40)

PAPER_TABLE_2 = {  # HR@1 HR@5 HR@10 NDCG@5 NDCG@10 on All-100K, All-50K, Fashion-27K
    "TF-IDF": ".0319 .1004 .1505 .0666 .0827  .0412 .1303 .1935 .0867 .1071  .0272 .0709 .0981 .0495 .0581",
    "BM25": ".0411 .1353 .1930 .0885 .1071  .0548 .1654 .2297 .1113 .1322  .0312 .0826 .1153 .0571 .0677",
    "BGE": ".0482 .1524 .2301 .1005 .1256  .0560 .1767 .2330 .1225 .1436  .0345 .0841 .1120 .0601 .0692",
    "Qwen3-Emb.": ".0469 .1605 .2329 .0996 .1244  .0550 .1715 .2355 .1189 .1451  .0374 .0815 .1201 .0609 .0732",
    "GENRE": ".0728 .1656 .2133 .1194 .1364  .0658 .1423 .1917 .1056 .1215  .0371 .0881 .1171 .0633 .0727",
    "DSI": ".0736 .1737 .2303 .1255 .1438  .0656 .1624 .2197 .1155 .1340  .0437 .0936 .1223 .0695 .0787",
    "LTRGR": ".0702 .1683 .2229 .1194 .1372  .0676 .1651 .2182 .1185 .1317  .0389 .0871 .1190 .0639 .0741",
    "LatentR3": ".0891 .1955 .2419 .1463 .1612  .0810 .1743 .2243 .1298 .1460  .0485 .0856 .1058 .0680 .0744",
    "CRS": ".0919 .2054 .2570 .1511 .1678  .0880 .1953 .2498 .1441 .1617  .0713 .1359 .1690 .1040 .1152",
}


def means(ranks, cutoffs=(1, 5, 10)):
    return {metric: float(v.mean()) for metric, v in metrics_from_ranks(ranks, cutoffs).items()}


@pytest.mark.parametrize(
    ("rank", "ndcg"), [(1, 1), (2, 0.630930), (3, 0.5), (5, 0.386853), (10, 0.289065), (11, 0), (0, 0), (math.inf, 0)]
)
def test_ndcg_of_one_rank_is_the_value_worked_out_by_hand(rank, ndcg):
    assert metrics_from_ranks([rank])["NDCG@10"] == pytest.approx([ndcg], abs=1e-6)


@pytest.mark.parametrize("absent", [0, math.inf])
def test_means_of_four_ranks_are_those_worked_out_by_hand(absent):
    got = means([1, 3, 7, absent])
    assert [got[m] for m in ("HR@1", "HR@5", "HR@10")] == [0.25, 0.5, 0.75]
    assert [got[m] for m in ("NDCG@1", "NDCG@5", "NDCG@10")] == pytest.approx([0.25, 0.375, 0.458333], abs=1e-6)


@given(RANKS)
def test_all_queries_at_once_equal_one_by_one(ranks):
    together = metrics_from_ranks(ranks)
    for i, rank in enumerate(ranks):
        for k in (1, 5, 10):
            hit = 1 <= rank <= k
            assert together[f"HR@{k}"][i] == hit
            assert together[f"NDCG@{k}"][i] == pytest.approx(1 / math.log2(rank + 1) if hit else 0)


@given(RANKS, st.data())
def test_no_metric_falls_when_a_target_moves_up(ranks, data):
    at = data.draw(st.integers(0, len(ranks) - 1))
    better = list(ranks)
    better[at] = max(1, (ranks[at] or 16) - 1)
    before, after = means(ranks), means(better)
    assert all(after[m] >= before[m] - 1e-12 for m in before)


def test_no_query_gives_no_values():
    assert all(v.shape == (0,) for v in metrics_from_ranks([]).values())


@pytest.mark.parametrize("rank", [-1, 1.5, math.nan, -math.inf])
def test_a_rank_that_is_no_rank_is_refused_with_its_query(rank):
    with pytest.raises(DataError, match=r"of query 1: a rank is 1, 2, 3"):
        metrics_from_ranks([1, rank])


@given(RANKS, st.sampled_from([(1, 5, 10), (5, 10), (1, 3, 7), (2,)]))
def test_every_set_of_ranks_keeps_the_bounds(ranks, cutoffs):
    check_bounds(means(ranks, cutoffs), "any")


@given(RANKS)
def test_the_reported_columns_alone_keep_the_bounds(ranks):
    got = means(ranks)
    check_bounds({m: got[m] for m in REPORTED}, "any")


@pytest.mark.parametrize("rank", [2, 5, 6, 10])
def test_the_bounds_are_tight(rank):
    row = means([rank] * 4)
    metric = "NDCG@5" if rank <= 5 else "NDCG@10"
    for step in (1e-4, -1e-4):
        other = row | {metric: row[metric] + step}
        if (rank in (2, 6)) == (step > 0):  # the best rank of its block is the upper end, the worst the lower
            with pytest.raises(DataError, match=f"crs: {metric} = .* is impossible"):
                check_bounds(other, "crs")


@pytest.mark.parametrize(
    "change",
    [
        {"HR@1": 1.1},
        {"HR@1": -0.1},
        {"HR@5": 0.2},
        {"HR@10": 0.4},
        {"NDCG@1": 0.2},
        {"NDCG@5": 0.6},
        {"HR@5": math.nan},
    ],
)
def test_a_row_that_no_ranks_can_produce_is_refused(change):
    row = means([1, 3, 7, 0])
    check_bounds(row, "crs")
    with pytest.raises(DataError, match="crs: "):
        check_bounds(row | change, "crs")


def test_the_bounds_find_the_three_impossible_cells_of_the_papers_table_2():
    impossible = []
    for name, row in PAPER_TABLE_2.items():
        cells = np.array(row.split(), dtype=float).reshape(3, 5)
        for source, values in zip(("All-100K", "All-50K", "Fashion-27K"), cells, strict=True):
            try:
                check_bounds(dict(zip(REPORTED, values.tolist(), strict=True)), name, tolerance=1e-4)
            except DataError as error:
                assert "NDCG@10" in str(error)
                impossible.append((name, source))
    assert impossible == [("BGE", "All-50K"), ("Qwen3-Emb.", "All-50K"), ("LTRGR", "All-50K")]
