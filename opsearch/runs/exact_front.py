"""The exact Pareto front of a sum of terms over a space with a choice per operation.

Dynamic programming over layers, the last first (Nemhauser and Ullmann, 1969): of all ways to fill
the layers so far only those go on that no other beats in cost and value. Ways that differ in the
highest level of kv are kept apart, because queries and MLPs of earlier layers need one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.front import front
from opsearch.policy.counts import KV, MLP, Q
from opsearch.problem.objective import Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Status, reraise_interrupt
from opsearch.problem.spaces.base import PerOperation
from opsearch.problem.spaces.operation_costs import OperationCosts
from opsearch.solvers.integer.quantise import IntegerTerms, integer_terms
from opsearch.solvers.ortools_cpsat import CpSat

Ints = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Ways:
    """Ways to fill the layers so far, none beaten: their cost, value in steps, and value indices.

    rows: int64[W, K], 0 for the layers to come.
    """

    costs: Ints
    values: Ints
    rows: NDArray[np.int8]

    def best(self, limit: int) -> _Ways:
        """Those within the limit that no other beats."""
        within = np.flatnonzero(self.costs <= limit)
        kept = within[front(self.costs[within], self.values[within].astype(np.float64))]
        return _Ways(self.costs[kept], self.values[kept], self.rows[kept])


def summed_front(problem: Problem) -> list[int]:
    """The numbers of the front's points within the problem's one budget, by rising cost.

    Complete, and exact within the error bound of `integer_terms`; the space has a choice
    per operation, and the objective is Separable.
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
    shares = [
        _of_share(space, limited.costs, terms, n_v, limited.limit)
        for n_v in range(len(space.shares))
    ]
    found = _joined(shares).best(limited.limit)
    return [space.index_of(row) for row in found.rows.tolist()]


def _of_share(
    space: PerOperation, costs: OperationCosts, terms: IntegerTerms, n_v: int, limit: int
) -> _Ways:
    """The best ways with one share of tokens."""
    row = np.zeros((1, len(space.parameters)), np.int8)
    row[0, -1] = n_v
    value = terms.coefficients[-1][n_v]
    ways = {0: _Ways(np.array([costs.base]), np.array([value]), row)}
    for layer in reversed(range(space.num_layers)):
        table, reached = costs.tables[n_v][layer], dict[int, list[_Ways]]()
        for (k, place), before in product(_choices(space, layer), ways):
            live = _live(space, layer, place, before)
            if live is None:
                continue
            chosen = [p - space.lowest(layer, module) for module, p in place.items()]
            rows = ways[before].rows.copy()
            rows[:, k] = chosen
            added = sum(int(terms.coefficients[i][c]) for i, c in zip(k, chosen, strict=True))
            costs_so_far = ways[before].costs + table[live]
            more = _Ways(costs_so_far, ways[before].values + added, rows)
            reached.setdefault(max(before, live[KV]), []).append(more)
        ways = {state: _joined(parts).best(limit) for state, parts in reached.items()}
    return _joined(list(ways.values()))


def _joined(parts: list[_Ways]) -> _Ways:
    return _Ways(
        np.concatenate([part.costs for part in parts]),
        np.concatenate([part.values for part in parts]),
        np.concatenate([part.rows for part in parts]),
    )


def _choices(space: PerOperation, layer: int) -> Iterator[tuple[list[int], dict[int, int]]]:
    """The parameters of a layer, and every choice of places in `levels` by module."""
    mine = [k for k, (at, _) in enumerate(space.operations) if at == layer]
    modules = [space.operations[k][1] for k in mine]
    levels = (range(space.lowest(layer, module), len(space.levels)) for module in modules)
    for places in product(*levels):
        yield mine, dict(zip(modules, places, strict=True))


def _live(
    space: PerOperation, layer: int, place: dict[int, int], read: int
) -> tuple[int, int, int] | None:
    """What runs where later layers have kv up to level `read`; None where not all would be read."""
    kv, mlp = place[KV], place.get(MLP, 0)
    q = kv if space.tied else place.get(Q, 0)
    if space.tied and (layer, Q) not in space.kept:
        q = min(q, read)
    return (q, kv, mlp) if max(q, mlp) <= read else None


_TIME = 30.0  # deterministic, for one point


def walked_front(problem: Problem, most: int) -> tuple[pd.DataFrame, bool]:
    """By rising cost at most `most` points below the problem's budget, and whether these are all.

    Columns: those of `front_row`.
    """
    constraint = problem.constraints[0]
    rows: list[dict[str, Any]] = []
    limit, ended = constraint.limit, False
    while len(rows) < most:
        asked = replace(problem, constraints=(replace(constraint, limit=limit),))
        solution = reraise_interrupt(CpSat().solve(asked, limit=Limit(deterministic_time=_TIME)))
        if solution.index is None:
            # A solver that stopped without a policy has not said that there are no others.
            ended = solution.status is Status.INFEASIBLE
            break
        proved = solution.status is Status.OPTIMAL and not solution.note
        rows.append(front_row(problem, solution.index, proved))
        limit = rows[-1]["cost"] - 1
    table = pd.DataFrame(rows[::-1])
    everything = ended and bool(rows) and bool(table["proved"].all())
    return table, everything


def front_row(problem: Problem, index: int, proved: bool) -> dict[str, Any]:
    """A point of a front: its policy's name, value, exact cost over all samples, that per sample
    and as a share of the stock model's, and whether it is proved.
    """
    constraint = problem.constraints[0]
    cost = constraint.cost(index)
    return {
        "policy": problem.space.decode(problem.space.row(index)).name,
        f"{constraint.name}_per_sample": cost / constraint.samples,
        "share": cost / constraint.stock,
        "value": problem.objective.value(index),
        "cost": cost,
        "proved": proved,
    }
