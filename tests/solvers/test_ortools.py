"""The integer program: equal to the oracle, and every known way to a wrong proof closed."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product
from threading import Event
from time import perf_counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.errors import OpsearchError
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
from opsearch.solvers import ortools
from opsearch.solvers.grid import Grid
from opsearch.solvers.integer.minimum import Program
from opsearch.solvers.integer.quantise import ROW_LIMIT, integer_terms
from opsearch.solvers.integer.slices import slices_of
from opsearch.solvers.ortools import STATUS_MAP, Answer, CpSat, add_row
from opsearch.testing.checks import same
from opsearch.testing.example_problems import (
    N_V_TEST,
    SCALES,
    budget,
    flops_like,
    kv_like,
    oracle,
    random_problem,
    random_terms,
)
from tests.solvers.integer.test_layer_programs import best, with_large_costs
from tests.solvers.integer.test_layer_programs import problem as layer_problem


def separable(
    space: Space, *limits: Constraint, scale: float = 1.0, quantum: float = 1e-6
) -> Problem:
    terms = random_terms(np.random.default_rng(1), space, scale, quantum)
    return Problem(space, Separable("random", "nats", space, terms, quantum), limits)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10**6),
    scale=st.sampled_from(SCALES),
    exact_ties=st.booleans(),
    budgets=st.integers(0, 2),
)
def test_agrees_with_grid(seed: int, scale: float, exact_ties: bool, budgets: int) -> None:
    problem = random_problem(seed, scale=scale, exact_ties=exact_ties, layers=7, budgets=budgets)
    exhaustive, program = Grid().solve(problem), CpSat().solve(problem)
    assert program.status is exhaustive.status
    if exhaustive.value is not None:
        if exact_ties:
            assert (program.index, program.error_bound) == (exhaustive.index, 0.0)
        assert program.value is not None
        assert program.bound is not None
        assert program.bound <= exhaustive.value <= program.value
        assert program.value <= exhaustive.value + program.error_bound


@settings(max_examples=30, deadline=None, derandomize=True)
@given(seed=st.integers(0, 10**6))
def test_agrees_with_grid_on_costs_without_structure(seed: int) -> None:
    random = np.random.default_rng(seed)
    space = [dop_space(4, N_V_TEST), depth_space(2, N_V_TEST)][seed % 2]
    costs = random.integers(0, 1000, len(space.points))
    problem = separable(space, budget("noise", costs, random.uniform(0.0, 1.0)), quantum=0.05)
    assert CpSat().solve(problem).index == Grid().solve(problem).index


@pytest.mark.parametrize("scale", [1e-5, 1e-7, 1e-9])
def test_tiny_objectives_do_not_stop_at_the_absolute_gap(scale: float) -> None:
    # With CP-SAT's default absolute gap of 1e-4 a float objective this small ends as "optimal"
    # with the first solution.
    space = dop_space(6, N_V_TEST)
    problem = separable(space, budget("flops", flops_like(space), 0.4), scale=scale, quantum=0.0)
    assert CpSat().solve(problem).index == oracle(problem)


@pytest.fixture
def models(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Every model that is handed to CP-SAT."""
    from ortools.sat.python import cp_model

    seen: list[Any] = []
    original = cp_model.CpSolver.solve

    def solve(self: Any, model: Any, *rest: Any) -> Any:
        seen.append(model.proto)
        return original(self, model, *rest)

    monkeypatch.setattr(cp_model.CpSolver, "solve", solve)
    yield seen
    assert seen


