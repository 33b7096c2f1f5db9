"""GSOP's search: one order for every budget, the least harmful operation first."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest

from opsearch.errors import OpsearchError
from opsearch.policy.counts import KV, MLP, Q
from opsearch.problem.objective import Blackbox
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Status
from opsearch.problem.spaces.operations import layers_space, operations_space
from opsearch.solvers.greedy import Greedy
from opsearch.testing.checks import recorded, same
from opsearch.testing.example_problems import as_form, layers_problem, random_problem

FINER = (Fraction(1, 8), Fraction(1, 2), Fraction(1))
SPACES = (
    layers_space(4, (Fraction(1, 2), Fraction(1, 4))),
    operations_space(4),
    operations_space(4, groups=FINER),
)


def at(problem, limit):
    """The answer within a limit of its cost."""
    return Greedy().solve(problem.with_budget([replace(problem.constraints[0], limit=limit)]))


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_one_order_serves_every_budget(space):
    for seed in range(3):
        problem = layers_problem(seed, space)
        cost = problem.constraints[0].cost
        cheapest, dearest = problem.constraints[0].cheapest, problem.constraints[0].costs.dearest()
        answers = [
            at(problem, cost(dearest)),
            *(at(problem, cost(dearest) * k // 20) for k in range(19, 2, -1)),
        ]
        answers = [answer for answer in answers if answer.status is not Status.INFEASIBLE]
        assert answers[0].index == dearest
        for tighter, answer in zip(answers[1:], answers, strict=False):
            assert (tighter.policy.resolve(20) <= answer.policy.resolve(20)).all()
            # Its own cost as the budget gives the same policy.
            assert at(problem, tighter.costs["flops"]).index == tighter.index
        assert len({answer.index for answer in answers}) > 5
        assert at(problem, cost(cheapest)).costs["flops"] == cost(cheapest)


def test_the_suffix_that_costs_nothing_goes_first():
    for space in SPACES:
        problem = layers_problem(0, space)
        used = [space.operations.index(operation) for operation in ((0, Q), (0, MLP), (1, KV))]

        def evaluate(points, space=space, used=used):
            full = (len(space.levels) - 1) * len(used)
            lost = (full - sum(space.row(point)[k] for k in used) for point in points)
            return np.array([*map(float, lost)])

        blackbox = Blackbox("first layer", "nats", evaluate, 1e-6)
        free = Problem(space, blackbox, problem.constraints)
        stock = problem.constraints[0].stock
        counts = at(free, int(0.9 * stock)).policy.resolve(20)
        assert (counts[2:] == 0).all()
        assert (counts[0, [Q, MLP]] > 0).all()
        assert counts[1, KV] > 0


def test_evaluations_bound_it_and_the_last_scores_are_followed():
    for evaluations in (1, 3, 20, 60):
        problem, asked = recorded(layers_problem(5, share=0.3))
        solution = Greedy().solve(problem, limit=Limit(evaluations))
        assert solution.evaluations == len(asked) <= evaluations
        assert problem.within(solution.index)
        assert solution.value == problem.objective.value(solution.index)


def test_the_first_keys_are_the_last_to_go():
    problem = layers_problem(2)
    cheapest = problem.constraints[0].cheapest
    counts = [
        at(problem, problem.constraints[0].stock * k // 50).policy.resolve(20)
        for k in range(50, 10, -5)
        if problem.constraints[0].stock * k // 50 >= problem.constraints[0].cost(cheapest)
    ]
    for found in counts:
        assert found[0, KV] > 0 or (found == 0).all()


def test_the_same_answer_again_and_no_seed():
    problem = layers_problem(1)
    first = Greedy().solve(problem, seed=1)
    assert same(first, replace(Greedy().solve(problem, seed=2), seed=1))


def test_other_spaces_are_refused():
    with pytest.raises(OpsearchError, match=r"'dop'.*--space layers.*--solver local"):
        Greedy().solve(as_form(random_problem(0), "blackbox"))
    with pytest.raises(OpsearchError, match=r"'greedy'.*blackbox"):
        Greedy().solve(random_problem(0))


def test_infeasible_states_the_range():
    problem = layers_problem(0, share=0.0)
    solution = Greedy().solve(problem)
    assert solution.status is Status.INFEASIBLE
    assert "achievable" in solution.note


def test_an_answer_without_a_value_is_none():
    problem = layers_problem(0)
    nothing = Blackbox("none", "nats", lambda points: np.full(len(points), np.nan))
    solution = Greedy().solve(Problem(problem.space, nothing, problem.constraints))
    assert (solution.status, solution.policy) == (Status.UNKNOWN, None)


def test_the_key_group_is_a_quarter_of_the_tokens():
    space = operations_space(2)
    key = space.decode([1] * len(space.operations) + [0])
    assert {*key.resolve(576)[:, KV].tolist()} == {144}
    assert key.resolve(576)[0].tolist() == [144, 144, 144]
    problem = layers_problem(0, space)
    cost = problem.constraints[0].cost(space.index_of([1] * len(space.operations) + [0]))
    assert {*at(problem, cost).policy.resolve(576).ravel().tolist()} <= {0, 144, 576}


@pytest.mark.parametrize("seed", range(3))
def test_where_the_order_ends_over_budget_another_point_is_the_answer(seed):
    problem = layers_problem(seed)
    limit = problem.constraints[0]
    nothing = limit.cheapest
    tight = problem.with_budget([replace(limit, limit=limit.cost(nothing) * 11 // 10)])
    tight = replace(tight, excluded=frozenset([nothing, Greedy().solve(tight).index]))
    while (found := Greedy().solve(tight)).note.startswith("step"):
        tight = replace(tight, excluded=tight.excluded | {found.index})
    assert found.status is Status.FEASIBLE
    assert tight.within(found.index)


def test_without_any_point_within_the_budget_nothing_is_the_answer():
    problem = layers_problem(0)
    limit = problem.constraints[0]
    tight = problem.with_budget([replace(limit, limit=limit.cost(limit.cheapest))])
    excluded = frozenset([limit.cheapest])
    solution = Greedy().solve(replace(tight, excluded=excluded))
    assert solution.index is None or tight.within(solution.index)
    assert solution.index not in excluded
