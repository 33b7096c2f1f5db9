"""Racing finds what complete measurement finds, ties and rounding included, with fewer values."""

from math import inf

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.objectives.racing import can_be_best, lower_bounds, race
from opsearch.problem.objective import KL_QUANTUM, rounded_mean


class Recorder:
    """Looks divergences up in a table, and counts the values that were asked for."""

    def __init__(self, table):
        self.table, self.asked = table, np.zeros(table.shape, int)

    def __call__(self, rows, columns):
        self.asked[np.ix_(rows, columns)] += 1
        return self.table[np.ix_(rows, columns)]


def raced(table, order=None, known=None, **options):
    measure = Recorder(table)
    known = np.full(table.shape, np.nan) if known is None else known
    order = np.argsort(-table.mean(axis=0)) if order is None else order
    return race(measure, known, order, **options), measure


def quanta(values, quantum):
    return np.rint(values / quantum)


def skewed(seed, policies=40, samples=16):
    """Divergences as they are met: a few hard samples, many bad policies."""
    random = np.random.default_rng(seed)
    table = random.gamma(0.4, 1, (policies, samples)) * random.gamma(1, 1, samples)
    return table * random.gamma(1, 1, (policies, 1))


@settings(max_examples=150, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    policies=st.integers(1, 30),
    samples=st.integers(1, 20),
    digits=st.integers(0, 7),
    quantum=st.sampled_from([0.0, KL_QUANTUM, 1e-4, 0.3]),
    keep=st.integers(1, 4),
    best=st.sampled_from([inf, 0.5, 0.05, 0.0]),
)
def test_the_best_and_all_their_ties_are_those_of_the_whole_table(
    seed, policies, samples, digits, quantum, keep, best
):
    table = np.round(skewed(seed, policies, samples), digits)  # coarse digits make many ties
    random = np.random.default_rng(seed)
    known = np.where(random.random(table.shape) < random.choice([0, 0.3]), table, np.nan)
    first = random.integers(0, policies, 2)
    found, _ = raced(
        table,
        random.permutation(samples),
        known,
        keep=keep,
        best=best,
        quantum=quantum,
        first=first,
    )
    assert np.array_equal(found[~np.isnan(found)], table[~np.isnan(found)])
    values = rounded_mean(table)
    measured = ~np.isnan(found).any(axis=1)
    bar = min(best, np.sort(values)[min(keep, policies) - 1] if policies >= keep else inf)
    contenders = (values <= bar) if not quantum else quanta(values, quantum) <= quanta(bar, quantum)
    assert measured[contenders].all()
    assert np.array_equal(rounded_mean(found[measured]), values[measured])
    bounds = lower_bounds(found)
    assert (bounds <= values).all()
    assert not can_be_best(found, best, keep, quantum)[~measured].any()


def test_it_measures_a_fraction_where_most_policies_are_bad():
    shares = [raced(skewed(seed, 300, 64))[1].asked.astype(bool).mean() for seed in range(10)]
    assert np.mean(shares) < 0.4


def test_no_value_is_asked_for_twice_and_known_ones_are_not_asked_for():
    table = skewed(1, 100, 32)
    known = np.full(table.shape, np.nan)
    known[:50] = table[:50]
    found, measure = raced(table, known=known)
    assert measure.asked.max() == 1
    assert not measure.asked[:50].any()
    again, repeated = raced(table, known=found)
    assert not repeated.asked.any()
    assert np.array_equal(again, found, equal_nan=True)


def test_a_policy_that_ties_only_after_rounding_is_measured_to_the_end():
    """The second one is 0.4 of a quantum worse on its first sample alone."""
    table = np.zeros((3, 8))
    table[:, 0] = [8e-3, 8e-3 + 8 * 0.4e-3, 8e-3 + 8 * 1.6e-3]
    found, _ = raced(table, order=range(8), first=[0], quantum=1e-3)
    assert np.isnan(found).any(axis=1).tolist() == [False, False, True]
    exact, _ = raced(table, order=range(8), first=[0], quantum=KL_QUANTUM)
    assert np.isnan(exact).any(axis=1).tolist() == [False, True, True]


def test_a_better_policy_from_elsewhere_drops_all_others_in_the_first_round():
    table = 1 + skewed(3)
    found, measure = raced(table, best=0.01)
    assert np.isnan(found).any(axis=1).all()
    assert measure.asked.sum() == len(table) * table.shape[1] // 8


def test_negative_divergences_are_refused():
    table = skewed(0)
    table[5, 3] = -1e-9
    with pytest.raises(ValueError, match=r"-1e-09.*negative.*completely"):
        raced(table, keep=len(table))
