"""The front by dynamic programming is that of a loop over all rows, and what solvers find."""

from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from opsearch.analysis.front import front
from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.policy.counts import KV, MLP, Q
from opsearch.problem.budget import Budget, constraint
from opsearch.problem.objective import Separable
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.operations import layers_space, operations_space
from opsearch.runs.exact_front import summed_front
from opsearch.solvers.ortools import CpSat
from opsearch.testing.example_problems import SAMPLES, TINY

HALVES = (Fraction(1, 2),)
SPACES = {
    "layers": layers_space(3, HALVES),
    "operations": operations_space(3),
    "finer": operations_space(2, groups=(Fraction(1, 8), Fraction(1, 2), Fraction(1))),
    "some kept": layers_space(3, HALVES, kept=[(0, Q), (1, MLP), (1, KV)]),
    "tied": layers_space(4, HALVES, tied=True),
    "tied, some kept": layers_space(4, HALVES, kept=[(1, Q)], tied=True),
}


def problem(space, cost=Flops, budget="100%", seed=0):
    random = np.random.default_rng(seed)
    sizes = [len(parameter.values) for parameter in space.parameters]
    # Few different values, and some that rise: ties, and points that are never the best choice.
    terms = tuple(random.integers(0, 6, size) / 10 for size in sizes)
    name = "kv" if cost is KVBytes else ""
    counted = cost(replace(TINY, layers=space.num_layers))
    limit = constraint(Budget.parse(f"{budget}{name}"), counted, space, SAMPLES)
    return Problem(space, Separable("terms", "nats", space, terms, 1e-6), (limit,))


@pytest.mark.parametrize("cost", [Flops, KVBytes])
@pytest.mark.parametrize("name", SPACES)
def test_it_is_the_front_of_all_rows(name, cost):
    given = problem(SPACES[name], cost, "60%")
    sizes = [len(parameter.values) for parameter in given.space.parameters]
    points = sorted({given.space.index_of(row) for row in product(*map(range, sizes))})
    within = [point for point in points if given.within(point)]
    costs = [given.constraints[0].cost(point) for point in within]
    values = [round(given.objective.value(point), 6) for point in within]
    best = front(np.array(costs), np.array(values))
    found = summed_front(given)
    assert [given.constraints[0].cost(point) for point in found] == [costs[i] for i in best]
    assert [round(given.objective.value(point), 6) for point in found] == [values[i] for i in best]


def test_solvers_find_its_points_in_12_layers():
    given = problem(layers_space(12, (Fraction(1, 4), Fraction(1, 2))), seed=3)
    found = summed_front(given)
    assert len(found) > 20
    for point in found[2::7]:
        limit = replace(given.constraints[0], limit=given.constraints[0].cost(point))
        solution = CpSat().solve(given.with_budget([limit]))
        assert solution.value == given.objective.value(point)
        assert solution.costs["flops"] == limit.limit
