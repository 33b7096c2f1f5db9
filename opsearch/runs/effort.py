"""Estimates of the measurement work in a space, before any weights are loaded.

Time is planned FLOPs at a nominal speed, so that the same command on the same machine always gives
the same estimate.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from math import inf

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.flops import Flops
from opsearch.costs.shape import Shape
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.estimate import Estimate, estimate
from opsearch.measure.planning.memory import MemoryBudget, memory_ahead, on_gpu
from opsearch.models.spec import ModelSpec
from opsearch.objectives.joint_coarse import coarsest, near_dearest
from opsearch.objectives.joint_table import first_policies
from opsearch.objectives.racing import ROUNDS
from opsearch.problem.constraint import Constraint, feasible_points
from opsearch.problem.spaces.base import Space

# Rounds of a race that all policies take part in, on average: 1 to 3 (docs/benchmarks.md).
_WHOLE_ROUNDS = 2
# FLOPs per second that `--effort` counts with: round figures and no stopwatch, so that the same
# command on the same machine always chooses the same objective.
_PER_CORE = 15e9
_PER_GPU = 100e12
LEAST_EFFORT, _MOST_EFFORT = 60.0, 3600.0
"""Least and most seconds of `--effort` by default."""
# In between, as many forwards of the original as a minute allows the embedded model on two cores.
_FORWARDS = 3000


def planned_memory(model: ModelSpec, memory: int | None, shape: Shape) -> MemoryBudget:
    """Return the memory and the element size that the engine of a run will count with."""
    available = memory_ahead(memory, model.device, shape.weights * model.itemsize)
    return MemoryBudget(shape, model.itemsize, available)


def nominal_speed(device: str) -> float:
    """Return the FLOPs per second that estimates of time count with."""
    return _PER_GPU if on_gpu(device) else _PER_CORE * (os.cpu_count() or 1)


@dataclass(frozen=True)
class CoarseWork:
    """Estimate for the joint objective from coarse to fine.

    The policies of later rounds depend on the results of the first round. Their work is estimated
    as 1.5 times that of the policies near the most expensive ones of the first round (see
    docs/benchmarks.md).

    Attributes:
        first: Work of the first round.
        flops: FLOPs of all rounds.
    """

    first: Estimate
    flops: int

    @property
    def forwards(self) -> float:
        """FLOPs of all rounds in forwards of the original, mean per sample."""
        return self.first.forwards * self.flops / self.first.flops if self.flops else 0.0


@dataclass(frozen=True, eq=False)
class EffortEstimate:
    """Work of measuring the joint objective in a space within budgets.

    Attributes:
        space: The space.
        constraints: The budgets as limits.
        batches: The calibration samples, batched.
        memory: Memory of a pass.
        device: Device of the model.
        parts: Number of such searches that share the effort of a run.
    """

    space: Space
    constraints: Sequence[Constraint]
    batches: Sequence[SampleBatch]
    memory: MemoryBudget
    device: str
    parts: int = 1

    @cached_property
    def feasible(self) -> NDArray[np.bool_]:
        """Mask of the points within the budgets, bool[P]; the space must be listed."""
        return feasible_points(self.space, self.constraints)

    @cached_property
    def joint(self) -> Estimate:
        """Work of measuring every feasible policy of a listed space."""
        return self.of(self.space.points[self.feasible])

    @property
    def joint_seconds(self) -> float:
        """Seconds of measuring every feasible policy; infinite if there are too many."""
        return self.seconds(self.joint) if self.space.listed else inf

    @cached_property
    def raced_flops(self) -> int:
        """FLOPs of racing the feasible policies of a listed space; depends on the results.

        The policies that tell the hardest samples, and two of the rounds for all policies. Where
        racing drops none, it takes more than `joint`, whose passes share more.
        """
        feasible = self.space.points[self.feasible]
        first = self.of(feasible[first_policies(len(feasible))]).flops
        rounds = min(ROUNDS, self.joint.samples)
        whole = _WHOLE_ROUNDS * self.joint.flops // rounds
        return min(first + whole, self.joint.flops)

    @property
    def raced_seconds(self) -> float:
        """Seconds of racing the feasible policies; infinite if there are too many."""
        return self.raced_flops / nominal_speed(self.device) if self.space.listed else inf

    @cached_property
    def coarse(self) -> CoarseWork | None:
        """Work of measuring from coarse to fine; None if the space has no depths."""
        space = self.space
        if not space.layer_columns:
            return None
        _, first = coarsest(space, self.feasible)
        later = near_dearest(space, self.feasible, first, self.constraints[0].listed)
        started = self.of(space.points[first])
        flops = started.flops + 3 * self.of(space.points[later]).flops // 2
        return CoarseWork(started, min(flops, self.joint.flops))

    @property
    def coarse_seconds(self) -> float:
        """Seconds of measuring from coarse to fine; infinite if the space has no depths."""
        return self.seconds(self.coarse) if self.coarse else inf

    @cached_property
    def forward_flops(self) -> float:
        """FLOPs of the original, mean per sample."""
        flops, total, samples = Flops(self.memory.shape), 0, 0
        for batch in self.batches:
            layout, of_batch = batch.layout, len(batch.images)
            total += of_batch * flops.stock(layout.n_visual, layout.head + layout.tail)
            samples += of_batch
        return total / samples

    @property
    def default_effort(self) -> float:
        """Seconds of `--effort` where none are given, by the model, its samples and the device."""
        forwards = _FORWARDS * self.forward_flops / nominal_speed(self.device)
        return float(round(min(max(forwards, LEAST_EFFORT), _MOST_EFFORT)))

    def of(self, points: NDArray[np.int64]) -> Estimate:
        """Estimate the work of measuring points of the space."""
        return estimate(self.space, points, self.batches, self.memory)

    def seconds(self, found: Estimate | CoarseWork) -> float:
        """Return the seconds of an estimate at the nominal speed."""
        return found.flops / nominal_speed(self.device)
