"""One threshold for all operations, found by bisection: a baseline for exact solvers.

From the description of ModelOpt's AutoQuantize on KL: every parameter takes the value that prunes
most among those whose individual divergence is at most the threshold. Unlike an integer program, it
does not weigh what a value saves in cost against what it loses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from opsearch.problem.objective import Form, Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status, solution_at, solved, without_point
from opsearch.problem.spaces.base import Space


@dataclass(frozen=True)
class Threshold:
    """The lowest threshold on individual divergences that meets the budget; proves nothing."""

    name: ClassVar[str] = "threshold"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"separable"})
    takes_start: ClassVar[bool] = False

    def require(self, space: Space) -> None:
        """Accept any space."""

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the point at the lowest threshold; seed and limit have no effect."""
        return solved(self, problem, seed, "numpy", lambda: _bisected(problem, self.name))


def _bisected(problem: Problem, solver: str) -> Solution:
    objective = problem.objective
    assert isinstance(objective, Separable)  # as required
    every = np.unique(np.concatenate(objective.terms))
    thresholds = every[np.isfinite(every)].tolist()
    best, low, high = None, 0, len(thresholds)
    while low < high:
        middle = (low + high) // 2
        point = _at(problem, objective, thresholds[middle])
        if problem.within(point):
            best, high = (point, thresholds[middle]), middle
        else:
            low = middle + 1
    if best is None:
        note = "no threshold meets the budget; raise --budget"
        return without_point(problem, Status.UNKNOWN, solver, note)
    note = f"the individual divergence of every choice is at most {best[1]:.6f} {objective.unit}"
    return solution_at(problem, best[0], Status.FEASIBLE, solver, note=note)


def _at(problem: Problem, objective: Separable, threshold: float) -> int:
    """Return the point whose values prune most with individual divergences up to a threshold."""
    row = []
    for term in objective.terms:
        cheap = np.flatnonzero(term <= threshold)
        row.append(int(cheap[0]) if len(cheap) else int(np.nan_to_num(term, nan=np.inf).argmin()))
    return problem.space.index_of(row)
