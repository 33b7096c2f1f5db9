"""Objectives in whole numbers, because integer programs prove nothing about floats.

CP-SAT stops at an absolute gap of 1e-4 and calls it optimal, so that a divergence of 1e-5 nats
would come back wrong. Here values become whole multiples of a step, and what that can hide is
recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError, echo
from opsearch.problem.objective import Pair, Pairwise, Separable
from opsearch.problem.spaces.base import Space

# Sums of coefficients in a row stay below it, see `ortools.add_row`; larger integers lose
# exactness as floats, which is how CP-SAT reports bounds.
ROW_LIMIT = 2**31 - 1
FLOAT_LIMIT = 2**53


@dataclass(frozen=True)
class IntegerTerms:
    """An objective in whole steps: value = offset + step * (sum of coefficients).

    Attributes:
        coefficients: int64[n] per parameter, one per value.
        pairs: Coefficient of each pair of choices; 0 where missing.
        offset: The value of a sum of 0, in the objective's unit.
        step: The value of one step, in the objective's unit.
        error_bound: How far the value of the smallest sum can be above the best value. The equation
            holds within half of it, exactly where it is 0.
    """

    coefficients: tuple[NDArray[np.int64], ...]
    pairs: Mapping[Pair, int]
    offset: float
    step: float
    error_bound: float

    def sums(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the sum of coefficients at rows of value indices, int64[R]."""
        sums = np.zeros(len(rows), np.int64)
        for term, column in zip(self.coefficients, rows.T, strict=True):
            sums += term[column]
        for ((k, i), (m, j)), effect in self.pairs.items():
            sums += effect * ((rows[:, k] == i) & (rows[:, m] == j))
        return sums


def integer_terms(objective: Separable | Pairwise) -> IntegerTerms:
    """Return the objective in multiples of its quantum, or scaled where it has none.

    Raises:
        OpsearchError: A term that some point uses is not a finite number.
    """
    used = _used(objective.space)
    terms = [np.asarray(term, float) for term in objective.terms]
    pairs = objective.pairs if isinstance(objective, Pairwise) else {}
    for k, (term, values) in enumerate(zip(terms, used, strict=True)):
        if not np.isfinite(term[values]).all():
            raise _not_finite(f"term {k}", objective.name)
    if not np.isfinite(np.array(list(pairs.values()))).all():
        raise _not_finite("a pair", objective.name)
    return _multiples(objective.quantum, terms, used, pairs) or _scaled(terms, used, pairs)


def _used(space: Space) -> list[NDArray[np.int64]]:
    """Return the value indices of each parameter that some point has."""
    if space.listed:
        return [np.unique(column) for column in space.points.T]
    return [np.arange(len(parameter.values)) for parameter in space.parameters]


def _not_finite(what: str, objective: str) -> OpsearchError:
    return OpsearchError(
        f"{what} of objective {echo(objective)} is not finite, but an integer program needs finite "
        "terms; use --solver grid or measure them again"
    )


def _multiples(
    quantum: float,
    terms: list[NDArray[np.float64]],
    used: list[NDArray[np.int64]],
    pairs: Mapping[Pair, float],
) -> IntegerTerms | None:
    """Return whole multiples of the quantum; None where terms are none, or too large."""
    if quantum <= 0:
        return None
    steps = [_at(term / quantum, values) for term, values in zip(terms, used, strict=True)]
    together = np.array(list(pairs.values())) / quantum
    parts = [*steps, together]
    if sum(float(np.abs(step - np.rint(step)).max(initial=0.0)) for step in parts) > 0.25:
        return None
    largest = sum(float(np.abs(step).max()) for step in steps) + float(np.abs(together).sum())
    if largest >= FLOAT_LIMIT / 4:
        return None
    whole = tuple(np.rint(step).astype(np.int64) for step in steps)
    return IntegerTerms(whole, _whole(pairs, together), 0.0, quantum, 0.0)


def _scaled(
    terms: list[NDArray[np.float64]],
    used: list[NDArray[np.int64]],
    pairs: Mapping[Pair, float],
) -> IntegerTerms:
    """Return terms in multiples of the smallest step that keeps all coefficients within one row.

    Each of the n parameters and pairs adds at most half a step of rounding, so the smallest integer
    sum is at most n steps above the smallest value; float sums themselves add a little.
    """
    lowest = [float(term[values].min()) for term, values in zip(terms, used, strict=True)]
    above = [_at(t - low, v) for t, low, v in zip(terms, lowest, used, strict=True)]
    together = np.array(list(pairs.values()))
    beside = float(np.abs(together).sum())
    total = sum(float(term.sum()) for term in above) + beside
    count = sum(len(values) for values in used) + len(pairs)
    step = total / (ROW_LIMIT - count) if total > 0 else 1.0
    largest = sum(float(np.abs(t[v]).max()) for t, v in zip(terms, used, strict=True)) + beside
    varying = sum(len(values) > 1 for values in used) + len(pairs)
    hidden = varying * step * (1 + 1e-6) + 8 * float(np.finfo(float).eps) * largest
    coefficients = tuple(np.rint(term / step).astype(np.int64) for term in above)
    return IntegerTerms(coefficients, _whole(pairs, together / step), sum(lowest), step, hidden)


def _whole(pairs: Mapping[Pair, float], steps: NDArray[np.float64]) -> dict[Pair, int]:
    rounded = zip(pairs, np.rint(steps).astype(np.int64).tolist(), strict=True)
    return {pair: effect for pair, effect in rounded if effect}


def _at(term: NDArray[np.float64], values: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return `term` with zero at the values that no point uses."""
    kept = np.zeros(len(term))
    kept[values] = term[values]
    return kept
