"""Budgets, fronts and plans of a 400 B decoder on 10,000 samples of 110,000 tokens are exact."""

from collections import Counter
from dataclasses import replace
from fractions import Fraction
from math import floor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.analysis.front import front, front_table
from opsearch.costs.exact import integers
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.measure.layout import Layout, Size
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.estimate import estimate
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.policy import builders
from opsearch.problem.budget import Budget, constraint, total_cost
from opsearch.problem.constraint import by_cost, check_budget, feasible_points
from opsearch.problem.objective import Separable
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.base import N_V_8
from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
from opsearch.problem.spaces.operations import layers_space, operations_space
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.problem.spaces.stages import stages_space
from opsearch.runs.exact_front import summed_front, walked_front
from opsearch.testing.example_problems import N_V_TEST, VAST, VAST_SAMPLES, random_terms

LAYERS = 3
SHAPE = replace(VAST, layers=LAYERS, hidden=8 * VAST.hidden, heads=8 * VAST.heads)
SPACES = {
    "tokens": tokens_space(LAYERS, N_V_8),
    "dop": dop_space(LAYERS, N_V_TEST),
    "depth": depth_space(2, N_V_TEST),
    "stages": stages_space(LAYERS, N_V_TEST, stages=2),
    "layers": layers_space(2, N_V_TEST[1:2]),
    "tied": layers_space(2, N_V_TEST[1:2], tied=True),
    "operations": operations_space(2),
    "recipes": RecipeSpace(LAYERS),
}
SAMPLES = st.lists(
    st.tuples(
        st.sampled_from([1, 576, 99_991, 100_000]),
        st.sampled_from([0, 65, 10_000]),
        st.integers(1, 10_000),
    ),
    min_size=1,
    max_size=3,
).map(lambda triples: [(n, t) for n, t, k in triples for _ in range(k)])


def points(space):
    if space.listed:
        return range(len(space.points))
    random = np.random.default_rng(0)
    sizes = [len(parameter.values) for parameter in space.parameters]
    return [space.index_of(row) for row in random.integers(0, sizes, (12, len(sizes))).tolist()]


