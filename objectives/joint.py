"""The true divergence of each policy, without approximation.

A solver that reads tables has all feasible points measured, or a part of them where all take too
long. A blackbox solver has points measured one by one (`lazy`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.objectives.joint_table import RACED, joint_table, race_on
from opsearch.problem.objective import (
    KL_QUANTUM,
    Blackbox,
    Form,
    Measure,
    SubsetMeasure,
    Table,
    rounded_mean,
)
from opsearch.problem.objective_factory import (
    ObjectiveFactory,
    ObjectiveSettings,
    require_any_objective,
)
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.point_policies import PointPolicies


@dataclass(frozen=True)
class Joint:
    """Mean KL of the policy over the samples, in nats.

    Attributes:
        lazy: True to measure points on request.
        race: Points that cannot be the best are left out; those that round to the same multiple
            of this number of nats tie with the best and are measured. None: all are measured.
    """

    lazy: bool = False
    race: float | None = None
    name: ClassVar[str] = "joint"

    @classmethod
    def from_settings(cls, settings: ObjectiveSettings) -> Joint:
        """Return the objective; it has no settings."""
        return cls()

    def require(self, space: Space) -> None:
        """Raise OpsearchError if the space can only be searched by another objective."""
        require_any_objective(self.name, space)

    def adapted(self, space: Space, *, on_demand: bool, coarse: bool) -> ObjectiveFactory:
        """Return the objective that measures on request, from coarse to fine, or every point."""
        if self.lazy or on_demand:
            return Joint(lazy=True)
        return CoarseJoint() if coarse and space.layer_columns else self

    def raced(self, quantum: float) -> Joint:
        """Return the objective that measures only what can be the best on all samples."""
        return replace(self, race=quantum)

    @property
    def per_budget(self) -> bool:
        """True for a race, whose bar is the best point of the budget."""
        return self.race is not None

    @property
    def form(self) -> Form:
        """Form of the objective that `make` returns."""
        return "blackbox" if self.lazy else "table"

    def make(self, space: Space, measure: Measure, feasible: NDArray[np.bool_]) -> Table | Blackbox:
        """Measure the feasible points, or return an objective that measures on request."""
        if self.lazy:

            def evaluate(indices: Sequence[int]) -> NDArray[np.float64]:
                return rounded_mean(measure([space.decode(space.row(i)) for i in indices]))

            return Blackbox(self.name, "nats", evaluate, KL_QUANTUM)
        policies = PointPolicies(space, space.points[feasible])
        if self.race is None:
            return joint_table(self.name, space, feasible, measure(policies))
        if not isinstance(measure, SubsetMeasure):
            raise ValueError("a race needs a measurement of parts of the samples")
        table = race_on(policies, measure, self.race)
        return joint_table(self.name, space, feasible, table, RACED)
