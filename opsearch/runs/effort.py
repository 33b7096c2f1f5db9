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

from opsearch.costs.shape import Shape
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.estimate import Estimate, estimate
from opsearch.measure.planning.memory import MemoryBudget, memory_ahead
from opsearch.models.loading import DTYPES
from opsearch.objectives.joint_coarse import coarsest, near_dearest
from opsearch.problem.constraint import Constraint, feasible_points
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.depth import DepthSpace
from opsearch.problem.spaces.stages import StageSpace
from opsearch.runs.config import RunConfig
from opsearch.runs.setup import nominal_speed


def planned_room(config: RunConfig, shape: Shape) -> MemoryBudget:
    """The memory and the elements that the engine of this run will count with."""
    itemsize = DTYPES[config.dtype].itemsize
    memory = memory_ahead(config.memory, config.device, shape.weights * itemsize)
    return MemoryBudget(shape, itemsize, memory)


@dataclass(frozen=True)
class CoarseWork:
    """The joint objective from coarse to fine: what is measured first, and a guess of all.

    Which policies the later rounds measure is not known before the first is. Taken is one and a
    half times what is near the dearest policies of the first (see docs/benchmarks.md).
    """

    first: Estimate
    flops: int

    @property
    def forwards(self) -> float:
        """All FLOPs in forwards of the original, mean per sample."""
        return self.first.forwards * self.flops / self.first.flops if self.flops else 0.0


@dataclass(frozen=True, eq=False)
class Planned:
    """What the joint objective takes in a space, on samples of these layouts, within budgets."""

    space: Space
    constraints: Sequence[Constraint]
    crowds: Sequence[SampleBatch]
    room: MemoryBudget
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

    @cached_property
    def coarse(self) -> CoarseWork | None:
        """The same from coarse to fine, None for a space without depths to take so."""
        space = self.space
        if not isinstance(space, DepthSpace | StageSpace) or not space.layer_columns:
            return None
        _, first = coarsest(space, self.feasible)
        later = near_dearest(space, self.feasible, first, self.constraints[0].listed)
        started = self.of(space.points[first])
        flops = started.flops + 3 * self.of(space.points[later]).flops // 2
        return CoarseWork(started, min(flops, self.joint.flops))

    @property
    def coarse_seconds(self) -> float:
        """The same in seconds, infinitely many where it cannot be."""
        return self.seconds(self.coarse) if self.coarse else inf

    def of(self, points: NDArray[np.int64]) -> Estimate:
        """The work for any points of the space."""
        return estimate(self.space, points, self.crowds, self.room)

    def seconds(self, found: Estimate | CoarseWork) -> float:
        """Seconds that work takes at the nominal speed."""
        return found.flops / nominal_speed(self.device)
