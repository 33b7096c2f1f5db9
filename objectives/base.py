"""The contract of an objective factory: it turns measurements into an objective over a space."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.problem.objective import Form, Measure, Objective
from opsearch.problem.spaces.base import Space


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """What an objective is built from; each one reads what it has a use for.

    Attributes:
        points: Values of each parameter that the additive proxy measures; None: all.
        pairs: Interactions that the pairwise proxy measures: adjacent, all, or a number.
        seed: Draws the pairs where `pairs` is a number.
    """

    points: int | None = None
    pairs: str = "adjacent"
    seed: int = 0


class ObjectiveFactory(Protocol):
    """Makes an objective over a space from measurements.

    The class also has `from_settings(settings: ObjectiveSettings, **params)`, which builds it;
    `params` come from `--objective 'name(key=value)'`.

    Attributes:
        name: As the user types it.
        form: Of the objective that `make` will return.
        per_budget: Whether what is measured depends on the budget, so that each needs its own.
    """

    @property
    def name(self) -> str: ...
    @property
    def form(self) -> Form: ...
    @property
    def per_budget(self) -> bool: ...

    def require(self, space: Space) -> None:
        """Raise OpsearchError where the objective cannot be had in this space."""

    def make(self, space: Space, measure: Measure, feasible: NDArray[np.bool_]) -> Objective:
        """Measure and return the objective; only points where `feasible` need values.

        Args:
            space: The space that is searched.
            measure: Measures policies on the calibration samples.
            feasible: Which points keep to the budgets, bool[P]; empty where they are not listed.
        """


def require_any_objective(objective: str, space: Space) -> None:
    """Raise OpsearchError for a space that can be searched by one objective only, not this one."""
    if space.only_objective not in (None, objective):
        raise OpsearchError(
            f"objective {objective!r} does not exist in space {space.name!r}; use --objective "
            f"{space.only_objective}, or another space such as stages"
        )
