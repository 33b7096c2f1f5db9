"""Racing: the policy of lowest mean divergence without measuring every policy on every sample.

No divergence is negative, so a policy's divergences on the samples measured so far, summed and
divided by the number of all samples, bound its mean from below. The samples are taken in rounds,
the hardest first, and a policy goes on only while its bound is not above the best mean known.
Races with Hoeffding bounds (Maron and Moore, 1994) drop what is probably worse; these bounds are
certain, so the result is the one of complete measurement, ties included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import numpy as np
from numpy.typing import NDArray

from opsearch.problem.objective import KL_QUANTUM, in_quanta, rounded_mean

Divergences = NDArray[np.float64]
Rows = NDArray[np.int64]
MeasureSubset = Callable[[Rows, Rows], Divergences]
"""Returns the divergence of policies (numbers int64[p]) on samples (numbers int64[s]) in nats,
float64[p, s]. It may be asked for a value again."""

ROUNDS = 8
"""Rounds in which the samples are taken, in equal parts. More rounds drop policies earlier, but cut
the samples into more passes (docs/benchmarks.md)."""


def race(
    measure: MeasureSubset,
    known: Divergences,
    order: Sequence[int],
    *,
    first: Sequence[int] = (),
    best: float = inf,
    keep: int = 1,
    quantum: float = KL_QUANTUM,
) -> Divergences:
    """Measure policies on samples until none that is left out can be among the best.

    Args:
        measure: Measures some policies on some samples.
        known: Divergences in nats, float64[P, S], nan where they are not known.
        order: The samples, the hardest first.
        first: Promising policies, which are measured on all samples beforehand.
        best: Mean of the best other policy in nats; those above it are dropped, too.
        keep: Number of best policies, with all their ties, that are measured on all samples.
        quantum: Means that round to the same multiple of it are ties.

    Returns:
        The table float64[P, S]. Where a row has no nan, `rounded_mean` is its value; the
        `lower_bounds` of every other row is above the value of the `keep`-th best, or above `best`.

    Raises:
        ValueError: A measured divergence is negative.
    """
    table, samples = known.copy(), np.array(order, np.int64)

    def fill(rows: Rows, columns: Rows) -> None:
        missing = np.isnan(table[np.ix_(rows, columns)])
        rows, columns = rows[missing.any(axis=1)], columns[missing.any(axis=0)]
        if not len(rows):
            return
        found = measure(rows, columns)
        if (found < 0).any():
            raise ValueError(
                f"a divergence of {np.nanmin(found)} nats is negative, so that partial sums bound "
                "nothing; measure all policies completely"
            )
        table[np.ix_(rows, columns)] = found

    def left() -> Rows:
        return np.flatnonzero(np.isnan(table).any(axis=1) & can_be_best(table, best, keep, quantum))

    fill(np.unique(np.array(first, np.int64)), samples)
    for end in range(1, ROUNDS + 1):
        fill(left(), samples[: -(-end * len(samples) // ROUNDS)])
        rows = left()  # the most promising of them set the bar for the next round
        fill(rows[np.argsort(lower_bounds(table[rows]), kind="stable")[:keep]], samples)
    return table


def lower_bounds(table: Divergences) -> Divergences:
    """Return a lower bound of each policy's rounded mean; its value where all is measured.

    Args:
        table: Divergences in nats, float64[P, S], nan where not measured.
    """
    # Summed in the same order as in a complete row, so that rounding keeps it a lower bound.
    return rounded_mean(np.where(np.isnan(table), 0.0, table))


def can_be_best(
    table: Divergences, best: float = inf, keep: int = 1, quantum: float = KL_QUANTUM
) -> NDArray[np.bool_]:
    """Return the policies that may be among the `keep` best or tie with them, bool[P].

    Arguments are those of `race`.
    """
    bounds, measured = lower_bounds(table), ~np.isnan(table).any(axis=1)
    if measured.sum() >= keep:
        best = min(best, float(np.partition(bounds[measured], keep - 1)[keep - 1]))
    return np.asarray(in_quanta(bounds, quantum) <= in_quanta(np.array(best), quantum))
