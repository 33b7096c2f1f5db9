"""Choices are those of the exhaustive solver, on every set of samples and within every budget."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import additive, choose, draws, joint, ladder, whole, within
from opsearch.errors import OpsearchError
from opsearch.objectives.additive import Additive
from opsearch.objectives.joint import Joint
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.problem import Problem
from opsearch.solvers.grid import Grid
from tests.analysis.made import made
from tests.support.messages import naming


def measure_from(measured, samples):
    """The `measure` of objectives, answered from the tables."""
    row_of = {
        measured.space.decode(point): row
        for row, point in enumerate(measured.space.points.tolist())
    }

    def measure(policies):
        return measured.tables["kl"][[row_of[policy] for policy in policies]][:, samples]

    return measure


@settings(max_examples=20)
@given(st.integers(0, 10**6), st.integers(25, 100), st.booleans())
def test_the_choice_is_that_of_the_grid_solver(seed, percent, coarse):
    measured = made(seed=seed)
    if coarse:  # few different values, so that ties decide
        measured = made(joint=np.round(measured.tables["kl"]))
    samples = np.random.default_rng(seed).integers(0, 12, size=5)
    weights = np.bincount(samples, minlength=12)[:, None] / 5
    rows = ladder(measured)
    sizes = within(measured, rows, np.array([percent]))
    limit = measured.flops.stock * percent // 100
    budget = replace(measured.flops, limit=limit)
    everything = np.ones(len(measured.space.points), bool)
    for objective, values in ((Joint(), joint), (Additive(), additive), (Additive(3), additive)):
        few = {"points": 3} if objective == Additive(3) else {}
        found = choose(values(measured, rows, weights, **few), sizes)[0, 0]
        made_objective = objective.make(measured.space, measure_from(measured, samples), everything)
        solution = Grid().solve(Problem(measured.space, made_objective, (budget,)))
        assert rows[found] == solution.index


@given(st.integers(1, 30), st.integers(1, 4), st.integers(0, 10**6))
def test_the_first_lowest_of_each_prefix_is_taken(size, columns, seed):
    random = np.random.default_rng(seed)
    values = random.integers(0, 5, size=(size, columns)).astype(float)
    sizes = np.sort(random.integers(1, size + 1, size=6))
    expected = [values[:end].argmin(axis=0).tolist() for end in sizes]
    assert choose(values, sizes).tolist() == expected


def test_the_ladder_ends_before_the_first_policy_that_is_not_known():
    measured = made()
    full = ladder(measured)
    assert sorted(full) == list(range(len(measured.space.points)))
    kl = measured.tables["kl"].copy()
    kl[full[17], 3] = np.nan
    short = ladder(replace(measured, tables={"kl": kl}))
    assert short.tolist() == full[:17].tolist()
    attn = measured.alone["kl"][0].copy()
    attn[2, 3] = np.nan
    unknown = replace(measured, alone={"kl": (attn, *measured.alone["kl"][1:])})
    first = (measured.space.points[full, 0] == 2).argmax()
    assert ladder(unknown).tolist() == full[:first].tolist()
    values = additive(unknown, full[:first], whole(12))
    assert np.array_equal(values, additive(measured, full[:first], whole(12)))
    costs = measured.flops.costs[full]
    assert (np.diff(costs) >= 0).all()
    ties = np.flatnonzero(np.diff(costs) == 0)
    points = measured.space.points[full].tolist()
    assert len(ties)
    assert all(points[i] < points[i + 1] for i in ties)


def test_a_limit_is_met_exactly():
    measured = made()
    rows = ladder(measured)
    costs = measured.flops.costs[rows]
    percents = np.arange(10, 101)
    expected = [(costs * 100 <= percent * 1000).sum() for percent in percents]
    assert within(measured, rows, percents).tolist() == expected


def test_values_are_means_over_the_weighted_samples():
    measured = made()
    rows = ladder(measured)
    for values, table in (
        (joint(measured, rows, whole(12)), measured.tables["kl"][rows]),
        (additive(measured, rows, whole(12)), measured.proxy()[rows]),
    ):
        assert np.allclose(values[:, 0] * KL_QUANTUM, table.mean(axis=1), atol=2 * KL_QUANTUM)
    js = joint(measured, rows, whole(12), "js")[:, 0] * KL_QUANTUM
    assert np.allclose(js, measured.tables["js"][rows].mean(axis=1), atol=KL_QUANTUM)


@given(st.integers(2, 40), st.data())
def test_draws_split_the_samples(samples, data):
    drawn = data.draw(st.integers(1, samples - 1))
    inside, outside = draws(samples, drawn, 5, seed=drawn)
    assert ((inside > 0) ^ (outside > 0)).all()
    assert ((inside > 0).sum(axis=0) == drawn).all()
    for weights in (inside, outside):
        assert np.allclose(weights.sum(axis=0), 1)


@pytest.mark.parametrize(("samples", "drawn"), [(1, 0), (5, 5), (5, 6)])
def test_nothing_to_choose_or_judge_on_is_refused(samples, drawn):
    with pytest.raises(OpsearchError, match=naming(samples, drawn, "--samples")):
        draws(samples, drawn, 3)


def test_resamples_weigh_each_sample_by_how_often_it_was_drawn():
    weights = resamples(8, seed=1, count=500)
    assert weights.shape == (8, 500)
    assert np.allclose(weights.sum(axis=0), 1)
    assert np.allclose(weights * 8, np.rint(weights * 8))
    assert np.array_equal(weights, resamples(8, seed=1, count=500))


def test_the_interval_covers_the_mean_of_a_known_distribution_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        low, high = interval(random.normal(size=60) @ resamples(60, seed=trial))
        covered += low <= 0 <= high
    assert 0.90 < covered / 300 < 0.98
