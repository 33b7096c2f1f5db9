"""Tree-structured Parzen estimator (optuna), for objectives too expensive to enumerate."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import isnan, prod
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.problem.objective import Blackbox, Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status, evaluations_within, solved
from opsearch.problem.spaces.base import Space, unpruned
from opsearch.solvers.evaluated import EvaluatedPoints
from opsearch.solvers.optuna_study import QuietStudy

if TYPE_CHECKING:
    from optuna import Trial

_EVALUATIONS = 150
# Proposals in a row without a new feasible point after which a random one is taken, so that a tight
# budget cannot keep the sampler busy forever.
_PATIENCE = 10
_DRAWS = 1000  # random rows of a space too large to list, until one is within the budget


@dataclass(frozen=True)
class Tpe:
    """Optuna's TPE sampler, up to a number of true evaluations (150 by default).

    A longer run extends a shorter one with the same seed. Nothing is stored: an interrupted run is
    repeated over the cache of measurements.

    Attributes:
        start: Indices of points to evaluate first, e.g. the optimum of a proxy.
        batch: New points that are evaluated together; the next are proposed when all have values.
    """

    name: ClassVar[str] = "optuna"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"table", "separable", "pairwise", "blackbox"})
    takes_start: ClassVar[bool] = True

    start: tuple[int, ...] = ()
    batch: int = 8

    def require(self, space: Space) -> None:
        """Accept any space."""

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the best evaluated point; optimal only if every feasible point was evaluated.

        Raises:
            OpsearchError: A start point is not in the space or not within the budget.
        """

        def search() -> Solution:
            _check_start(problem, self.start)
            found = _Sampling(problem, evaluations_within(limit, _EVALUATIONS), seed)
            return found.run(self.start, self.batch, self.name)

        return solved(self, problem, seed, "optuna", search)


class _Sampling:
    """The state of one search.

    Attributes:
        most: Number of points within the budget; None in a space too large to list.
        seen: The points evaluated so far.
        proposals, over_budget, repeated: Numbers of proposals: all, over budget, and seen before.
        fruitless: Proposals since the last new feasible point.
    """

    def __init__(self, problem: Problem, evaluations: int, seed: int) -> None:
        self.problem, self.seed = problem, seed
        # All points within the budget, where these can be counted.
        self.most = int(problem.feasible.sum()) if problem.space.listed else None
        limit = evaluations if self.most is None else min(evaluations, self.most)
        self.seen = EvaluatedPoints(_as_blackbox(problem), limit)
        self.study = QuietStudy(problem)
        self.proposals = self.over_budget = self.repeated = self.fruitless = 0

    def run(self, start: Sequence[int], batch: int, solver: str) -> Solution:
        """Ask for a batch, evaluate it, and tell the sampler, until evaluations are spent."""
        for index in dict.fromkeys(start):
            self.study.enqueue(index)
        while not self.seen.spent:
            left = self.seen.limit - len(self.seen.values)
            waiting = self._ask(min(batch, left))
            if not waiting:
                break
            self.seen.evaluate(index for _, index in waiting)
            for trial, index in waiting:
                self.study.tell(trial, index, self.seen.values[index])
        note = (
            f"{self.proposals} proposals: {self.over_budget} over budget, {self.repeated} repeated"
        )
        solution = self.seen.solution(self.seen.best(), solver, note)
        known = sum(not isnan(value) for value in self.seen.values.values())
        if solution.index is None or known != self.most:
            return solution
        return replace(solution, status=Status.OPTIMAL, bound=solution.value)

    def _ask(self, size: int) -> list[tuple[Trial, int]]:
        """Return trials of `size` new points within the budget, with repeats of these points.

        Points that are over budget or known already are reported to the sampler at once. There are
        fewer trials where no new point is found.
        """
        from optuna.samplers import TPESampler

        waiting: list[tuple[Trial, int]] = []
        new: set[int] = set()
        while len(new) < size:
            generator = np.random.SeedSequence([self.seed, self.proposals])
            if self.fruitless == _PATIENCE:
                unseen = _unseen(self.problem, new | self.seen.values.keys(), generator)
                if unseen is None:
                    break
                self.study.enqueue(unseen)
            # A sampler of its own for each trial keeps no state between trials: any run can be
            # continued bit for bit.
            trial, index = self.study.ask(TPESampler(seed=int(generator.generate_state(1)[0])))
            self.proposals += 1
            self.fruitless += 1
            if index in new:
                self.repeated += 1
                waiting.append((trial, index))
            elif index in self.seen.values:
                self.repeated += 1
                self.study.tell(trial, index, self.seen.values[index])
            elif not self.problem.within(index):
                self.over_budget += 1
                self.study.tell(trial, index)
            else:
                self.fruitless = 0
                new.add(index)
                waiting.append((trial, index))
        return waiting


def _as_blackbox(problem: Problem) -> Problem:
    """Return the problem with its objective as a Blackbox, whatever its form."""
    objective = problem.objective
    if isinstance(objective, Blackbox):
        return problem

    def evaluate(indices: Sequence[int]) -> NDArray[np.float64]:
        return np.array([objective.value(index) for index in indices])

    blackbox = Blackbox(objective.name, objective.unit, evaluate, objective.quantum)
    return replace(problem, objective=blackbox)


def _unseen(problem: Problem, seen: set[int], generator: np.random.SeedSequence) -> int | None:
    """Return a random feasible point that was not proposed; None where none is found."""
    random = np.random.default_rng(generator)
    if problem.space.listed:
        unseen = problem.feasible.copy()
        unseen[list(seen)] = False
        left = np.flatnonzero(unseen)
        return int(random.choice(left)) if len(left) else None
    highest = np.array(unpruned(problem.space))
    for _ in range(_DRAWS):
        # Some rows prune little and some nearly everything, so that tight budgets are met too.
        row = np.floor(random.random() * random.random(len(highest)) * (highest + 1))
        index = problem.space.index_of(row.astype(int).tolist())
        if index not in seen and problem.within(index):
            return index
    return None


def _check_start(problem: Problem, start: Sequence[int]) -> None:
    """Raise OpsearchError for a start point that the budget or the space excludes.

    Optuna itself accepts values that are out of range.
    """
    space = problem.space
    if space.listed:
        size = len(space.points)
    else:
        size = prod(len(parameter.values) for parameter in space.parameters)
    for index in start:
        if not 0 <= index < size:
            raise OpsearchError(
                f"start point {index} is outside 0..{size - 1}, the points of space "
                f"{space.name}; give one of these"
            )
        if not problem.within(index):
            over = [c for c in problem.constraints if c.cost(index) > c.limit]
            costs = ", ".join(f"{c.name} {c.describe(c.cost(index))}" for c in over)
            raise OpsearchError(
                f"start point {index} exceeds the budget ({costs}); start from the optimum of "
                "a proxy within the same budget"
            )
