"""Integer programs over a choice per operation, against a plain loop over all rows."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.costs.shape import Shape
from opsearch.policy.counts import MLP, Q
from opsearch.problem.budget import Budget, constraint
from opsearch.problem.objective import Pairwise, Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Status
from opsearch.problem.spaces.operation_costs import OperationCosts
from opsearch.problem.spaces.operations import layers_space, operations_space
from opsearch.solvers.ortools import CpSat
from opsearch.solvers.scipy import Highs
from opsearch.testing.example_problems import TINY
from tests.support.spaces import drawn_groups

SAMPLES = [(9, 5), (20, 7)]
HALVES = (Fraction(1, 2),)
SPACES = (
    layers_space(3, HALVES),
    operations_space(3),
    layers_space(3, HALVES, kept=[(0, Q), (1, MLP)]),
    layers_space(4, HALVES, tied=True),
    layers_space(3, HALVES, kept=[(0, Q)], tied=True),
)


def problem(seed, pairs, budgets=("45%",), quantum=1e-6, space=None):
    """Terms that fall with the value, and interactions of either sign."""
    random = np.random.default_rng(seed)
    space = space or SPACES[seed % len(SPACES)]
    sizes = [len(parameter.values) for parameter in space.parameters]
    terms = tuple(np.sort(random.exponential(size=size))[::-1].round(1) for size in sizes)
    for term in terms:
        term[-1] = 0.0
    every = [
        ((k, i), (m, j))
        for k, m in combinations(range(len(sizes)), 2)
        for i in range(sizes[k] - 1)
        for j in range(sizes[m] - 1)
    ]
    chosen = random.choice(len(every), min(pairs, len(every)), replace=False)
    effects = {every[place]: round(float(random.normal(0, 0.3)), 1) for place in chosen}
    shape = replace(TINY, layers=space.num_layers)
    costs = {"flops": Flops(shape), "kv": KVBytes(shape)}
    limits = []
    for text in budgets:
        limit = Budget.parse(text)
        limits.append(constraint(limit, costs[limit.cost], space, SAMPLES))
    if pairs:
        objective = Pairwise("pairs", "nats", space, terms, effects, quantum)
    else:
        objective = Separable("terms", "nats", space, terms, quantum)
    return Problem(space, objective, tuple(limits))


def with_large_costs(given):
    """The problem with costs as large as raw FLOPs that have no common divisor."""
    (limited,) = given.constraints
    costs, scale = limited.costs, 10**9
    odd = np.random.default_rng(0).integers(1, 10**6, (*costs.tables.shape[1:2], 1)) | 1
    odd = odd * np.arange(costs.tables.shape[3])
    tables = costs.tables * scale + odd[None, :, None, :, None]
    large = OperationCosts(costs.space, costs.base * scale, tables)
    limit = limited.limit * scale
    return given.with_budget([replace(limited, costs=large, limit=limit, stock=limit)])


def best(given):
    """Value, cost and number of the best row, by looking at all of them."""
    space, found = given.space, None
    sizes = [len(parameter.values) for parameter in space.parameters]
    for row in product(*map(range, sizes)):
        index = space.index_of(row)
        if space.row(index) == row and given.within(index):
            value = round(given.objective.value(index), 6)
            candidate = (value, given.constraints[0].cost(index), index)
            found = candidate if found is None else min(found, candidate)
    return found


@pytest.mark.parametrize("pairs", [0, 6, 60])
@pytest.mark.parametrize("seed", range(10))
def test_they_find_what_a_loop_over_all_rows_finds(seed, pairs):
    given = problem(seed, pairs, ("45%", "60% kv") if seed % 2 else ("45%",))
    value, cost, _ = best(given)
    for solver in (CpSat(), Highs()):
        solution = solver.solve(given)
        assert solution.status is Status.OPTIMAL
        assert solution.value == pytest.approx(value, abs=1e-9)
        assert solution.costs["flops"] == cost
        assert solution.bound == pytest.approx(value, abs=1e-9)


@settings(max_examples=12, deadline=None)
@given(
    groups=drawn_groups(most=5),
    seed=st.integers(0, 999),
    pairs=st.sampled_from([0, 20]),
    budgets=st.sampled_from([("60%",), ("80%", "60% kv")]),
)
def test_any_groups_give_what_a_loop_over_all_rows_finds(groups, seed, pairs, budgets):
    presented = problem(seed, pairs, budgets, space=operations_space(2, groups=groups))
    value, cost, _ = best(presented)
    for solver in (CpSat(), Highs()):
        solution = solver.solve(presented)
        assert solution.status is Status.OPTIMAL
        assert solution.value == pytest.approx(value, abs=1e-9)
        assert solution.costs["flops"] == cost


@pytest.mark.parametrize("solver", [CpSat(), Highs()], ids=["ortools", "scipy"])
def test_excluded_points_are_not_chosen(solver):
    given, taken = problem(1, 6), []
    for _ in range(4):
        given = replace(given, excluded=frozenset(taken))
        solution = solver.solve(given)
        value, cost, _ = best(given)
        assert solution.value == pytest.approx(value, abs=1e-9)
        assert solution.costs["flops"] == cost
        taken.append(solution.index)
    assert len(set(taken)) == 4


def test_values_that_are_no_multiples_are_bounded():
    for seed in range(3):
        given = problem(seed, 20, quantum=0.0)
        value, _, _ = best(given)
        for solver in (CpSat(), Highs()):
            solution = solver.solve(given)
            assert value - 1e-9 <= solution.value <= value + solution.error_bound + 1e-6
            assert solution.error_bound < 1e-5


def test_the_same_32_layers_give_the_same_policy_whoever_solves():
    shape = Shape(
        layers=32,
        hidden=64,
        heads=8,
        kv_heads=8,
        head_dim=8,
        intermediate=172,
        vocab=100,
        kv_bytes_per_element=2,
    )
    space = layers_space(32, (Fraction(1, 2), Fraction(1, 4)))
    random = np.random.default_rng(3)
    terms = tuple(
        np.append(random.lognormal(-6, 2, len(parameter.values) - 1).round(6), 0.0)
        for parameter in space.parameters
    )
    limit = constraint(Budget.parse("30%"), Flops(shape), space, [(576, 65)])
    given = Problem(space, Separable("terms", "nats", space, terms, 1e-6), (limit,))
    first, second = CpSat().solve(given), Highs().solve(given)
    assert first.status is second.status is Status.OPTIMAL
    assert first.value == second.value
    assert first.costs == second.costs
    assert first.costs["flops"] <= limit.limit


def many_pairs(space):
    """Strong pairs of either sign between all operations: no proof in a short time."""
    random = np.random.default_rng(1)
    terms = tuple(np.append(random.lognormal(-5, 1.5, 1).round(6), 0.0) for _ in space.parameters)
    pairs = {
        ((k, 0), (m, 0)): round(float(random.normal(0, 0.05)), 6)
        for k, m in combinations(range(len(terms)), 2)
    }
    shape = replace(TINY, layers=space.num_layers)
    limit = constraint(Budget.parse("40%"), Flops(shape), space, SAMPLES)
    return Problem(space, Pairwise("pairs", "nats", space, terms, pairs, 1e-6), (limit,))


def test_an_incumbent_is_kept_when_time_runs_out_before_the_proof():
    given = many_pairs(layers_space(24, HALVES, tied=True))
    found = [CpSat().solve(given, limit=Limit(deterministic_time=t)) for t in (0.1, 0.5)]
    assert {solution.status for solution in found} == {Status.FEASIBLE}
    for solution in found:
        assert given.within(solution.index)
        assert solution.bound < solution.value == given.objective.value(solution.index)
        assert "deterministic time" in solution.note


def test_a_short_time_says_so():
    solution = CpSat().solve(problem(0, 60), limit=Limit(deterministic_time=1e-9))
    assert solution.status in (Status.UNKNOWN, Status.FEASIBLE)
    assert "deterministic time" in solution.note
