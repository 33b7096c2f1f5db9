"""Constraints: limits on costs, and the error if no policy meets them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import budget_suffix
from opsearch.costs.exact import Integers, ratios
from opsearch.errors import InfeasibleBudgetError
from opsearch.formatting import format_amount, screen_repr
from opsearch.problem.spaces.base import PointCosts, Space


@dataclass(frozen=True)
class Vision:
    """FLOPs of the images of all samples, next to a cost in FLOPs.

    Attributes:
        flops: FLOPs of vision tower and projector.
        counted: True if the cost includes them.
        stock: The same of the images that the original reads; None: these.
    """

    flops: int
    counted: bool
    stock: int | None = None

    def other_share(self, cost: int, stock: int) -> float:
        """Return the share of the stock model with the images, or of the decoder if counted."""
        sign = -1 if self.counted else 1
        of_stock = self.flops if self.stock is None else self.stock
        return (cost + sign * self.flops) / (stock + sign * of_stock)

    @property
    def other_words(self) -> str:
        """Name of this share."""
        return "of the decoder" if self.counted else "with vision"


@dataclass(frozen=True)
class Constraint:
    """A limit on a cost, in exact integers over all samples.

    Attributes:
        name: Name of the cost.
        unit: Unit of the cost.
        costs: Costs by number of the point; exact integers [P] if the space is listed.
        limit: Largest allowed cost.
        stock: Cost of the original model.
        samples: Number of samples.
        floor: Cost of the text alone.
        timed: True if the cost is a predicted time.
        vision: FLOPs of the images; None if they are not known, or the cost is not in FLOPs.
    """

    name: str
    unit: str
    costs: Integers | PointCosts
    limit: int
    stock: int
    samples: int = 1
    floor: int = 0
    timed: bool = False
    vision: Vision | None = None

    __repr__ = screen_repr

    @property
    def listed(self) -> Integers:
        """Cost of every point, [P]; raises OpsearchError if the space is too large to list."""
        if not isinstance(self.costs, np.ndarray):
            self.costs.space.raise_unlistable()
        return self.costs

    @property
    def shares(self) -> NDArray[np.float64]:
        """Cost of every point relative to the original model, float64[P]."""
        return ratios(self.listed, self.stock)

    def cost(self, index: int) -> int:
        """Return the cost of a point."""
        return int(self.costs[index])

    @property
    def cheapest(self) -> int:
        """Number of a cheapest point."""
        if isinstance(self.costs, np.ndarray):
            return int(self.costs.argmin())
        return self.costs.cheapest()

    @property
    def floor_words(self) -> str:
        """Name of the part of the cost that no policy of visual tokens changes."""
        counted = self.vision is not None and self.vision.counted
        return "text tokens and vision tower" if counted else "text tokens"

    def describe(self, cost: int) -> str:
        """Format a cost as share of the stock model and mean per sample: "30.0% (0.25 MFLOPs)"."""
        return f"{100 * cost / self.stock:.4g}% ({format_amount(cost / self.samples, self.unit)})"

    def describe_both(self, cost: int) -> str:
        """Format a cost with its share of decoder and whole: "30.0% (...), 45.0% with vision"."""
        if self.vision is None:
            return self.describe(cost)
        other = 100 * self.vision.other_share(cost, self.stock)
        return f"{self.describe(cost)}, {other:.4g}% {self.vision.other_words}"

    def other_shares(self, costs: Sequence[int]) -> dict[str, list[float]]:
        """Return costs as shares with vision, or of the decoder, by their name in tables.

        Nothing is returned where the FLOPs of the images are not known.
        """
        if self.vision is None:
            return {}
        shares = [self.vision.other_share(cost, self.stock) for cost in costs]
        return {f"share_{self.vision.other_words.replace(' ', '_')}": shares}


def by_cost(rows: NDArray[np.int64], costs: Integers) -> NDArray[np.int64]:
    """Return the order in which ties of points are broken: by rising cost, then by row.

    Args:
        rows: Rows of value indices, int64[P, K].
        costs: Cost of each, exact integers [P].
    """
    # lexsort takes its most significant key last.
    return np.lexsort((*rows.T[::-1], costs))


def feasible_points(space: Space, constraints: Sequence[Constraint]) -> NDArray[np.bool_]:
    """Return a mask of the points within all limits, bool[P]."""
    mask = np.ones(len(space.points), bool)
    for constraint in constraints:
        mask &= constraint.listed <= constraint.limit
    return mask


def some_point_within(space: Space, constraints: Sequence[Constraint]) -> bool:
    """Return whether any point of the space is within all limits."""
    if space.listed:
        return bool(feasible_points(space, constraints).any())
    # In these spaces, one point is the cheapest in every cost.
    return all(c.cost(c.cheapest) <= c.limit for c in constraints)


def check_budget(space: Space, constraints: Sequence[Constraint]) -> None:
    """Raise InfeasibleBudgetError with the achievable range if no point is within all limits."""
    if not some_point_within(space, constraints):
        raise InfeasibleBudgetError(explain_infeasible(space, constraints))


def explain_infeasible(space: Space, constraints: Sequence[Constraint]) -> str:
    """Explain each budget that is out of reach, or that the budgets exclude each other."""
    sentences = []
    for constraint in constraints:
        lowest = constraint.cost(constraint.cheapest)
        if lowest > constraint.limit:
            named = _named(space, constraint.cheapest)
            suggestion = -(-1000 * lowest // constraint.stock) / 10
            sentences.append(
                f"budget {constraint.describe(constraint.limit)} of {constraint.name} is below the "
                f"cheapest policy of space {space.name} ({constraint.describe(lowest)}, {named}); "
                f"{_below_floor(constraint)}"
                f"achievable: {constraint.describe(lowest)} to 100%; "
                f"try --budget {suggestion:.1f}%{budget_suffix(constraint.name)}"
            )
    if not sentences:
        each = ", ".join(f"{c.name} {c.describe(c.limit)}" for c in constraints)
        nearest = [_nearest(space, constraints, c) for c in constraints]
        enough = " or ".join(text for text in nearest if text is not None)
        step = f"raise one: {enough}" if enough else "raise more than one"
        sentences.append(
            f"each budget can be met alone, but no policy of space {space.name} meets all of them "
            f"({each}); {step}"
        )
    return "; ".join(sentences)


def _below_floor(constraint: Constraint) -> str:
    """Say that no space has a policy within the budget, if it has none."""
    if constraint.limit >= constraint.floor:
        return ""
    return (
        f"no policy saves the {constraint.floor_words} ({constraint.describe(constraint.floor)}); "
    )


def _nearest(space: Space, constraints: Sequence[Constraint], raised: Constraint) -> str | None:
    """Return the cost to which this budget must be raised; None if it does not help alone."""
    others = feasible_points(space, [c for c in constraints if c is not raised])
    if not others.any():
        return None
    return f"{raised.name} to {raised.describe(int(raised.listed[others].min()))}"


def _named(space: Space, index: int) -> str:
    """Return a point's parameters, or the name of its policy if there are too many."""
    row = space.row(index)
    if not space.listed:
        return space.decode(row).name
    return " ".join(f"{p.name}={p.values[i]}" for p, i in zip(space.parameters, row, strict=True))
