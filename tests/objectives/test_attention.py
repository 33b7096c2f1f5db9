"""FitPrune's criterion and recipes equal literal loops over the paper's description."""

from fractions import Fraction
from itertools import accumulate
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from opsearch.objectives.attention import Attention, lost, nearest, recipe
from opsearch.problem.spaces.recipes import RecipeSpace

LAYERS = 3


def literal_recipe(samples, bound, enough=lambda deleted: False):
    """Return the number of tokens deleted in each layer.

    Args:
        samples: Attention masses [L][2][N] as lists, of equal N.
        bound: Share of the attention that may be lost.
        enough: True when the deletions so far suffice.
    """
    left = [list(range(len(sample[0][0]))) for sample in samples]
    deleted = []
    for layer in range(len(samples[0])):
        if enough(deleted):
            break
        numbers = []
        for x, sample in enumerate(samples):
            gone = set(left[x])
            for mass in sample[layer]:
                rising, prefix = sorted(left[x], key=lambda j: mass[j]), []
                for k in range(1, len(rising) + 1):
                    if sum(mass[j] for j in rising[k:]) >= (1 - bound) * sum(mass):
                        prefix = rising[:k]
                gone &= set(prefix[:-1])
            left[x] = [j for j in left[x] if j not in gone]
            numbers.append(len(gone))
        deleted.append(sum(numbers) // len(numbers))
    return deleted + [0] * (len(samples[0]) - len(deleted))


def literal_loss(sample, left):
    """Return the largest share of attention that the deleted tokens of any layer received."""
    alive, worst = list(range(len(sample[0][0]))), 0
    for (cross, own), count in zip(sample, left, strict=True):
        alive = sorted(alive, key=lambda j: -cross[j] * own[j])[:count]
        alive.sort()
        for mass in (cross, own):
            if sum(mass):
                worst = max(worst, 1 - sum(mass[j] for j in alive) / sum(mass))
    return worst


# Masses and bounds are multiples of a power of two, so every sum is exact.
masses = st.integers(0, 9).map(lambda step: step / 64)
BOUNDS = st.integers(0, 16).map(lambda step: step / 16)


def of_samples(tokens):
    layer = st.lists(st.lists(masses, min_size=tokens, max_size=tokens), min_size=2, max_size=2)
    sample = st.lists(layer, min_size=LAYERS, max_size=LAYERS)
    return st.lists(sample, min_size=1, max_size=3)


SAMPLES = st.integers(1, 7).flatmap(of_samples)


def arrays(samples):
    return [np.array(sample, np.float32) for sample in samples]


@settings(max_examples=40, deadline=None)
@given(SAMPLES, BOUNDS)
def test_recipes_are_those_of_the_literal_search(samples, bound):
    tokens = len(samples[0][0][0])
    left = list(accumulate(literal_recipe(samples, bound), lambda n, k: n - k, initial=tokens))[1:]
    assert recipe(arrays(samples), bound) == [Fraction(n, tokens) for n in left]


@settings(max_examples=40, deadline=None)
@given(SAMPLES, st.lists(st.integers(0, 7), min_size=LAYERS, max_size=LAYERS))
def test_the_criterion_is_that_of_the_literal_version(samples, left):
    tokens = len(samples[0][0][0])
    left = [min(n, tokens) for n in accumulate(left, min)]
    shares = [Fraction(n, tokens) for n in left]
    wanted = [literal_loss(sample, left) for sample in samples]
    assert [lost(each, shares) for each in arrays(samples)] == pytest.approx(wanted, abs=1e-12)
    space = RecipeSpace(LAYERS)
    measure = SimpleNamespace(received_attention=lambda: arrays(samples))
    objective = Attention().make(space, measure, np.zeros(0, bool))
    size = len(space.parameters[0].values)
    index = space.index_of([nearest(share, size) for share in shares])
    assert objective.value(index) == pytest.approx(np.mean(wanted), abs=1e-12)


def test_a_recipe_by_hand():
    """Words attend to the first token, the image to the last two; tokens that neither needs go."""
    cross, own, even = [8, 1, 1, 1, 1], [1, 1, 1, 4, 4], [1, 1, 1, 1, 1]
    sample = np.array([[cross, own], [even, even]], np.float32)
    # Half of 12 covers the last four, half of 11 the first three. One less of each leaves only
    # the second token in both. Then half of 5 covers a single token, so nothing more goes.
    assert recipe([sample], 0.5) == [Fraction(4, 5), Fraction(4, 5)]
    assert recipe([sample], 0.0) == [1, 1]
    assert recipe([sample], 1.0)[-1] > 0


def test_samples_of_several_sizes_count_by_their_share():
    """Two of four tokens and none of eight go: a quarter on average, two of the larger eight."""
    some = np.array([[[0, 0, 0, 1]] * 2], np.float32)
    none = np.ones((1, 2, 8), np.float32)
    assert recipe([some], 0.0) == [Fraction(2, 4)]
    assert recipe([none], 0.0) == [1]
    assert recipe([some, none], 0.0) == [Fraction(6, 8)]


def test_a_sample_without_a_picture():
    masses = np.zeros((1, 2, 0), np.float32)
    some = np.array([[[0, 0, 0, 1]] * 2], np.float32)
    assert recipe([masses, some], 0.0) == [Fraction(3, 4)]
    assert lost(masses, [Fraction(1, 2)]) == 0
