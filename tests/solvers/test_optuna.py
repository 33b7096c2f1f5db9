"""The sampling solver: exact budgets, no evaluation twice, runs that can be continued."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
import pytest

from opsearch.errors import OpsearchError
from opsearch.problem.objective import Blackbox, Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Status
from opsearch.problem.spaces.depth import DepthSpace, depth_space, dop_space, tokens_space
from opsearch.problem.spaces.operations import layers_space
from opsearch.solvers.optuna import Tpe
from opsearch.testing.checks import recorded, same
from opsearch.testing.example_problems import (
    N_V_TEST,
    budget,
    flops_like,
    layers_problem,
    oracle,
    random_terms,
)


@dataclass
class Measurements:
    """Measures through a cache, as the store of a run does, and records what it measures."""

    values: np.ndarray
    interrupt: int | None = None
    error: BaseException = field(default_factory=KeyboardInterrupt)
    cache: dict[int, float] = field(default_factory=dict)
    measured: list[int] = field(default_factory=list)

    def __call__(self, index: int) -> float:
        if index not in self.cache:
            if self.interrupt is not None and len(self.measured) == self.interrupt - 1:
                raise self.error
            self.measured.append(index)
            self.cache[index] = float(self.values[index])
        return self.cache[index]

    def many(self, indices: Sequence[int]) -> np.ndarray:
        return np.array([self(index) for index in indices])


def blackbox(share: float = 0.4, layers: int = 8) -> tuple[Problem, Measurements]:
    space = dop_space(layers, N_V_TEST)
    terms = random_terms(np.random.default_rng(2), space, 1.0, 1e-6)
    measure = Measurements(Separable("sum", "nats", space, terms, 1e-6).values)
    objective = Blackbox("joint", "nats", measure.many, 1e-6)
    return Problem(space, objective, (budget("flops", flops_like(space), share),)), measure


def evaluated(count: int, *, seed: int = 0) -> list[int]:
    problem, measure = blackbox()
    Tpe().solve(problem, seed=seed, limit=Limit(evaluations=count))
    return measure.measured


def test_the_limit_counts_true_evaluations() -> None:
    problem, measure = blackbox()
    calls: list[int] = []

    def evaluate(indices: Sequence[int]) -> np.ndarray:
        calls.extend(indices)
        return measure.many(indices)

    plain = Blackbox("joint", "nats", evaluate, 1e-6)
    solution = Tpe().solve(Problem(problem.space, plain, problem.constraints), limit=Limit(30))
    assert solution.evaluations == len(calls) == len(set(calls)) == 30


def test_it_evaluates_150_points_unless_told_otherwise() -> None:
    problem, measure = blackbox(share=0.9, layers=12)
    assert problem.feasible.sum() > 150
    assert Tpe().solve(problem).evaluations == len(measure.measured) == 150


def test_nothing_over_budget_is_ever_evaluated() -> None:
    problem, measure = blackbox(share=0.15)
    solution = Tpe().solve(problem, limit=Limit(40))
    assert problem.feasible[measure.measured].all()
    assert "over budget" in solution.note


def test_it_finds_better_points_than_chance() -> None:
    problem, measure = blackbox()
    best = oracle(problem)
    assert best is not None
    feasible = np.sort(measure.values[problem.feasible])
    measure.measured.clear()
    measure.cache.clear()
    ranks = []
    for seed in range(3):
        value = Tpe().solve(problem, seed=seed, limit=Limit(40)).value
        assert value is not None
        ranks.append(np.searchsorted(feasible, value - 1e-12))
    # Forty random points would have rank N / 41 on average.
    assert np.mean(ranks) < len(feasible) / 41


def test_a_longer_run_extends_a_shorter_one() -> None:
    longer = evaluated(40)
    assert longer[:20] == evaluated(20)
    assert longer == evaluated(40)
    assert longer != evaluated(40, seed=1)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("out of memory")])
def test_an_interrupted_run_repeats_over_its_cache(error: BaseException) -> None:
    problem, uninterrupted = blackbox()
    expected = Tpe().solve(problem, seed=5, limit=Limit(40))
    problem, measure = blackbox()
    measure.interrupt, measure.error = 20, error
    with pytest.raises(type(error)):
        Tpe().solve(problem, seed=5, limit=Limit(40))
    assert len(measure.measured) == 19
    measure.interrupt = None
    again = Tpe().solve(problem, seed=5, limit=Limit(40))
    assert same(again, expected)
    assert measure.measured == uninterrupted.measured
    assert len(set(measure.measured)) == len(measure.measured) == 40


def test_equal_policies_are_evaluated_once() -> None:
    # With kv leaving, most of the box is not listed; all of it stands for some listed point.
    problem, measure = blackbox(share=1.0, layers=4)
    solution = Tpe().solve(problem, limit=Limit(1000))
    assert sorted(measure.measured) == list(range(len(problem.space.points)))
    assert (solution.status, solution.index) == (Status.OPTIMAL, oracle(problem))
    assert solution.gap == 0


def test_start_points_come_first_and_once() -> None:
    problem, measure = blackbox()
    start = tuple(np.flatnonzero(problem.feasible)[[7, 3, 7]].tolist())
    Tpe(start=start).solve(problem, limit=Limit(10))
    assert measure.measured[:2] == list(start[:2])
    assert len(measure.measured) == 10


@pytest.mark.parametrize(
    ("choose", "named"),
    [
        (lambda problem: len(problem.space.points), r"start point \d+ .*0\.\.\d+"),
        (lambda problem: -1, r"start point -1 .*0\.\.\d+"),
        (lambda problem: int(problem.cost.argmax()), r"start point \d+ .*flops 100%"),
    ],
)
def test_start_points_are_checked(choose: Callable[[Problem], int], named: str) -> None:
    problem, measure = blackbox()
    with pytest.raises(OpsearchError, match=named):
        Tpe(start=(choose(problem),)).solve(problem)
    assert not measure.measured


def test_a_batch_is_evaluated_together_and_the_limit_is_kept() -> None:
    problem, measure = blackbox()
    sizes: list[int] = []

    def evaluate(indices: Sequence[int]) -> np.ndarray:
        sizes.append(len(indices))
        return measure.many(indices)

    asked = replace(problem, objective=Blackbox("joint", "nats", evaluate, 1e-6))
    Tpe(batch=6).solve(asked, limit=Limit(20))
    assert sizes == [6, 6, 6, 2]


def test_a_space_too_large_to_list_is_searched_within_its_budget() -> None:
    for share in (0.7, 0.5):
        problem, asked = recorded(layers_problem(2, layers_space(6, N_V_TEST), share))
        solution = Tpe().solve(problem, limit=Limit(40))
        assert solution.evaluations == len(asked) == len(set(asked)) == 40
        assert all(map(problem.within, asked))
        assert solution.status is Status.FEASIBLE
        assert solution.value == min(map(problem.objective.value, [*asked]))


def test_a_budget_that_few_points_meet_is_still_searched() -> None:
    problem, _ = blackbox(share=0.0)
    few = int(problem.feasible.sum())
    assert few < 0.02 * len(problem.space.points)
    solution = Tpe().solve(problem)
    assert (solution.status, solution.evaluations) == (Status.OPTIMAL, few)


def test_points_without_a_value_are_not_chosen() -> None:
    problem, measure = blackbox(share=1.0, layers=2)
    measure.values[::2] = np.nan
    solution = Tpe().solve(problem, limit=Limit(1000))
    assert solution.status is Status.FEASIBLE
    assert solution.index == 1 + 2 * int(measure.values[1::2].argmin())
    missing = len(measure.values[::2])
    assert f"{missing} of {solution.evaluations} " in solution.note


def test_it_is_silent_and_leaves_logging_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    import optuna

    optuna.logging.set_verbosity(optuna.logging.DEBUG)
    try:
        problem, _ = blackbox()
        Tpe(start=(int(problem.cost.argmin()),)).solve(problem, limit=Limit(15))
        assert optuna.logging.get_verbosity() == optuna.logging.DEBUG
    finally:
        optuna.logging.set_verbosity(optuna.logging.INFO)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "space",
    [
        tokens_space(3, N_V_TEST),
        dop_space(3, N_V_TEST),
        dop_space(3, N_V_TEST, kv="stays"),
        depth_space(2, N_V_TEST),
    ],
)
def test_index_of_finds_the_equal_policy(space: DepthSpace) -> None:
    keys = [space.decode(point).canonical(100) for point in space.points]
    for row, point in enumerate(space.points.tolist()):
        assert space.index_of(point) == row
    for point in product(*(range(len(parameter.values)) for parameter in space.parameters)):
        assert space.decode(point).canonical(100) == keys[space.index_of(point)]
