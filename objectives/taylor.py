"""The gradient proxy: the sum of one term per parameter, all from one backward pass per sample.

Each parameter's term is the gradient of the KL with respect to the gates that its value closes, see
`opsearch/measure/gates`. Taylor scores of this kind choose what to prune in Molchanov et al., arXiv
1906.10771. The cost does not grow with the number of operations, where `additive` measures a policy
for each value of each parameter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.objectives.additive import Additive, require_individual
from opsearch.problem.objective import KL_DECIMALS, KL_QUANTUM, Form, Measure, Separable
from opsearch.problem.objective_factory import ObjectiveSettings, require_any_objective
from opsearch.problem.spaces.base import Space


@dataclass(frozen=True)
class Taylor:
    """Sum of the gradients of closed gates."""

    name: ClassVar[str] = "taylor"
    progress_unit: ClassVar[str] = ""  # samples whose gradients were taken
    per_budget: ClassVar[bool] = False
    form: ClassVar[Form] = "separable"

    @classmethod
    def from_settings(cls, settings: ObjectiveSettings) -> Taylor:
        """Return the proxy; it has no settings."""
        return cls()

    def require(self, space: Space) -> None:
        """Raise OpsearchError if single parameters of the space prune nothing."""
        require_any_objective(self.name, space)
        require_individual(space)

    def make(self, space: Space, measure: Measure, feasible: NDArray[np.bool_]) -> Separable:
        """Take the gradients (nats per unit of a gate, mean over samples) and sum them."""
        means = measure.gate_gradients(Additive().policies(space)).mean(axis=1)
        ends = np.cumsum([len(parameter.values) for parameter in space.parameters])[:-1]
        terms = tuple(np.split(np.round(means, KL_DECIMALS), ends))
        return Separable(self.name, "nats", space, terms, KL_QUANTUM)
