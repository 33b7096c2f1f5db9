"""The search problem: what objectives, costs and solvers agree on.

A `Problem` is space + objective + constraints; it is frozen and holds no solver state. What solvers
make of it is in `opsearch.solution`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.formatting import format_amount
from opsearch.layer_costs import LayerCosts
from opsearch.policy.policy import Policy
from opsearch.recipe_space import RecipeCosts
from opsearch.spaces import Space

Form = Literal["table", "separable", "pairwise", "blackbox", "bounded"]
Measure = Callable[[Sequence[Policy]], NDArray[np.float64]]
"""Divergence of each policy on each sample, [P, S]; nan where it is not known."""
KL_DECIMALS = 6
KL_QUANTUM = 10.0**-KL_DECIMALS
"""Nats: solvers see divergences as whole multiples of it, smaller differences are ties."""


class Objective(Protocol):
    """A number per point of a space, lower is better.

    quantum: values are whole multiples of it (so that ties are exact), 0 when they are arbitrary.
    """

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...
    @property
    def form(self) -> Form: ...
    @property
    def quantum(self) -> float: ...

    def value(self, index: int) -> float:
        """The value of a point by its number."""


@dataclass(frozen=True)
class Table:
    """An objective known for every point; nan marks points that were not measured.

    how: which points were measured, where not all were, as a sentence without its dot.
    """

    name: str
    unit: str
    values: NDArray[np.float64]
    quantum: float = 0.0
    form: Form = "table"
    how: str = ""

    def value(self, index: int) -> float:
        """The value of point `index`."""
        return float(self.values[index])


@dataclass(frozen=True)
class Separable:
    """A sum of one term per parameter; terms[k][i] belongs to value i of parameter k."""

    name: str
    unit: str
    space: Space
    terms: tuple[NDArray[np.float64], ...]
    quantum: float = 0.0
    form: Form = "separable"

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The sum of the terms at every point of the space."""
        columns = zip(self.terms, self.space.points.T, strict=True)
        return np.asarray(np.sum([term[column] for term, column in columns], axis=0))

    def value(self, index: int) -> float:
        """The sum of the terms at point `index`."""
        row = self.space.row(index)
        return float(sum(term[i] for term, i in zip(self.terms, row, strict=True)))


Choice = tuple[int, int]
"""A parameter and the index of one of its values."""
Pair = tuple[Choice, Choice]
"""Two choices, the one of the earlier parameter first."""


@dataclass(frozen=True)
class Pairwise:
    """A sum of one term per parameter, and of what pairs of choices add or spare together."""

    name: str
    unit: str
    space: Space
    terms: tuple[NDArray[np.float64], ...]
    pairs: Mapping[Pair, float]
    quantum: float = 0.0
    form: Form = "pairwise"

    def value(self, index: int) -> float:
        """The sum of the terms and of the pairs that hold at point `index`."""
        row = self.space.row(index)
        alone = sum(term[i] for term, i in zip(self.terms, row, strict=True))
        together = (w for ((k, i), (m, j)), w in self.pairs.items() if row[k] == i and row[m] == j)
        return float(alone + sum(together))

    @property
    def interaction_share(self) -> float:
        """Size of the interactions as a share of what the two choices of each pair cost alone."""
        alone = sum(abs(self.terms[k][i]) + abs(self.terms[m][j]) for (k, i), (m, j) in self.pairs)
        return float(sum(map(abs, self.pairs.values())) / alone) if alone else 0.0


@dataclass(frozen=True)
class Blackbox:
    """An objective that is measured when asked for, best for many points at once.

    evaluate: values of points by their numbers, float64[n].
    """

    name: str
    unit: str
    evaluate: Callable[[Sequence[int]], NDArray[np.float64]] = field(compare=False)
    quantum: float = 0.0
    form: Form = "blackbox"

    def value(self, index: int) -> float:
        """Measure point `index`."""
        return float(self.evaluate([index])[0])


@dataclass(frozen=True)
class Bounded:
    """An objective that gives, for a bound on it, one point by a rule of its own.

    within: the number of that point, a higher bound gives one that prunes more; evaluate: the value
    of a point by its number.
    """

    name: str
    unit: str
    within: Callable[[float], int] = field(compare=False)
    evaluate: Callable[[int], float] = field(compare=False)
    quantum: float = 0.0
    form: Form = "bounded"

    def value(self, index: int) -> float:
        """The value of point `index`."""
        return self.evaluate(index)


@dataclass(frozen=True)
class Constraint:
    """A cost that must stay within a limit, as exact integers over all measured samples.

    costs: by number of the point; int64[P] in a space whose points are listed; stock: that of the
    original model; floor: what the text alone costs.
    """

    name: str
    unit: str
    costs: NDArray[np.int64] | LayerCosts | RecipeCosts
    limit: int
    stock: int
    samples: int = 1
    floor: int = 0

    @property
    def listed(self) -> NDArray[np.int64]:
        """The cost of every point, int64[P]; OpsearchError in a space too large to list."""
        if isinstance(self.costs, LayerCosts | RecipeCosts):
            self.costs.space.refuse()
        return self.costs

    def cost(self, index: int) -> int:
        """The cost of a point by its number."""
        return int(self.costs[index])

    @property
    def cheapest(self) -> int:
        """The number of a point that costs least."""
        if isinstance(self.costs, LayerCosts | RecipeCosts):
            return self.costs.cheapest()
        return int(self.costs.argmin())

    def describe(self, cost: int) -> str:
        """A cost as share of the stock model and as mean per sample, e.g. "30.0% (0.25 MFLOPs)"."""
        return f"{100 * cost / self.stock:.4g}% ({format_amount(cost / self.samples, self.unit)})"


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
