"""Constraints: a cost that must stay within a limit, and the sentence where no policy can."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import InfeasibleBudgetError
from opsearch.formatting import format_amount
from opsearch.problem.spaces.base import PointCosts, Space


@dataclass(frozen=True)
class Constraint:
    """A cost that must stay within a limit, as exact integers over all measured samples.

    costs: by number of the point; int64[P] in a space whose points are listed; stock: that of the
    original model; floor: what the text alone costs.
    """

    name: str
    unit: str
    costs: NDArray[np.int64] | PointCosts
    limit: int
    stock: int
    samples: int = 1
    floor: int = 0

    @property
    def listed(self) -> NDArray[np.int64]:
        """The cost of every point, int64[P]; OpsearchError in a space too large to list."""
        if not isinstance(self.costs, np.ndarray):
            self.costs.space.raise_unlistable()
        return self.costs

    def cost(self, index: int) -> int:
        """Return the cost of a point."""
        return int(self.costs[index])

    @property
    def cheapest(self) -> int:
        """The number of a point that costs least."""
        if isinstance(self.costs, np.ndarray):
            return int(self.costs.argmin())
        return self.costs.cheapest()

    def describe(self, cost: int) -> str:
        """A cost as share of the stock model and as mean per sample, e.g. "30.0% (0.25 MFLOPs)"."""
        return f"{100 * cost / self.stock:.4g}% ({format_amount(cost / self.samples, self.unit)})"


def feasible_points(space: Space, constraints: Sequence[Constraint]) -> NDArray[np.bool_]:
    """Which points of the space keep within all limits, bool[P]."""
    mask = np.ones(len(space.points), bool)
    for constraint in constraints:
        mask &= constraint.listed <= constraint.limit
    return mask


def some_point_within(space: Space, constraints: Sequence[Constraint]) -> bool:
    """Whether some point of the space keeps within all limits."""
    if space.listed:
        return bool(feasible_points(space, constraints).any())
    # There one point is the cheapest in every cost.
    return all(c.cost(c.cheapest) <= c.limit for c in constraints)


def check_budget(space: Space, constraints: Sequence[Constraint]) -> None:
    """Raise InfeasibleBudgetError with the achievable range when no point is within all limits."""
    if not some_point_within(space, constraints):
        raise InfeasibleBudgetError(explain_infeasible(space, constraints))


def explain_infeasible(space: Space, constraints: Sequence[Constraint]) -> str:
    """One sentence per budget that is out of reach, or one on budgets that clash."""
    sentences = []
    for constraint in constraints:
        lowest = constraint.cost(constraint.cheapest)
        if lowest > constraint.limit:
            named = _named(space, constraint.cheapest)
            cost = "" if constraint.name == "flops" else constraint.name
            suggestion = np.ceil(1000 * lowest / constraint.stock) / 10
            sentences.append(
                f"budget {constraint.describe(constraint.limit)} of {constraint.name} is below the "
                f"cheapest policy of space {space.name} ({constraint.describe(lowest)}, {named}); "
                f"achievable: {constraint.describe(lowest)} to 100%; "
                f"try --budget {suggestion:.1f}%{cost}"
            )
    if not sentences:
        each = ", ".join(f"{c.name} {c.describe(c.limit)}" for c in constraints)
        nearest = " or ".join(_nearest(space, constraints, c) for c in constraints)
        sentences.append(
            f"each budget can be met alone, but no policy of space {space.name} meets all of them "
            f"({each}); raise one: {nearest}"
        )
    return "; ".join(sentences)


def _nearest(space: Space, constraints: Sequence[Constraint], raised: Constraint) -> str:
    """The lowest cost of a point that meets all other budgets, as what to raise this one to."""
    others = feasible_points(space, [c for c in constraints if c is not raised])
    if not others.any():
        return f"{raised.name} does not help alone"
    return f"{raised.name} to {raised.describe(int(raised.listed[others].min()))}"


def _named(space: Space, index: int) -> str:
    """A point in words: its parameters, or the name of its policy where they are too many."""
    row = space.row(index)
    if not space.listed:
        return space.decode(row).name
    return " ".join(f"{p.name}={p.values[i]}" for p, i in zip(space.parameters, row, strict=True))
