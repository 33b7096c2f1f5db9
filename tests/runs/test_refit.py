"""A corrected proxy matches the measurements, and changes nothing where it was right."""

import numpy as np
import pytest

from opsearch.problem.objective import Pairwise, Separable
from opsearch.problem.spaces.operations import layers_space
from opsearch.runs.verify import corrected_proxy

SPACE = layers_space(3)
SIZES = [len(parameter.values) for parameter in SPACE.parameters]


def proxy(pairs):
    random = np.random.default_rng(0)
    terms = tuple(np.append(random.exponential(size=size - 1).round(6), 0.0) for size in SIZES)
    if not pairs:
        return Separable("terms", "nats", SPACE, terms, 1e-6)
    effects = {((0, 0), (1, 0)): 0.5, ((1, 0), (3, 0)): -0.25}
    return Pairwise("pairs", "nats", SPACE, terms, effects, 1e-6)


def points(count):
    random = np.random.default_rng(1)
    rows = random.integers(0, SIZES, (count, len(SIZES))).tolist()
    return sorted({SPACE.index_of(row) for row in rows})


@pytest.mark.parametrize("pairs", [False, True])
def test_it_takes_the_measured_values(pairs):
    given, at = proxy(pairs), points(12)
    measured = np.random.default_rng(2).exponential(size=len(at))
    corrected = corrected_proxy(given, at, measured)
    said = [corrected.value(index) for index in at]
    before = [given.value(index) for index in at]
    assert np.abs(said - measured).max() < 0.02 * np.abs(before - measured).max()


@pytest.mark.parametrize("pairs", [False, True])
def test_it_stays_where_it_was_right(pairs):
    given, at = proxy(pairs), points(12)
    corrected = corrected_proxy(given, at, np.array([given.value(index) for index in at]))
    for old, new in zip(given.terms, corrected.terms, strict=True):
        assert np.abs(old - new).max() <= 1e-6
    if pairs:
        assert corrected.pairs == given.pairs


def test_what_prunes_nothing_stays_free():
    top = SPACE.index_of([size - 1 for size in SIZES])
    corrected = corrected_proxy(
        proxy(True), [top, *points(5)], np.full(6, 3.0)[: 1 + len(points(5))]
    )
    assert corrected.value(top) == 0.0


def test_a_measurement_is_followed_up_to_a_thousandth_of_noise():
    """With one coefficient in a row the variance of its value is 1 + the noise."""
    given = proxy(False)
    row = [size - 1 for size in SIZES]
    row[1] = 0
    index = SPACE.index_of(row)
    row = SPACE.row(index)
    pruning = sum(place < size - 1 for place, size in zip(row, SIZES, strict=True))
    before = given.value(index)
    after = corrected_proxy(given, [index], np.array([before + 10.0])).value(index)
    assert after - before == pytest.approx(10 * pruning / (pruning + 1e-3), abs=2e-6 * pruning)
