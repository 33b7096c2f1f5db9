"""The grid of shares of a space, and the option that searches between two of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution

_GRID = "n_v"  # parameter whose values are the shares of `--n-v`
_UNUSED = 0.5  # percent of the original's cost; less is not worth another search
_BETWEEN = 8  # parts that the step to the next larger share is divided into


def unsearched_shares(problem: Problem, solution: Solution) -> str:
    """Say that a part of the budget lies between two shares of the space; empty if it does not.

    Args:
        problem: A problem whose space may have a grid of shares.
        solution: Its solution, with a point.
    """
    names = [parameter.name for parameter in problem.space.parameters]
    if _GRID not in names or solution.index is None or not problem.space.listed:
        return ""
    unused = min(100 * (c.limit - solution.costs[c.name]) / c.stock for c in problem.constraints)
    column = names.index(_GRID)
    shares = problem.space.parameters[column].values
    row = problem.space.points[solution.index]
    chosen = shares[row[column]]
    larger = min((each for each in shares if each > chosen), default=None)
    # Where a larger share is within the budget as well, it is not the grid that leaves some.
    if unused < _UNUSED or larger is None or _within(problem, row, column, shares.index(larger)):
        return ""
    step = (larger - chosen) / _BETWEEN
    finer = ",".join(str(chosen + part * step) for part in range(_BETWEEN))
    return (
        f"the budget leaves {unused:.1f} % of the original's cost unused because n_v has "
        f"{len(shares)} values; --n-v {finer} tries shares in between"
    )


def _within(problem: Problem, row: NDArray[np.int64], column: int, value: int) -> bool:
    """Return whether the point is within the budget with another value in one column."""
    other = row.copy()
    other[column] = value
    found = np.flatnonzero((problem.space.points == other).all(axis=1))
    return any(problem.within(int(index)) for index in found)
