"""The space of FitPrune's recipes: rows, policies, costs, and what it refuses."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.costs.flops import Flops
from opsearch.errors import InfeasibleBudgetError, OpsearchError
from opsearch.objectives.attention import nearest
from opsearch.policy import builders
from opsearch.problem.budget import Budget, constraint, total_cost
from opsearch.problem.constraint import check_budget
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.testing.example_problems import TINY
from tests.support.messages import naming

SPACE = RecipeSpace(TINY.layers)
STEPS = len(SPACE.parameters[0].values)
PAIRS = [(9, 5), (9, 5), (20, 7)]
ROWS = st.lists(st.integers(0, 1000), min_size=TINY.layers, max_size=TINY.layers)


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_every_row_has_the_number_of_a_falling_row_that_is_the_same_policy(row):
    index = SPACE.index_of(row)
    stands = SPACE.row(index)
    assert list(stands) == sorted(stands, reverse=True)
    assert SPACE.index_of(stands) == index
    assert SPACE.decode(stands) == SPACE.decode(row)
    counts = SPACE.decode(row).resolve(20)
    assert (SPACE.resolved(np.array([row]), 20)[0] == counts).all()


@settings(max_examples=40, deadline=None)
@given(ROWS)
def test_costs_are_those_of_the_policy(row):
    limit = constraint(Budget.parse("50%"), Flops(TINY), SPACE, PAIRS)
    assert limit.cost(SPACE.index_of(row)) == total_cost(Flops(TINY), SPACE.decode(row), PAIRS)
    assert limit.cost(limit.cheapest) <= limit.cost(SPACE.index_of(row))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 999), st.data())
def test_a_share_in_thousandths_is_any_number_of_tokens(tokens, data):
    left = data.draw(st.integers(0, tokens))
    row = [nearest(Fraction(left, tokens), STEPS)] * TINY.layers
    assert SPACE.decode(row).resolve(tokens)[-1].tolist() == [left] * 3


def test_the_published_recipe_is_a_point():
    space, published = RecipeSpace(32), builders.fitprune(builders.FITPRUNE_60)
    row = [nearest(after, STEPS) for after, _, _ in published.counts]
    found = space.decode(space.row(space.index_of(row)))
    assert (found.resolve(576) == published.resolve(576)).all()
    assert found.rankers == published.rankers
    assert found.name == "fitprune(11/50 left)"


def test_it_has_no_list():
    with pytest.raises(OpsearchError, match=naming("4 layers", "--objective attention")):
        len(SPACE.points)


def test_a_budget_below_its_first_layer_is_refused_with_its_range():
    limit = constraint(Budget.parse("1%"), Flops(TINY), SPACE, PAIRS)
    with pytest.raises(
        InfeasibleBudgetError, match=naming("recipes", "fitprune(0 left)", "--budget 29.2%")
    ):
        check_budget(SPACE, [limit])
