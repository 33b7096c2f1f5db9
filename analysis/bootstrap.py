"""Bootstrap intervals over samples."""

from __future__ import annotations

import numpy as np

from opsearch.analysis.measured import Array

RESAMPLES = 1000
LEVEL = 0.95


def resamples(samples: int, seed: int = 0, count: int = RESAMPLES) -> Array:
    """Return the weights of samples in sets drawn with replacement, float64[S, B].

    Columns sum to 1: a table [P, S] times these weights holds the mean of every row over every set.
    """
    even = np.full(samples, 1 / samples)
    drawn = np.random.default_rng(seed).multinomial(samples, even, size=count)
    return np.ascontiguousarray(drawn.T / samples)


def interval(means: Array) -> tuple[Array, Array]:
    """Return both ends of the middle 95 % of the last axis (percentile bootstrap, Efron 1979)."""
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(means, [tail, 100 - tail], axis=-1)
    return low, high


def draw_weights(draws: int, seed: int = 0, count: int = RESAMPLES) -> Array:
    """Return weights of draws in sets drawn with replacement, for few draws, float64[D, B].

    Columns sum to 1. Deviations from equal weights are stretched such that the middle 95 % of a
    weighted mean are as wide as Student's interval, because the plain percentiles of so few values
    are too narrow: those of five draws cover the true mean in four of five cases.

    Args:
        draws: Number of draws, at least 2.
        seed: Random seed.
        count: Number of sets.
    """
    from scipy.stats import norm, t

    quantile = (1 + LEVEL) / 2
    student = t.ppf(quantile, draws - 1) / norm.ppf(quantile)
    stretch = float(student) * np.sqrt(draws / (draws - 1))
    even = 1 / draws
    return np.asarray(even + stretch * (resamples(draws, seed, count) - even))
