"""The search problem: a space, an objective and constraints.

A `Problem` is immutable and contains no solver state. Solvers return a
`opsearch.problem.solution.Solution` of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.exact import Integers
from opsearch.formatting import screen_repr
from opsearch.problem.constraint import Constraint, feasible_points, some_point_within
from opsearch.problem.objective import Objective
from opsearch.problem.spaces.base import Space


@dataclass(frozen=True)
class Problem:
    """The choice of the point with the lowest objective within all constraints.

    Attributes:
        space: The space.
        objective: The objective, which is minimised.
        constraints: Limits on costs; the cost of the first one breaks ties.
        excluded: Numbers of points that must not be chosen.
    """

    space: Space
    objective: Objective
    constraints: tuple[Constraint, ...] = ()
    excluded: frozenset[int] = frozenset()

    __repr__ = screen_repr

    @cached_property
    def feasible(self) -> NDArray[np.bool_]:
        """Mask of the points within all constraints, bool[P]; OpsearchError if not listed."""
        mask = feasible_points(self.space, self.constraints)
        mask[list(self.excluded)] = False
        return mask

    @property
    def solvable(self) -> bool:
        """True if any point is within all constraints.

        In spaces too large to list, excluded points are ignored.
        """
        if self.space.listed:
            return bool(self.feasible.any())
        return some_point_within(self.space, self.constraints)

    def within(self, index: int) -> bool:
        """Return whether a point is within all constraints and not excluded."""
        return index not in self.excluded and all(
            c.cost(index) <= c.limit for c in self.constraints
        )

    @property
    def cost(self) -> Integers:
        """Cost that breaks ties, [P]: that of the first constraint, or zero without one."""
        if self.constraints:
            return self.constraints[0].listed
        return np.zeros(len(self.space.points), np.int64)

    def with_budget(self, constraints: Sequence[Constraint]) -> Problem:
        """Return a copy with other constraints."""
        return replace(self, constraints=tuple(constraints))
