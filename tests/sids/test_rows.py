"""Equal rows: NumPy's own comparison of whole rows is the oracle."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from crsearch.sids.rows import distinct_rows

TYPES = st.sampled_from([np.float32, np.int64, np.uint8, np.float64])


@given(
    rows_ND=TYPES.flatmap(
        lambda t: arrays(t, st.tuples(st.integers(0, 30), st.integers(1, 5)), elements=st.integers(0, 3))
    )
)
def test_rows_are_told_apart_as_by_comparing_their_bytes(rows_ND):
    whole = np.ascontiguousarray(rows_ND).view(np.dtype((np.void, rows_ND.dtype.itemsize * rows_ND.shape[1]))).ravel()
    _, first, kind = np.unique(whole, return_index=True, return_inverse=True)
    found_first, found_kind = distinct_rows(rows_ND)
    assert found_first.tolist() == first.tolist()
    assert found_kind.tolist() == kind.tolist()


def test_rows_without_columns_are_all_equal():
    first, kind = distinct_rows(np.empty((3, 0)))
    assert (first.tolist(), kind.tolist()) == ([0], [0, 0, 0])
    assert [len(found) for found in distinct_rows(np.empty((0, 0)))] == [0, 0]
