"""The additive proxy: the sum of the individual divergences of all parameters.

D(d_attn, d_mlp, n_v) is approximated by D(d_attn) + D(d_mlp) + D(n_v), each measured with all else
unpruned (DOP, arXiv 2507.02909). The number of measurements is the sum of the parameters' values,
not their product. Every value is measured; `points` measures fewer and interpolates between them
with a monotone cubic (PCHIP); the paper interpolates, too, but does not say how.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.policy.policy import Policy
from opsearch.problem.objective import KL_DECIMALS, KL_QUANTUM, Form, Measure, Separable
from opsearch.problem.objective_factory import ObjectiveSettings, require_any_objective
from opsearch.problem.spaces.base import Parameter, Space, unpruned


@dataclass(frozen=True)
class Additive:
    """Sum of individual KL divergences, the proxy of DOP.

    Attributes:
        points: Number of measured values per parameter; None: all.
    """

    points: int | None = None
    name: ClassVar[str] = "additive"
    per_budget: ClassVar[bool] = False
    form: ClassVar[Form] = "separable"

    @classmethod
    def from_settings(cls, settings: ObjectiveSettings) -> Additive:
        """Return the proxy of these settings."""
        return cls(settings.points)

    def require(self, space: Space) -> None:
        """Raise OpsearchError if single parameters of the space prune nothing."""
        require_any_objective(self.name, space)
        require_individual(space)

    def policies(self, space: Space) -> list[Policy]:
        """Return one policy per measured value of each parameter.

        Raises:
            OpsearchError: Single parameters of the space prune nothing.
        """
        require_individual(space)
        return [
            space.decode(alone(space, k)[i])
            for k, parameter in enumerate(space.parameters)
            for i in self.measured(parameter)
        ]

    def make(self, space: Space, measure: Measure, feasible: NDArray[np.bool_]) -> Separable:
        """Measure the individual divergences (nats, mean over samples) and sum them."""
        means = iter(measure(self.policies(space)).mean(axis=1))
        terms = []
        for parameter in space.parameters:
            measured = self.measured(parameter)
            values = np.array([next(means) for _ in measured])
            terms.append(interpolated(parameter, measured, values))
        rounded = tuple(np.round(term, KL_DECIMALS) for term in terms)
        return Separable(self.name, "nats", space, rounded, KL_QUANTUM)

    def measured(self, parameter: Parameter) -> Sequence[int]:
        """Return the indices of the measured values, evenly spread and including both ends."""
        size = len(parameter.values)
        if self.points is None or self.points >= size:
            return range(size)
        return sorted({round(i) for i in np.linspace(0, size - 1, max(self.points, 2))})


def require_individual(space: Space) -> None:
    """Raise OpsearchError, with an alternative, if single parameters prune nothing."""
    if not space.parameters_act_alone:
        named = f" {', '.join(p.name for p in space.parameters)}" if space.listed else ""
        joint = "--objective joint, or to see each alone " if space.listed else ""
        raise OpsearchError(
            f"space {space.name!r} has no individual divergences, because its parameters{named} "
            f"prune only together; use {joint}a run of space dop or depth"
        )


def alone(space: Space, k: int) -> list[list[int]]:
    """Return the points in which only parameter k prunes, one for each of its values."""
    row = unpruned(space)
    values = range(len(space.parameters[k].values))
    return [[*row[:k], value, *row[k + 1 :]] for value in values]


def interpolated(
    parameter: Parameter, measured: Sequence[int], values: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Interpolate the divergence at all values of a parameter from the measured ones."""
    if len(measured) == len(parameter.values):
        return values
    from scipy.interpolate import PchipInterpolator

    x = np.array([float(v) for v in parameter.values])
    curve = PchipInterpolator(x[list(measured)], values)(x)
    return np.maximum(np.asarray(curve, np.float64), 0.0)
