"""Conformance tests in spaces too large to list: inherit `LargeSpaceConformance` in addition.

The spaces have one parameter per operation, and few layers, so that a loop over all rows gives the
reference.
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import product

import pytest

from opsearch.policy.counts import MLP, Q
from opsearch.problem.objective import Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solver, Status
from opsearch.problem.spaces.base import N_V_8
from opsearch.problem.spaces.operations import OperationSpace, layers_space, operations_space
from opsearch.testing.checks import SHORT, check_interruption, check_record, recorded, same
from opsearch.testing.example_problems import SCALES, VAST, VAST_SAMPLES, layers_problem

SPACES = {
    "layers": layers_space(3, N_V_8[3:5]),
    "kept": layers_space(3, N_V_8[3:5], kept=[(0, Q), (1, MLP)]),
    "tied": layers_space(3, N_V_8[3:5], tied=True),
    "operations": operations_space(2),
    "groups": operations_space(2, groups=(Fraction(1, 8), Fraction(1, 2), Fraction(1))),
    "one layer": layers_space(1, N_V_8[3:5]),
}


class LargeSpaceConformance:
    """Tests that a solver passes in spaces too large to list; override the fixture `solver`."""

    @pytest.fixture
    def solver(self) -> Solver:
        """Return the solver under test."""
        raise NotImplementedError("override the fixture `solver` with the solver under test")

    @pytest.mark.parametrize("name", SPACES)
    def test_nothing_is_better_than_the_best_of_all_rows(self, solver: Solver, name: str) -> None:
        """Compare with a loop over all rows."""
        problem = presented(solver, seed=len(name), space=SPACES[name])
        solution = solver.solve(problem, limit=SHORT)
        check_record(problem, solver, solution)
        assert solution.value is not None
        value, cost = best(problem)
        quantum = problem.objective.quantum
        found = round(solution.value / quantum)
        assert found >= value
        if solver.exact:
            assert (solution.status, found) == (Status.OPTIMAL, value)
            assert solution.costs["flops"] == cost

    @pytest.mark.parametrize(("name", "share"), [("tied", 0.4), ("operations", 0.8)])
    def test_costs_beyond_64_bits(self, solver: Solver, name: str, share: float) -> None:
        """Keep exact limits in a decoder of 400 B weights on 10,000 samples of 110,000 tokens."""
        space, form = SPACES[name], presented(solver).objective.form
        shape = replace(VAST, layers=space.num_layers)
        problem = layers_problem(len(name), space, share, form, shape=shape, samples=VAST_SAMPLES)
        (constraint,) = problem.constraints
        assert constraint.stock > 2**63
        solution = solver.solve(problem, limit=SHORT)
        check_record(problem, solver, solution)
        assert solution.value is not None
        value, cost = best(problem)
        found = round(solution.value / problem.objective.quantum)
        assert found >= value
        if solver.exact:
            assert (solution.status, found) == (Status.OPTIMAL, value)
            assert solution.costs["flops"] == cost or solution.note
        # Exactly at the best policy's cost, and one below it.
        exactly, below = (
            problem.with_budget([replace(constraint, limit=limit)]) for limit in (cost, cost - 1)
        )
        at, lower = (solver.solve(each, limit=SHORT) for each in (exactly, below))
        check_record(exactly, solver, at)
        check_record(below, solver, lower)
        if solver.exact:
            assert at.value == solution.value
            assert lower.value is None or lower.value > solution.value

    def test_infeasible_states_the_range(self, solver: Solver) -> None:
        """Report the achievable range of an infeasible budget."""
        problem = presented(solver)
        constraint = problem.constraints[0]
        lowest = constraint.cost(constraint.cheapest)
        below = replace(constraint, limit=lowest - 1)
        solution = solver.solve(problem.with_budget([below]))
        assert solution.status is Status.INFEASIBLE
        assert f"achievable: {constraint.describe(lowest)}" in solution.note
        at = solver.solve(problem.with_budget([replace(constraint, limit=lowest)]), limit=SHORT)
        assert at.costs["flops"] == lowest

    @pytest.mark.parametrize("scale", SCALES)
    def test_scales(self, solver: Solver, scale: float) -> None:
        """Scale the value with the objective."""
        one, scaled = (
            solver.solve(presented(solver, scale=s), seed=1, limit=SHORT) for s in (1.0, scale)
        )
        assert one.value is not None
        assert scaled.value == pytest.approx(scale * one.value, rel=1e-9)

    def test_same_seed_same_answer(self, solver: Solver) -> None:
        """Return equal solutions for equal seeds."""
        problem = presented(solver, seed=4)
        first, again = (solver.solve(problem, seed=3, limit=SHORT) for _ in range(2))
        assert same(first, again)
        assert first.seed == 3

    def test_no_point_is_evaluated_twice_or_over_the_limit(self, solver: Solver) -> None:
        """Evaluate no point twice, and none over the limit."""
        if "blackbox" not in solver.forms:
            pytest.skip("evaluates no points")
        problem, evaluated = recorded(layers_problem(5))
        solution = solver.solve(problem, limit=SHORT)
        assert 0 < solution.evaluations == len(evaluated) == len(set(evaluated)) <= 25

    def test_an_interrupted_search_is_repeated_over_its_cache(self, solver: Solver) -> None:
        """Evaluate the same points again after an interruption."""
        if "blackbox" not in solver.forms:
            pytest.skip("evaluates no points")
        check_interruption(solver, layers_problem(5))


def presented(
    solver: Solver, seed: int = 0, space: OperationSpace | None = None, scale: float = 1.0
) -> Problem:
    """Return a problem in the most general form that the solver accepts."""
    # Text tokens dominate the cost of one layer.
    share = 0.95 if space is not None and space.num_layers == 1 else 0.5
    forms: tuple[Form, ...] = ("pairwise", "blackbox", "separable")
    form = next(form for form in forms if form in solver.forms)
    return layers_problem(seed, space, share, form, scale)


def best(problem: Problem) -> tuple[int, int]:
    """Return the lowest value over all rows, in quanta, and the lowest cost at that value."""
    space, constraint = problem.space, problem.constraints[0]
    rows = product(*(range(len(parameter.values)) for parameter in space.parameters))
    points = {space.index_of(row) for row in rows}
    quantum = problem.objective.quantum
    return min(
        (round(problem.objective.value(point) / quantum), constraint.cost(point))
        for point in points
        if problem.within(point)
    )
