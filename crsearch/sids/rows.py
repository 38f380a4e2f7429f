"""Rows of a matrix compared byte by byte: which are equal, and an order that only their values decide."""

import numpy as np
from jaxtyping import Int64, Shaped, UInt


def distinct_rows(rows_ND: Shaped[np.ndarray, "N D"]) -> tuple[Int64[np.ndarray, " M"], Int64[np.ndarray, " N"]]:
    """The distinct rows of a matrix, compared byte by byte.

    Returns:
        (index of the first row of each kind, kind of each row); kinds are in an order that depends on the rows'
        values and not on their places.

    >>> first, kind = distinct_rows(np.array([[2, 2], [1, 1], [2, 2]]))
    >>> first.tolist(), kind.tolist()
    ([1, 0], [1, 0, 1])
    """
    order_N, begins_N = np.arange(len(rows_ND)), np.arange(len(rows_ND)) == 0
    for word_N in _words(rows_ND).T:
        # places in the order whose rows are equal as far as they were read
        tied = np.flatnonzero(~(begins_N & np.append(begins_N[1:], True)))
        if not len(tied):
            break
        word = word_N[order_N[tied]]
        by = np.lexsort((word, np.cumsum(begins_N)[tied]))
        order_N[tied], word = order_N[tied][by], word[by]
        begins_N[tied[1:]] |= word[1:] != word[:-1]
    kind_N = np.empty(len(rows_ND), dtype=np.int64)
    kind_N[order_N] = np.cumsum(begins_N) - 1
    return order_N[begins_N], kind_N


def rows_by_value(rows_ND: Shaped[np.ndarray, "N D"]) -> Int64[np.ndarray, " N"]:
    """Row numbers in an order of their values: permuting the rows does not change the sequence of values.

    >>> rows_by_value(np.array([[2, 2], [1, 1], [2, 2]])).tolist()
    [1, 0, 2]
    """
    return np.argsort(distinct_rows(rows_ND)[1], kind="stable")


def _words(rows_ND: Shaped[np.ndarray, "N D"]) -> UInt[np.ndarray, "N W"]:
    """The bytes of each row in words, the first byte highest: words compare as their bytes do. Nothing is copied."""
    rows_ND = np.ascontiguousarray(rows_ND)
    length = rows_ND.dtype.itemsize * rows_ND.shape[1]
    size = next(size for size in (8, 4, 2, 1) if length % size == 0)
    return rows_ND.view(np.uint8).reshape(len(rows_ND), length).view(f">u{size}")
