"""Racing: the policies of lowest mean divergence without measuring each one on every sample.

No divergence is negative, so a policy's divergences on the samples measured so far, summed and
divided by the number of all samples, bound its mean from below. The samples are taken in rounds,
the hardest first, and a policy goes on only while its bound is not above the best mean known in its
group. Races with Hoeffding bounds (Maron and Moore, 1994) drop what is probably worse; these bounds
are certain, so the result is the one of complete measurement, ties included.
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
    groups: Sequence[int] | None = None,
    quantum: float = KL_QUANTUM,
) -> Divergences:
    """Measure policies on samples until none that is left out can be the best of its group.

    Args:
        measure: Measures some policies on some samples.
        known: Divergences in nats, float64[P, S], nan where they are not known.
        order: The samples, the hardest first.
        groups: Number of the group of each policy, from 0; None: all are in one.
        quantum: Means that round to the same multiple of it are ties.

    Returns:
        The table float64[P, S]. Where a row has no nan, `rounded_mean` is its value, and the best
        of each group and all their ties have none; the `lower_bounds` of every other row is above
        the best value of its group.

    Raises:
        ValueError: A measured divergence is negative.
    """
    table, samples = known.copy(), np.array(order, np.int64)
    members = np.zeros(len(table), np.int64) if groups is None else np.array(groups, np.int64)

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
        return np.flatnonzero(np.isnan(table).any(axis=1) & can_be_best(table, members, quantum))

    for end in range(1, ROUNDS + 1):
        fill(left(), samples[: -(-end * len(samples) // ROUNDS)])
        rows = left()
        rows = rows[np.argsort(lower_bounds(table[rows]), kind="stable")]
        # The most promising one of each group sets its bar for the next round.
        fill(rows[np.unique(members[rows], return_index=True)[1]], samples)
    return table


def lower_bounds(table: Divergences) -> Divergences:
    """Return a lower bound of each policy's rounded mean; its value where all is measured.

    Args:
        table: Divergences in nats, float64[P, S], nan where not measured.
    """
    # Summed in the same order as in a complete row, so that rounding keeps it a lower bound.
    return rounded_mean(np.where(np.isnan(table), 0.0, table))


def can_be_best(table: Divergences, groups: Rows, quantum: float) -> NDArray[np.bool_]:
    """Return the policies that may be the best of their group or tie with it, bool[P].

    Args:
        table: Divergences in nats, float64[P, S], nan where not measured.
        groups: Number of the group of each policy, int64[P].
        quantum: See `race`.
    """
    bounds, measured = lower_bounds(table), ~np.isnan(table).any(axis=1)
    best = np.full(groups.max(initial=0) + 1, inf)
    np.minimum.at(best, groups[measured], bounds[measured])
    return np.asarray(in_quanta(bounds, quantum) <= in_quanta(best, quantum)[groups])
