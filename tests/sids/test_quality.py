"""The quality report: every figure worked out by hand on small books."""

import math

import numpy as np
import pytest

from crsearch.config import SidConfig
from crsearch.errors import SidError
from crsearch.sids import quality, sids_from_embeddings


def report_of(values, codes):
    embeddings_ND = np.array(values, dtype=np.float32)[:, None]
    ids = [f"i{n}" for n in range(len(values))]
    book = sids_from_embeddings(ids, embeddings_ND, SidConfig(codes=codes), seed=0)
    return quality(book, embeddings_ND)


def test_the_four_numbers_lose_ten_one_and_nothing():
    report = report_of([0, 2, 9, 13], codes=2)
    assert [layer["reconstruction_error"] for layer in report["layers"]] == [10 / 4, 1 / 4, 0]
    spread = (36 + 16 + 9 + 49) / 4
    assert [layer["relative_error"] for layer in report["layers"]] == [10 / 4 / spread, 1 / 4 / spread, 0]
    assert report["collisions"] == 0
    assert report["no_collision_rate"] == report["uniquely_identified_rate"] == report["entropy_ratio"] == 1
    assert report["gini"] == 0
    assert [layer["perplexity"] for layer in report["layers"]] == pytest.approx([2, 2, 2])


def test_buckets_of_three_and_one():
    report = report_of([0, 0, 0, 10], codes=2)
    assert report["buckets"] == 2
    assert report["collisions"] == 2
    assert report["no_collision_rate"] == 2 / 4
    assert report["uniquely_identified_rate"] == 1 / 4
    assert report["largest_bucket"] == 3
    assert report["gini"] == 0.25  # sizes 1, 3: mean absolute difference 1, over twice the mean 2
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert report["entropy_ratio"] == pytest.approx(entropy / math.log(4))
    first = report["layers"][0]
    assert (first["codes"], first["used"], first["dead_codes"], first["coverage"]) == (2, 2, 0, 1)
    assert first["entropy"] == pytest.approx(entropy)
    assert first["perplexity"] == pytest.approx(math.exp(entropy))
    assert len(report["warnings"]) == 2


def test_a_code_that_no_item_uses_is_dead():
    book = sids_from_embeddings(["a", "b"], np.array([[0.0], [1.0]]), SidConfig(codes=2), seed=0)
    wider = type(book)(
        item_ids=book.item_ids, codes_NL=book.codes_NL, dedup_codes=book.dedup_codes, built_rows=2,
        codebooks=(np.array([[0.0], [1.0], [7.0], [8.0]], dtype=np.float32), *book.codebooks[1:]),
    )  # fmt: skip
    first = quality(wider)["layers"][0]
    assert (first["codes"], first["used"], first["dead_codes"], first["coverage"]) == (4, 2, 2, 0.5)
    assert "reconstruction_error" not in first


@pytest.mark.parametrize("values", [[5], [5, 5, 5]], ids=["one item", "identical items"])
def test_degenerate_catalogues_have_a_report(values):
    report = report_of(values, codes=4)
    assert report["layers"][0]["relative_error"] == 0
    assert report["largest_bucket"] == len(values)
    assert report["gini"] == 0
    assert report["entropy_ratio"] == (1 if len(values) == 1 else 0)


def test_vectors_of_another_width_are_refused():
    book = sids_from_embeddings(["a", "b"], np.array([[0.0], [1.0]]), SidConfig(codes=2), seed=0)
    with pytest.raises(SidError, match="embeddings of 3 numbers"):
        quality(book, np.zeros((2, 3)))
