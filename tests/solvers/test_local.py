"""Local search: no neighbour of its answer is better, and no limit is exceeded."""

from dataclasses import replace
from fractions import Fraction
from itertools import combinations, product

import numpy as np
import pytest

from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import Blackbox, Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Status
from opsearch.problem.spaces.base import Parameter
from opsearch.problem.spaces.operations import layers_space
from opsearch.solvers.evaluated import point_within
from opsearch.solvers.local import Local
from opsearch.testing.checks import recorded, same
from opsearch.testing.example_problems import as_form, layers_problem, random_problem


def test_no_neighbour_of_its_answer_is_better():
    for seed in range(6):
        problem = layers_problem(seed)
        space, value = problem.space, problem.objective.value
        solution = Local().solve(problem, limit=Limit(10_000))
        assert "local optimum" in solution.note
        row = np.array(space.row(solution.index))
        sizes = np.array([len(parameter.values) for parameter in space.parameters])
        ones = [way * np.eye(len(row), dtype=int)[k] for k in range(len(row)) for way in (-1, 1)]
        swaps = [a + b for a, b in combinations(ones, 2) if (a + b).sum() == 0]
        near = [row + change for change in (*ones, *swaps)]
        near = [space.index_of(r) for r in near if (r >= 0).all() and (r < sizes).all()]
        assert len(near) > 20
        nearest = min(value(point) for point in near if problem.within(point))
        assert nearest > solution.value - 1e-9


def test_better_starts_are_begun_with_and_never_lost():
    problem = layers_problem(1)
    cheapest, dearest = problem.constraints[0].cheapest, problem.constraints[0].costs.dearest()
    good = Local().solve(problem, limit=Limit(10_000)).index
    solution = Local(start=(cheapest, good)).solve(problem, limit=Limit(2))
    assert (solution.index, solution.evaluations) == (good, 2)
    # One over budget is brought within it.
    solution = Local(start=(dearest,)).solve(problem, limit=Limit(1))
    assert solution.evaluations == 1
    assert problem.within(solution.index)
    assert solution.index != cheapest


def test_a_dear_step_is_paid_for_by_several_cheap_ones():
    # The share of all tokens costs as much as many operations of this decoder, and matters most.
    space = layers_space(4, (Fraction(1, 4), Fraction(1, 2)))
    terms = [np.array([0.01, 0.0]) for _ in space.operations]
    objective = Separable("n_v", "nats", space, (*terms, np.array([2.0, 1.0, 0.0])), 1e-6)
    limit = layers_problem(0, space).constraints
    problem = Problem(space, objective, limit)
    blackbox = Blackbox("n_v", "nats", lambda points: np.array([*map(objective.value, points)]))
    low = space.index_of([*[1] * len(space.operations), 0])
    assert problem.within(low)
    found = Local(start=(low,)).solve(Problem(space, blackbox, limit))
    assert found.point["n_v"] == "1"


def test_a_longer_search_extends_a_shorter_one():
    asked = []
    for evaluations in (30, 90, 90):
        problem, points = recorded(layers_problem(2))
        solution = Local().solve(problem, limit=Limit(evaluations))
        assert solution.evaluations == len(points) == evaluations
        assert "local optimum" not in solution.note
        asked.append(points)
    assert asked[1][:30] == asked[0]
    assert asked[2] == asked[1]


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_interrupted_search_repeats_over_its_cache(error):
    plain = layers_problem(3)
    expected = Local().solve(plain, limit=Limit(200))
    problem, measured = recorded(plain)
    cache, stops = {}, [3]

    def evaluate(points):
        stops[0] -= 1
        if not stops[0]:
            raise error
        new = [point for point in points if point not in cache]
        cache.update(zip(new, problem.objective.evaluate(new), strict=True))
        return np.array([cache[point] for point in points])

    cached = Problem(plain.space, Blackbox("pairs", "nats", evaluate, 1e-6), plain.constraints)
    with pytest.raises(type(error)):
        Local().solve(cached, limit=Limit(200))
    assert 0 < len(measured) < expected.evaluations
    assert same(Local().solve(cached, limit=Limit(200)), expected)
    assert len(measured) == len(set(measured)) == expected.evaluations


