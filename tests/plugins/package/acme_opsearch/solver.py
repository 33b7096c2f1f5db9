"""A solver for objectives that are measured point by point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from opsearch.problem import (
    Blackbox,
    Form,
    Limit,
    Problem,
    Solution,
    Space,
    Status,
    Table,
    evaluations_within,
    solution_at,
    solved,
)

_EVALUATIONS = 50


@dataclass(frozen=True)
class Draw:
    """Best of the given start points and of feasible points drawn at random.

    The contract is `opsearch.problem.Solver`, and `opsearch.testing.SolverConformance`
    tests it. Fields are parameters, as for rankers; `start` is filled in by opsearch with points
    that a proxy likes, because `takes_start` asks for it.

    Attributes:
        start: Numbers of points within the budget.
    """

    start: tuple[int, ...] = ()

    name: ClassVar[str] = "acme-draw"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"blackbox", "table"})
    takes_start: ClassVar[bool] = True

    def require(self, space: Space) -> None:
        """Raise OpsearchError for a space whose points are too many to draw from a list."""
        if not space.listed:
            space.raise_unlistable()

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the best of at most as many points as the limit allows, 50 by default."""
        return solved(self, problem, seed, "numpy", lambda: self._best(problem, seed, limit))

    def _best(self, problem: Problem, seed: int, limit: Limit | None) -> Solution:
        most = evaluations_within(limit, _EVALUATIONS)
        feasible = np.flatnonzero(problem.feasible)
        drawn = np.random.default_rng(seed).permutation(feasible).tolist()
        points = list(dict.fromkeys([*self.start, *drawn]))[:most]
        values = _values(problem, points)
        known = [place for place in range(len(points)) if not np.isnan(values[place])]
        best = points[min(known, key=lambda place: (values[place], points[place]))]
        note = f"{len(self.start)} start points, {len(points)} points looked at"
        # Value and costs are recomputed from the point, so that a solver cannot misstate them.
        return solution_at(
            problem, best, Status.FEASIBLE, self.name, evaluations=len(points), note=note
        )


def _values(problem: Problem, points: Sequence[int]) -> list[float]:
    """Return the value of each point; measuring them together shares work."""
    objective = problem.objective
    if isinstance(objective, Blackbox):
        return [float(value) for value in objective.evaluate(points)]
    assert isinstance(objective, Table)  # of the other form that it takes
    return [float(objective.values[point]) for point in points]