@pytest.mark.parametrize("name", SPACES)
@settings(max_examples=8)
@given(samples=SAMPLES, kind=st.sampled_from([Flops, KVBytes]))
def test_costs_of_points_are_sums_of_python_integers(name, samples, kind):
    space = SPACES[name]
    cost = kind(replace(SHAPE, layers=space.num_layers))
    costs = space.costs(cost, samples)
    for index in list(points(space))[:: max(1, len(points(space)) // 12)]:
        policy = space.decode(space.row(index))
        assert int(costs[index]) == total_cost(cost, policy, samples)


@pytest.mark.parametrize("name", ["dop", "stages", "operations"])
def test_budgets_are_exact_at_their_edges(name):
    space = SPACES[name]
    cost = Flops(replace(SHAPE, layers=space.num_layers))
    limited = constraint(Budget.parse("70%"), cost, space, VAST_SAMPLES)
    stock = sum(k * cost.stock(n, t) for (n, t), k in Counter(VAST_SAMPLES).items())
    assert limited.stock == stock > 2**64
    assert limited.limit == floor(Fraction(7, 10) * stock)
    for index in list(points(space))[::7]:
        spent = limited.cost(index)
        for limit in (spent - 1, spent, spent + 1):
            edge = Problem(space, None, (replace(limited, limit=limit),))
            assert edge.within(index) == (spent <= limit)
            if space.listed:
                assert edge.feasible[index] == (spent <= limit)
    check_budget(space, [limited])


def test_costs_are_below_64_bits_while_limits_are_not():
    space = SPACES["tokens"]
    within = constraint(Budget.parse("50%kv"), KVBytes(SHAPE), space, [(576, 65)])
    assert within.listed.dtype == np.int64
    for limit in (2**63 - 1, 2**63, 2**64, 2**70):
        assert feasible_points(space, [replace(within, limit=limit)]).all()
        assert not feasible_points(space, [replace(within, limit=-limit)]).any()
    assert replace(within, stock=2**70).shares.dtype == np.float64


def problem(space, seed=0):
    terms = random_terms(np.random.default_rng(seed), space, 1.0, 0.01)
    limited = constraint(
        Budget.parse("90%"), Flops(replace(SHAPE, layers=space.num_layers)), space, VAST_SAMPLES
    )
    return Problem(space, Separable("random", "nats", space, terms, 0.01), (limited,))


def test_fronts_of_listed_points_are_exact():
    given_ = problem(SPACES["dop"])
    costs, values = given_.constraints[0].listed, given_.objective.values
    # Costs that differ in their last digit only.
    costs = np.array([2**80 + k % 5 for k in range(len(costs))], object)
    found = front(costs, values)
    every = sorted(zip(costs.tolist(), values.tolist(), range(len(costs)), strict=True))
    expected, best = [], np.inf
    for _, value, index in every:
        if value < best:
            expected.append(index)
            best = value
    assert found.tolist() == expected
    order = by_cost(given_.space.points, costs).tolist()
    rows = given_.space.points.tolist()
    assert order == sorted(order, key=lambda index: (costs[index], rows[index]))
    table = front_table(given_.space, replace(given_.constraints[0], costs=costs), values)
    assert table["share"].dtype == table["flops_per_sample"].dtype == np.float64


@pytest.mark.parametrize("name", ["layers", "tied", "operations"])
def test_fronts_of_large_spaces_are_exact(name):
    space = SPACES[name]
    given_ = problem(space, seed=3)
    limited = given_.constraints[0]
    sizes = [len(parameter.values) for parameter in space.parameters]
    every = {space.index_of(row) for row in np.ndindex(*sizes)}
    kept = sorted(
        (limited.cost(index), round(given_.objective.value(index), 2), index)
        for index in every
        if given_.within(index)
    )
    expected = []
    for spent, value, _ in kept:
        if not expected or value < expected[-1][1]:
            expected.append((spent, value))
    found = [
        (limited.cost(index), round(given_.objective.value(index), 2))
        for index in summed_front(given_)
    ]
    assert found == expected
    table, complete = walked_front(given_, 1000)
    assert complete
    assert [(int(c), round(v, 2)) for c, v in zip(table["cost"], table["value"], strict=True)] == (
        expected
    )


def test_memory_never_wraps():
    elements = integers([2**62, 2**40]).repeat(2).reshape(2, 2)[:, None]
    budget = MemoryBudget(SHAPE, 4, 80 * 10**9)
    assert not budget.holds(elements, Size(10_000, 10_000)).any()
    assert MemoryBudget(SHAPE, 4).holds(elements, Size(10_000, 10_000)).all()
    assert budget.holds(elements[1:] // 2**30, Size(10_000, 10_000)).all()


def test_a_plan_for_10000_samples_counts_what_one_sample_does_times_10000():
    space = dop_space(8, N_V_TEST)
    memory = MemoryBudget(replace(VAST, layers=8), 2, 80e9)
    layout = Layout(100_000, 35, 10_000, 0, 1)
    one, many = (
        estimate(space, space.points, [SampleBatch(layout, (), tuple(range(n)))], memory)
        for n in (1, 10_000)
    )
    assert many.flops == 10_000 * one.flops > 2**64
    assert many.nodes == 10_000 * one.nodes
    assert many.forwards == pytest.approx(one.forwards)


def test_the_text_alone_is_a_floor():
    space = SPACES["dop"]
    limited = constraint(Budget.parse("70%"), Flops(SHAPE), space, VAST_SAMPLES)
    assert limited.floor == total_cost(Flops(SHAPE), builders.vtw(LAYERS, 0), VAST_SAMPLES)
    assert limited.floor == min(int(cost) for cost in limited.listed)
