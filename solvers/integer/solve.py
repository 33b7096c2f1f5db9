"""The search problem as integer programs, and the solution that their answers make.

Ties in value go to the lower cost. In a space that is listed they then go to the first row; in one
that is not, to any of the cheapest rows.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from opsearch.errors import OpsearchError
from opsearch.problem.constraint import by_cost
from opsearch.problem.objective import Pairwise, Separable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution, Status, solution_at, without_point
from opsearch.solvers.integer.minimum import Minimiser, Minimum, Program, ProgramError, lowest
from opsearch.solvers.integer.quantise import IntegerTerms, integer_terms
from opsearch.solvers.integer.slices import slices_of

_STOPPED = "the deterministic time ran out or the search was stopped before"
_NOT_ALL_TIES = (
    "another policy of the same value may cost less: the search of them was stopped, or the floats "
    "of the solver do not tell their costs apart"
)


def solve_integer_program(
    problem: Problem, minimiser: Minimiser, solver: str, library: str
) -> Solution:
    """Return the best point of a problem.

    An answer of the library that contradicts the problem ends as a Solution of status ERROR.

    Args:
        problem: A problem with some point within the budget.
        minimiser: The library that solves each program.
        solver: The solver's name in the Solution.
        library: The library's name in messages.

    Raises:
        OpsearchError: The objective has no finite terms, or a cost no linear form.
    """
    try:
        return _solve(problem, minimiser, solver, library)
    except ProgramError as error:
        return without_point(problem, Status.ERROR, solver, str(error))


def _solve(problem: Problem, minimiser: Minimiser, solver: str, library: str) -> Solution:
    objective = problem.objective
    if not isinstance(objective, Separable | Pairwise):
        raise OpsearchError(
            f"objective {objective.name!r} has form {objective.form} but no terms; "
            f"make it an opsearch.problem.{objective.form.capitalize()}"
        )
    terms = integer_terms(objective)
    limits = [constraint.limit for constraint in problem.constraints]
    programs = [
        Program(part, part.value, tuple(zip(part.costs, limits, strict=bool(part.costs))))
        for part in slices_of(problem, terms)
    ]
    start = None
    if terms.pairs and not problem.space.listed:
        # With many pairs time may run out; the optimum without them is a good row to begin with.
        alone = [replace(each, objective=replace(each.objective, pairs={})) for each in programs]
        start = lowest(minimiser, alone).row
    best = lowest(minimiser, programs, start)
    if best.bound is None:
        raise ProgramError(f"{library} found no point within the budget although one exists")
    if best.row is None:
        return without_point(problem, Status.UNKNOWN, solver, f"{_STOPPED} a first point")
    index, note = _feasible_index(problem, best.row, library), f"{_STOPPED} the proof"
    if best.proved:
        index, note = _first_tie(problem, terms, minimiser, best, library)
    return _checked(problem, terms, best, index, solver, library, note)


def _feasible_index(problem: Problem, row: tuple[int, ...], library: str) -> int:
    """Return the number of the point at a row; ProgramError unless it is feasible."""
    index = problem.space.index_of(row)
    if problem.space.row(index) != row:
        raise ProgramError(f"{library} chose {row}, which is not a point of {problem.space.name}")
    if not problem.within(index):
        raise ProgramError(f"{library} chose point {index}, which exceeds the budget")
    return index


def _first_tie(
    problem: Problem, terms: IntegerTerms, minimiser: Minimiser, best: Minimum, library: str
) -> tuple[int, str]:
    """Return the first of the points of the best value, and a note if that is not certain."""
    assert best.value is not None
    assert best.row is not None
    if problem.space.listed:
        feasible = np.flatnonzero(problem.feasible)
        ties = feasible[terms.sums(problem.space.points[feasible]) == best.value]
        return int(ties[by_cost(problem.space.points[ties], problem.cost[ties])[0]]), ""
    row, note = best.row, ""
    if problem.constraints:
        ties = [
            Program(each.part, each.part.costs[0], (*each.limits, (each.objective, best.value)))
            for each in best.ties
        ]
        found = lowest(minimiser, ties, best.row)
        row = found.row or row
        note = "" if found.proved else _NOT_ALL_TIES
    return _feasible_index(problem, row, library), note


def _checked(
    problem: Problem,
    terms: IntegerTerms,
    best: Minimum,
    index: int,
    solver: str,
    library: str,
    note: str,
) -> Solution:
    """Return the Solution at a point after the problem itself confirms the answers."""
    assert best.value is not None
    assert best.bound is not None
    value = problem.objective.value(index)
    claimed = terms.offset + terms.step * best.value
    if abs(value - claimed) > terms.error_bound + terms.step / 2:
        raise ProgramError(f"{library} gives point {index} the value {claimed:g}, it is {value:g}")
    if best.proved and not terms.error_bound:
        bound = value
    else:
        bound = terms.offset + terms.step * best.bound - terms.error_bound / 2
    return solution_at(
        problem,
        index,
        Status.OPTIMAL if best.proved else Status.FEASIBLE,
        solver,
        bound=min(bound, value),
        error_bound=terms.error_bound,
        note=note,
    )
