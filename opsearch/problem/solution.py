"""The answer to a Problem: what solvers return, how they end, what they accept.

Value and costs of a `Solution` are recomputed from the chosen point, never taken from the solver's
own arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib.metadata import version
from math import isfinite
from time import perf_counter
from typing import Any, Protocol

from opsearch.errors import OpsearchError
from opsearch.policy.policy import Policy
from opsearch.problem.constraint import explain_infeasible
from opsearch.problem.objective import Form
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.base import Space


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


@dataclass(frozen=True)
class Limit:
    """When a solver must stop: true evaluations, or CP-SAT's deterministic time."""

    evaluations: int | None = None
    deterministic_time: float | None = None


@dataclass(frozen=True)
class Solution:
    """What a solver found, re-evaluated.

    value, costs: recomputed from the point; bound: no feasible point is below it (None: none
    proved); gap: value - bound; error_bound: what rounding inside the solver can hide; stopped: by
    Ctrl-C.
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
    stopped: bool = False
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def gap(self) -> float | None:
        """Value minus bound, None where either is missing."""
        if self.value is None or self.bound is None:
            return None
        return max(self.value - self.bound, 0.0)


class Solver(Protocol):
    """Solves problems whose objective has one of the forms it accepts.

    Attributes:
        name: As the user types it.
        exact: Whether it proves its answers optimal.
        forms: Forms of objectives that it takes.
        takes_start: Whether it is a dataclass with a field `start`, point numbers to begin from.
    """

    @property
    def name(self) -> str: ...
    @property
    def exact(self) -> bool: ...
    @property
    def forms(self) -> frozenset[Form]: ...
    @property
    def takes_start(self) -> bool: ...

    def require(self, space: Space) -> None:
        """Raise OpsearchError for a space that the solver cannot search."""

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The best point found within the limit."""


def solution_at(
    problem: Problem, index: int, status: Status, solver: str, **facts: Any
) -> Solution:
    """The Solution for point `index`, value and costs recomputed from the problem."""
    point = problem.space.row(index)
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
        policy=problem.space.decode(point),
        value=problem.objective.value(index),
        costs={c.name: c.cost(index) for c in problem.constraints},
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


def reraise_interrupt(solution: Solution) -> Solution:
    """The solution where it is one of many, so that Ctrl-C is meant for all: KeyboardInterrupt."""
    if solution.stopped:
        raise KeyboardInterrupt
    return solution


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


def solved(
    solver: Solver, problem: Problem, seed: int, library: str, search: Callable[[], Solution]
) -> Solution:
    """What `search` ends with, or that no point keeps within the budget, and what it took.

    library: whose version is noted. Raises OpsearchError for a form that the solver does not take,
    and where the objective is infinite or no number at the point that the search ends with.
    """
    started = perf_counter()
    require_form(problem.objective, solver)
    solution = search() if problem.solvable else infeasible(problem, solver.name)
    if solution.value is not None and not isfinite(solution.value):
        raise OpsearchError(
            f"solver {solver.name!r} ends at a point where objective {solution.objective!r} is "
            f"{solution.value}; mend the objective, which may be nan where a point has no value "
            "but else has to be finite"
        )
    versions = {library: version(library)}
    return replace(solution, seed=seed, seconds=perf_counter() - started, versions=versions)
