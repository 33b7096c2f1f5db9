"""Tree-structured Parzen estimator (optuna): for objectives too dear to evaluate everywhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from time import perf_counter
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.problem import Blackbox, Form, Problem
from opsearch.solution import Limit, Solution, Status, infeasible, require_form, solution_at
from opsearch.solvers.grid import lowest
from opsearch.solvers.study import QuietStudy

_EVALUATIONS = 150
# So many proposals in a row without a new feasible point are followed by a random one, so that a
# tight budget cannot keep the sampler busy for ever.
_PATIENCE = 10


@dataclass(frozen=True)
class Tpe:
    """Proposes points by their past values, up to a number of true evaluations (150 by default).

    start: points (indices) to evaluate first, e.g. the optimum of a proxy. A longer run extends a
    shorter one with the same seed; nothing is stored, an interrupted run is repeated over the cache
    of the measurements.
    """

    name: ClassVar[str] = "optuna"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"table", "separable", "pairwise", "blackbox"})

    start: tuple[int, ...] = ()

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The best point among those evaluated; optimal only when that is all feasible ones.

        Raises OpsearchError when a start point is not in the space or not within the budget.
        """
        started = perf_counter()
        require_form(problem.objective, self)
        if not problem.solvable:
            solution = infeasible(problem, self.name)
        else:
            _check_start(problem, self.start)
            evaluations = limit.evaluations if limit else None
            budget = _EVALUATIONS if evaluations is None else evaluations
            log = _search(problem, self.start, seed, budget)
            solution = _summary(_remembering(problem, log), log, self.name)
        versions = {"optuna": version("optuna")}
        return replace(solution, seed=seed, seconds=perf_counter() - started, versions=versions)


@dataclass
class _Log:
    """Values by point in order of evaluation, and what the proposals were."""

    values: dict[int, float] = field(default_factory=dict)
    asked: int = 0
    over_budget: int = 0
    repeated: int = 0


def _search(problem: Problem, start: Sequence[int], seed: int, budget: int) -> _Log:
    """Ask, check the budget exactly, evaluate what is new, tell."""
    log = _Log()
    study = QuietStudy(problem)
    for index in dict.fromkeys(start):
        study.enqueue(index)
    target = min(budget, int(problem.feasible.sum()))
    fruitless = 0
    while len(log.values) < target:
        generator = np.random.SeedSequence([seed, log.asked])
        if fruitless == _PATIENCE:
            study.enqueue(_unseen(problem, log, generator))
        trial, index = study.ask(int(generator.generate_state(1)[0]))
        log.asked += 1
        fruitless += 1
        if not problem.feasible[index]:
            log.over_budget += 1
        elif index in log.values:
            log.repeated += 1
        else:
            log.values[index] = problem.objective.value(index)
            fruitless = 0
        study.tell(trial, index, log.values.get(index))
    return log


def _unseen(problem: Problem, log: _Log, generator: np.random.SeedSequence) -> int:
    """A random feasible point that was not evaluated."""
    unseen = problem.feasible.copy()
    unseen[list(log.values)] = False
    return int(np.random.default_rng(generator).choice(np.flatnonzero(unseen)))


def _remembering(problem: Problem, log: _Log) -> Problem:
    """The same problem, without measuring the answer once more."""
    objective = problem.objective

    def known(indices: Sequence[int]) -> NDArray[np.float64]:
        return np.array([log.values[index] for index in indices])

    seen = Blackbox(objective.name, objective.unit, known, objective.quantum, objective.form)
    return replace(problem, objective=seen)


def _summary(problem: Problem, log: _Log, solver: str) -> Solution:
    indices = np.array(list(log.values), np.int64)
    values = np.array(list(log.values.values()))
    measured = ~np.isnan(values)
    notes = [f"{log.asked} proposals: {log.over_budget} over budget, {log.repeated} repeated"]
    if not measured.all():
        notes.append(f"{int((~measured).sum())} of {len(values)} evaluated points have no value")
    facts: dict[str, Any] = {"evaluations": len(indices), "note": "; ".join(notes)}
    if not measured.any():
        name, unit = problem.objective.name, problem.objective.unit
        return Solution(Status.UNKNOWN, solver, name, unit, **facts)
    best = lowest(problem, indices[measured], values[measured])
    if measured.sum() < problem.feasible.sum():
        return solution_at(problem, best, Status.FEASIBLE, solver, **facts)
    return solution_at(problem, best, Status.OPTIMAL, solver, bound=log.values[best], **facts)


def _check_start(problem: Problem, start: Sequence[int]) -> None:
    """Optuna itself accepts values that are out of range."""
    size = len(problem.space.points)
    for index in start:
        if not 0 <= index < size:
            raise OpsearchError(
                f"start point {index} is outside 0..{size - 1}, the points of space "
                f"{problem.space.name}; give one of these"
            )
        if not problem.feasible[index]:
            over = [c for c in problem.constraints if c.cost(index) > c.limit]
            told = ", ".join(f"{c.name} {c.describe(c.cost(index))}" for c in over)
            raise OpsearchError(
                f"start point {index} exceeds the budget ({told}); take the optimum of a proxy "
                "that was solved within the same budget"
            )