@pytest.mark.parametrize("seed", range(5))
def test_no_float_objective_and_no_long_row_reaches_the_solver(
    seed: int, models: list[Any]
) -> None:
    # Values without a quantum, and costs without a common divisor as large as those of a 7B model.
    problem = with_large_costs(layer_problem(seed, 6, quantum=0.0))
    assert problem.constraints[0].cost(0) > 10**12
    solution = CpSat().solve(problem)
    value, *_ = best(problem)
    assert solution.value is not None
    assert value - 1e-9 <= solution.value <= value + solution.error_bound + 1e-6
    for proto in models:
        assert not proto.has_floating_point_objective()
        for row in proto.constraints:
            coefficients = list(row.linear.coeffs)
            assert sum(map(abs, coefficients)) < ROW_LIMIT


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    coefficients=st.lists(st.integers(-(2**52), 2**52), min_size=1, max_size=6),
    share=st.floats(-0.1, 1.1),
)
def test_a_split_row_admits_exactly_what_the_row_does(
    coefficients: list[int], share: float
) -> None:
    from ortools.sat.python import cp_model

    lowest = sum(c for c in coefficients if c < 0)
    highest = sum(c for c in coefficients if c > 0)
    limit = lowest + int(share * (highest - lowest))
    model = cp_model.CpModel()
    literals = [model.new_bool_var(f"{i}") for i in range(len(coefficients))]
    add_row(model, list(zip(literals, coefficients, strict=True)), limit)
    solver = cp_model.CpSolver()
    solver.parameters.num_workers = 1
    for bits in product((0, 1), repeat=len(coefficients)):
        fixed = model.clone()
        for literal, bit in zip(literals, bits, strict=True):
            fixed.add(fixed.get_bool_var_from_proto_index(literal.index) == bit)
        holds = sum(c * bit for c, bit in zip(coefficients, bits, strict=True)) <= limit
        expected = Status.OPTIMAL if holds else Status.INFEASIBLE
        assert STATUS_MAP[int(solver.solve(fixed))] is expected


@pytest.mark.parametrize("seed", range(5))
def test_costs_as_large_as_raw_flops_stay_exact(seed: int) -> None:
    problem = with_large_costs(layer_problem(seed, 0))
    (limited,) = problem.constraints
    _, cost, _ = best(problem)
    for limit in (cost, cost - 1):
        tight = problem.with_budget([replace(limited, limit=limit)])
        value, cheapest, _ = best(tight)
        solution = CpSat().solve(tight)
        assert solution.status is Status.OPTIMAL
        assert solution.value == pytest.approx(value, abs=1e-9)
        assert solution.costs["flops"] == cheapest


def test_ties_in_cost_are_broken_exactly_at_any_size() -> None:
    space = dop_space(4, N_V_TEST)
    random = np.random.default_rng(0)
    costs = 10**16 + random.permutation(len(space.points)).astype(np.int64)
    flat = tuple(np.zeros(len(parameter.values)) for parameter in space.parameters)
    objective = Separable("flat", "nats", space, flat, 1.0)
    limits = (Constraint("flops", "FLOPs", costs, 2 * 10**16, 10**16),)
    assert CpSat().solve(Problem(space, objective, limits)).index == int(costs.argmin())


def test_an_infeasible_program_has_no_row_to_read() -> None:
    # CP-SAT returns arbitrary numbers as values of an infeasible model, without an error.
    problem = layer_problem(0, 0)
    objective = problem.objective
    assert isinstance(objective, Separable)
    for part in slices_of(problem, integer_terms(objective)):
        (cost,) = part.costs
        programs = ortools._CpSatPrograms(0, None, Event())
        program = Program(part, part.value, ((cost, cost.floor - 1),))
        assert programs.minimise(program, None, 1.0) == Answer(Status.INFEASIBLE)


def test_limits_give_honest_statuses() -> None:
    problem = layer_problem(3, 60)
    value, *_ = best(problem)
    seen = set()
    for time in [0.0, *np.geomspace(1e-4, 1e-1, 40)]:
        solution = CpSat().solve(problem, limit=Limit(deterministic_time=float(time)))
        seen.add(solution.status)
        if solution.status is Status.UNKNOWN:
            assert solution.index is None
        else:
            assert solution.bound is not None
            assert solution.value is not None
            assert solution.bound - 1e-9 <= value <= solution.value + 1e-9
        if solution.status is Status.OPTIMAL:
            assert solution.value == pytest.approx(value, abs=1e-9)
            assert solution.gap == 0.0
        else:
            assert "deterministic time" in solution.note
    assert seen == {Status.UNKNOWN, Status.FEASIBLE, Status.OPTIMAL}


