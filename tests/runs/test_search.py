"""Which solver a run takes for the true divergence on demand, and where that begins."""

import re
from math import inf

import numpy as np
import pytest

from opsearch.errors import OpsearchError
from opsearch.objectives.additive import Additive
from opsearch.objectives.joint import Joint
from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.policy.counts import MLP, Q
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.spaces.base import N_V_16
from opsearch.problem.spaces.depth import depth_space, dop_space, tokens_space
from opsearch.problem.spaces.operations import layers_space, operations_space
from opsearch.runs.choose import choose
from opsearch.runs.config import RunConfig
from opsearch.runs.search import plain_points, search
from opsearch.testing.example_problems import N_V_TEST, layers_problem
from tests.support.messages import naming

SPACES = (layers_space(4, N_V_TEST), operations_space(4))


def divergences(policies):
    """More loss the more is pruned, and far more where queries and MLP of a layer both are."""
    lost = np.array([1 - policy.resolve(20) / 20 for policy in policies])
    effects = np.linspace(1, 0.2, lost[0].size).reshape(lost[0].shape)
    sums = (lost * effects).sum(axis=(1, 2)) + 4 * (lost[..., Q] * lost[..., MLP]).sum(axis=1)
    return np.stack([sums, 2 * sums], axis=1)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_joint_is_searched_on_demand_where_points_are_too_many(space):
    limits = layers_problem(0, space).constraints
    config = RunConfig(space=space.name, objective="joint", evaluations=200)
    choice = choose(config, inf, space)
    assert (choice.maker.form, choice.solver.name) == ("blackbox", "local")
    problem, solution = search(choice, space, limits, divergences, config, 1e-6)
    assert solution.evaluations <= 200
    # No worse than any policy that it began with.
    proxy = config.model_copy(update={"objective": "additive"})
    _, proposed = search(choose(proxy, inf, space), space, limits, divergences, proxy, 1e-6)
    begun = [proposed.index, *plain_points(problem, space)]
    assert len(begun) > 2
    assert all(map(problem.within, begun))
    assert solution.value <= problem.objective.evaluate(begun).min()


def test_solvers_that_ask_for_points_get_the_true_divergence():
    for name in ("local", "greedy"):
        choice = choose(RunConfig(space="layers", solver=name), inf, SPACES[0])
        assert (choice.maker.name, choice.solver.name) == ("joint", name)
        assert re.search(naming("joint", name), choice.reason)


def test_a_solver_that_needs_a_list_names_those_that_do_not():
    config = RunConfig(space="layers", objective="joint", solver="grid")
    with pytest.raises(
        OpsearchError, match=naming("local", "greedy", "optuna", "--objective joint")
    ):
        choose(config, inf, SPACES[0])


def test_the_proxy_is_taken_in_words_where_joint_cannot_be_listed():
    choice = choose(RunConfig(space="layers"), inf, SPACES[0])
    assert choice.maker.name == "additive"
    assert re.search(naming("additive"), choice.reason)


@pytest.mark.parametrize(
    ("every", "coarse", "taken", "times"),
    [
        (60, inf, Joint, ("60 s",)),
        (61, 60, CoarseJoint, ("61 s", "60 s")),
        (90, 61, Additive, ("90 s", "61 s")),
        (90, inf, Additive, ("90 s",)),
    ],
)
def test_the_dearest_that_is_within_the_effort_is_taken(every, coarse, taken, times):
    choice = choose(RunConfig(space="depth"), every, depth_space(4), coarse=coarse)
    assert type(choice.maker) is taken
    assert re.search(naming(choice.maker.name, "--effort 60", *times), choice.reason)
    assert len(re.findall(r"\d s\b", choice.reason)) == len(times)


def test_who_names_joint_gets_it_from_coarse_to_fine_however_long_that_takes():
    choice = choose(RunConfig(objective="joint"), 90, dop_space(4), coarse=80)
    assert isinstance(choice.maker, CoarseJoint)
    assert re.search(naming("joint", "--effort", "80 s"), choice.reason)


def test_a_solver_that_takes_no_table_gets_the_proxy_which_is_said():
    choice = choose(RunConfig(solver="ortools"), 0.0, dop_space(4))
    assert choice.maker.name == "additive"
    assert re.search(naming("additive", "ortools", "joint"), choice.reason)


def test_joint_cannot_be_verified_which_is_said_before_anything_is_measured():
    with pytest.raises(OpsearchError, match=naming("'joint'", "--objective additive", "pairwise")):
        choose(RunConfig(verify=4, objective="joint"), 0.0, dop_space(4))


def test_what_is_to_be_verified_is_a_proxy():
    choice = choose(RunConfig(verify=4), 0.0, dop_space(4))
    assert (choice.maker.name, choice.solver.name) == ("additive", "ortools")
    assert re.search(naming("additive", "--verify"), choice.reason)


def test_a_proxy_below_zero_is_said_to_be_wrong():
    """Whatever is pruned costs the same: each pair spares one of its two losses."""
    space = SPACES[0]
    limits = layers_problem(0, space).constraints
    whole = space.decode(space.row(limits[0].costs.dearest())).canonical(20)

    def measure(policies):
        return np.array([[float(policy.canonical(20) != whole)] for policy in policies])

    config = RunConfig(space="layers", objective="pairwise", pairs="all")
    choice = choose(config, inf, space)
    _, solution = search(choice, space, limits, measure, config, 1e-6)
    assert solution.value < 0
    assert re.search(naming("--verify 8"), solution.note)


def test_greedy_is_refused_before_anything_is_measured_where_no_operation_has_a_choice():
    with pytest.raises(
        OpsearchError, match=naming("greedy", "--space layers", "operations", "--solver local")
    ):
        choose(RunConfig(solver="greedy"), 0.0, dop_space(4))


def test_a_space_without_depths_is_measured_at_once_however_long_it_takes():
    config = RunConfig(space="tokens", objective="joint", effort=0)
    space = tokens_space(4, N_V_16, RankerSpec("cls"))
    choice = choose(config, 90, space)
    assert type(choice.maker) is Joint
    assert choice.reason == ""  # as --objective names it
