"""Solutions of a search problem, and the contract of solvers.

Value and costs of a `Solution` are recomputed from the chosen point, not taken from the solver's
arithmetic.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from importlib.metadata import version
from math import isfinite
from time import perf_counter
from typing import Any, Protocol, runtime_checkable

from opsearch.errors import OpsearchError
from opsearch.formatting import screen_repr
from opsearch.policy.policy import Policy
from opsearch.problem.constraint import explain_infeasible
from opsearch.problem.objective import PROXIES, Form
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.base import Space

OF_PROXY = "optimal for the proxy"


class Status(StrEnum):
    """Outcome of a solve."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"
    ERROR = "error"

    @property
    def sentence(self) -> str:
        """One sentence for the user, with the next step."""
        return {
            Status.OPTIMAL: "Proved: no policy of the space within the budget has a lower value of "
            "this objective on the measured samples.",
            Status.FEASIBLE: "The best policy found; it is not proved that no better one exists.",
            Status.INFEASIBLE: "No policy of the space is within the budget; raise --budget.",
            Status.UNKNOWN: "The solver stopped before it found a policy; raise its limit.",
            Status.ERROR: "The solver failed; see its message for the reason.",
        }[self]


@dataclass(frozen=True)
class Limit:
    """Limit of a solver's work.

    Attributes:
        evaluations: Number of evaluated points.
        deterministic_time: CP-SAT's deterministic time.
    """

    evaluations: int | None = None
    deterministic_time: float | None = None


def evaluations_within(limit: Limit | None, default: int) -> int:
    """Return the number of points that a solver may evaluate."""
    return default if limit is None or limit.evaluations is None else limit.evaluations


@dataclass(frozen=True)
class Solution:
    """Result of a solver, with value and costs recomputed from the point.

    Attributes:
        status: How the solve ended.
        solver: Name of the solver.
        objective: Name of the objective.
        unit: Unit of value, bound and gap.
        index: Number of the point; None if none was found.
        point: Parameter values by name.
        policy: The policy.
        value: Value of the objective.
        costs: Total cost over the samples, by name.
        bound: Proved lower bound on the value of any feasible point; None: none proved.
        error_bound: Largest difference of values that rounding in the solver can hide.
        evaluations: Number of evaluated points.
        seed: Seed of the solver.
        seconds: Wall time.
        note: Remark for the user.
        stopped: True if Ctrl-C ended the search.
        versions: Versions of the libraries used.
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

    __repr__ = screen_repr

    @property
    def gap(self) -> float | None:
        """Value minus bound; None if either is missing."""
        if self.value is None or self.bound is None:
            return None
        return max(self.value - self.bound, 0.0)


class Solver(Protocol):
    """A solver of problems whose objective has one of the forms that it accepts."""

    @property
    def name(self) -> str:
        """Name of the solver."""

    @property
    def exact(self) -> bool:
        """True if the solver proves its solutions optimal."""

    @property
    def forms(self) -> frozenset[Form]:
        """Forms of objectives that the solver accepts."""

    @property
    def takes_start(self) -> bool:
        """True if it is a dataclass with a field `start`, the numbers of initial points."""

    def require(self, space: Space) -> None:
        """Raise OpsearchError for a space that the solver cannot search."""

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the best point found within the limit."""


@runtime_checkable
class TakesBounds(Protocol):
    """A solver that needs no value of a point whose lower bound is above the optimum."""

    @property
    def takes_bounds(self) -> bool:
        """True if it reads `Table.lower`, so that such points need not be measured completely."""


def solution_at(
    problem: Problem, index: int, status: Status, solver: str, **facts: Any
) -> Solution:
    """Return the solution at point `index`; value and costs are computed from the problem."""
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


