"""A proxy corrected by true values: the smallest change of its coefficients that explains them.

Bayesian linear regression with the measured effects as prior mean, as in the surrogate of BOCS
(Baptista and Poloczek, ICML 2018), with every coefficient equally uncertain and nearly no noise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from opsearch.problem.objective import KL_DECIMALS, Choice, Pair, Pairwise, Separable

_NOISE = 1e-3  # of the variance that one coefficient gives


def refitted(
    proxy: Separable | Pairwise, indices: Sequence[int], values: NDArray[np.float64]
) -> Separable | Pairwise:
    """The proxy with coefficients changed so that it takes these values at these points.

    The value of the point that prunes nothing stays: choices that prune nothing have no
    coefficient.
    """
    rows = [proxy.space.row(index) for index in indices]
    choices = _pruning(proxy)
    pairs = list(proxy.pairs) if isinstance(proxy, Pairwise) else []
    present = _present(rows, choices, pairs)
    missing = values - np.array([proxy.value(index) for index in indices])
    kernel = present @ present.T + _NOISE * np.eye(len(rows))
    change = present.T @ np.linalg.solve(kernel, missing)
    terms = [term.copy() for term in proxy.terms]
    for (k, i), effect in zip(choices, change, strict=False):
        terms[k][i] = round(float(terms[k][i] + effect), KL_DECIMALS)
    if not isinstance(proxy, Pairwise):
        return replace(proxy, terms=tuple(terms))
    effects = zip(proxy.pairs.items(), change[len(choices) :], strict=True)
    together = {p: round(float(old + effect), KL_DECIMALS) for (p, old), effect in effects}
    return replace(proxy, terms=tuple(terms), pairs=together)


def _pruning(proxy: Separable | Pairwise) -> list[Choice]:
    return [(k, i) for k, term in enumerate(proxy.terms) for i in range(len(term) - 1)]


def _present(
    rows: Sequence[tuple[int, ...]], choices: Sequence[Choice], pairs: Sequence[Pair]
) -> NDArray[np.float64]:
    """Which choices and pairs each row has, 1 or 0, float64[rows, coefficients]."""
    alone = np.array([[row[k] == i for k, i in choices] for row in rows], float)
    together = [[row[k] == i and row[m] == j for (k, i), (m, j) in pairs] for row in rows]
    return np.concatenate([alone, np.array(together, float).reshape(len(rows), -1)], axis=1)
