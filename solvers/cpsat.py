"""Integer programming with CP-SAT (ortools): proves the best point of a separable objective."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.metadata import version
from time import perf_counter
from typing import ClassVar

import numpy as np

from opsearch.errors import OpsearchError
from opsearch.problem import Form, Problem, Separable
from opsearch.solution import Limit, Solution, Status, infeasible, require_form, solution_at
from opsearch.solvers.forms import cost_form, rank_form, value_form
from opsearch.solvers.minimum import Clock, Found, Row, lowest
from opsearch.solvers.program import ProgramError
from opsearch.solvers.scaling import IntegerTerms, integer_terms
from opsearch.solvers.slices import find_slices


@dataclass(frozen=True)
class CpSat:
    """Solves one integer program per slice of the space; ties go to lower cost, then lower indices.

    It reads terms and costs, never the table of values. Limit: `deterministic_time`, in CP-SAT's
    units for the whole solve (about seconds), the same on every machine.
    """

    name: ClassVar[str] = "ortools"
    exact: ClassVar[bool] = True
    forms: ClassVar[frozenset[Form]] = frozenset({"separable"})

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The best point with a proof, or the incumbent and its bound when the limit is reached."""
        started = perf_counter()
        require_form(problem.objective, self)
        if not problem.feasible.any():
            solution = infeasible(problem, self.name)
        else:
            clock = Clock(seed, limit.deterministic_time if limit else None)
            try:
                solution = self._solve(problem, clock)
            except ProgramError as error:
                solution = self._pointless(problem, Status.ERROR, str(error))
        versions = {"ortools": version("ortools")}
        return replace(solution, seed=seed, seconds=perf_counter() - started, versions=versions)

    def _solve(self, problem: Problem, clock: Clock) -> Solution:
        if not isinstance(problem.objective, Separable):
            raise OpsearchError(
                f"objective {problem.objective.name!r} says that it is separable but has no terms; "
                "make it an opsearch.problem.Separable"
            )
        terms = integer_terms(problem.objective, problem.space.points)
        costs = [constraint.costs for constraint in problem.constraints] or [problem.cost]
        slices = find_slices(problem.space.points, np.array(costs, np.int64))
        rows: list[Row] = [
            (cost_form(c), constraint.limit) for c, constraint in enumerate(problem.constraints)
        ]
        best = lowest(clock, slices, value_form(terms), rows)
        if best.bound is None:
            count = int(problem.feasible.sum())
            raise ProgramError(f"CP-SAT found no point within the budget, but {count} points are")
        if best.value is None:
            note = "the deterministic time ran out before a first point"
            return self._pointless(problem, Status.UNKNOWN, note)
        rows.append((value_form(terms), best.value))
        row, complete = _first_tie(problem, clock, best, rows)
        note = "" if complete else "the time ran out while ties were broken"
        return self._checked(problem, terms, best, row, note)

    def _checked(
        self, problem: Problem, terms: IntegerTerms, best: Found, row: tuple[int, ...], note: str
    ) -> Solution:
        """The Solution at `row`, after the problem itself confirms what the programs say."""
        assert best.value is not None
        assert best.bound is not None
        found = np.flatnonzero((problem.space.points == row).all(axis=1))
        if len(found) != 1:
            raise ProgramError(f"CP-SAT chose {row}, which is not a point of {problem.space.name}")
        index = int(found[0])
        if not problem.feasible[index]:
            raise ProgramError(f"CP-SAT chose point {index}, which exceeds the budget")
        value = problem.objective.value(index)
        claimed = terms.offset + terms.step * best.value
        if abs(value - claimed) > terms.error_bound + terms.step / 2:
            raise ProgramError(f"CP-SAT gives point {index} the value {claimed:g}, it is {value:g}")
        if best.proved and not terms.error_bound:
            bound = value
        else:
            bound = terms.offset + terms.step * best.bound - terms.error_bound / 2
        return solution_at(
            problem,
            index,
            Status.OPTIMAL if best.proved else Status.FEASIBLE,
            self.name,
            bound=min(bound, value),
            error_bound=terms.error_bound,
            note=note if best.proved else "the deterministic time ran out before the proof",
        )

    def _pointless(self, problem: Problem, status: Status, note: str) -> Solution:
        objective = problem.objective
        return Solution(status, self.name, objective.name, objective.unit, note=note)


def _first_tie(
    problem: Problem, clock: Clock, best: Found, rows: list[Row]
) -> tuple[tuple[int, ...], bool]:
    """Among rows of the best value the cheapest, of these the first; False when time ran out."""
    sizes = [len(parameter.values) for parameter in problem.space.parameters]
    stages = [cost_form(0), rank_form(sizes)] if problem.constraints else [rank_form(sizes)]
    complete = True
    for form in stages:
        found = lowest(clock, best.ties, form, rows)
        complete &= found.proved
        if found.value is None:
            break
        best = found
        rows = [*rows, (form, found.value)]
    assert best.row is not None
    return best.row, complete
