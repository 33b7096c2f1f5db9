"""The true evaluations of a search: each point once, up to a limit."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsearch.problem.objective import Blackbox
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, Status, solution_at, without_point

Key = tuple[float, int, int]
_LOOKED_AT = 10_000  # points at most, on the way to one that is not excluded


def point_within(problem: Problem) -> int | None:
    """Return a point within all budgets that is not excluded; None if none is found.

    In a listed space it is the cheapest one. In others one point is the cheapest in every cost;
    from there, single steps up are tried, then pairs of them, and so on.
    """
    if problem.space.listed:
        found = np.flatnonzero(problem.feasible)
        return int(found[problem.cost[found].argmin()]) if len(found) else None
    if not problem.constraints:
        first = problem.space.index_of([0] * len(problem.space.parameters))
    else:
        first = problem.constraints[0].cheapest
    pending, seen = deque([first]), {first}
    while pending:
        point = pending.popleft()
        if problem.within(point):
            return point
        row = problem.space.row(point)
        for k, parameter in enumerate(problem.space.parameters):
            if row[k] + 1 < len(parameter.values) and len(seen) < _LOOKED_AT:
                above = problem.space.index_of([*row[:k], row[k] + 1, *row[k + 1 :]])
                if above not in seen:
                    seen.add(above)
                    pending.append(above)
    return None


@dataclass
class EvaluatedPoints:
    """Evaluations of a blackbox, in batches, none of them repeated.

    Attributes:
        problem: A problem with a Blackbox objective.
        limit: Largest number of evaluated points.
        values: The value of each evaluated point, in order of evaluation; nan where it has none.
    """

    problem: Problem
    limit: int
    values: dict[int, float] = field(default_factory=dict)

    @property
    def spent(self) -> bool:
        """True if no further point may be evaluated."""
        return len(self.values) >= self.limit

    def evaluate(self, points: Iterable[int]) -> None:
        """Evaluate the new ones among `points`, in their order, up to the limit."""
        new = [point for point in dict.fromkeys(points) if point not in self.values]
        new = new[: self.limit - len(self.values)]
        if new:
            objective = self.problem.objective
            assert isinstance(objective, Blackbox)
            self.values |= zip(new, objective.evaluate(new).tolist(), strict=True)

    def value(self, point: int) -> float:
        """Return the value of a point; infinity where it has none or was not evaluated."""
        value = self.values.get(point, np.nan)
        return np.inf if isnan(value) else value

    def key(self, point: int) -> Key:
        """Return the sort key of a point: value in quanta, then cost, then number."""
        quantum, value = self.problem.objective.quantum, self.value(point)
        first = self.problem.constraints[:1]
        cost = first[0].cost(point) if first else 0
        return (round(value / quantum) if quantum and np.isfinite(value) else value, cost, point)

    def best(self) -> int | None:
        """Return the best evaluated point within the budget; None where none has a value."""
        found = [p for p in self.values if self.value(p) < np.inf and self.problem.within(p)]
        return min(found, key=self.key, default=None)

    def solution(self, point: int | None, solver: str, note: str) -> Solution:
        """Return the Solution of an evaluated point, without evaluating it again.

        For None its status is UNKNOWN.
        """
        missing = sum(map(isnan, self.values.values()))
        if missing:
            note += f"; {missing} of {len(self.values)} evaluated points have no value"
        facts: dict[str, Any] = {"evaluations": len(self.values), "note": note}
        if point is None:
            return without_point(self.problem, Status.UNKNOWN, solver, **facts)

        def known(points: Sequence[int]) -> NDArray[np.float64]:
            return np.array([self.values[point] for point in points])

        objective = self.problem.objective
        seen = Blackbox(objective.name, objective.unit, known, objective.quantum)
        problem = replace(self.problem, objective=seen)
        return solution_at(problem, point, Status.FEASIBLE, solver, **facts)
