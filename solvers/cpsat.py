"""Integer programming with CP-SAT (ortools): proves the best point of a separable objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import ClassVar

from opsearch.problem import Form, Problem
from opsearch.solution import Limit, Solution, solved
from opsearch.solvers.interrupts import interrupts
from opsearch.solvers.minimum import Clock
from opsearch.solvers.separable import solve_separable


@dataclass(frozen=True)
class CpSat:
    """Solves one integer program per slice of the space; ties go to lower cost, then lower indices.

    It reads terms and costs, never the table of values. Limit: `deterministic_time`, in CP-SAT's
    units for the whole solve (about seconds), the same on every machine.
    """

    name: ClassVar[str] = "ortools"
    exact: ClassVar[bool] = True
    forms: ClassVar[frozenset[Form]] = frozenset({"separable", "pairwise"})

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The best point with a proof, or the incumbent and its bound when the limit is reached.

        Ctrl-C ends it too; the Solution says so.
        """
        with interrupts() as stop:
            clock = Clock(seed, limit.deterministic_time if limit else None, stop)
            search = partial(solve_separable, problem, clock, self.name, "CP-SAT")
            solution = solved(self, problem, seed, "ortools", search)
        return replace(solution, stopped=stop.is_set())
