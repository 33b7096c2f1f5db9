"""FitPrune's search: the lowest bound on its criterion whose recipe keeps within the budget.

The objective gives one recipe per bound; a higher bound deletes more tokens. The published search
bisects the bounds between 0 and 1 until they are 0.01 apart, and deletes nothing in the layers
after the one in which the budget is reached. Source: FitPrune (AAAI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opsearch.problem.objective import Bounded, Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status, solution_at, solved, without_point
from opsearch.problem.spaces.base import Space

_WIDTH = 0.001  # of the last interval; the published 0.01 leaves some of the budget unused


@dataclass(frozen=True)
class Bisection:
    """FitPrune's bisection of the bound on a criterion that gives one point per bound.

    Attributes:
        width: Distance between the bounds at which the search ends.
    """

    width: float = _WIDTH
    name: ClassVar[str] = "bisection"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"bounded"})
    takes_start: ClassVar[bool] = False

    def require(self, space: Space) -> None:
        """Accept any space."""

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the point of the lowest bound within the budget; seed and limit have no effect."""
        return solved(self, problem, seed, "numpy", lambda: self._halved(problem))

    def _halved(self, problem: Problem) -> Solution:
        objective = problem.objective
        assert isinstance(objective, Bounded)  # of this form
        low, high = 0.0, 1.0
        best, evaluations = objective.within(high), 1
        if not problem.within(best):
            return self._beyond_reach(problem, best)
        while high - low > self.width:
            middle = (low + high) / 2
            found, evaluations = objective.within(middle), evaluations + 1
            if problem.within(found):
                high, best = middle, found
            else:
                low = middle
        best = _stopped(problem, best)
        note = f"bound {high:.4g} on the share of each layer and sample"
        return solution_at(
            problem, best, Status.FEASIBLE, self.name, note=note, evaluations=evaluations
        )

    def _beyond_reach(self, problem: Problem, index: int) -> Solution:
        """Return the solution without a point, because the highest bound costs too much."""
        costs = ", ".join(f"{c.name} {c.describe(c.cost(index))}" for c in problem.constraints)
        note = f"the highest bound of its search still costs {costs}; raise --budget"
        return without_point(problem, Status.UNKNOWN, self.name, note)


def _stopped(problem: Problem, index: int) -> int:
    """Return the point with as many of its last parameters unpruned as the budget allows."""
    space = problem.space
    row = list(space.row(index))
    for k in reversed(range(len(row))):
        row[k] = len(space.parameters[k].values) - 1
        freer = space.index_of(row)
        if not problem.within(freer):
            break
        index = freer
    return index
