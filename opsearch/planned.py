"""What measuring in a space will take, known before any weights are loaded.

Time is planned FLOPs at a nominal speed, so that the same command on the same machine always gives
the same answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np
from numpy.typing import NDArray

from opsearch.config import RunConfig
from opsearch.costs.shape import Shape
from opsearch.measure.crowds import Crowd
from opsearch.measure.estimate import Estimate, estimate
from opsearch.measure.memory import memory_ahead
from opsearch.measure.room import Room
from opsearch.problem import Constraint, feasible_points
from opsearch.problem_setup import nominal_speed
from opsearch.runtime.load import DTYPES
from opsearch.spaces import Space


def planned_room(config: RunConfig, shape: Shape) -> Room:
    """The memory and the elements that the engine of this run will count with."""
    itemsize = DTYPES[config.dtype].itemsize
    memory = memory_ahead(config.memory, config.device, shape.weights * itemsize)
    return Room(shape, itemsize, memory)


@dataclass(frozen=True, eq=False)
class Planned:
    """What the joint objective takes in a space, on samples of these layouts, within budgets."""

    space: Space
    constraints: Sequence[Constraint]
    crowds: Sequence[Crowd]
    room: Room
    device: str

    @cached_property
    def feasible(self) -> NDArray[np.bool_]:
        """Which points of a listed space keep to the budgets."""
        return feasible_points(self.space, self.constraints)

    @cached_property
    def joint(self) -> Estimate:
        """Every feasible policy of a listed space."""
        return self.of(self.space.points[self.feasible])

    @property
    def joint_seconds(self) -> float:
        """The same in seconds, infinitely many where the policies are too many to list."""
        return self.seconds(self.joint) if self.space.listed else inf

    def of(self, points: NDArray[np.int64]) -> Estimate:
        """The work for any points of the space."""
        return estimate(self.space, points, self.crowds, self.room)

    def seconds(self, found: Estimate) -> float:
        """Seconds that work takes at the nominal speed."""
        return found.flops / nominal_speed(self.device)