def test_a_limit_in_deterministic_time_is_reproducible() -> None:
    space = dop_space(12, N_V_TEST)
    problem = separable(space, budget("flops", flops_like(space), 0.35))
    limit = Limit(deterministic_time=0.01)
    first, again = (CpSat().solve(problem, seed=4, limit=limit) for _ in range(2))
    assert same(first, again)


def broken_solve(monkeypatch: pytest.MonkeyPatch, answer: Answer) -> Solution:
    space = dop_space(4, N_V_TEST)
    monkeypatch.setattr(ortools._CpSatPrograms, "minimise", lambda *_: answer)
    return CpSat().solve(separable(space, budget("flops", flops_like(space), 0.3)))


@pytest.mark.parametrize(
    ("answer", "named"),
    [
        (Answer(Status.OPTIMAL, (4, 4, 3), 0), "budget"),
        (Answer(Status.OPTIMAL, (1, 0, 0), 0), "(1, 0, 0)"),
        (Answer(Status.INFEASIBLE), "CP-SAT"),
    ],
)
def test_a_wrong_answer_is_an_error_never_a_solution(
    monkeypatch: pytest.MonkeyPatch, answer: Answer, named: str
) -> None:
    solution = broken_solve(monkeypatch, answer)
    assert (solution.status, solution.index, solution.policy) == (Status.ERROR, None, None)
    assert named in solution.note


def test_objectives_without_terms_are_refused() -> None:
    class Pretender:
        name, unit, form, quantum = "pretender", "nats", "separable", 0.0

        def value(self, index: int) -> float:
            return 0.0

    problem = Problem(tokens_space(2, N_V_TEST), Pretender())  # type: ignore[arg-type]
    with pytest.raises(OpsearchError, match=r"'pretender'.* opsearch\.problem\.Separable"):
        CpSat().solve(problem)


def test_terms_that_are_not_finite_are_refused_only_where_used() -> None:
    space = dop_space(3, N_V_TEST)
    problem = separable(space)
    terms = problem.objective.terms  # type: ignore[attr-defined]
    unused = sorted(set(range(4)) - set(space.points[:, 1].tolist()))
    assert unused == [2]
    terms[1][2] = np.nan
    assert CpSat().solve(problem).index == oracle(problem)
    terms[1][0] = np.nan
    broken = replace(problem, objective=Separable("holed", "nats", space, terms, 1e-6))
    with pytest.raises(OpsearchError, match=r"term 1 of objective 'holed'.* --solver grid"):
        CpSat().solve(broken)


@pytest.mark.parametrize(
    "space",
    [dop_space(32), dop_space(32, kv="stays"), depth_space(12)],
    ids=["dop", "dop, kv stays", "depth"],
)
def test_proof_on_the_full_size_in_a_second(space: Space) -> None:
    samples = [(576, 65), (2880, 65), (1280, 45)]
    costs = flops_like(space, samples)
    problem = separable(
        space, budget("flops", costs, 0.3), budget("kv", kv_like(space, samples), 0.5)
    )
    CpSat().solve(separable(tokens_space(1)))  # loads the library
    seconds = []
    for _ in range(3):
        started = perf_counter()
        solution = CpSat().solve(problem)
        seconds.append(perf_counter() - started)
    assert (solution.status, solution.index) == (Status.OPTIMAL, Grid().solve(problem).index)
    # The fastest of three, and three times the promise: other processes may be at work.
    assert min(seconds) < 3.0
