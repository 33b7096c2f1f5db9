"""The true divergence where there are too many policies to measure: from coarse to fine.

First every 4th depth with every share of tokens, then whatever is near the three best policies so
far, until all that is near them is measured. Near means: none of the depths up to which queries,
keys and MLPs work or stages begin, and not the place of a share among its values, differs by more
than 2. It is a local search: what it finds need not be the best of the space.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.objectives.base import ObjectiveSettings, require_any_objective
from opsearch.objectives.joint import rounded_mean
from opsearch.problem.objective import KL_QUANTUM, Form, Measure, Table
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.point_policies import PointPolicies

_STEP = 4  # layers between the depths that are measured first
_NEAR = 2
_BEST = 3  # near one alone, the search ends in the first valley

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class CoarseJoint:
    """Mean KL of the decoded policy over the samples, in nats, where the search comes by."""

    name: ClassVar[str] = "joint"
    per_budget: ClassVar[bool] = True
    form: ClassVar[Form] = "table"

    @classmethod
    def from_settings(cls, settings: ObjectiveSettings) -> CoarseJoint:
        """Return the objective; it has no settings."""
        return cls()

    def require(self, space: Space) -> None:
        """Raise OpsearchError for a space without depths."""
        require_any_objective(self.name, space)
        if space.layer_columns is None:
            raise OpsearchError(
                f"space {space.name!r} has no depths to take coarse and fine; raise --effort to "
                "measure all its policies"
            )

    def make(self, space: Space, measure: Measure, feasible: Mask) -> Table:
        """Measure a part of the feasible points; nan elsewhere, and the table says how.

        Raises OpsearchError for a space without depths.
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
            f"measured were the {started} of {every}, then, in {rounds - 1} rounds, the "
            f"{measured - started} near the three best so far"
        )
        return Table(self.name, "nats", values, KL_QUANTUM, how=how)


def coarsest(space: Space, feasible: Mask) -> tuple[int, Mask]:
    """The widest step between depths at which some point is feasible, and these points."""
    depths = space.points[:, list(space.layer_columns or ())]
    step = _STEP
    while True:
        # A point whose queries work in all layers stands for all that differ in dead operations.
        on = ((depths % step == 0) | (depths == space.num_layers)).all(axis=1)
        if step == 1 or (on & feasible).any():
            return step, on & feasible
        step //= 2


def near_dearest(space: Space, feasible: Mask, first: Mask, costs: NDArray[np.int64]) -> Mask:
    """What is near the dearest of the coarse points, for the best are not known beforehand.

    Within a budget the best are mostly those that spend it. costs: by which the dearest are told,
    those of the first budget where there are several.
    """
    coarse = np.flatnonzero(first)
    dearest = coarse[np.argsort(costs[coarse], kind="stable")[-_BEST:]]
    return _near(space.live_depths(space.points), dearest) & feasible & ~first


def _near(depths: NDArray[np.int64], points: NDArray[np.int64]) -> Mask:
    apart = np.abs(depths[:, None] - depths[points])
    return np.asarray((apart <= _NEAR).all(axis=2).any(axis=1))
