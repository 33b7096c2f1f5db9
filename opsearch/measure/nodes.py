"""How nodes of a trie get their numbers: policies that agree in some columns are one node."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def numbered(*columns: Ints, where: NDArray[np.bool_] | None = None) -> tuple[Ints, Ints]:
    """Distinct rows of these columns in order, and the number of each row, -1 outside `where`."""
    wanted = np.ones(len(columns[0]), np.bool_) if where is None else where
    table = np.stack(columns, axis=1)[wanted]
    # One integer for each row: far quicker to sort than the rows.
    packed = np.zeros(len(table), np.int64)
    for column in table.T:
        packed = packed * (column.max(initial=0) + 2) + column + 1
    _, first, inverse = np.unique(packed, return_index=True, return_inverse=True)
    numbers = np.full(len(wanted), -1, np.int64)
    numbers[wanted] = inverse
    return table[first], numbers


def largest(values: Ints, nodes: Ints, size: int) -> Ints:
    """The largest value among the policies of each node, int64[size]; a node of -1 is none."""
    result = np.zeros(size, np.int64)
    there = nodes >= 0
    np.maximum.at(result, nodes[there], values[there])
    return result
