"""Racing finds what complete measurement finds, ties and rounding included, with fewer values."""

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
    kinds=st.integers(1, 4),
)
def test_the_best_of_each_group_and_all_their_ties_are_those_of_the_whole_table(
    seed, policies, samples, digits, quantum, kinds
):
    table = np.round(skewed(seed, policies, samples), digits)  # coarse digits make many ties
    random = np.random.default_rng(seed)
    known = np.where(random.random(table.shape) < random.choice([0, 0.3]), table, np.nan)
    groups = random.integers(0, kinds, policies)
    found, _ = raced(table, random.permutation(samples), known, groups=groups, quantum=quantum)
    assert np.array_equal(found[~np.isnan(found)], table[~np.isnan(found)])
    values = rounded_mean(table)
    measured = ~np.isnan(found).any(axis=1)
    bars = np.array([values[groups == group].min() for group in groups])
    best = (values <= bars) if not quantum else quanta(values, quantum) <= quanta(bars, quantum)
    assert measured[best].all()
    assert np.array_equal(rounded_mean(found[measured]), values[measured])
    bounds = lower_bounds(found)
    assert (bounds <= values).all()
    assert not can_be_best(found, groups, quantum)[~measured].any()


def test_groups_race_in_the_same_rounds_and_one_group_as_without_groups():
    table = skewed(0, 60, 32)
    calls = []

    def measure(rows, columns):
        calls.append(set(rows.tolist()))
        return table[np.ix_(rows, columns)]

    groups = np.arange(len(table)) % 3
    order = np.argsort(-table.mean(axis=0))
    race(measure, np.full(table.shape, np.nan), order, groups=groups)
    assert calls[0] == set(range(len(table)))
    assert set(groups[list(calls[1])]) == {0, 1, 2}, "the most promising one of each"
    assert len(calls[1]) == 3
    alone = raced(table, groups=[0] * len(table))[0]
    assert np.array_equal(alone, raced(table)[0], equal_nan=True)


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
    known = np.full(table.shape, np.nan)
    known[0] = table[0]
    found, _ = raced(table, order=range(8), known=known, quantum=1e-3)
    assert np.isnan(found).any(axis=1).tolist() == [False, False, True]
    exact, _ = raced(table, order=range(8), known=known, quantum=KL_QUANTUM)
    assert np.isnan(exact).any(axis=1).tolist() == [False, True, True]


def test_negative_divergences_are_refused():
    table = skewed(0)
    table[5, 3] = -1e-9
    with pytest.raises(ValueError, match=r"-1e-09.*negative.*completely"):
        raced(table, groups=range(len(table)))
