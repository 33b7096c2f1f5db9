"""Descent on shares: within the budget at every step, and near the optimum of smooth problems."""

from itertools import islice

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from opsearch.solvers.relaxed import (
    Budgeted,
    DescentState,
    RelaxedDescent,
    _along_budget,
    _batches,
)

SHAPE = (4, 3)
SIZE = 12
UNIT = st.floats(0, 1)


def shares_of(low=0.0, high=1.0):
    return st.lists(st.floats(low, high), min_size=SIZE, max_size=SIZE).map(
        lambda values: np.array(values).reshape(SHAPE)
    )


def linear(prices, limit):
    """Return a budget on a weighted sum of shares, in parts of its largest value."""
    whole = prices.sum() * limit
    return Budgeted(
        lambda shares: np.array([(prices * shares).sum() / whole]), (prices / prices.max())[None]
    )


def quadratic(target, weights, noise=0.0, samples=8, seed=0):
    """Return the gradient of a weighted squared distance, whose samples differ by noise."""
    shifts = noise * np.random.default_rng(seed).standard_normal((samples, *SHAPE))
    shifts -= shifts.mean(axis=0)

    def gradient(shares, width, indices):
        away = shares - target - shifts[list(indices)]
        values = (weights * away**2).sum(axis=(1, 2))
        return values, (2 * weights * away).mean(axis=0)

    return gradient


def optimum(target, weights, prices, limit):
    """Return the smallest value within the budget, by scipy."""
    whole = prices.ravel() / (prices.sum() * limit)
    found = minimize(
        lambda x: (weights.ravel() * (x - target.ravel()) ** 2).sum(),
        np.full(SIZE, limit),
        jac=lambda x: 2 * weights.ravel() * (x - target.ravel()),
        bounds=[(0, 1)] * SIZE,
        # The descent uses the budget up.
        constraints={"type": "eq", "fun": lambda x: whole @ x - 1, "jac": lambda x: whole},
        method="SLSQP",
        options={"maxiter": 300, "ftol": 1e-12},
    )
    assert found.success
    return found.fun


def kept_last():
    """Return a problem in which what is at 1 already would gain less than the others, not lose."""
    target, weights = np.zeros(SHAPE), np.ones(SHAPE)
    target[-1, -1], weights[-1] = 0.5, (2.0, 0.5, 0.5)
    return target, weights, np.ones(SHAPE), 0.875, False


@settings(max_examples=15)
@given(shares_of(), shares_of(0.2, 3.0), shares_of(0.05, 1.0), st.floats(0.1, 0.9), st.booleans())
@example(*kept_last())
def test_every_step_is_within_and_the_last_near_the_optimum(target, weights, prices, limit, noisy):
    gradient = quadratic(target, weights, noise=0.2 * noisy)
    budget, start = linear(prices, limit), np.full(SHAPE, 0.5)
    descent = RelaxedDescent(steps=200, batch=4)
    begin = DescentState.start(start)
    steps = [state.shares for state in descent.run(gradient, budget, begin, 8, 0)]
    assert len(steps) == 200
    for shares in steps:
        assert shares.min() >= 0
        assert shares.max() <= 1
        assert budget.spent(shares)[0] == pytest.approx(1, abs=1e-6)
        assert budget.spent(shares).max() <= 1 + 1e-12

    def value(shares):
        return (weights * (shares - target) ** 2).sum()

    best = optimum(target, weights, prices, limit)
    assert value(steps[-1]) <= best + (0.05 if noisy else 0.02) * weights.sum()


@settings(max_examples=30)
@given(shares_of(), shares_of(-1, 1), shares_of(0.05, 1.0))
def test_the_direction_costs_nothing_to_first_order(shares, slope, prices):
    along = _along_budget(slope, shares, prices)
    assert (prices * along).sum() == pytest.approx(0, abs=1e-9)
    assert (along[shares == 0] <= 0).all(), "it does not leave the box"
    assert (along[shares == 1] >= 0).all()


@settings(max_examples=30)
@given(shares_of(), shares_of(-1, 1), shares_of(0.05, 1.0))
def test_the_direction_is_the_projection_of_the_gradient(shares, slope, prices):
    """All that moves gains equally; what stays at a bound would gain by moving further out."""
    along = _along_budget(slope, shares, prices)
    moving = (along != 0) | ((shares > 0) & (shares < 1))
    gains = ((slope - along) / prices)[moving]
    if not gains.size:
        return
    np.testing.assert_allclose(gains, gains[0], atol=1e-9)
    held = ~moving
    outwards = np.where(shares == 0, 1, -1) * (slope - gains[0] * prices)
    assert (outwards[held] >= -1e-9).all()


def test_at_the_optimum_nothing_moves():
    prices = np.random.default_rng(0).uniform(0.1, 1, SHAPE)
    along = _along_budget(-3.0 * prices, np.full(SHAPE, 0.4), prices)
    np.testing.assert_allclose(along, 0, atol=1e-12)


