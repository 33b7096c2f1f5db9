"""The search problem: what objectives, costs and solvers agree on.

A `Problem` is space + objective + constraints; it is frozen and holds no solver state. What solvers
make of it is in `opsearch.problem.solution`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from opsearch.problem.constraint import Constraint, feasible_points, some_point_within
from opsearch.problem.objective import Objective
from opsearch.problem.spaces.base import Space


@dataclass(frozen=True)
class Problem:
    """Choose the point of `space` with the lowest objective within all constraints.

    excluded: points that may not be chosen.
    """

    space: Space
    objective: Objective
    constraints: tuple[Constraint, ...] = ()
    excluded: frozenset[int] = frozenset()

    @cached_property
    def feasible(self) -> NDArray[np.bool_]:
        """Which points keep within every constraint, bool[P]; OpsearchError without a list."""
        mask = feasible_points(self.space, self.constraints)
        mask[list(self.excluded)] = False
        return mask

    @property
    def solvable(self) -> bool:
        """Whether some point keeps within every constraint.

        In a space too large to list the excluded points are taken to be not all of these.
        """
        if self.space.listed:
            return bool(self.feasible.any())
        return some_point_within(self.space, self.constraints)

    def within(self, index: int) -> bool:
        """Whether a point keeps within every constraint and is not excluded."""
        return index not in self.excluded and all(
            c.cost(index) <= c.limit for c in self.constraints
        )

    @property
    def cost(self) -> NDArray[np.int64]:
        """The cost that breaks ties: the first constraint's, zero without constraints."""
        if self.constraints:
            return self.constraints[0].listed
        return np.zeros(len(self.space.points), np.int64)

    def with_budget(self, constraints: Sequence[Constraint]) -> Problem:
        """The same space and objective under other constraints."""
        return replace(self, constraints=tuple(constraints))
