"""Which parameters to fix so that every cost becomes a linear form with few pairs.

The cost of a policy is not linear in its parameters: a token more costs more in a deeper policy.
Once a parameter or two are fixed it nearly is, see `decompose`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from itertools import combinations

import numpy as np

from opsearch.layer_costs import LayerCosts
from opsearch.layer_space import LayerSpace
from opsearch.problem import Pair, Problem
from opsearch.solvers.decompose import Ints, Slice, decompose
from opsearch.solvers.layers import layer_slices

# A further program takes about as long as so many more pairs in one.
_PAIRS_PER_SLICE = 5


def slices_of(problem: Problem) -> list[Slice]:
    """Slices that cover the points of a problem, with the costs that it limits."""
    if isinstance(problem.space, LayerSpace):
        costs = [c.costs for c in problem.constraints if isinstance(c.costs, LayerCosts)]
        return layer_slices(problem.space, costs)
    listed = [constraint.listed for constraint in problem.constraints] or [problem.cost]
    return find_slices(problem.space.points, np.array(listed, np.int64))


def with_pairs(part: Slice, pairs: Iterable[Pair]) -> Slice:
    """The slice with pairs that cost nothing, where points of it have both choices."""
    present = {(k, int(i)) for k, options in enumerate(part.options) for i in options}
    both = (pair for pair in pairs if present.issuperset(pair))
    return replace(part, pairs=dict.fromkeys(both, np.zeros_like(part.base)) | part.pairs)


def without(part: Slice, rows: Iterable[tuple[int, ...]]) -> Slice:
    """The slice without some of its points."""
    inside = (tuple(enumerate(row)) for row in rows if part.holds(row))
    return replace(part, excluded=(*part.excluded, *inside))


def find_slices(points: Ints, costs: Ints) -> list[Slice]:
    """Slices that cover all points, int64[P, K], and reproduce all costs, int64[C, P].

    The parameters to fix are those that give the least work in pairs and slices. With all but two
    fixed every cost has the form, so that slices always exist.
    """
    # The last parameter, a share of tokens, multiplies the others: it is tried first.
    parameters = range(points.shape[1])[::-1]
    best: list[Slice] = []
    least = np.inf
    for size in range(len(parameters) + 1):
        for fixed in combinations(parameters, size):
            slices = cut(points, costs, fixed, least)
            if slices is not None:
                best, least = slices, _work(slices)
    return best


def cut(
    points: Ints, costs: Ints, fixed: tuple[int, ...], most: float = np.inf
) -> list[Slice] | None:
    """Slices for each combination of values of the fixed parameters.

    None where one combination has no form, or where the work is not below `most`.
    """
    groups = _groups(points[:, list(fixed)])
    if _PAIRS_PER_SLICE * len(groups) >= most:
        return None
    slices: list[Slice] = []
    for members in groups:
        found = decompose(points[members], costs[:, members])
        if not found:
            return None
        slices += found
        if _work(slices) >= most:
            return None
    return slices


def _groups(rows: Ints) -> list[Ints]:
    """Numbers of equal rows, one array per distinct row."""
    if rows.shape[1] == 0:
        return [np.arange(len(rows))]
    _, label = np.unique(rows, axis=0, return_inverse=True)
    order = np.argsort(label, kind="stable")
    return np.split(order, np.flatnonzero(np.diff(label[order])) + 1)


def _work(slices: list[Slice]) -> int:
    return _PAIRS_PER_SLICE * len(slices) + sum(len(part.pairs) for part in slices)