def test_points_without_a_value_are_not_chosen():
    problem = layers_problem(4)
    known = problem.objective.evaluate

    evaluated = []

    def evaluate(points):
        evaluated.extend(points)
        return np.where([point % 3 == 1 for point in points], np.nan, known(points))

    holed = Problem(problem.space, Blackbox("holed", "nats", evaluate, 1e-6), problem.constraints)
    solution = Local().solve(holed, limit=Limit(300))
    assert solution.status is Status.FEASIBLE
    assert solution.index % 3 != 1
    missing = sum(point % 3 == 1 for point in evaluated)
    assert f"{missing} of {solution.evaluations} " in solution.note
    nothing = Blackbox("none", "nats", lambda points: np.full(len(points), np.nan))
    solution = Local().solve(Problem(problem.space, nothing, problem.constraints))
    assert (solution.status, solution.value) == (Status.UNKNOWN, None)


class Box:
    """A space of some parameters with any values; all its points are the same policy."""

    name, num_layers, listed, parameters_act_alone = "box", 1, True, True

    def __init__(self, *sizes):
        self.sizes = sizes
        self.parameters = tuple(
            Parameter(f"p{k}", tuple(Fraction(i, size) for i in range(size)))
            for k, size in enumerate(sizes)
        )
        self.points = np.array([*product(*map(range, sizes))])

    def index_of(self, row):
        return int(np.ravel_multi_index(tuple(row), self.sizes))

    def row(self, index):
        return tuple(self.points[index].tolist())

    def decode(self, row):
        return Policy(((1, 1, 1),), rankers=((0, RankerSpec("uniform")),))


def boxed(values, costs, limit):
    """Two values per parameter: a value of 1 lowers the objective by so much and costs so much."""
    space = Box(*[2] * len(values))
    value, cost = -(space.points @ np.array(values)), space.points @ np.array(costs)
    blackbox = Blackbox("box", "nats", lambda points: value[[*points]], 1e-6)
    return Problem(space, blackbox, (Constraint("flops", "FLOPs", cost, limit, int(cost.max())),))


@pytest.mark.parametrize(
    ("values", "costs", "start", "end"),
    [
        # A dear step up needs two cheap ones down.
        ((1, 1, 5), (1, 1, 2), (1, 1, 0), (0, 0, 1)),
        # A step down pays for two up, which together gain more than it loses.
        ((0.8, 0.8, 1), (1, 1, 2), (0, 0, 1), (1, 1, 0)),
        # The first and the third step down lose least for what they save.
        ((1, 3, 2, 4), (1, 2, 3, 4), (1, 1, 1, 0), (0, 1, 0, 1)),
        # The first step up gains least for what it costs.
        ((1, 1.2, 1.2, 1.2, 3), (2, 1, 1, 1, 3), (0, 0, 0, 0, 1), (0, 1, 1, 1, 0)),
    ],
)
def test_a_step_is_balanced_by_several_others(values, costs, start, end):
    limit = int(np.dot(costs, start))
    problem = boxed(values, costs, limit)
    found = Local(start=(problem.space.index_of(start),)).solve(problem)
    assert problem.space.row(found.index) == end


@pytest.mark.parametrize("seed", range(40))
def test_a_start_is_found_wherever_a_point_is_within_the_budgets(seed):
    """The cheapest point of one cost may be excluded, or over the budget of another."""
    problem = as_form(random_problem(seed, budgets=1 + seed % 2), "blackbox")
    cheapest = [each.cheapest for each in problem.constraints]
    problem = replace(problem, excluded=frozenset(cheapest))
    solution = Local().solve(problem)
    assert (solution.index is not None) == problem.feasible.any()
    if solution.index is not None:
        assert problem.within(solution.index)


@pytest.mark.parametrize("excluded", [1, 30])
def test_a_start_is_found_in_a_space_too_large_to_list(excluded):
    problem = layers_problem(0)
    limit = problem.constraints[0]
    problem = replace(problem, excluded=frozenset([limit.cheapest]))
    for _ in range(excluded - 1):
        found = point_within(problem)
        problem = replace(problem, excluded=problem.excluded | {found})
    assert len(problem.excluded) == excluded
    solution = Local().solve(problem, limit=Limit(20))
    assert solution.status is Status.FEASIBLE
    assert problem.within(solution.index)
