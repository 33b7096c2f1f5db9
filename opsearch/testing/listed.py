"""Conformance tests in listed spaces, which every solver passes: inherit `SolverConformance`."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest

from opsearch.errors import OpsearchError
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import Form, Separable, Table
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Solver, Status
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
from opsearch.testing.checks import AMPLE, SHORT, check_interruption, check_record, recorded, same
from opsearch.testing.example_problems import (
    N_V_TEST,
    SCALES,
    as_form,
    budget,
    flops_like,
    oracle,
    random_pairs,
    random_problem,
    random_terms,
    vast,
)


class SolverConformance:
    """Tests that any solver passes; override the fixture `solver`.

    Attributes:
        known: Points that the last solve could choose from; for a blackbox, the evaluated ones.
    """

    known: list[int]

    @pytest.fixture
    def solver(self) -> Solver:
        """Return the solver under test."""
        raise NotImplementedError("override the fixture `solver` with the solver under test")

    def solve(self, solver: Solver, problem: Problem, **options: Any) -> Solution:
        """Solve a separable problem in a form that the solver takes, and check the record."""
        form: Form = "separable" if "separable" in solver.forms else min(solver.forms)
        presented = as_form(problem, form)
        self.known = list(range(len(problem.space.points)))
        if form == "blackbox":
            presented, self.known = recorded(presented)
        solution = solver.solve(presented, **{"limit": AMPLE, **options})
        check_record(presented, solver, solution)
        return solution

    def best(self, problem: Problem) -> int | None:
        """Return the best of the points that the last solve could choose from."""
        values = np.full(len(problem.space.points), np.nan)
        values[self.known] = [problem.objective.value(index) for index in self.known]
        quantum = problem.objective.quantum
        return oracle(replace(problem, objective=Table("known", "nats", values, quantum)))

    @pytest.mark.parametrize("seed", range(12))
    def test_agrees_with_brute_force(self, solver: Solver, seed: int) -> None:
        """Compare with a loop over all points."""
        problem = random_problem(seed, budgets=seed % 3)
        solution = self.solve(solver, problem, limit=SHORT)
        best = oracle(problem)
        assert best is not None
        assert solution.value is not None
        if solver.exact:
            assert (solution.status, solution.index) == (Status.OPTIMAL, best)
        assert solution.value >= problem.objective.value(best) - solution.error_bound

    @pytest.mark.parametrize("seed", range(2))
    def test_costs_beyond_64_bits(self, solver: Solver, seed: int) -> None:
        """Solve problems whose costs exceed 64 bits and differ in their last digits only."""
        problem = vast(random_problem(seed, budgets=1 + seed % 2))
        solution = self.solve(solver, problem)
        assert solution.index is not None
        if solver.exact or "blackbox" in solver.forms:
            assert solution.index == self.best(problem)
        below = replace(problem.constraints[0], limit=int(problem.cost.min()) - 1)
        none = self.solve(solver, problem.with_budget([below]))
        assert none.status is Status.INFEASIBLE

    def test_known_answer(self, solver: Solver) -> None:
        """Find the best point of a problem of four points."""
        space = tokens_space(3, N_V_TEST)
        objective = Separable("known", "nats", space, (np.array([4.0, 3.0, 2.0, 1.0]),), 1.0)
        costs = np.array([10, 20, 30, 40])
        problem = Problem(space, objective, (Constraint("flops", "FLOPs", costs, 39, 40),))
        solution = self.solve(solver, problem)
        assert (solution.index, solution.value, solution.costs) == (2, 2.0, {"flops": 30})
        assert solution.point == {"n_v": "3/5"}
        assert solution.policy == space.decode((2,))

    def test_a_limit_is_inclusive(self, solver: Solver) -> None:
        """Accept a point whose cost equals the limit."""
        space = tokens_space(3, N_V_TEST)
        objective = Separable("known", "nats", space, (np.array([4.0, 3.0, 2.0, 1.0]),), 1.0)
        costs = np.array([10, 20, 30, 40])
        problem = Problem(space, objective, (Constraint("flops", "FLOPs", costs, 40, 40),))
        assert self.solve(solver, problem).index == 3

    def test_infeasible_states_the_range(self, solver: Solver) -> None:
        """Report the achievable range of an infeasible budget."""
        problem = random_problem(1)
        low = replace(problem.constraints[0], limit=int(problem.cost.min()) - 1)
        solution = self.solve(solver, problem.with_budget([low]))
        assert solution.status is Status.INFEASIBLE
        assert (solution.index, solution.value, solution.bound, solution.policy) == (None,) * 4
        assert f"achievable: {low.describe(low.cost(low.cheapest))}" in solution.note

    def test_budgets_that_clash(self, solver: Solver) -> None:
        """Report how far to raise one of two budgets that exclude each other."""
        space = tokens_space(2, N_V_TEST)
        objective = Separable("flat", "nats", space, (np.zeros(4),), 1.0)
        rising = Constraint("flops", "FLOPs", np.array([1, 2, 3, 4]), 1, 4)
        falling = Constraint("other", "units", np.array([4, 3, 2, 1]), 1, 4)
        solution = self.solve(solver, Problem(space, objective, (rising, falling)))
        assert solution.status is Status.INFEASIBLE
        assert "each budget can be met alone" in solution.note
        assert "flops to 100% (4 FLOPs) or other to 100% (4 units)" in solution.note

    def test_ties_go_to_lower_cost(self, solver: Solver) -> None:
        """Break ties of value by cost."""
        _require_that_it_compares_points(solver)
        problem = _flat(dop_space(3, N_V_TEST))
        random = np.random.default_rng(3)
        costs = random.permutation(len(problem.space.points)).astype(np.int64)
        limits = [Constraint("flops", "FLOPs", costs, len(costs), len(costs))]
        solution = self.solve(solver, problem.with_budget(limits))
        assert solution.index == min(self.known, key=lambda index: costs[index])

    def test_ties_of_equal_cost_go_to_the_first_row(self, solver: Solver) -> None:
        """Break ties of value and cost by the number of the point."""
        _require_that_it_compares_points(solver)
        problem = _flat(dop_space(3, N_V_TEST))
        assert self.solve(solver, problem).index == min(self.known)
        costs = np.ones(len(problem.space.points), np.int64)
        costs[:5] = 2
        limits = [Constraint("flops", "FLOPs", costs, 2, 2)]
        problem = problem.with_budget(limits)
        assert self.solve(solver, problem).index == self.best(problem)

    @pytest.mark.parametrize(
        "space",
        [
            tokens_space(1, [Fraction(1)]),
            tokens_space(4, N_V_TEST),
            dop_space(1, [Fraction(1)]),
            depth_space(1, [Fraction(1)]),
        ],
        ids=["one point", "one parameter", "one layer, dop", "one layer, depth"],
    )
    def test_degenerate_sizes(self, solver: Solver, space: Space) -> None:
        """Solve spaces of one point, one parameter and one layer."""
        terms = random_terms(np.random.default_rng(0), space, 1.0, 0.01)
        objective = Separable("random", "nats", space, terms, 0.01)
        problem = Problem(space, objective, (budget("flops", flops_like(space), 0.6),))
        assert self.solve(solver, problem).index == self.best(problem)

    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("exact_ties", [True, False])
    def test_scales(self, solver: Solver, scale: float, exact_ties: bool) -> None:
        """Solve problems with values of any magnitude, within the stated error."""
        problem = random_problem(7, scale=scale, exact_ties=exact_ties)
        best = oracle(problem)
        assert best is not None
        solution = self.solve(solver, problem, limit=SHORT)
        assert solution.value is not None
        assert solution.error_bound < 1e-6 * scale
        if solver.exact:
            assert solution.value <= problem.objective.value(best) + solution.error_bound

    @pytest.mark.parametrize("seed", range(3))
    def test_values_below_zero(self, solver: Solver, seed: int) -> None:
        """Solve problems with negative values."""
        problem = random_problem(seed)
        objective = problem.objective
        assert isinstance(objective, Separable)
        terms = tuple(term - 61 * objective.quantum for term in objective.terms)
        lower = replace(problem, objective=replace(objective, terms=terms))
        solution = self.solve(solver, lower)
        assert solution.value is not None
        assert solution.value < 0
        if solver.exact:
            assert (solution.status, solution.index) == (Status.OPTIMAL, oracle(problem))

    def test_same_seed_same_answer(self, solver: Solver) -> None:
        """Return equal solutions for equal seeds."""
        problem = random_problem(5)
        first = self.solve(solver, problem, seed=3, limit=Limit(evaluations=15))
        again = self.solve(solver, problem, seed=3, limit=Limit(evaluations=15))
        assert same(first, again)
        assert first.seed == 3

    def test_limit_of_evaluations(self, solver: Solver) -> None:
        """Evaluate as many points as the limit allows."""
        if "blackbox" not in solver.forms:
            pytest.skip("evaluates no points")
        problem = random_problem(6)
        assert problem.feasible.sum() > 4
        assert self.solve(solver, problem, limit=Limit(evaluations=4)).evaluations == 4

    def test_no_point_is_evaluated_twice(self, solver: Solver) -> None:
        """Evaluate no point twice, and none over the limit."""
        if "blackbox" not in solver.forms:
            pytest.skip("evaluates no points")
        problem, evaluated = recorded(as_form(random_problem(6), "blackbox"))
        solution = solver.solve(problem, limit=SHORT)
        assert 0 < solution.evaluations == len(evaluated) == len(set(evaluated)) <= 25

    def test_no_limit(self, solver: Solver) -> None:
        """Solve without a limit."""
        assert self.solve(solver, random_problem(3), limit=None).index is not None

    def test_points_that_were_not_measured(self, solver: Solver) -> None:
        """Choose only measured points, and claim no optimum over the others."""
        if "table" not in solver.forms:
            pytest.skip("takes no tables")
        problem = as_form(random_problem(6), "table")
        best = oracle(problem)
        quantum = problem.objective.quantum
        values = np.array([problem.objective.value(i) for i in range(len(problem.space.points))])
        values[best] = np.nan
        holed = replace(problem, objective=Table("holed", "nats", values, quantum))
        solution = solver.solve(holed, limit=AMPLE)
        check_record(holed, solver, solution)
        assert (solution.status, solution.index) == (Status.FEASIBLE, oracle(holed))
        assert "1 of" in solution.note
        empty = replace(holed, objective=Table("empty", "nats", np.full(len(values), np.nan)))
        solution = solver.solve(empty, limit=AMPLE)
        assert (solution.status, solution.value) == (Status.UNKNOWN, None)

    @pytest.mark.parametrize("seed", range(4))
    def test_pairs_are_taken_into_account(self, solver: Solver, seed: int) -> None:
        """Include the interactions of pairs in the optimum."""
        if "pairwise" not in solver.forms:
            pytest.skip("takes no pairs")
        problem = random_pairs(seed)
        size = len(problem.space.points)
        values = np.array([problem.objective.value(index) for index in range(size)])
        solution = solver.solve(problem, limit=Limit(evaluations=size))
        check_record(problem, solver, solution)
        exact = replace(problem, objective=Table("all", "nats", values, problem.objective.quantum))
        assert (solution.status, solution.index) == (Status.OPTIMAL, oracle(exact))

    @pytest.mark.parametrize("places", [slice(1), slice(None)], ids=["one", "all of a parameter"])
    @pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
    def test_non_finite_values_are_rejected_or_skipped(
        self, solver: Solver, number: float, places: slice
    ) -> None:
        """Reject or skip values that are not finite."""
        problem = random_problem(5)
        objective = problem.objective
        assert isinstance(objective, Separable)
        terms = [term.copy() for term in objective.terms]
        terms[0][places] = number
        holed = replace(problem, objective=replace(objective, terms=tuple(terms)))
        try:
            solution = self.solve(solver, holed, limit=SHORT)
        except OpsearchError:
            return
        assert solution.value is None or np.isfinite(solution.value)

    def test_an_interrupted_search_is_repeated_over_its_cache(self, solver: Solver) -> None:
        """Evaluate the same points again after an interruption."""
        if "blackbox" not in solver.forms:
            pytest.skip("evaluates no points")
        check_interruption(solver, as_form(random_problem(6), "blackbox"))

    def test_other_forms_are_refused(self, solver: Solver) -> None:
        """Refuse objectives of forms that the solver does not accept."""
        problem = random_problem(0)
        forms: tuple[Form, ...] = ("table", "separable", "pairwise", "blackbox", "bounded")
        for form in forms:
            if form not in solver.forms:
                with pytest.raises(OpsearchError, match="needs an objective of form"):
                    solver.solve(as_form(problem, form))


def _require_that_it_compares_points(solver: Solver) -> None:
    """Skip if the solver neither reads all points nor evaluates some."""
    if not solver.exact and "blackbox" not in solver.forms:
        pytest.skip("compares no points")


def _flat(space: Space) -> Problem:
    """Return a problem whose points all have the same value."""
    terms = tuple(np.zeros(len(parameter.values)) for parameter in space.parameters)
    return Problem(space, Separable("flat", "nats", space, terms, 1e-6))
