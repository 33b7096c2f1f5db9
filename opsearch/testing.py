"""What every solver must satisfy, for plug-ins too: inherit `SolverConformance` in a pytest file.

    class TestMySolver(SolverConformance):
        @pytest.fixture
        def solver(self):
            return MySolver()

Problems here are small, over real spaces, with exact costs that need no model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.policy import KV, MLP, Q, live
from opsearch.problem import Blackbox, Constraint, Form, Objective, Problem, Separable, Table
from opsearch.solution import Limit, Solution, Solver, Status, solution_at
from opsearch.spaces import Space, depth_space, dop_space, tokens_space

N_V_TEST = tuple(Fraction(v) for v in ("1", ".6", ".3", ".1"))
SCALES = (1e-9, 1e-6, 1e-3, 1.0, 1e3)
SAMPLES = ((24, 11), (31, 5))  # visual and other tokens of two samples

# An exact solver is stopped by neither; AMPLE lets others evaluate every point.
AMPLE = Limit(evaluations=2000)
SHORT = Limit(evaluations=25)


def flops_like(space: Space, samples: Sequence[tuple[int, int]] = SAMPLES) -> NDArray[np.int64]:
    """A cost shaped like a decoder's FLOPs at every point, summed over samples, int64[P].

    Like a real one it counts the dead operations of the original model, which runs them.
    """
    total = np.zeros(len(space.points), np.int64)
    for visual, other in samples:
        counts = space.resolved(space.points, visual)
        original = (counts == visual).all(axis=(1, 2), keepdims=True)
        rows = np.where(original, counts, live(counts)) + other
        q, kv, mlp = rows[..., Q], rows[..., KV], rows[..., MLP]
        total += (128 * (q + kv) + 4 * q * kv + 192 * mlp).sum(axis=-1)
    return total


def kv_like(space: Space, samples: Sequence[tuple[int, int]] = SAMPLES) -> NDArray[np.int64]:
    """A cost shaped like the KV cache's bytes at every point, summed over samples, int64[P]."""
    total = np.zeros(len(space.points), np.int64)
    for visual, _ in samples:
        total += 64 * live(space.resolved(space.points, visual))[..., KV].sum(axis=-1)
    return total


def budget(name: str, costs: NDArray[np.int64], share: float) -> Constraint:
    """The constraint that lies at `share` of the way from the lowest to the highest cost."""
    lowest, highest = int(costs.min()), int(costs.max())
    limit = lowest + int(share * (highest - lowest))
    return Constraint(name, "units", costs, limit, stock=highest, samples=len(SAMPLES))


def random_space(random: np.random.Generator, *, layers: int = 5) -> Space:
    """One of tokens, dop in both readings, and depth, with up to `layers` layers."""
    depth = int(random.integers(1, layers + 1))
    shares = N_V_TEST[: int(random.integers(1, 5))]
    kind = random.integers(4)
    if kind == 0:
        return tokens_space(depth, shares)
    if kind == 1:
        return depth_space(min(depth, 4), shares)
    return dop_space(depth, shares, kv="leaves" if kind == 2 else "stays")


def random_terms(
    random: np.random.Generator, space: Space, scale: float, quantum: float
) -> tuple[NDArray[np.float64], ...]:
    """Terms of a separable objective: mostly falling along each parameter, in steps of quantum."""
    terms = []
    for parameter in space.parameters:
        size = len(parameter.values)
        term = scale * (np.linspace(1, 0, size) ** 2 + 0.2 * random.random(size))
        terms.append(quantum * np.rint(term / quantum) if quantum else term)
    return tuple(terms)


def random_problem(
    seed: int, *, scale: float = 1.0, exact_ties: bool = True, layers: int = 5, budgets: int = 1
) -> Problem:
    """A problem over a real space with separable terms and up to two budgets.

    exact_ties: values are whole multiples of scale / 50, so that many are equal; else quantum is 0.
    """
    random = np.random.default_rng(seed)
    space = random_space(random, layers=layers)
    quantum = scale / 50 if exact_ties else 0.0
    terms = random_terms(random, space, scale, quantum)
    objective = Separable("random", "nats", space.points, terms, quantum)
    costs = {"flops": flops_like(space), "kv": kv_like(space)}
    names = list(costs)[:budgets]
    limits = tuple(budget(name, costs[name], random.uniform(0.05, 0.95)) for name in names)
    return Problem(space, objective, limits)


