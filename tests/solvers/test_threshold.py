"""The bisected threshold: every operation by the same measure, however much it saves."""

import numpy as np
import pytest

from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Status
from opsearch.problem.spaces.depth import tokens_space
from opsearch.solvers.ortools import CpSat
from opsearch.solvers.threshold import Threshold
from opsearch.testing.example_problems import N_V_TEST
from opsearch.testing.layers import presented


def at(problem, threshold):
    """The point of the first values that cost at most so much alone, else of the last."""
    cheap = [np.flatnonzero(term <= threshold) for term in problem.objective.terms]
    last = [len(term) - 1 for term in problem.objective.terms]
    row = [int(c[0]) if len(c) else end for c, end in zip(cheap, last, strict=True)]
    return problem.space.index_of(row)


def test_the_lowest_threshold_within_the_budget_is_found():
    for seed in range(5):
        problem = presented(Threshold(), seed)
        points = [at(problem, x) for x in np.unique(np.concatenate(problem.objective.terms))]
        first = next(point for point in points if problem.within(point))
        assert Threshold().solve(problem).index == first


def test_what_a_choice_saves_is_not_weighed():
    problems = [presented(Threshold(), seed) for seed in range(5)]
    lost = [Threshold().solve(p).value - CpSat().solve(p).value for p in problems]
    assert min(lost) > -1e-9
    assert max(lost) > 0.1


def test_costs_that_no_threshold_meets_are_said_so():
    space = tokens_space(2, N_V_TEST)
    terms = (np.array([4.0, 1.0, 2.0, 3.0]),)
    limit = Constraint("flops", "FLOPs", np.array([9, 9, 1, 9]), 1, 9)
    problem = Problem(space, Separable("terms", "nats", space, terms, 1.0), (limit,))
    solution = Threshold().solve(problem)
    assert (solution.status, solution.index) == (Status.UNKNOWN, None)
    assert "budget" in solution.note
    assert pytest.approx(2.0) == CpSat().solve(problem).value
