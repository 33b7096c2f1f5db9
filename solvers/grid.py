"""Exhaustive search over the listed points: the oracle that other solvers are checked against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from time import perf_counter
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.problem import Form, Problem, Separable, Table
from opsearch.solution import Limit, Solution, Status, infeasible, require_form, solution_at


@dataclass(frozen=True)
class Grid:
    """Takes the lowest value among the feasible points of a table.

    Points that were not measured (nan) are skipped; the answer is then not called optimal.
    """

    name: ClassVar[str] = "grid"
    exact: ClassVar[bool] = True
    forms: ClassVar[frozenset[Form]] = frozenset({"table", "separable"})

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The best feasible point; it needs no seed and keeps within any limit."""
        started = perf_counter()
        require_form(problem.objective, self)
        indices = np.flatnonzero(problem.feasible)
        values = dense_values(problem)[indices]
        measured = ~np.isnan(values)
        missing = len(indices) - int(measured.sum())
        if not len(indices):
            solution = infeasible(problem, self.name)
        elif missing == len(indices):
            solution = _unmeasured(problem, self.name)
        else:
            best = lowest(problem, indices[measured], values[measured])
            solution = _found(problem, self.name, best, len(indices), missing)
        versions = {"numpy": np.__version__}
        seconds = perf_counter() - started
        return replace(solution, seed=seed, seconds=seconds, versions=versions)


def lowest(problem: Problem, indices: NDArray[np.int64], values: NDArray[np.float64]) -> int:
    """The point among `indices` with the lowest value, then cost, then index row.

    Values are compared in whole multiples of the objective's quantum where it has one.
    """
    quantum = problem.objective.quantum
    keys = np.rint(values / quantum) if quantum > 0 else values
    ties = indices[keys == keys.min()]
    if len(ties) > 1:
        costs = problem.cost[ties]
        ties = ties[costs == costs.min()]
        rows = problem.space.points[ties]
        # lexsort takes its most significant key last.
        ties = ties[np.lexsort(rows.T[::-1])]
    return int(ties[0])


def dense_values(problem: Problem) -> NDArray[np.float64]:
    """The objective at every point of the space, float64[P]."""
    objective = problem.objective
    if isinstance(objective, Table | Separable):
        return objective.values
    return np.array([objective.value(index) for index in range(len(problem.space.points))])


def _found(problem: Problem, solver: str, best: int, feasible: int, missing: int) -> Solution:
    counted = {"evaluations": feasible - missing}
    if missing:
        note = f"{missing} of {feasible} feasible points were not measured"
        if how := getattr(problem.objective, "how", ""):
            note += f"; {how}"
        return solution_at(problem, best, Status.FEASIBLE, solver, note=note, **counted)
    solution = solution_at(problem, best, Status.OPTIMAL, solver, **counted)
    return replace(solution, bound=solution.value)


def _unmeasured(problem: Problem, solver: str) -> Solution:
    objective = problem.objective
    note = "none of the feasible points was measured"
    return Solution(Status.UNKNOWN, solver, objective.name, objective.unit, note=note)
