"""Conformance tests of solvers for objectives of form `bounded`: inherit `BoundedConformance`.

Such an objective maps a bound to one point. Solutions are compared with the best of 1,001 bounds.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from opsearch.errors import OpsearchError
from opsearch.problem.objective import Bounded, Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, Solver, Status
from opsearch.testing.checks import check_record, same
from opsearch.testing.example_problems import as_form, random_problem, recipes_problem

_BOUNDS = [step / 1000 for step in range(1001)]
_WIDTH = 0.01  # how near FitPrune's published search comes to the lowest bound


class BoundedConformance:
    """Tests that a solver of bounded objectives passes; override the fixture `solver`."""

    @pytest.fixture
    def solver(self) -> Solver:
        """Return the solver under test."""
        raise NotImplementedError("override the fixture `solver` with the solver under test")

    def solve(self, solver: Solver, problem: Problem, seed: int = 0) -> Solution:
        """Solve a problem and check the record."""
        solution = solver.solve(problem, seed=seed)
        check_record(problem, solver, solution)
        return solution

    @pytest.mark.parametrize("share", [0.0, 0.3, 0.8])
    @pytest.mark.parametrize("seed", range(4))
    def test_no_bound_within_the_budgets_does_better(
        self, solver: Solver, seed: int, share: float
    ) -> None:
        """Compare with a loop over 1,001 bounds."""
        problem = recipes_problem(seed, share)
        solution = self.solve(solver, problem)
        assert solution.value is not None
        assert solution.value <= problem.objective.value(lowest(problem)) + _WIDTH
        if solver.exact:
            assert solution.status is Status.OPTIMAL

    def test_each_budget_is_kept(self, solver: Solver) -> None:
        """Keep each of two budgets when it is lowered."""
        both = recipes_problem(2, 0.5)
        for limit in both.constraints:
            tighter = replace(limit, limit=limit.limit - (limit.stock - limit.limit) // 4)
            others = [other for other in both.constraints if other is not limit]
            solution = self.solve(solver, both.with_budget([*others, tighter]))
            assert solution.costs[limit.name] <= tighter.limit

    def test_a_limit_is_inclusive(self, solver: Solver) -> None:
        """Accept a point whose cost equals the limit."""
        problem = recipes_problem(1)
        objective = problem.objective
        assert isinstance(objective, Bounded)
        at = objective.within(1.0)
        exactly = [replace(c, limit=c.cost(at)) for c in problem.constraints]
        assert self.solve(solver, problem.with_budget(exactly)).index is not None

    def test_slack_budget_keeps_the_original(self, solver: Solver) -> None:
        """Keep the original under a budget that allows it."""
        solution = self.solve(solver, recipes_problem(3, 1.0))
        assert solution.value == 0
        assert solution.policy is not None
        assert solution.policy.is_identity(1000)

    def test_unreachable_budget_is_reported(self, solver: Solver) -> None:
        """Report a budget that no bound of the rule meets."""
        problem = recipes_problem(0, -0.1)
        assert problem.solvable
        solution = self.solve(solver, problem)
        if solution.index is None:
            assert solution.status is Status.UNKNOWN
            assert "--budget" in solution.note
        else:
            assert problem.within(solution.index)

    def test_infeasible_states_the_range(self, solver: Solver) -> None:
        """Report the achievable range of an infeasible budget."""
        problem = recipes_problem(1)
        constraint = problem.constraints[0]
        lowest_cost = constraint.cost(constraint.cheapest)
        below = replace(constraint, limit=lowest_cost - 1)
        solution = self.solve(solver, problem.with_budget([below]))
        assert solution.status is Status.INFEASIBLE
        assert f"achievable: {constraint.describe(lowest_cost)}" in solution.note

    def test_same_seed_same_answer(self, solver: Solver) -> None:
        """Return equal solutions for equal seeds."""
        first, again = (self.solve(solver, recipes_problem(4), seed=3) for _ in range(2))
        assert same(first, again)
        assert first.seed == 3

    def test_other_forms_are_refused(self, solver: Solver) -> None:
        """Refuse objectives of forms that the solver does not accept."""
        forms: tuple[Form, ...] = ("table", "separable", "pairwise", "blackbox")
        for form in forms:
            if form not in solver.forms:
                with pytest.raises(OpsearchError, match="needs an objective of form"):
                    solver.solve(as_form(random_problem(0), form))


def lowest(problem: Problem) -> int:
    """Return the point of the lowest bound that is within all budgets."""
    objective = problem.objective
    assert isinstance(objective, Bounded)
    return next(point for point in map(objective.within, _BOUNDS) if problem.within(point))
