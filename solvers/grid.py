"""Exhaustive search over the listed points, the reference that other solvers are tested against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.problem.constraint import by_cost
from opsearch.problem.objective import Form, Separable, Table
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status, solution_at, solved, without_point
from opsearch.problem.spaces.base import Space


@dataclass(frozen=True)
class Grid:
    """The lowest value among the feasible points of a table.

    Points that were not measured (nan) are skipped; the answer is then not called optimal.
    """

    name: ClassVar[str] = "grid"
    exact: ClassVar[bool] = True
    forms: ClassVar[frozenset[Form]] = frozenset({"table", "separable"})
    takes_start: ClassVar[bool] = False

    def require(self, space: Space) -> None:
        """Raise OpsearchError for a space too large to list."""
        if not space.listed:
            space.raise_unlistable()

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the best feasible point; seed and limit have no effect."""
        return solved(self, problem, seed, "numpy", lambda: _least(problem, self.name))


def _least(problem: Problem, solver: str) -> Solution:
    indices = np.flatnonzero(problem.feasible)
    values = dense_values(problem)[indices]
    measured = ~np.isnan(values)
    missing = len(indices) - int(measured.sum())
    if missing == len(indices):
        note = "none of the feasible points was measured"
        return without_point(problem, Status.UNKNOWN, solver, note)
    best = lowest(problem, indices[measured], values[measured])
    return _found(problem, solver, best, len(indices), missing)


def lowest(problem: Problem, indices: NDArray[np.int64], values: NDArray[np.float64]) -> int:
    """Return the point among `indices` with the lowest value, then cost, then index row.

    Values are compared in whole multiples of the objective's quantum where it has one.
    """
    quantum = problem.objective.quantum
    keys = np.rint(values / quantum) if quantum > 0 else values
    ties = indices[keys == keys.min()]
    return int(ties[by_cost(problem.space.points[ties], problem.cost[ties])[0]])


def dense_values(problem: Problem) -> NDArray[np.float64]:
    """Return the objective at every point of the space, float64[P]."""
    objective = problem.objective
    if isinstance(objective, Table | Separable):
        return objective.values
    return np.array([objective.value(index) for index in range(len(problem.space.points))])


def _found(problem: Problem, solver: str, best: int, feasible: int, missing: int) -> Solution:
    counted = {"evaluations": feasible - missing}
    if missing:
        note = f"{missing} of {feasible} feasible points were not measured"
        if isinstance(problem.objective, Table) and problem.objective.how:
            note += f"; {problem.objective.how}"
        return solution_at(problem, best, Status.FEASIBLE, solver, note=note, **counted)
    solution = solution_at(problem, best, Status.OPTIMAL, solver, **counted)
    return replace(solution, bound=solution.value)