def oracle(problem: Problem) -> int | None:
    """The best point by a plain loop: value, then cost, then index row; None when infeasible."""
    objective, best = problem.objective, None
    for index in np.flatnonzero(problem.feasible).tolist():
        value = objective.value(index)
        if not np.isnan(value):
            key = round(value / objective.quantum) if objective.quantum else value
            row = tuple(problem.space.points[index].tolist())
            candidate = (key, int(problem.cost[index]), row, index)
            best = candidate if best is None else min(best, candidate)
    return None if best is None else best[3]


def as_form(problem: Problem, form: Form) -> Problem:
    """The same problem with its separable objective presented in another form."""
    objective = problem.objective
    assert isinstance(objective, Separable)
    other: Objective = objective
    if form == "table":
        other = Table(objective.name, objective.unit, objective.values, objective.quantum)
    elif form != "separable":
        other = Blackbox(objective.name, objective.unit, objective.value, objective.quantum, form)
    return replace(problem, objective=other)


def same(first: Solution, second: Solution) -> bool:
    """Whether two solutions agree in everything but the seconds they took."""
    return replace(first, seconds=0.0) == replace(second, seconds=0.0)


class SolverConformance:
    """Tests that any solver passes; override the fixture `solver`."""

    @pytest.fixture
    def solver(self) -> Solver:
        raise NotImplementedError("override the fixture `solver` with the solver under test")

    def solve(self, solver: Solver, problem: Problem, **options: Any) -> Solution:
        """Solve a separable problem in a form that the solver takes, and check the record."""
        form: Form = "separable" if "separable" in solver.forms else min(solver.forms)
        presented = as_form(problem, form)
        solution = solver.solve(presented, **{"limit": AMPLE, **options})
        check_record(presented, solver, solution)
        return solution

    @pytest.mark.parametrize("seed", range(12))
    def test_agrees_with_brute_force(self, solver: Solver, seed: int) -> None:
        problem = random_problem(seed, budgets=seed % 3)
        solution = self.solve(solver, problem, limit=SHORT)
        best = oracle(problem)
        assert best is not None
        assert solution.value is not None
        if solver.exact:
            assert (solution.status, solution.index) == (Status.OPTIMAL, best)
        assert solution.value >= problem.objective.value(best) - solution.error_bound

    def test_known_answer(self, solver: Solver) -> None:
        space = tokens_space(3, N_V_TEST)
        objective = Separable("known", "nats", space.points, (np.array([4.0, 3.0, 2.0, 1.0]),), 1.0)
        costs = np.array([10, 20, 30, 40])
        problem = Problem(space, objective, (Constraint("flops", "FLOPs", costs, 39, 40),))
        solution = self.solve(solver, problem)
        assert (solution.index, solution.value, solution.costs) == (2, 2.0, {"flops": 30})
        assert solution.point == {"n_v": "3/5"}
        assert solution.policy == space.decode((2,))

    def test_a_limit_is_inclusive(self, solver: Solver) -> None:
        space = tokens_space(3, N_V_TEST)
        objective = Separable("known", "nats", space.points, (np.array([4.0, 3.0, 2.0, 1.0]),), 1.0)
        costs = np.array([10, 20, 30, 40])
        problem = Problem(space, objective, (Constraint("flops", "FLOPs", costs, 40, 40),))
        assert self.solve(solver, problem).index == 3

    def test_infeasible_states_the_range(self, solver: Solver) -> None:
        problem = random_problem(1)
        low = replace(problem.constraints[0], limit=int(problem.cost.min()) - 1)
        solution = self.solve(solver, problem.with_budget([low]))
        assert solution.status is Status.INFEASIBLE
        assert (solution.index, solution.value, solution.bound, solution.policy) == (None,) * 4
        assert f"achievable: {low.describe(int(low.costs.min()))}" in solution.note

    def test_budgets_that_clash(self, solver: Solver) -> None:
        space = tokens_space(2, N_V_TEST)
        objective = Separable("flat", "nats", space.points, (np.zeros(4),), 1.0)
        rising = Constraint("flops", "FLOPs", np.array([1, 2, 3, 4]), 1, 4)
        falling = Constraint("other", "units", np.array([4, 3, 2, 1]), 1, 4)
        solution = self.solve(solver, Problem(space, objective, (rising, falling)))
        assert solution.status is Status.INFEASIBLE
        assert "each budget can be met alone" in solution.note

    def test_ties_go_to_lower_cost(self, solver: Solver) -> None:
        problem = _flat(dop_space(3, N_V_TEST))
        random = np.random.default_rng(3)
        costs = random.permutation(len(problem.space.points)).astype(np.int64)
        limits = [Constraint("flops", "FLOPs", costs, len(costs), len(costs))]
        solution = self.solve(solver, problem.with_budget(limits))
        assert solution.index == int(costs.argmin())

    def test_ties_of_equal_cost_go_to_the_first_row(self, solver: Solver) -> None:
        problem = _flat(dop_space(3, N_V_TEST))
        assert self.solve(solver, problem).index == 0
        costs = np.ones(len(problem.space.points), np.int64)
        costs[:5] = 2
        limits = [Constraint("flops", "FLOPs", costs, 2, 2)]
        assert self.solve(solver, problem.with_budget(limits)).index == 5

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
        terms = random_terms(np.random.default_rng(0), space, 1.0, 0.01)
        objective = Separable("random", "nats", space.points, terms, 0.01)
        problem = Problem(space, objective, (budget("flops", flops_like(space), 0.6),))
        assert self.solve(solver, problem).index == oracle(problem)

    @pytest.mark.parametrize("scale", SCALES)
    @pytest.mark.parametrize("exact_ties", [True, False])
    def test_scales(self, solver: Solver, scale: float, exact_ties: bool) -> None:
        problem = random_problem(7, scale=scale, exact_ties=exact_ties)
        best = oracle(problem)
        assert best is not None
        solution = self.solve(solver, problem, limit=SHORT)
        assert solution.value is not None
        assert solution.error_bound < 1e-6 * scale
        if solver.exact:
            assert solution.value <= problem.objective.value(best) + solution.error_bound

    def test_same_seed_same_answer(self, solver: Solver) -> None:
        problem = random_problem(5)
        first = self.solve(solver, problem, seed=3, limit=Limit(evaluations=15))
        again = self.solve(solver, problem, seed=3, limit=Limit(evaluations=15))
        assert same(first, again)
        assert first.seed == 3

    def test_limit_of_evaluations(self, solver: Solver) -> None:
        if solver.exact:
            pytest.skip("an exact solver does not count evaluations")
        problem = random_problem(6)
        assert problem.feasible.sum() > 4
        assert self.solve(solver, problem, limit=Limit(evaluations=4)).evaluations == 4

    def test_no_limit(self, solver: Solver) -> None:
        assert self.solve(solver, random_problem(3), limit=None).index is not None

    def test_points_that_were_not_measured(self, solver: Solver) -> None:
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

    def test_other_forms_are_refused(self, solver: Solver) -> None:
        problem = random_problem(0)
        forms: tuple[Form, ...] = ("table", "pairwise", "blackbox")
        for form in forms:
            if form not in solver.forms:
                with pytest.raises(OpsearchError, match="needs an objective of form"):
                    solver.solve(as_form(problem, form))


def check_record(problem: Problem, solver: Solver, solution: Solution) -> None:
    """Value, costs, point and policy are those of the problem, and the bound is a bound."""
    assert solution.solver == solver.name
    assert solution.seconds > 0
    assert solution.versions
    if solution.index is None:
        assert solution.status in (Status.INFEASIBLE, Status.UNKNOWN)
        return
    assert problem.feasible[solution.index]
    expected = solution_at(problem, solution.index, solution.status, solver.name)
    for name in ("value", "costs", "point", "policy", "objective", "unit"):
        assert getattr(solution, name) == getattr(expected, name)
    if solution.status is Status.OPTIMAL:
        assert solution.gap is not None
        assert solution.gap <= solution.error_bound


def _flat(space: Space) -> Problem:
    """All points have the same value; nothing but ties decides."""
    terms = tuple(np.zeros(len(parameter.values)) for parameter in space.parameters)
    return Problem(space, Separable("flat", "nats", space.points, terms, 1e-6))
