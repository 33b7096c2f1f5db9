"""What is said of budgets that no policy of a space keeps within."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from opsearch.errors import InfeasibleBudgetError
from opsearch.problem import Constraint, feasible_points, some_point_within
from opsearch.spaces import Space


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