def statement(status: Status, objective: HasForm) -> tuple[str, str]:
    """Return in a few words how a solve ended, and a sentence on it.

    What is proved of a proxy is not proved of the policies as they run.
    """
    if status is Status.OPTIMAL and objective.form in PROXIES:
        sentence = (
            f"Proved of the proxy {objective.name} alone: no policy of the space within the budget "
            "has a lower value of it; policies as they run may rank otherwise (--verify 8 measures "
            "the best ones)."
        )
        return OF_PROXY, sentence
    return str(status), status.sentence


def without_point(
    problem: Problem, status: Status, solver: str, note: str, **facts: Any
) -> Solution:
    """Return the solution of a solver that found no point, with the reason in its note."""
    objective = problem.objective
    return Solution(status, solver, objective.name, objective.unit, note=note, **facts)


def infeasible(problem: Problem, solver: str) -> Solution:
    """Return an infeasible solution, with the achievable range in its note."""
    note = explain_infeasible(problem.space, problem.constraints)
    return without_point(problem, Status.INFEASIBLE, solver, note)


def confirmed(problem: Problem, solution: Solution) -> Solution:
    """Return the solution of a solver, whose point keeps to the problem.

    Raises:
        OpsearchError: The point is over a budget or excluded; names the solver.
    """
    index = solution.index
    if index is None or problem.within(index):
        return solution
    over = [
        f"takes {limit.describe(limit.cost(index))} of {limit.name} with a budget of "
        f"{limit.describe(limit.limit)}"
        for limit in problem.constraints
        if limit.cost(index) > limit.limit
    ]
    raise OpsearchError(
        f"solver {solution.solver!r} chose point {index}, which "
        f"{' and '.join(over) or 'was excluded'}; this is a defect of the solver: report it to its "
        "authors, and use another one, such as --solver ortools"
    )


def reraise_interrupt(solution: Solution) -> Solution:
    """Return the solution; raise KeyboardInterrupt if Ctrl-C stopped it, to stop all solves."""
    if solution.stopped:
        raise KeyboardInterrupt
    return solution


class HasForm(Protocol):
    """An objective, or the factory of one."""

    @property
    def name(self) -> str:
        """Name of the objective."""

    @property
    def form(self) -> Form:
        """Form of the objective."""


def require_form(
    objective: HasForm,
    solver: Solver,
    solvers: Sequence[Solver] = (),
    objectives: Sequence[str] = (),
) -> None:
    """Raise OpsearchError if `solver` does not accept the objective.

    Args:
        objective: The objective.
        solver: The solver.
        solvers: Solvers that the message names if they accept the objective.
        objectives: Names of objectives that the solver accepts, for the message.
    """
    if objective.form not in solver.forms:
        fitting = sorted(s.name for s in solvers if objective.form in s.forms)
        hint = f"--solver {' or '.join(fitting)}" if fitting else "a solver that accepts it"
        if objectives:
            hint += f", or --objective {' or '.join(objectives)}"
        raise OpsearchError(
            f"solver {solver.name!r} needs an objective of form {', '.join(sorted(solver.forms))}, "
            f"but {objective.name!r} is of form {objective.form}; use {hint}"
        )


def solved(
    solver: Solver, problem: Problem, seed: int, library: str, search: Callable[[], Solution]
) -> Solution:
    """Run a search and complete its solution; infeasible problems are not searched.

    Args:
        solver: The solver.
        problem: The problem.
        seed: Seed, for the record.
        library: Library whose version is recorded.
        search: Runs the search.

    Raises:
        OpsearchError: The solver does not accept the objective's form, or the objective is not
            finite at the chosen point.
    """
    started = perf_counter()
    require_form(problem.objective, solver)
    solution = search() if problem.solvable else infeasible(problem, solver.name)
    if solution.value is not None and not isfinite(solution.value):
        raise OpsearchError(
            f"solver {solver.name!r} chose a point where objective {solution.objective!r} is "
            f"{solution.value}; correct the objective, which must be finite, or nan at points "
            "without a value"
        )
    versions = {library: version(library)}
    return replace(solution, seed=seed, seconds=perf_counter() - started, versions=versions)
