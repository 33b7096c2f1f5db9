"""FitPrune's search: the lowest bound on its criterion whose recipe keeps within the budget.

For a bound the objective gives one recipe; a higher bound deletes more. The published search halves
the bounds from 0 to 1 until they are 0.01 apart, and deletes nothing any more in layers behind that
in which the budget is reached. Source: FitPrune (AAAI 2025).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opsearch.problem.objective import Bounded, Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status, solution_at, solved

_WIDTH = 0.001  # between the bounds at the end: published are 0.01, which leave some of a budget


@dataclass(frozen=True)
class Bisection:
    """Halves the bound on a criterion that gives a point for each bound, as FitPrune does."""

    width: float = _WIDTH
    name: ClassVar[str] = "bisection"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"bounded"})

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The point of the lowest bound within the budget; it needs no seed and no limit."""
        return solved(self, problem, seed, "numpy", lambda: self._halved(problem))

    def _halved(self, problem: Problem) -> Solution:
        objective = problem.objective
        assert isinstance(objective, Bounded)  # of this form
        low, high = 0.0, 1.0
        best, asked = objective.within(high), 1
        if not problem.within(best):
            return self._beyond_reach(problem, best)
        while high - low > self.width:
            middle = (low + high) / 2
            found, asked = objective.within(middle), asked + 1
            if problem.within(found):
                high, best = middle, found
            else:
                low = middle
        best = _stopped(problem, best)
        note = f"bound {high:.4g} on the share of each layer and sample"
        return solution_at(problem, best, Status.FEASIBLE, self.name, note=note, evaluations=asked)

    def _beyond_reach(self, problem: Problem, index: int) -> Solution:
        """The Solution that says so: the highest bound costs too much."""
        costs = ", ".join(f"{c.name} {c.describe(c.cost(index))}" for c in problem.constraints)
        objective = problem.objective
        note = f"its search deletes no more than what leaves {costs}; raise --budget"
        return Solution(Status.UNKNOWN, self.name, objective.name, objective.unit, note=note)


def _stopped(problem: Problem, index: int) -> int:
    """The point without what its last parameters prune, as many as the budget can do without."""
    space = problem.space
    row = list(space.row(index))
    for k in reversed(range(len(row))):
        row[k] = len(space.parameters[k].values) - 1
        freer = space.index_of(row)
        if not problem.within(freer):
            break
        index = freer
    return index
