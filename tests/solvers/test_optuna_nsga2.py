"""NSGA-II: a search that keeps to its number, loses no start, and is not drawn anew."""

from dataclasses import replace
from fractions import Fraction
from itertools import product

import numpy as np
import pytest

from opsearch.analysis.front import front
from opsearch.problem.objective import Blackbox
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.depth import dop_space
from opsearch.problem.spaces.operations import layers_space
from opsearch.runs.exact_front import summed_front
from opsearch.solvers.optuna_nsga2 import nsga2
from opsearch.testing.example_problems import budget, flops_like, layers_problem

SPACE = layers_space(4, (Fraction(1, 4), Fraction(1, 2), Fraction(1)))


def problem(seed=0):
    """True values with pairs over a space of 3,072 rows, and the front of a proxy without pairs."""
    true = layers_problem(seed, SPACE, share=1)
    proxy = layers_problem(seed, SPACE, share=1, form="separable")
    return true, summed_front(proxy)


def frontier(given, points):
    """(cost, value) of the points that no other beats, by rising cost."""
    costs = np.array([given.constraints[0].cost(point) for point in points])
    values = given.objective.evaluate(points)
    return [(costs[i], values[i]) for i in front(costs, values)]


@pytest.mark.parametrize("seed", range(2))
def test_it_comes_from_the_proxys_front_further_than_by_chance(seed):
    given, start = problem(seed)
    points = list(nsga2(given, start, 200, seed).values)
    rows = product(*(range(len(parameter.values)) for parameter in SPACE.parameters))
    every = sorted({SPACE.index_of(row) for row in rows})
    drawn = np.random.default_rng(seed).choice(every, 200, replace=False).tolist()
    before, found = frontier(given, start), frontier(given, points)
    assert area(frontier(given, every)) <= area(found) < area(frontier(given, start + drawn))
    assert area(found) < area(before)
    for cost, value in before:
        assert any(c <= cost and v <= value for c, v in found)


def area(points):
    """Area under the steps of a front, up to the cost of the original model."""
    limit = layers_problem(0, SPACE, share=1).constraints[0].limit
    widths = np.diff([0, *(cost for cost, _ in points), limit])
    return float(np.dot(widths, [20.0, *(value for _, value in points)]))


def test_it_keeps_to_its_number_and_a_longer_search_extends_a_shorter_one():
    given, start = problem()
    generations = []

    def evaluate(points):
        generations.append(list(points))
        return given.objective.evaluate(points)

    watched = replace(given, objective=Blackbox("joint", "nats", evaluate))
    short = list(nsga2(watched, start, 70, seed=5).values)
    assert short == [point for generation in generations for point in generation]
    assert (len(short), len(set(short))) == (70, 70)
    assert [len(generation) for generation in generations] == [len(start), 20, 20, 30 - len(start)]
    assert generations[0] == start
    assert list(nsga2(given, start, 110, seed=5).values)[:70] == short
    assert list(nsga2(given, start, 70, seed=6).values) != short


def test_it_stays_within_the_budget_and_ends_where_there_are_no_others():
    space = dop_space(2, (Fraction(1), Fraction(1, 2)))
    limit = budget("flops", flops_like(space), 0.7)
    values = np.arange(len(space.points), dtype=float)
    values[-1] = np.nan
    joint = Blackbox("joint", "nats", lambda points: values[list(points)])
    asked = nsga2(Problem(space, joint, (limit,)), [], 999, seed=0)
    feasible = np.flatnonzero(limit.listed <= limit.limit).tolist()
    assert sorted(asked.values) == feasible != list(range(len(values)))