def test_directions_take_what_costs_nothing_for_dear():
    prices = np.full(SHAPE, 0.5)
    prices[-1, [0, 2]] = 0
    price = linear(prices, 0.5).price(np.full(SHAPE, 0.4))
    assert (price == 1).all()  # in units of the dearest


@settings(max_examples=30)
@given(shares_of(-0.5, 1.5), shares_of(-0.5, 1), shares_of(-0.5, 1), st.tuples(UNIT, UNIT))
def test_the_nearest_shares_are_within_every_budget(shares, first, second, limits):
    prices = np.stack([first, second])
    prices[prices < 0.02] = 0  # a third costs nothing
    prices[:, 0, 0] = 1.0
    wholes = prices.sum(axis=(1, 2)) * (0.05 + 0.95 * np.array(limits))
    budget = Budgeted(lambda given: (prices * given).sum(axis=(1, 2)) / wholes, prices)
    near = budget.nearest(shares)
    assert near.min() >= 0
    assert near.max() <= 1
    assert budget.spent(near).max() <= 1 + 1e-12


def test_operations_that_a_budget_does_not_count_are_left_alone():
    """A budget of the cache has no price for queries and MLPs."""
    prices = np.zeros(SHAPE)
    prices[:, 1] = 1.0
    shares = np.full(SHAPE, 0.75)
    near = linear(prices, 0.25).nearest(shares)
    assert np.array_equal(near[:, [0, 2]], shares[:, [0, 2]])
    np.testing.assert_allclose(near[:, 1], 0.25, atol=1e-6)


def test_operations_that_are_kept_stay_at_one():
    least = np.zeros(SHAPE)
    least[0] = 1.0
    prices = np.ones(SHAPE)
    budget = linear(prices, 0.5)
    budget = Budgeted(budget.spent, budget.prices, least)
    gradient, begin = quadratic(np.zeros(SHAPE), np.ones(SHAPE)), np.full(SHAPE, 0.5)
    descent = RelaxedDescent(steps=30, batch=2)
    for state in descent.run(gradient, budget, DescentState.start(begin), 8, 0):
        assert (state.shares[0] == 1).all()
        assert budget.spent(state.shares)[0] <= 1 + 1e-12


@given(st.integers(1, 40), st.integers(1, 12), st.integers(0, 3))
def test_batches_draw_every_sample_once_before_any_again(samples, size, seed):
    size = min(size, samples)
    drawn = list(islice(_batches(samples, size, seed), 3 * samples))
    assert {len(batch) for batch in drawn} == {size}
    assert all(len(set(batch)) == size for batch in drawn)
    line = [sample for batch in drawn for sample in batch]
    for start in range(0, len(line) - samples + 1, samples):
        assert sorted(line[start : start + samples]) == list(range(samples))


def test_a_batch_larger_than_the_samples_takes_each_once():
    assert [sorted(batch) for batch in islice(_batches(3, 32, 0), 2)] == [[0, 1, 2]] * 2


def test_the_seed_decides():
    gradient = quadratic(np.full(SHAPE, 0.3), np.ones(SHAPE), noise=0.5)
    budget = linear(np.ones(SHAPE), 0.3)

    def last(seed):
        begin, descent = np.full(SHAPE, 0.5), RelaxedDescent(steps=12, batch=3)
        return list(descent.run(gradient, budget, DescentState.start(begin), 8, seed))[-1].shares

    assert np.array_equal(last(0), last(0))
    assert not np.array_equal(last(0), last(1))


def test_a_descent_goes_on_from_any_of_its_states():
    gradient = quadratic(np.full(SHAPE, 0.3), np.ones(SHAPE), noise=0.5)
    budget, descent = linear(np.ones(SHAPE), 0.3), RelaxedDescent(steps=12, batch=3)
    begin = DescentState.start(np.full(SHAPE, 0.5))
    states = list(descent.run(gradient, budget, begin, 8, 5))
    assert [state.step for state in states] == list(range(1, 13))
    for begun in states[:-1]:
        rest = list(descent.run(gradient, budget, begun, 8, 5))
        assert len(rest) == 12 - begun.step
        assert np.array_equal(rest[-1].shares, states[-1].shares)


def test_the_width_shrinks_from_the_first_to_the_last():
    widths = []

    def gradient(shares, width, indices):
        widths.append(width)
        return np.zeros(len(indices)), np.zeros(SHAPE)

    begin = DescentState.start(np.ones(SHAPE))
    list(RelaxedDescent(steps=5).run(gradient, linear(np.ones(SHAPE), 0.5), begin, 4, 0))
    assert (widths[0], widths[-1]) == (pytest.approx(0.3), pytest.approx(0.05))
    ratios = np.array(widths[1:]) / np.array(widths[:-1])
    np.testing.assert_allclose(ratios, ratios[0])
