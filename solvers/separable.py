"""How sums of terms and pairs are solved by integer programs, whichever library solves these."""

from __future__ import annotations

from dataclasses import replace

from opsearch.errors import OpsearchError
from opsearch.problem import Pairwise, Problem, Separable
from opsearch.solution import Solution, Status, solution_at
from opsearch.solvers.fixing import without_hopeless
from opsearch.solvers.forms import cost_form, rank_form, value_form
from opsearch.solvers.minimum import Found, Minimiser, Row, lowest
from opsearch.solvers.program import ProgramError
from opsearch.solvers.scaling import IntegerTerms, integer_terms
from opsearch.solvers.slices import slices_of, with_pairs, without

_STOPPED = "the deterministic time ran out, or the search was stopped, before the proof"


def solve_separable(problem: Problem, programs: Minimiser, solver: str, library: str) -> Solution:
    """The best point: one program per slice of the space, then others that break ties.

    problem: with some point within the budget; solver: the name in the Solution; library: that in
    messages. An answer of the library that contradicts the problem ends as an error.
    """
    try:
        return _solved(problem, programs, solver, library)
    except ProgramError as error:
        return _pointless(problem, Status.ERROR, solver, str(error))


def _solved(problem: Problem, programs: Minimiser, solver: str, library: str) -> Solution:
    """What `solve_separable` returns, or ProgramError."""
    objective = problem.objective
    if not isinstance(objective, Separable | Pairwise):
        raise OpsearchError(
            f"objective {objective.name!r} says that it is {objective.form} but has no terms; "
            f"make it an opsearch.problem.{objective.form.capitalize()}"
        )
    terms = integer_terms(objective)
    absent = [problem.space.row(index) for index in problem.excluded]
    slices = [without(with_pairs(part, terms.pairs), absent) for part in slices_of(problem)]
    rows: list[Row] = [
        (cost_form(c), constraint.limit) for c, constraint in enumerate(problem.constraints)
    ]
    start = None
    if not (problem.space.listed or terms.pairs):
        slices, start = without_hopeless(problem, slices, terms)
    if terms.pairs:
        alone = value_form(replace(terms, pairs={}))
        start = lowest(programs, slices, alone, rows).row
    best = lowest(programs, slices, value_form(terms), rows, start)
    if best.bound is None:
        raise ProgramError(f"{library} found no point within the budget, but some points are")
    if best.value is None:
        note = "the deterministic time ran out, or the search was stopped, before a first point"
        return _pointless(problem, Status.UNKNOWN, solver, note)
    # Without a proof rows that cost less may have a lower value too: these are no ties.
    row, complete = best.row, True
    if best.proved:
        rows.append((value_form(terms), best.value))
        row, complete = _first_tie(problem, programs, best, rows)
    assert row is not None
    note = "" if complete else "the time ran out, or the search was stopped, while ties were broken"
    index = _index(problem, row, library)
    return _checked(problem, terms, best, index, solver, library, note)


def _pointless(problem: Problem, status: Status, solver: str, note: str) -> Solution:
    """A Solution without a point."""
    objective = problem.objective
    return Solution(status, solver, objective.name, objective.unit, note=note)


def _index(problem: Problem, row: tuple[int, ...], library: str) -> int:
    """The feasible point at a row; ProgramError when there is none."""
    index = problem.space.index_of(row)
    if problem.space.row(index) != row:
        raise ProgramError(f"{library} chose {row}, which is not a point of {problem.space.name}")
    if not problem.within(index):
        raise ProgramError(f"{library} chose point {index}, which exceeds the budget")
    return index


def _checked(
    problem: Problem,
    terms: IntegerTerms,
    best: Found,
    index: int,
    solver: str,
    library: str,
    note: str,
) -> Solution:
    """The Solution at a point, after the problem itself confirms what the programs say."""
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
        note=note if best.proved else _STOPPED,
    )


def _first_tie(
    problem: Problem, programs: Minimiser, best: Found, rows: list[Row]
) -> tuple[tuple[int, ...], bool]:
    """Among rows of the best value the cheapest, of these the first; False when time ran out.

    In a space too large to list the place of a row is too large a number for a program: any of the
    cheapest is taken there.
    """
    sizes = [len(parameter.values) for parameter in problem.space.parameters]
    stages = [cost_form(0) for _ in problem.constraints[:1]]
    if problem.space.listed:
        stages.append(rank_form(sizes))
    complete = True
    for form in stages:
        found = lowest(programs, best.ties, form, rows, best.row)
        complete &= found.proved
        if found.value is None:
            break
        best = found
        rows = [*rows, (form, found.value)]
    assert best.row is not None
    return best.row, complete
