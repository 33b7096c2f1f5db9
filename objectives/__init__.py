"""Objectives: what a policy does to the answers, as a number that solvers minimise.

An objective's file holds a class that turns measurements into a table, a sum of terms or a function
of the point (see `Maker`).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.objectives.additive import Additive
from opsearch.objectives.attention import Attention
from opsearch.objectives.joint import Joint
from opsearch.objectives.pairwise import MeasuredPairs
from opsearch.problem.objective import Form, Measure, Objective
from opsearch.problem.spaces.base import Space


class Maker(Protocol):
    """Makes an objective over a space from measurements; form: that of what it will make."""

    @property
    def name(self) -> str: ...
    @property
    def form(self) -> Form: ...

    def make(self, space: Space, measure: Measure, feasible: NDArray[np.bool_]) -> Objective:
        """Measure and build the objective; only points where `feasible` need values."""


OBJECTIVES: dict[str, type[Any]] = {
    "additive": Additive,
    "joint": Joint,
    "pairwise": MeasuredPairs,
    "attention": Attention,
}
