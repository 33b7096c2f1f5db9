"""FitPrune's search over bounds: that of the literal version, to the exact budget."""

from dataclasses import replace
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.costs.flops import Flops
from opsearch.costs.kv import KVBytes
from opsearch.errors import OpsearchError
from opsearch.objectives.attention import Attention
from opsearch.policy import builders
from opsearch.problem.budget import Budget, constraint, total_cost
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Status
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.solvers.bisection import Bisection
from opsearch.solvers.grid import Grid
from opsearch.testing.example_problems import TINY, random_problem
from tests.objectives.test_attention import literal_recipe

TOKENS, PAIRS = 24, [(24, 11), (24, 5)]
SPACE = RecipeSpace(TINY.layers)


def received(seed):
    """Masses of two samples, multiples of a power of two."""
    drawn = np.random.default_rng(seed).integers(0, 64, (2, TINY.layers, 2, TOKENS))
    return list((drawn / 1024).astype(np.float32))


def problem(seed, *budgets):
    costs = {"flops": Flops(TINY), "kv": KVBytes(TINY)}
    parsed = [Budget.parse(text) for text in budgets]
    limits = tuple(constraint(each, costs[each.cost], SPACE, PAIRS) for each in parsed)
    measure = SimpleNamespace(received_attention=lambda: received(seed))
    objective = Attention().make(SPACE, measure, np.zeros(0, bool))
    return Problem(SPACE, objective, limits)


def literal_bisection(samples, fits, width):
    """The published search: fit by fit, a smaller bound whenever the budget is reached."""

    def enough(deleted):
        return fits(deleted + [0] * (TINY.layers - len(deleted)))

    low, high, best = 0.0, 1.0, literal_recipe(samples, 1.0, enough)
    while high - low > width:
        middle = (low + high) / 2
        found = literal_recipe(samples, middle, enough)
        if fits(found):
            high, best = middle, found
        else:
            low = middle
    return best


@settings(max_examples=10, deadline=None)
@given(seed=st.integers(0, 999), percent=st.integers(45, 99))
def test_it_finds_the_recipe_of_the_literal_search(seed, percent):
    asked = problem(seed, f"{percent}%")
    (limit,) = asked.constraints

    def fits(deleted):
        policy = builders.fitprune(dict(enumerate(deleted)), TINY.layers, TOKENS)
        return total_cost(Flops(TINY), policy, PAIRS) <= limit.limit

    wanted = literal_bisection([each.tolist() for each in received(seed)], fits, 0.01)
    solution = Bisection(0.01).solve(asked)
    left = list(accumulate(wanted, lambda n, k: n - k, initial=TOKENS))[1:]
    assert solution.status is Status.FEASIBLE
    assert solution.policy.resolve(TOKENS)[:, 0].tolist() == left
    assert solution.costs["flops"] <= limit.limit
    assert solution.value == asked.objective.value(solution.index)


def test_two_budgets_are_both_kept():
    one, both = problem(1, "70%"), problem(1, "70%", "50% kv")
    first, second = (Bisection().solve(each) for each in (one, both))
    assert second.costs["kv"] <= both.constraints[1].limit
    assert both.constraints[1].cost(first.index) > both.constraints[1].limit


def test_a_budget_that_asks_for_nothing_leaves_the_original():
    solution = Bisection().solve(problem(2, "100%"))
    assert solution.policy.is_identity(TOKENS)
    assert solution.value == 0


def test_beyond_its_reach_it_says_what_it_leaves():
    asked = problem(3, "70%")
    (limit,) = asked.constraints
    lowest = limit.cost(asked.objective.within(1.0))
    assert limit.cost(limit.cheapest) < lowest
    tight = asked.with_budget([replace(limit, limit=lowest - 1)])
    solution = Bisection().solve(tight)
    assert solution.status is Status.UNKNOWN
    assert solution.policy is None
    assert f"flops {limit.describe(lowest)}" in solution.note
    assert "--budget" in solution.note


def test_other_forms_are_refused():
    with pytest.raises(OpsearchError, match=r"'bisection'.*bounded"):
        Bisection().solve(random_problem(1))
    with pytest.raises(OpsearchError, match=r"'grid'.*'attention'.*bounded"):
        Grid().solve(problem(1, "70%"))
