"""A separable objective in whole numbers, because integer programs prove nothing about floats.

CP-SAT stops at an absolute gap of 1e-4 and calls it optimal, so that a divergence of 1e-5 nat would
come back wrong. Here values become whole multiples of a step, and what that can hide is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.problem import Separable

# Sums of coefficients in a row stay below it, see `program.add_row`; larger integers lose exactness
# as floats, which is how CP-SAT reports bounds.
ROW_LIMIT = 2**31 - 1
_FLOAT_LIMIT = 2**53


@dataclass(frozen=True)
class IntegerTerms:
    """value = offset + step * (sum of coefficients), exactly or within error_bound / 2.

    coefficients: int64 per parameter and value; error_bound: how much worse than the best value
    the value with the smallest sum can be.
    """

    coefficients: tuple[NDArray[np.int64], ...]
    offset: float
    step: float
    error_bound: float


def integer_terms(objective: Separable, points: NDArray[np.int64]) -> IntegerTerms:
    """The objective in multiples of its quantum where it has one, else scaled.

    Raises OpsearchError when a term that some point uses is not a finite number.
    """
    used = [np.unique(column) for column in points.T]
    terms = [np.asarray(term, float) for term in objective.terms]
    for k, (term, values) in enumerate(zip(terms, used, strict=True)):
        if not np.isfinite(term[values]).all():
            raise OpsearchError(
                f"term {k} of objective {objective.name!r} is not finite for some value; "
                "an integer program needs finite terms, use --solver grid or measure them again"
            )
    return _multiples(objective.quantum, terms, used) or _scaled(terms, used)


def _multiples(
    quantum: float, terms: list[NDArray[np.float64]], used: list[NDArray[np.int64]]
) -> IntegerTerms | None:
    """Whole multiples of the quantum; None where terms are not, or are too many of them."""
    if quantum <= 0:
        return None
    steps = [_at(term / quantum, values) for term, values in zip(terms, used, strict=True)]
    if sum(float(np.abs(step - np.rint(step)).max()) for step in steps) > 0.25:
        return None
    if sum(float(np.abs(step).max()) for step in steps) >= _FLOAT_LIMIT / 4:
        return None
    return IntegerTerms(tuple(np.rint(step).astype(np.int64) for step in steps), 0.0, quantum, 0.0)


def _scaled(terms: list[NDArray[np.float64]], used: list[NDArray[np.int64]]) -> IntegerTerms:
    """Terms as multiples of the smallest step that keeps all coefficients within one row.

    Each of the n parameters adds at most half a step of rounding, so the smallest integer sum is at
    most n steps above the smallest value; float sums of the terms themselves add a little.
    """
    lowest = [float(term[values].min()) for term, values in zip(terms, used, strict=True)]
    above = [_at(t - low, v) for t, low, v in zip(terms, lowest, used, strict=True)]
    total = sum(float(term.sum()) for term in above)
    count = sum(len(values) for values in used)
    step = total / (ROW_LIMIT - count) if total > 0 else 1.0
    largest = sum(float(np.abs(t[v]).max()) for t, v in zip(terms, used, strict=True))
    rounding = sum(len(values) > 1 for values in used) * step * (1 + 1e-6)
    hidden = rounding + 8 * float(np.finfo(float).eps) * largest
    coefficients = tuple(np.rint(term / step).astype(np.int64) for term in above)
    return IntegerTerms(coefficients, sum(lowest), step, hidden)


def _at(term: NDArray[np.float64], values: NDArray[np.int64]) -> NDArray[np.float64]:
    """`term` with zero at the values that no point uses."""
    kept = np.zeros(len(term))
    kept[values] = term[values]
    return kept
