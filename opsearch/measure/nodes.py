"""Numbering of trie nodes: policies with equal columns share a node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def numbered(*columns: Ints, where: NDArray[np.bool_] | None = None) -> tuple[Ints, Ints]:
    """Return the distinct rows of these columns, sorted, and each row's number among them.

    Rows outside `where` have number -1.
    """
    wanted = np.ones(len(columns[0]), np.bool_) if where is None else where
    table = np.stack(columns, axis=1)[wanted]
    # Pack each row into one integer, which sorts much faster.
    packed = np.zeros(len(table), np.int64)
    for column in table.T:
        packed = packed * (column.max(initial=0) + 2) + column + 1
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    numbers = np.full(len(wanted), -1, np.int64)
    numbers[wanted] = inverse
    return table[first], numbers


def largest(values: Ints, nodes: Ints, size: int) -> Ints:
    """Return the largest value among the policies of each node, int64[size]; node -1 is ignored."""
    result = np.zeros(size, np.int64)
    present = nodes >= 0
    np.maximum.at(result, nodes[present], values[present])
    return result
