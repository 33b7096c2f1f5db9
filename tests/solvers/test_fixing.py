"""Choices are ruled out before a program is built: many of them, and none that an optimum makes."""

from fractions import Fraction
from itertools import product

import pytest

from opsearch.bench.layer_programs import effects, limit
from opsearch.layer_space import LayerSpace
from opsearch.problem import Problem, Separable
from opsearch.solvers.fixing import without_hopeless
from opsearch.solvers.scaling import integer_terms
from opsearch.solvers.slices import slices_of
from tests.solvers.test_layers import best, problem


def reduced(given):
    """The slices before and after."""
    slices = slices_of(given)
    left, _ = without_hopeless(given, slices, integer_terms(given.objective))
    return slices, left


def choices(slices):
    return sum(len(options) for part in slices for options in part.options)


@pytest.mark.parametrize("budgets", [("45%",), ("70%",), ("60%", "60% kv")])
@pytest.mark.parametrize("seed", range(10))
def test_every_row_that_is_best_stays(seed, budgets):
    given = problem(seed, 0, budgets)
    value, *_ = best(given)
    slices, left = reduced(given)
    assert choices(left) <= choices(slices)
    rows = product(*(range(len(parameter.values)) for parameter in given.space.parameters))
    ties = [row for row in rows if is_tie(given, row, value)]
    assert ties
    assert all(any(part.holds(row) for part in left) for row in ties)


def is_tie(given, row, value):
    index = given.space.index_of(row)
    live = given.space.row(index) == row and given.within(index)
    return live and round(given.objective.value(index), 6) == value


def test_of_a_large_space_little_stays():
    groups = tuple(Fraction(k, 11) for k in range(12))
    space = LayerSpace("operations", 32, groups, (Fraction(1),), None)
    objective = Separable("random", "nats", space, effects(space, [])[0], 1e-6)
    slices, left = reduced(Problem(space, objective, (limit(space),)))
    assert choices(slices) > 1000
    assert choices(left) < 0.2 * choices(slices)
    assert len(left[0].pairs) < 0.1 * len(slices[0].pairs)


def test_without_a_limit_nothing_is_ruled_out():
    given = problem(0, 0)
    slices, left = reduced(Problem(given.space, given.objective))
    assert choices(left) == choices(slices)


def test_a_point_that_is_not_allowed_rules_nothing_out():
    """The optimum is excluded: what is better than the next best must stay."""
    given = problem(3, 0)
    first = best(given)
    second = Problem(given.space, given.objective, given.constraints, frozenset({first[2]}))
    value, _, index = best(second)
    assert value >= first[0]
    row = given.space.row(index)
    assert any(part.holds(row) for part in reduced(second)[1])
