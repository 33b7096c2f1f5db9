"""Exhaustive search over the listed points, the reference that other solvers are tested against."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.problem.constraint import by_cost
from opsearch.problem.objective import Form, Objective, Separable, Table, in_quanta
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status, solution_at, solved, without_point
from opsearch.problem.spaces.base import Space


@dataclass(frozen=True)
class Grid:
    """The lowest value among the feasible points of a table.

    Points without a value (nan) are skipped; the answer is called optimal only if their lower
    bounds are above it.
    """

    name: ClassVar[str] = "grid"
    exact: ClassVar[bool] = True
    forms: ClassVar[frozenset[Form]] = frozenset({"table", "separable"})
    takes_start: ClassVar[bool] = False
    takes_bounds: ClassVar[bool] = True

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
    if not measured.any():
        note = "none of the feasible points was measured"
        return without_point(problem, Status.UNKNOWN, solver, note)
    best = lowest(problem, indices[measured], values[measured])
    return _found(problem, solver, best, indices)


def lowest(problem: Problem, indices: NDArray[np.int64], values: NDArray[np.float64]) -> int:
    """Return the point among `indices` with the lowest value, then cost, then index row.

    Values are compared in whole multiples of the objective's quantum where it has one.
    """
    quantum = problem.objective.quantum
    keys = in_quanta(values, quantum)
    ties = indices[keys == keys.min()]
    return int(ties[by_cost(problem.space.points[ties], problem.cost[ties])[0]])


def dense_values(problem: Problem) -> NDArray[np.float64]:
    """Return the objective at every point of the space, float64[P]."""
    objective = problem.objective
    if isinstance(objective, Table | Separable):
        return objective.values
    return np.array([objective.value(index) for index in range(len(problem.space.points))])


def _found(problem: Problem, solver: str, best: int, feasible: NDArray[np.int64]) -> Solution:
    """Return the best point of those with a value, proved if all others have a higher bound."""
    objective, values = problem.objective, dense_values(problem)[feasible]
    unknown = np.isnan(values)
    if not unknown.any():
        solution = solution_at(problem, best, Status.OPTIMAL, solver, evaluations=len(feasible))
        return replace(solution, bound=solution.value)
    bounds = np.where(unknown, _lower(objective, len(problem.space.points))[feasible], values)
    least = in_quanta(np.array(objective.value(best)), objective.quantum)
    worse = unknown & (in_quanta(bounds, objective.quantum) > least)
    status = Status.OPTIMAL if (worse == unknown).all() else Status.FEASIBLE
    facts = {"evaluations": int((~np.isnan(bounds)).sum())}
    note = _note(objective, len(feasible), int(worse.sum()), int((unknown & ~worse).sum()))
    solution = solution_at(problem, best, status, solver, note=note, **facts)
    return replace(solution, bound=None if np.isnan(bounds).any() else float(bounds.min()))


def _lower(objective: Objective, points: int) -> NDArray[np.float64]:
    """Return the lower bound of each point, nan where none is known, float64[P]."""
    if isinstance(objective, Table) and objective.lower is not None:
        return objective.lower
    return np.full(points, np.nan)


def _note(objective: Objective, feasible: int, worse: int, unproved: int) -> str:
    """Return which feasible points have no value, and why."""
    part = "on a part of the samples only, which proves them worse"
    notes = [f"{worse} of {feasible} feasible points were measured {part}"] if worse else []
    if unproved:
        everywhere = " on all samples" if worse else ""
        notes.append(f"{unproved} of {feasible} feasible points were not measured{everywhere}")
    if isinstance(objective, Table) and objective.how:
        notes.append(objective.how)
    return "; ".join(notes)
