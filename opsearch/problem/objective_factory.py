"""The contract of objective factories, which make an objective from measurements."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError, echo
from opsearch.problem.objective import Form, Measure, Objective
from opsearch.problem.spaces.base import Space

Pairs = Literal["adjacent", "all"] | int
"""Pairs of choices to measure: a rule, or the number of pairs to draw."""


@dataclass(frozen=True, kw_only=True)
class ObjectiveSettings:
    """Settings of an objective; each objective reads the ones that apply to it.

    Attributes:
        points: Values of each parameter that the additive proxy measures; None: all.
        pairs: Interactions that the pairwise proxy measures.
        seed: Seed of the drawn pairs, if `pairs` is a number.
    """

    points: int | None = None
    pairs: Pairs = "adjacent"
    seed: int = 0


class ObjectiveFactory(Protocol):
    """Factory of an objective over a space from measurements.

    The class also has `from_settings(settings: ObjectiveSettings, **params)`, which builds it;
    `params` come from `--objective 'name(key=value)'`. It may also have the members of `Adaptable`,
    `Raceable` and `CountedProgress`.
    """

    @property
    def name(self) -> str:
        """Name of the objective."""

    @property
    def form(self) -> Form:
        """Form of the objective that `make` returns."""

    @property
    def per_budget(self) -> bool:
        """True if the measured points depend on the budget, so each budget is measured anew."""

    def require(self, space: Space) -> None:
        """Raise OpsearchError if the objective is not defined in this space."""

    def make(self, space: Space, measure: Measure, feasible: NDArray[np.bool_]) -> Objective:
        """Measure and return the objective; infeasible points need no values.

        Args:
            space: The space that is searched.
            measure: Measures policies on the calibration samples.
            feasible: Mask of the points within the budgets, bool[P]; empty if not listed.
        """


@runtime_checkable
class Adaptable(Protocol):
    """An objective whose points can be measured beforehand, in part, or on demand."""

    def adapted(self, space: Space, *, on_demand: bool, coarse: bool) -> ObjectiveFactory:
        """Return the factory to use in a search; it may be the same one.

        Args:
            space: The space that is searched.
            on_demand: True if points are measured when the solver asks for them.
            coarse: True if measuring every feasible point exceeds the limit of effort.
        """


@runtime_checkable
class Raceable(Protocol):
    """An objective that can leave points unmeasured that cannot be the best."""

    def raced(self, quantum: float) -> ObjectiveFactory:
        """Return the factory whose table holds the best feasible points and bounds of the others.

        Args:
            quantum: Values that round to the same multiple of it are ties.
        """


@runtime_checkable
class CountedProgress(Protocol):
    """An objective whose measurement reports another amount than FLOPs."""

    @property
    def progress_unit(self) -> str:
        """Unit of the reported amounts; empty for counts."""


def progress_unit(objective: ObjectiveFactory) -> str:
    """Return the unit in which the measurement of an objective reports its progress."""
    return objective.progress_unit if isinstance(objective, CountedProgress) else "FLOPs"


def require_any_objective(objective: str, space: Space) -> None:
    """Raise OpsearchError if the space can only be searched by a different objective."""
    if space.only_objective not in (None, objective):
        raise OpsearchError(
            f"objective {echo(objective)} is not available in space {space.name!r}; use "
            f"--objective {space.only_objective}, or another space such as stages"
        )
