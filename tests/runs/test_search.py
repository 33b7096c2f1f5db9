"""The solver of the true divergence on demand, and its start points."""

import re
from dataclasses import dataclass, field, replace
from fractions import Fraction
from math import inf
from typing import ClassVar

import numpy as np
import pytest

from opsearch.errors import OpsearchError
from opsearch.objectives.additive import Additive
from opsearch.objectives.attention import Attention
from opsearch.objectives.joint import Joint
from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.policy.counts import KV, MLP, Q
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.objective_factory import progress_unit
from opsearch.problem.solution import Status, solution_at
from opsearch.problem.spaces.base import unpruned
from opsearch.problem.spaces.depth import dop_space
from opsearch.problem.spaces.operations import layers_space, operations_space
from opsearch.runs.choose import choose
from opsearch.runs.config import RunConfig
from opsearch.runs.search import plain_points, search
from opsearch.runs.setup import resolve
from opsearch.solvers.local import Local
from opsearch.testing.example_problems import N_V_TEST, budget, flops_like, layers_problem
from tests.support.messages import naming

FINER = (Fraction(1, 8), Fraction(1, 2), Fraction(1))
SPACES = (layers_space(4, N_V_TEST), operations_space(4), operations_space(4, groups=FINER))


def settings(space="dop", **options):
    """Settings of a run over 4 layers; a space is given by name or as it is."""
    if isinstance(space, str):
        return resolve(RunConfig(space=space, **options), 4, RankerSpec("cls"))
    return replace(settings(space.name, **options), space=space)


def divergences(policies):
    """More loss the more is pruned, and far more where queries and MLP of a layer both are."""
    lost = np.array([1 - policy.resolve(20) / 20 for policy in policies])
    effects = np.linspace(1, 0.2, lost[0].size).reshape(lost[0].shape)
    sums = (lost * effects).sum(axis=(1, 2)) + 4 * (lost[..., Q] * lost[..., MLP]).sum(axis=1)
    return np.stack([sums, 2 * sums], axis=1)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_joint_is_searched_on_demand_where_points_are_too_many(space):
    limits = layers_problem(0, space).constraints
    given = settings(space, objective="joint", evaluations=200)
    choice = choose(given, inf)
    assert (choice.objective.form, choice.solver.name) == ("blackbox", "local")
    problem, solution = search(choice, given, limits, divergences, 1e-6)
    assert solution.evaluations <= 200
    # No worse than any policy that it began with.
    proxy = settings(space, objective="additive", evaluations=200)
    _, proposed = search(choose(proxy, inf), proxy, limits, divergences, 1e-6)
    begun = [proposed.index, *plain_points(problem, space)]
    assert len(begun) > 2
    assert all(map(problem.within, begun))
    assert solution.value <= problem.objective.evaluate(begun).min()


@dataclass(frozen=True)
class Careless:
    """A solver that returns the original model, whatever the budget."""

    name: ClassVar[str] = "careless"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[str]] = frozenset({"separable", "table", "blackbox"})
    takes_start: ClassVar[bool] = False

    def require(self, space):
        pass

    def solve(self, problem, *, seed=0, limit=None):
        original = problem.space.index_of(unpruned(problem.space))
        return solution_at(problem, original, Status.FEASIBLE, self.name)


@pytest.mark.parametrize("verify", [0, 4])
def test_a_solver_whose_point_is_over_the_budget_is_not_believed(verify):
    space = dop_space(4, N_V_TEST)
    limit = budget("flops", flops_like(space), 0.4)
    given = settings(space, objective="additive", verify=verify)
    choice = replace(choose(given, inf), solver=Careless())
    with pytest.raises(OpsearchError, match=naming("careless", "100%", "flops", "budget")):
        search(choice, given, [limit], divergences, 1e-6)


@pytest.mark.parametrize("space", SPACES, ids=lambda space: space.name)
def test_plain_points_end_each_group_where_the_budget_ends(space):
    problem = layers_problem(0, space, share=0.6)
    found = {}
    for point in plain_points(problem, space):
        assert problem.within(point)
        levels = space.live_levels(space.row(point))
        (used,) = {*levels[:, KV].tolist()} - {len(space.levels) - 1} or {len(space.levels) - 1}
        assert {*levels.ravel().tolist()} <= {0, used, len(space.levels) - 1}
        assert (np.diff(levels, axis=0) <= 0).all()
        found.setdefault(used, []).append(point)
    # Every group is a start, and the full model before some layer.
    assert set(found) >= set(range(1, len(space.levels) - 1))


@dataclass(frozen=True)
class Kept(Local):
    """Local search that records its initial points in a list."""

    seen: list = field(default_factory=list)

    def solve(self, problem, **options):
        self.seen.extend(self.start)
        return super().solve(problem, **options)


def test_initial_points_of_a_solver_object_come_first():
    space = SPACES[0]
    limits = layers_problem(0, space).constraints
    solver = Kept(start=(limits[0].cheapest,))
    given = replace(settings(space, objective="joint", evaluations=50), solver=solver)
    problem, _ = search(choose(given, inf), given, limits, divergences, 1e-6)
    assert solver.seen[0] == limits[0].cheapest
    assert set(plain_points(problem, space)) <= set(solver.seen)
    assert len(set(solver.seen)) == len(solver.seen)


