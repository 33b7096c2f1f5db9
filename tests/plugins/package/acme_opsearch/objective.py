"""An objective with an option of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.problem import (
    KL_DECIMALS,
    KL_QUANTUM,
    Form,
    Measure,
    ObjectiveSettings,
    Space,
    Table,
    require_any_objective,
)


@dataclass(frozen=True)
class Power:
    """Power mean of the samples' divergences, which counts the worst samples more.

    The contract is `opsearch.problem.ObjectiveFactory`.

    Attributes:
        weight: Exponent; 1 is the mean.
    """

    weight: float

    name: ClassVar[str] = "acme-power"
    form: ClassVar[Form] = "table"
    per_budget: ClassVar[bool] = False

    @classmethod
    def from_settings(cls, settings: ObjectiveSettings, weight: float = 3) -> Power:
        """Return the objective; `weight` is the user's `acme-power(weight=2)`."""
        if weight < 1:
            raise TypeError(f"weight={weight} is below 1")
        return cls(weight)

    def require(self, space: Space) -> None:
        """Raise OpsearchError for a space without a list of points, or with its own objective."""
        require_any_objective(self.name, space)
        if not space.listed:
            space.raise_unlistable()

    def make(self, space: Space, measure: Measure, feasible: NDArray[np.bool_]) -> Table:
        """Measure the feasible points; nan says that a point has no value."""
        divergence = measure([space.decode(row) for row in space.points[feasible].tolist()])
        mean = (divergence**self.weight).mean(axis=1) ** (1 / self.weight)
        values = np.full(len(space.points), np.nan)
        values[feasible] = np.round(mean, KL_DECIMALS)
        return Table(self.name, "nats", values, KL_QUANTUM)
