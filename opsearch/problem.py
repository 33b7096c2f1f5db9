"""The search problem: what objectives, costs and solvers agree on.

A `Problem` is space + objective + constraints; it is frozen and holds no solver state. What solvers
make of it is in `opsearch.solution`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import InfeasibleBudgetError
from opsearch.policy import Policy
from opsearch.spaces import Space

Form = Literal["table", "separable", "pairwise", "blackbox"]
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
        """The value of row `index` of the space's points."""


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
    points: NDArray[np.int64]
    terms: tuple[NDArray[np.float64], ...]
    quantum: float = 0.0
    form: Form = "separable"

    @cached_property
    def values(self) -> NDArray[np.float64]:
        """The sum of the terms at every point of the space."""
        columns = zip(self.terms, self.points.T, strict=True)
        return np.asarray(np.sum([term[column] for term, column in columns], axis=0))

    def value(self, index: int) -> float:
        """The sum of the terms at point `index`."""
        return float(self.values[index])


@dataclass(frozen=True)
class Blackbox:
    """An objective that is measured when asked for."""

    name: str
    unit: str
    evaluate: Callable[[int], float] = field(compare=False)
    quantum: float = 0.0
    form: Form = "blackbox"

    def value(self, index: int) -> float:
        """Measure point `index`."""
        return self.evaluate(index)


@dataclass(frozen=True)
class Constraint:
    """A cost that must stay within a limit, as exact integers over all measured samples.

    costs: int64[P], the cost of every point of the space; stock: that of the original model;
    floor: what the text alone costs.
    """

    name: str
    unit: str
    costs: NDArray[np.int64]
    limit: int
    stock: int
    samples: int = 1
    floor: int = 0

    def describe(self, cost: int) -> str:
        """A cost as share of the stock model and as mean per sample, e.g. "30.0% (0.25 MFLOPs)"."""
        return f"{100 * cost / self.stock:.4g}% ({format_amount(cost / self.samples, self.unit)})"


@dataclass(frozen=True)
class Problem:
    """Choose the point of `space` with the lowest objective within all constraints."""

    space: Space
    objective: Objective
    constraints: tuple[Constraint, ...] = ()

    @cached_property
    def feasible(self) -> NDArray[np.bool_]:
        """Which points keep within every constraint, bool[P]."""
        return feasible_points(self.space, self.constraints)

    @property
    def cost(self) -> NDArray[np.int64]:
        """The cost that breaks ties: the first constraint's, zero without constraints."""
        if self.constraints:
            return self.constraints[0].costs
        return np.zeros(len(self.space.points), np.int64)

    def with_budget(self, constraints: Sequence[Constraint]) -> Problem:
        """The same space and objective under other constraints."""
        return replace(self, constraints=tuple(constraints))


def feasible_points(space: Space, constraints: Sequence[Constraint]) -> NDArray[np.bool_]:
    """Which points of the space keep within all limits, bool[P]."""
    mask = np.ones(len(space.points), bool)
    for constraint in constraints:
        mask &= constraint.costs <= constraint.limit
    return mask


def check_budget(space: Space, constraints: Sequence[Constraint]) -> None:
    """Raise InfeasibleBudgetError with the achievable range when no point is within all limits."""
    if not feasible_points(space, constraints).any():
        raise InfeasibleBudgetError(explain_infeasible(space, constraints))


def explain_infeasible(space: Space, constraints: Sequence[Constraint]) -> str:
    """One sentence per budget that is out of reach, or one on budgets that clash."""
    sentences = []
    for constraint in constraints:
        cheapest = int(constraint.costs.argmin())
        lowest, highest = int(constraint.costs[cheapest]), int(constraint.costs.max())
        if lowest > constraint.limit:
            shares = zip(space.parameters, space.points[cheapest], strict=True)
            named = " ".join(f"{p.name}={p.values[i]}" for p, i in shares)
            cost = "" if constraint.name == "flops" else constraint.name
            suggestion = np.ceil(1000 * lowest / constraint.stock) / 10
            sentences.append(
                f"budget {constraint.describe(constraint.limit)} of {constraint.name} is below the "
                f"cheapest policy of space {space.name} ({constraint.describe(lowest)}, {named}); "
                f"achievable: {constraint.describe(lowest)} to {constraint.describe(highest)}; "
                f"try --budget {suggestion:.1f}%{cost}"
            )
    if not sentences:
        each = ", ".join(f"{c.name} {c.describe(c.limit)}" for c in constraints)
        sentences.append(
            f"each budget can be met alone, but no policy of space {space.name} meets all of them "
            f"({each}); raise one"
        )
    return "; ".join(sentences)


def format_amount(amount: float, unit: str) -> str:
    """A number with its SI prefix, e.g. 5.83 TFLOPs, 160 MB or 118 ms."""
    if unit == "ns":
        return _format_time(amount)
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(amount) >= factor:
            return f"{amount / factor:.4g} {prefix}{unit}"
    return f"{amount:.4g} {unit}"


def _format_time(nanoseconds: float) -> str:
    for unit, factor in (("s", 1e9), ("ms", 1e6), ("us", 1e3)):
        if abs(nanoseconds) >= factor:
            return f"{nanoseconds / factor:.4g} {unit}"
    return f"{nanoseconds:.4g} ns"
