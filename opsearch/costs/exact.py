"""Arrays of integers that never wrap: int64 where that is proved to suffice, else Python integers.

One sample of 100,000 visual tokens in a decoder of 400 B weights takes 2e17 FLOPs, and int64 ends
at 9.2e18: 10,000 such samples exceed it. NumPy wraps without a word, so every product and every sum
of costs goes through these functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Integers = NDArray[Any]
"""int64[...], or object[...] of Python integers where int64 could wrap."""

INT64_MAX = 2**63 - 1
_HALF = 32  # bits of the lower limb
_LOW = 2**_HALF - 1
_MOST_WEIGHT = 2**31  # sums of limbs with weights below it stay within int64


def integers(values: Sequence[int]) -> Integers:
    """Return integers as an array; NumPy itself would make some of them unsigned or floats."""
    fits = all(-INT64_MAX <= value <= INT64_MAX for value in values)
    return np.array([int(value) for value in values], np.int64 if fits else object)


def within(values: Integers, bound: int) -> Integers:
    """Return values in a type that holds results up to `bound` in absolute value."""
    return values if bound <= INT64_MAX else values.astype(object)


def weighted_sum(parts: Iterable[tuple[int, Integers]], shape: tuple[int, ...]) -> Integers:
    """Return the exact sum of weight x array.

    Sums of int64 arrays are carried in two limbs of 32 bits, which is nearly as fast as int64.

    Args:
        parts: Weights, at least 0, and arrays of this shape.
        shape: Shape of each array.

    Raises:
        TypeError: An array holds no integers.
    """
    high, low, weights = np.zeros(shape, np.int64), np.zeros(shape, np.int64), 0
    beyond: Integers | None = None
    for weight, part in parts:
        values = np.asarray(part)
        weights += weight
        if values.dtype == object or weights >= _MOST_WEIGHT:
            more = weight * values.astype(object)
            beyond = more if beyond is None else beyond + more
            continue
        values = values.astype(np.int64, casting="safe", copy=False)
        high += weight * (values >> _HALF)
        low += weight * (values & _LOW)
    high += low >> _HALF
    low &= _LOW
    small = high.min(initial=0) >= -(2**31) and high.max(initial=0) < 2**31
    if beyond is None and small:
        return np.asarray((high << _HALF) | low)
    total = (high.astype(object) << _HALF) | low
    return np.asarray(total if beyond is None else total + beyond, object)


def ratios(values: Integers, divisor: int) -> NDArray[np.float64]:
    """Return values / divisor as floats, each within 1e-15 of its exact value."""
    exact = abs(divisor) <= INT64_MAX
    return np.asarray((values if exact else values.astype(object)) / divisor, np.float64)


def packed(*columns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return one number per row of integer columns >= -1, in the order of the rows.

    Equal rows have equal numbers, and only these.
    """
    number = np.zeros(len(columns[0]), np.int64)
    bound = 1
    for column in columns:
        size = int(column.max(initial=0)) + 2
        if bound * size > INT64_MAX:
            found, number = np.unique(number, return_inverse=True)
            bound = len(found)
        number = number * size + column + 1
        bound *= size
    return number
