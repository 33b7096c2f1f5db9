"""Objectives as sums: their values, and the size of their interactions."""

import numpy as np
import pytest

from opsearch.problem.objective import Pairwise
from opsearch.problem.spaces.depth import dop_space
from opsearch.testing.example_problems import N_V_TEST


def pairwise(pairs):
    space = dop_space(1, N_V_TEST)
    terms = (np.array([3.0, 0.0]), np.array([-1.0, 0.0]), np.array([4.0, 2.0, 1.0, 0.0]))
    return Pairwise("pairs", "nats", space, terms, pairs)


def test_interactions_are_a_share_of_what_their_choices_cost_alone():
    """Sizes add up, whatever their signs; choices without a pair do not count."""
    pairs = {((0, 0), (1, 0)): -0.5, ((0, 0), (2, 1)): 0.25}
    assert pairwise(pairs).interaction_share == pytest.approx(0.75 / ((3 + 1) + (3 + 2)))


def test_without_pairs_the_share_is_zero():
    assert pairwise({}).interaction_share == 0.0
    assert pairwise({((0, 1), (1, 1)): 0.5}).interaction_share == 0.0
