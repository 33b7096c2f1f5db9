"""Checks shared by the conformance tests: records, interruptions, evaluated points."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from opsearch.problem.objective import Blackbox
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Solver, Status, solution_at

# Exact solvers ignore both; AMPLE lets the others evaluate every point.
AMPLE = Limit(evaluations=2000)
SHORT = Limit(evaluations=25)


def same(first: Solution, second: Solution) -> bool:
    """Return whether two solutions agree in everything except their time."""
    return replace(first, seconds=0.0) == replace(second, seconds=0.0)


def recorded(problem: Problem) -> tuple[Problem, list[int]]:
    """Return a copy of a blackbox problem, and a list that records the evaluated points."""
    objective, evaluated = problem.objective, list[int]()
    assert isinstance(objective, Blackbox)

    def evaluate(indices: Sequence[int]) -> NDArray[np.float64]:
        evaluated.extend(indices)
        return objective.evaluate(indices)

    return replace(problem, objective=replace(objective, evaluate=evaluate)), evaluated


def check_interruption(solver: Solver, problem: Problem, after: int = 5) -> None:
    """Check that an interrupted search, run again, evaluates the same points with equal result."""
    uninterrupted, expected = recorded(problem)
    best = solver.solve(uninterrupted, seed=2, limit=SHORT)
    interrupted, evaluated = recorded(problem)
    objective = interrupted.objective
    assert isinstance(objective, Blackbox)
    measure = objective.evaluate

    def stopping(indices: Sequence[int]) -> NDArray[np.float64]:
        if len(evaluated) >= after:
            raise KeyboardInterrupt
        return measure(indices)

    stopped = replace(interrupted, objective=replace(objective, evaluate=stopping))
    with pytest.raises(KeyboardInterrupt):
        solver.solve(stopped, seed=2, limit=SHORT)
    assert evaluated == expected[: len(evaluated)]
    assert same(solver.solve(problem, seed=2, limit=SHORT), best)


def check_record(problem: Problem, solver: Solver, solution: Solution) -> None:
    """Check that value, costs, point, policy and bound agree with the problem."""
    assert solution.solver == solver.name
    assert solution.seconds > 0
    assert solution.versions
    if solution.index is None:
        assert solution.status in (Status.INFEASIBLE, Status.UNKNOWN)
        return
    assert problem.within(solution.index)
    expected = solution_at(problem, solution.index, solution.status, solver.name)
    for name in ("value", "costs", "point", "policy", "objective", "unit"):
        assert getattr(solution, name) == getattr(expected, name)
    if solution.status is Status.OPTIMAL:
        assert solution.gap is not None
        assert solution.gap <= solution.error_bound
