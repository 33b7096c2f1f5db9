"""The search problem and its answer: what objectives, costs and solvers agree on.

A `Problem` is space + objective + constraints; it is frozen and holds no solver state. A solver
turns it into a `Solution` whose value and costs are recomputed from the chosen point, never taken
from the solver's own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from functools import cached_property
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import InfeasibleBudgetError, OpsearchError
from opsearch.policy import Policy
from opsearch.spaces import Space

Form = Literal["table", "separable", "pairwise", "blackbox"]
Measure = Callable[[Sequence[Policy]], NDArray[np.float64]]
"""Divergence of each policy on each sample, [P, S]; nan where it is not known."""
KL_DECIMALS = 6
KL_QUANTUM = 10.0**-KL_DECIMALS
"""Nats: solvers see divergences as whole multiples of it, smaller differences are ties."""


class Status(StrEnum):
    """How a solve ended; `sentence` is what the user reads."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"
    ERROR = "error"

    @property
    def sentence(self) -> str:
        """One sentence with the next step."""
        return {
            Status.OPTIMAL: "Proved: no policy of the space within the budget has a lower value of "
            "this objective on the measured samples.",
            Status.FEASIBLE: "The best policy found; whether a better one exists is not proved.",
            Status.INFEASIBLE: "No policy of the space keeps within the budget; raise --budget.",
            Status.UNKNOWN: "The solver stopped before it found any policy; raise its limit.",
            Status.ERROR: "The solver failed; the message says why.",
        }[self]


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
    """An objective known for every point; nan marks points that were not measured."""

    name: str
    unit: str
    values: NDArray[np.float64]
    quantum: float = 0.0
    form: Form = "table"

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


@dataclass(frozen=True)
class Limit:
    """When a solver must stop: true evaluations, or CP-SAT's deterministic time."""

    evaluations: int | None = None
    deterministic_time: float | None = None


@dataclass(frozen=True)
class Solution:
    """What a solver found, re-evaluated.

    value, costs: recomputed from the point; bound: no feasible point is below it (None: none
    proved); gap: value - bound; error_bound: what rounding inside the solver can hide.
    """

    status: Status
    solver: str
    objective: str
    unit: str
    index: int | None = None
    point: dict[str, str] | None = None
    policy: Policy | None = None
    value: float | None = None
    costs: dict[str, int] = field(default_factory=dict)
    bound: float | None = None
    error_bound: float = 0.0
    evaluations: int = 0
    seed: int = 0
    seconds: float = 0.0
    note: str = ""
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def gap(self) -> float | None:
        """Value minus bound, None where either is missing."""
        if self.value is None or self.bound is None:
            return None
        return max(self.value - self.bound, 0.0)


class Solver(Protocol):
    """Solves problems whose objective has one of the forms it accepts."""

    @property
    def name(self) -> str: ...
    @property
    def exact(self) -> bool: ...
    @property
    def forms(self) -> frozenset[Form]: ...

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The best point found within the limit."""


def solution_at(
    problem: Problem, index: int, status: Status, solver: str, **facts: Any
) -> Solution:
    """The Solution for point `index`, value and costs recomputed from the problem."""
    point = problem.space.points[index]
    named = {
        parameter.name: str(parameter.values[i])
        for parameter, i in zip(problem.space.parameters, point, strict=True)
    }
    return Solution(
        status=status,
        solver=solver,
        objective=problem.objective.name,
        unit=problem.objective.unit,
        index=index,
        point=named,
        policy=problem.space.decode(point.tolist()),
        value=problem.objective.value(index),
        costs={c.name: int(c.costs[index]) for c in problem.constraints},
        **facts,
    )


def infeasible(problem: Problem, solver: str) -> Solution:
    """The Solution that says so, with the achievable range in its note."""
    return Solution(
        Status.INFEASIBLE,
        solver,
        problem.objective.name,
        problem.objective.unit,
        note=explain_infeasible(problem.space, problem.constraints),
    )


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
            suggestion = np.ceil(1000 * lowest / constraint.stock) / 10
            sentences.append(
                f"budget {constraint.describe(constraint.limit)} of {constraint.name} is below the "
                f"cheapest policy of space {space.name} ({constraint.describe(lowest)}, {named}); "
                f"achievable: {constraint.describe(lowest)} to {constraint.describe(highest)}; "
                f"try --budget {suggestion:.1f}%{'kv' if constraint.name == 'kv' else ''}"
            )
    if not sentences:
        each = ", ".join(f"{c.name} {c.describe(c.limit)}" for c in constraints)
        sentences.append(
            f"each budget can be met alone, but no policy of space {space.name} meets all of them "
            f"({each}); raise one"
        )
    return "; ".join(sentences)


class HasForm(Protocol):
    """An objective, or what will make one."""

    @property
    def name(self) -> str: ...
    @property
    def form(self) -> Form: ...


def require_form(objective: HasForm, solver: Solver, solvers: Sequence[Solver] = ()) -> None:
    """Raise an error that names the solvers to use when `solver` cannot take the objective."""
    if objective.form not in solver.forms:
        fitting = sorted(s.name for s in solvers if objective.form in s.forms)
        hint = f"--solver {' or '.join(fitting)}" if fitting else "a solver that takes it"
        raise OpsearchError(
            f"solver {solver.name!r} needs an objective of form {', '.join(sorted(solver.forms))}, "
            f"but {objective.name!r} is a {objective.form}; use {hint}"
        )


def format_amount(amount: float, unit: str) -> str:
    """A number with its SI prefix, e.g. 5.83 TFLOPs or 160 MB."""
    for prefix, factor in (("T", 1e12), ("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if abs(amount) >= factor:
            return f"{amount / factor:.4g} {prefix}{unit}"
    return f"{amount:.4g} {unit}"