@dataclass(frozen=True)
class Optional(Kept):
    """Local search whose initial points are None unless given."""

    start: tuple[int, ...] | None = None


def test_initial_points_may_be_none_by_default():
    space = SPACES[0]
    limits = layers_problem(0, space).constraints
    solver = Optional()
    given = replace(settings(space, objective="joint", evaluations=50), solver=solver)
    problem, _ = search(choose(given, inf), given, limits, divergences, 1e-6)
    assert set(plain_points(problem, space)) <= set(solver.seen)


class Fieldless:
    """A solver that takes initial points and is no dataclass with a field for them."""

    name, exact, forms, takes_start = "fieldless", False, frozenset({"table"}), True

    def require(self, space):
        pass


def test_a_solver_object_without_a_field_for_initial_points_is_refused():
    given = replace(settings(objective="joint"), solver=Fieldless())
    with pytest.raises(OpsearchError, match=naming("'fieldless'", "`start`", "takes_start")):
        choose(given, 0.0)


def test_an_objective_object_keeps_its_settings():
    given = replace(settings(), objective=Joint(lazy=True))
    choice = choose(given, 0.0)
    assert (choice.objective, choice.solver.name) == (Joint(lazy=True), "local")


@dataclass(frozen=True)
class Halves(Joint):
    """An objective of another name that is measured on demand by a class of its own."""

    name: ClassVar[str] = "halves"

    def adapted(self, space, *, on_demand, coarse):
        return replace(self, lazy=on_demand)


@dataclass(frozen=True)
class Plain:
    """An objective with the required members only."""

    name: ClassVar[str] = "plain"
    form: ClassVar[str] = "table"
    per_budget: ClassVar[bool] = False

    def require(self, space):
        pass

    def make(self, space, measure, feasible):
        raise NotImplementedError


def test_objectives_of_others_adapt_too_and_need_not():
    own = replace(settings(solver="local"), objective=Halves())
    assert choose(own, 0.0).objective == Halves(lazy=True)
    plain = replace(settings(), objective=Plain())
    assert choose(plain, inf).objective == Plain()
    assert [progress_unit(each) for each in (Plain(), Joint(), Attention())] == ["FLOPs"] * 2 + [""]


def test_solvers_that_ask_for_points_get_the_true_divergence():
    for name in ("local", "greedy"):
        choice = choose(settings(SPACES[0], solver=name), inf)
        assert (choice.objective.name, choice.solver.name) == ("joint", name)
        assert re.search(naming("joint", name), choice.reason)


def test_a_solver_that_needs_a_list_names_those_that_do_not():
    given = settings(SPACES[0], objective="joint", solver="grid")
    with pytest.raises(
        OpsearchError, match=naming("local", "greedy", "optuna", "--objective joint")
    ):
        choose(given, inf)


def test_the_proxy_is_taken_in_words_where_joint_cannot_be_listed():
    choice = choose(settings(SPACES[0]), inf)
    assert choice.objective.name == "additive"
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
    choice = choose(settings(space="depth"), every, coarse=coarse)
    assert type(choice.objective) is taken
    assert re.search(naming(choice.objective.name, "--effort 60", *times), choice.reason)
    assert len(re.findall(r"\d s\b", choice.reason)) == len(times)


def test_who_names_joint_gets_it_from_coarse_to_fine_however_long_that_takes():
    choice = choose(settings(objective="joint"), 90, coarse=80)
    assert isinstance(choice.objective, CoarseJoint)
    assert re.search(naming("joint", "--effort", "80 s"), choice.reason)


def test_a_solver_that_takes_no_table_gets_the_proxy_which_is_said():
    choice = choose(settings(solver="ortools"), 0.0)
    assert choice.objective.name == "additive"
    assert re.search(naming("additive", "ortools", "joint"), choice.reason)


def test_joint_cannot_be_verified_which_is_said_before_anything_is_measured():
    with pytest.raises(OpsearchError, match=naming("'joint'", "--objective additive", "pairwise")):
        choose(settings(verify=4, objective="joint"), 0.0)


def test_what_is_to_be_verified_is_a_proxy():
    choice = choose(settings(verify=4), 0.0)
    assert (choice.objective.name, choice.solver.name) == ("additive", "ortools")
    assert re.search(naming("additive", "--verify"), choice.reason)


def test_a_proxy_below_zero_is_said_to_be_wrong():
    """Whatever is pruned costs the same: each pair spares one of its two losses."""
    space = SPACES[0]
    limits = layers_problem(0, space).constraints
    whole = space.decode(space.row(limits[0].costs.dearest())).canonical(20)

    def measure(policies):
        return np.array([[float(policy.canonical(20) != whole)] for policy in policies])

    given = settings(space, objective="pairwise", pairs="all")
    _, solution = search(choose(given, inf), given, limits, measure, 1e-6)
    assert solution.value < 0
    assert re.search(naming("--verify 8"), solution.note)


def test_greedy_is_refused_before_anything_is_measured_where_no_operation_has_a_choice():
    with pytest.raises(
        OpsearchError, match=naming("greedy", "--space layers", "operations", "--solver local")
    ):
        choose(settings(solver="greedy"), 0.0)


def test_a_space_without_depths_is_measured_at_once_however_long_it_takes():
    choice = choose(settings(space="tokens", objective="joint", effort=0), 90)
    assert type(choice.objective) is Joint
    assert choice.reason == ""  # as --objective names it
