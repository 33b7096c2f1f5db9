"""The table of the joint objective from measured divergences, complete or from a race."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from opsearch.objectives.racing import Divergences, Rows, lower_bounds, race
from opsearch.problem.objective import KL_QUANTUM, SubsetMeasure, Table, rounded_mean
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.point_policies import PointPolicies

_FIRST = 8  # policies that tell the hardest samples
RACED = "--complete measures all on all samples, as fronts and other budgets need"
"""Clause that names the measured points of a race."""


def race_on(
    policies: PointPolicies, measure: SubsetMeasure, quantum: float = KL_QUANTUM
) -> Divergences:
    """Race policies on the samples of a measurement, and return the table as `race` does.

    Some policies, evenly spaced, are measured on all samples first: they tell the hardest samples.

    Args:
        policies: The policies of P points.
        measure: Measures them.
        quantum: See `race`.
    """

    def on(rows: Rows, samples: Rows) -> Divergences:
        chosen = PointPolicies(policies.space, policies.points[rows])
        return measure.on(chosen, samples.tolist())

    first = first_policies(len(policies))
    begun = measure(PointPolicies(policies.space, policies.points[first]))
    # Whatever else the store holds is not used, so that the same run again takes the same way.
    known = np.full((len(policies), begun.shape[1]), np.nan)
    known[first] = begun
    order = np.argsort(-begun.mean(axis=0), kind="stable")
    return race(on, known, order.tolist(), quantum=quantum)


def first_policies(count: int) -> Rows:
    """Return the numbers of the policies that tell the hardest samples, of `count` policies."""
    return np.unique(np.linspace(0, count - 1, min(_FIRST, count)).round().astype(np.int64))


def joint_table(
    name: str, space: Space, points: NDArray[np.bool_], table: Divergences, how: str = ""
) -> Table:
    """Return the joint objective that a table of divergences defines.

    Args:
        name: Name of the objective.
        space: The space.
        points: Mask of the points of the rows of `table`, bool[P].
        table: Divergences in nats, float64[rows, S], nan where not measured.
        how: See `opsearch.problem.Table`.
    """
    values, lower = np.full((2, len(space.points)), np.nan)
    values[points] = rounded_mean(table)
    lower[points] = np.where(np.isnan(table).all(axis=1), np.nan, lower_bounds(table))
    return Table(name, "nats", values, KL_QUANTUM, how=how, lower=lower)
