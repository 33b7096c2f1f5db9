"""HiGHS, CP-SAT and enumeration agree, at all scales, and float answers are checked in integers."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import scipy.optimize

from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Status
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.depth import depth_space, dop_space
from opsearch.problem.spaces.stages import stages_space
from opsearch.solvers.grid import Grid
from opsearch.solvers.ortools import CpSat
from opsearch.solvers.scipy import Highs
from opsearch.testing.example_problems import (
    N_V_TEST,
    SCALES,
    budget,
    flops_like,
    kv_like,
    random_problem,
    random_terms,
)

SPACES = {
    "dop": dop_space(8, N_V_TEST),
    "dop, kv stays": dop_space(8, N_V_TEST, kv="stays"),
    "depth": depth_space(4, N_V_TEST),
    "one stage": stages_space(8, N_V_TEST, stages=1),
    "two stages": stages_space(4, N_V_TEST),
}


def separable(space: Space, *limits: Constraint, quantum: float = 1e-6) -> Problem:
    terms = random_terms(np.random.default_rng(2), space, 1.0, quantum)
    return Problem(space, Separable("random", "nats", space, terms, quantum), limits)


@pytest.mark.parametrize("name", SPACES)
@pytest.mark.parametrize("share", [0.1, 0.4])
def test_three_solvers_agree_on_every_space(name: str, share: float) -> None:
    space = SPACES[name]
    limits = budget("flops", flops_like(space), share), budget("kv", kv_like(space), 0.6)
    problem = separable(space, *limits)
    solutions = [solver.solve(problem) for solver in (Grid(), CpSat(), Highs())]
    assert {solution.status for solution in solutions} == {Status.OPTIMAL}
    assert len({solution.index for solution in solutions}) == 1


@pytest.mark.parametrize("seed", range(20))
def test_it_agrees_with_enumeration(seed: int) -> None:
    problem = random_problem(100 + seed, scale=SCALES[seed % 5], exact_ties=seed % 2 == 0)
    best, found = Grid().solve(problem), Highs().solve(problem)
    assert best.value is not None
    assert found.value is not None
    assert found.value <= best.value + found.error_bound
    if seed % 2 == 0:
        assert found.index == best.index


def test_costs_as_large_as_a_checkpoints_are_kept_to_the_integer() -> None:
    space = dop_space(6, N_V_TEST)
    costs = flops_like(space) * 10**7 + np.random.default_rng(0).integers(0, 2, len(space.points))
    at = np.sort(costs)[len(costs) // 3]
    for limit in (at, at - 1):
        problem = separable(
            space, Constraint("flops", "FLOPs", costs, int(limit), int(costs.max()))
        )
        assert Highs().solve(problem).index == Grid().solve(problem).index


def test_an_answer_that_breaks_a_limit_is_forbidden_and_solved_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As if tolerances had let the first answer of every program through."""
    original, loosened = scipy.optimize.milp, []

    def loose(costs: Any, **settings: Any) -> Any:
        if not loosened or loosened[-1] != len(settings["constraints"]) - 1:
            loosened.append(len(settings["constraints"]))
            limits = settings["constraints"][:-1]
            return original(costs, **{**settings, "constraints": limits})
        return original(costs, **settings)

    problem = random_problem(3, budgets=1)
    tight = replace(problem.constraints[0], limit=int(np.median(problem.cost)))
    problem = problem.with_budget([tight])
    monkeypatch.setattr(scipy.optimize, "milp", loose)
    assert Highs().solve(problem).index == Grid().solve(problem).index
    assert loosened


def test_a_program_without_an_answer_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = scipy.optimize.OptimizeResult(status=4, x=None, message="numerical trouble")
    monkeypatch.setattr(scipy.optimize, "milp", lambda *_, **__: stopped)
    solution = Highs().solve(random_problem(3))
    assert (solution.status, solution.index) == (Status.ERROR, None)
    assert "numerical trouble" in solution.note
