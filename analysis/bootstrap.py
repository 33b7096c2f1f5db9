"""Intervals over samples by the bootstrap: what other samples of the same kind would have given."""

from __future__ import annotations

import numpy as np

from opsearch.analysis.measured import Array

RESAMPLES = 1000
LEVEL = 0.95


def resamples(samples: int, seed: int = 0, count: int = RESAMPLES) -> Array:
    """Weights of each sample in sets drawn with replacement, float64[S, B]; columns sum to 1.

    A table [P, S] times these weights holds the mean of every row over every drawn set.
    """
    even = np.full(samples, 1 / samples)
    drawn = np.random.default_rng(seed).multinomial(samples, even, size=count)
    return np.ascontiguousarray(drawn.T / samples)


def interval(means: Array) -> tuple[Array, Array]:
    """The middle 95 % of the last axis (percentile bootstrap, Efron 1979): its two ends."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail], axis=-1)
    return low, high
