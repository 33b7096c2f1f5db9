"""Correction of a proxy with true measurements, on a small space whose true values are known."""

import re

import numpy as np
import pytest

from opsearch.errors import OpsearchError
from opsearch.problem.objective import Blackbox, Separable, Table
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Status
from opsearch.problem.spaces.depth import dop_space
from opsearch.runs.verify import verify
from opsearch.solvers.grid import Grid
from opsearch.solvers.ortools import CpSat
from opsearch.testing.example_problems import budget, flops_like
from tests.support.messages import naming

SPACE = dop_space(6)


def problem(seed=0):
    """A sum of terms as proxy; the true values also hold an interaction that it does not see."""
    random = np.random.default_rng(seed)
    terms = tuple(
        np.append(np.sort(random.exponential(size=len(p.values) - 1))[::-1], 0.0).round(6)
        for p in SPACE.parameters
    )
    proxy = Separable("additive", "nats", SPACE, terms, 1e-6)
    d_attn, d_mlp, n_v = SPACE.points.T
    true = (proxy.values + 2.0 * ((d_attn < 4) & (n_v < 9)) + 0.5 * (d_mlp < 3)).round(6)
    limit = budget("flops", flops_like(SPACE), 0.4)
    return Problem(SPACE, proxy, (limit,)), true


def joint(true, asked):
    def evaluate(indices):
        asked.extend(indices)
        return true[list(indices)]

    return Blackbox("joint", "nats", evaluate, 1e-6)


@pytest.mark.parametrize("solver", [Grid(), CpSat()], ids=["grid", "ortools"])
@pytest.mark.parametrize("seed", range(3))
def test_it_ends_no_worse_than_the_proxy_and_says_both(solver, seed):
    given, true = problem(seed)
    asked = []
    solution = verify(given, solver, joint(true, asked), each=4, evaluations=60, seed=0)
    first = Grid().solve(given).index
    assert asked[0] == first
    assert solution.value == true[asked].min() <= true[first]
    assert solution.status is Status.FEASIBLE
    assert len(asked) == len(set(asked)) == solution.evaluations <= 60
    values = f"{true[first]:.3f}", f"{true[asked].min():.3f}"
    assert re.search(naming(len(asked), *values), solution.note)
    assert all(given.within(index) for index in asked)


def test_it_finds_the_true_optimum_when_it_may_measure_everything():
    given, true = problem()
    feasible = np.flatnonzero(given.feasible)
    solution = verify(given, Grid(), joint(true, []), each=8, evaluations=len(feasible), seed=0)
    assert solution.value == true[feasible].min()


def test_a_right_proxy_is_settled_after_one_round():
    given, _ = problem()
    asked = []
    solution = verify(
        given, Grid(), joint(given.objective.values, asked), each=3, evaluations=99, seed=0
    )
    assert len(asked) == 3
    assert re.search(naming(len(asked), "1 round"), solution.note)


def test_measurements_are_bounded():
    given, true = problem()
    asked = []
    solution = verify(given, Grid(), joint(true, asked), each=4, evaluations=2, seed=0)
    assert len(asked) == 2
    assert re.search(naming(2), solution.note)


def test_a_table_is_no_proxy():
    given, true = problem()
    table = Problem(SPACE, Table("joint", "nats", true), given.constraints)
    with pytest.raises(OpsearchError, match=naming("'joint'", "--objective additive", "pairwise")):
        verify(table, Grid(), joint(true, []), each=4, evaluations=9, seed=0)
