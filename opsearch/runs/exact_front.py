"""Exact Pareto fronts in spaces with one parameter per operation.

The front of a sum of terms is found by dynamic programming over layers, the last one first
(Nemhauser and Ullmann, 1969): of all partial policies, only those continue that no other one beats
in cost and value. Partial policies with different highest levels of kv are not compared, because
queries and MLPs of earlier layers depend on that level. Other fronts are walked point by point with
CP-SAT, from the budget downwards.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from math import gcd
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.front import front
from opsearch.costs.exact import INT64_MAX, Integers
from opsearch.policy.counts import KV, MLP, Q
from opsearch.problem.objective import Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Status, reraise_interrupt
from opsearch.problem.spaces.base import PerOperation
from opsearch.problem.spaces.operation_costs import OperationCosts
from opsearch.solvers.integer.quantise import IntegerTerms, integer_terms
from opsearch.solvers.ortools import CpSat

Ints = NDArray[np.int64]
_TIME = 30.0  # deterministic time per point of `walked_front`
_PARTS = 64  # sets of partial policies that wait to be compared; more groups of tokens make more


@dataclass(frozen=True, eq=False)
class _Ways:
    """Partial policies over the layers so far.

    Attributes:
        costs: Costs in units, beyond the base, exact integers [W].
        values: Values in steps of the integer terms, int64[W].
        rows: Rows of value indices, 0 for the remaining layers, int8[W, K].
    """

    costs: Integers
    values: Ints
    rows: NDArray[np.int8]

    def best(self, limit: int) -> _Ways:
        """Return the ones within the limit that no other one beats."""
        within = np.flatnonzero(self.costs <= limit)
        kept = within[front(self.costs[within], self.values[within].astype(np.float64))]
        return _Ways(self.costs[kept], self.values[kept], self.rows[kept])


def summed_front(problem: Problem) -> list[int]:
    """Return the numbers of the points on the front within the budget, by rising cost.

    The front is complete, and exact within the error bound of `integer_terms`.

    Args:
        problem: A problem with one budget and a Separable objective, in a space with one parameter
            per operation.
    """
    space, objective, (limited,) = (
        problem.space.per_operation,
        problem.objective,
        problem.constraints,
    )
    assert space is not None
    assert isinstance(objective, Separable)
    assert isinstance(limited.costs, OperationCosts)
    terms = integer_terms(objective)
    unit, tables = _in_units(limited.costs.tables)
    limit = (limited.limit - limited.costs.base) // unit
    shares = [_of_share(space, tables[n_v], terms, n_v, limit) for n_v in range(len(space.shares))]
    found = _joined(shares).best(limit)
    return [space.index_of(row) for row in found.rows.tolist()]


def _in_units(tables: Integers) -> tuple[int, Integers]:
    """Return the greatest common divisor of all costs of layers, and the costs in units of it.

    In units even the largest decoders stay within int64, which is much faster than Python integers.
    """
    unit = gcd(*tables.ravel().tolist()) or 1
    units = tables // unit
    highest = sum(int(layer.max()) for layer in np.moveaxis(units, 1, 0))
    return unit, units.astype(object if highest > INT64_MAX else np.int64)


def _of_share(
    space: PerOperation, costs: Integers, terms: IntegerTerms, n_v: int, limit: int
) -> _Ways:
    """Return the front at one share of tokens, with its costs [L, q, kv, mlp] in units."""
    row = np.zeros((1, len(space.parameters)), np.int8)
    row[0, -1] = n_v
    value = terms.coefficients[-1][n_v]
    ways = {0: _Ways(np.zeros(1, costs.dtype), np.array([value]), row)}
    for layer in reversed(range(space.num_layers)):
        table, reached = costs[layer], dict[int, list[_Ways]]()
        for (k, levels), before in product(_choices(space, layer), ways):
            live = _live(space, layer, levels, before)
            if live is None:
                continue
            chosen = [level - space.lowest(layer, module) for module, level in levels.items()]
            rows = ways[before].rows.copy()
            rows[:, k] = chosen
            added = sum(int(terms.coefficients[i][c]) for i, c in zip(k, chosen, strict=True))
            costs_so_far = ways[before].costs + table[live]
            more = _Ways(costs_so_far, ways[before].values + added, rows)
            parts = reached.setdefault(max(before, live[KV]), [])
            parts.append(more)
            if len(parts) == _PARTS:
                parts[:] = [_joined(parts).best(limit)]
        ways = {state: _joined(each).best(limit) for state, each in reached.items()}
    return _joined(list(ways.values()))


def _joined(parts: list[_Ways]) -> _Ways:
    return _Ways(
        np.concatenate([part.costs for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.rows for part in parts]),
    )


def _choices(space: PerOperation, layer: int) -> Iterator[tuple[list[int], dict[int, int]]]:
    """Yield the parameters of a layer with each choice of levels by module."""
    mine = [k for k, (at, _) in enumerate(space.operations) if at == layer]
    modules = [space.operations[k][1] for k in mine]
    ranges = (range(space.lowest(layer, module), len(space.levels)) for module in modules)
    for levels in product(*ranges):
        yield mine, dict(zip(modules, levels, strict=True))


def _live(
    space: PerOperation, layer: int, levels: dict[int, int], read: int
) -> tuple[int, int, int] | None:
    """Return the live levels if later kv reach level `read`; None if a result is not read."""
    kv, mlp = levels[KV], levels.get(MLP, 0)
    q = kv if space.tied else levels.get(Q, 0)
    if space.tied and (layer, Q) not in space.kept:
        q = min(q, read)
    return (q, kv, mlp) if max(q, mlp) <= read else None


def walked_front(problem: Problem, most: int) -> tuple[pd.DataFrame, bool]:
    """Walk down the front from the budget, by at most `most` points.

    Returns:
        The points by rising cost, with the columns of `front_row`, and whether they are complete.
    """
    constraint = problem.constraints[0]
    rows: list[dict[str, Any]] = []
    limit, ended = constraint.limit, False
    while len(rows) < most:
        limited = replace(problem, constraints=(replace(constraint, limit=limit),))
        solution = reraise_interrupt(CpSat().solve(limited, limit=Limit(deterministic_time=_TIME)))
        if solution.index is None:
            # A solver that stopped without a policy did not prove that there are no others.
            ended = solution.status is Status.INFEASIBLE
            break
        proved = solution.status is Status.OPTIMAL and not solution.note
        rows.append(front_row(problem, solution.index, proved))
        limit = rows[-1]["cost"] - 1
    table = pd.DataFrame(rows[::-1])
    complete = ended and bool(rows) and bool(table["proved"].all())
    return table, complete


def front_row(problem: Problem, index: int, proved: bool) -> dict[str, Any]:
    """Return a point as a row: policy, cost per sample, shares of stock, value, cost, proved."""
    constraint = problem.constraints[0]
    cost = constraint.cost(index)
    return {
        "policy": problem.space.decode(problem.space.row(index)).name,
        f"{constraint.name}_per_sample": cost / constraint.samples,
        "share": cost / constraint.stock,
        **{name: share for name, (share,) in constraint.other_shares([cost]).items()},
        "value": problem.objective.value(index),
        "cost": cost,
        "proved": proved,
    }
