"""The solver of the default search, which needs gradients and so the model itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from opsearch.errors import OpsearchError
from opsearch.problem.objective import Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.operations import is_gradual


@dataclass(frozen=True)
class GradientDescent:
    """Gradient descent on the shares of space `shares`, raced against the baselines.

    `opsearch.runs.portfolio` runs it where the model is loaded.
    """

    name: ClassVar[str] = "gradient"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"blackbox"})
    takes_start: ClassVar[bool] = False

    def require(self, space: Space) -> None:
        """Raise OpsearchError for a space other than `shares`."""
        if not is_gradual(space):
            raise OpsearchError(
                f"solver {self.name!r} moves the share of tokens in every operation a little at a "
                f"time, which space {space.name!r} does not allow; use --space shares"
            )

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Raise OpsearchError: a stored objective has no gradients."""
        raise OpsearchError(
            f"solver {self.name!r} needs gradients of the model, which stored measurements do not "
            "have; use `opsearch run` with the new budget"
        )
