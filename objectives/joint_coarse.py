"""The true divergence from coarse to fine, if there are too many policies to measure.

Every 4th depth with every share of tokens is measured first, then all policies near the three best
ones so far, until no policy near them is left. Two policies are near if no depth and no share index
differs by more than 2. This is a local search, so the best policy found need not be the best of the
space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.exact import Integers
from opsearch.errors import OpsearchError
from opsearch.problem.objective import KL_QUANTUM, Form, Measure, Table, rounded_mean
from opsearch.problem.objective_factory import ObjectiveSettings, require_any_objective
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.point_policies import PointPolicies

_STEP = 4  # layers between the depths that are measured first
_NEAR = 2
_BEST = 3  # with one, the search ends in the first local minimum

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CoarseJoint:
    """Mean KL of the policy over the samples, in nats, at the points that the search visits."""

    name: ClassVar[str] = "joint"
    per_budget: ClassVar[bool] = True
    form: ClassVar[Form] = "table"

    @classmethod
    def from_settings(cls, settings: ObjectiveSettings) -> CoarseJoint:
        """Return the objective; it has no settings."""
        return cls()

    def require(self, space: Space) -> None:
        """Raise OpsearchError if the space has no depths."""
        require_any_objective(self.name, space)
        if space.layer_columns is None:
            raise OpsearchError(
                f"space {space.name!r} has no depths to refine from coarse to fine; raise --effort "
                "to measure all its policies"
            )

    def make(self, space: Space, measure: Measure, feasible: Mask) -> Table:
        """Measure a part of the feasible points; the others are nan.

        Raises:
            OpsearchError: The space has no depths.
        """
        self.require(space)
        values = np.full(len(space.points), np.nan)
        depths = space.live_depths(space.points)
        step, new = coarsest(space, feasible)
        started, rounds = int(new.sum()), 0
        while new.any():
            values[new] = rounded_mean(measure(PointPolicies(space, space.points[new])))
            best = np.argsort(values, kind="stable")[: min(_BEST, int((~np.isnan(values)).sum()))]
            new, rounds = _near(depths, best) & feasible & np.isnan(values), rounds + 1
        measured = int((~np.isnan(values)).sum())
        every = "every depth" if step == 1 else f"every {step}{'th' if step > 3 else 'nd'} depth"
        how = (
            f"{started} points at {every} were measured, then {measured - started} near the three "
            f"best so far, in {rounds - 1} further rounds"
        )
        return Table(self.name, "nats", values, KL_QUANTUM, how=how)


def coarsest(space: Space, feasible: Mask) -> tuple[int, Mask]:
    """Return the widest step of depths with a feasible point, and a mask of these points."""
    depths = space.points[:, list(space.layer_columns or ())]
    step = _STEP
    while True:
        # A point whose queries work in all layers stands for all that differ in dead operations.
        on = ((depths % step == 0) | (depths == space.num_layers)).all(axis=1)
        if step == 1 or (on & feasible).any():
            return step, on & feasible
        step //= 2


def near_dearest(space: Space, feasible: Mask, first: Mask, costs: Integers) -> Mask:
    """Return a mask of the points near the most expensive coarse points, to estimate the work.

    The best points are not known beforehand, but most of them use up the budget.

    Args:
        space: The space.
        feasible: Mask of the points within the budgets, bool[P].
        first: Mask of the coarse points, bool[P].
        costs: Cost of each point under the first budget, exact integers [P].
    """
    coarse = np.flatnonzero(first)
    dearest = coarse[np.argsort(costs[coarse], kind="stable")[-_BEST:]]
    return _near(space.live_depths(space.points), dearest) & feasible & ~first


def _near(depths: NDArray[np.int64], points: NDArray[np.int64]) -> Mask:
    apart = np.abs(depths[:, None] - depths[points])
    return np.asarray((apart <= _NEAR).all(axis=2).any(axis=1))
