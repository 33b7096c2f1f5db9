"""Integer programming with CP-SAT (ortools), which proves the best point of a sum of terms.

`opsearch.solvers.integer` states the programs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass, replace
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, ClassVar

from opsearch.problem.objective import Choice, Form, Pair
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status, solved
from opsearch.problem.spaces.base import Space
from opsearch.solvers.integer.minimum import Answer, Program, ProgramError, unit_of
from opsearch.solvers.integer.quantise import FLOAT_LIMIT, ROW_LIMIT
from opsearch.solvers.integer.slices import LinearForm, Slice
from opsearch.solvers.integer.solve import solve_integer_program
from opsearch.solvers.interrupts import in_thread, interrupts

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

STATUS_MAP = {
    0: Status.UNKNOWN,
    1: Status.ERROR,
    2: Status.FEASIBLE,
    3: Status.INFEASIBLE,
    4: Status.OPTIMAL,
}


@dataclass(frozen=True)
class CpSat:
    """CP-SAT on one program per slice of the space; it reads terms, never a table of values.

    Its limit is `deterministic_time`, in CP-SAT's units for the whole solve (about seconds), the
    same on every machine.
    """

    name: ClassVar[str] = "ortools"
    exact: ClassVar[bool] = True
    forms: ClassVar[frozenset[Form]] = frozenset({"separable", "pairwise"})
    takes_start: ClassVar[bool] = False

    def require(self, space: Space) -> None:
        """Accept any space."""

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the best point with a proof.

        When the limit is reached or Ctrl-C arrives, return the incumbent and its bound.
        """
        with interrupts() as stop:
            programs = _CpSatPrograms(seed, limit.deterministic_time if limit else None, stop)
            search = partial(solve_integer_program, problem, programs, self.name, "CP-SAT")
            solution = solved(self, problem, seed, "ortools", search)
        return replace(solution, stopped=stop.is_set())


@dataclass
class _CpSatPrograms:
    """Solves the programs of one solve.

    Attributes:
        seed: The seed of every program.
        left: Deterministic time left for all of them; None for no limit.
        stop: Ends the running program and all that follow.
    """

    seed: int
    left: float | None
    stop: Event

    def minimise(self, program: Program, start: tuple[int, ...] | None, share: float) -> Answer:
        """Solve one program exactly, also where its objective exceeds CP-SAT's integers.

        Such an objective is rounded down, and better rows are asked for until there is none.
        """
        form, best = program.objective, None
        found = self._solve(program, start, share)
        while found.row is not None and found.status is Status.OPTIMAL:
            best = Answer(Status.OPTIMAL, found.row, form.at(found.row))
            if found.bound == best.bound:
                return best
            limits = (*program.limits, (form, form.at(found.row) - 1))
            found = self._solve(replace(program, limits=limits), None, share)
        if best is None:
            return found
        if found.status is Status.INFEASIBLE:
            return best
        return Answer(Status.FEASIBLE, found.row or best.row, found.bound)

    def _solve(self, program: Program, start: tuple[int, ...] | None, share: float) -> Answer:
        """Solve a program whose objective is rounded down, and subtract its time."""
        from ortools.sat.python import cp_model

        if self.stop.is_set() or (self.left is not None and self.left <= 0):
            return Answer(Status.UNKNOWN)
        model, choices, unit = _model(program)
        for (k, i), literal in choices.items() if start else ():
            model.add_hint(literal, start is not None and start[k] == i)
        solver = cp_model.CpSolver()
        # One worker with a seed is reproducible, and only with level 2 does it close a knapsack.
        # The gap is relative to integers: without the 0.0 it would stop early at small objectives.
        solver.parameters.num_workers = 1
        solver.parameters.random_seed = self.seed % ROW_LIMIT
        solver.parameters.linearization_level = 2
        solver.parameters.absolute_gap_limit = 0.0
        solver.parameters.relative_gap_limit = 0.0
        if self.left is not None:
            solver.parameters.max_deterministic_time = share * self.left
        status = STATUS_MAP[_run(solver, model, self.stop)]
        if status is Status.ERROR:
            raise ProgramError(f"CP-SAT refused the program: {model.validate()}")
        if self.left is not None:
            self.left -= solver.deterministic_time
        # Values may be read only when there is a solution: otherwise they are arbitrary, no error.
        if status not in (Status.OPTIMAL, Status.FEASIBLE):
            return Answer(status)
        row = tuple(
            next(int(i) for i in options if solver.boolean_value(choices[k, int(i)]))
            for k, options in enumerate(program.part.options)
        )
        bound = program.objective.constant + unit * round(solver.best_objective_bound)
        return Answer(status, row, bound)


def _model(program: Program) -> tuple[cp_model.CpModel, dict[Choice, cp_model.IntVar], int]:
    """Return the model, the literals of its choices, and the unit of its objective.

    In this unit the coefficients are rounded down where their sum would not be exact in floats.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    choices, pairs = _literals(model, program.part)
    for form, limit in program.limits:
        unit = unit_of(form)
        terms = _terms(form, unit, choices, pairs)
        slack = (limit - form.constant) // unit
        # A limit that always holds may be too large for CP-SAT, one that never does too small.
        if slack < sum(max(coefficient, 0) for _, coefficient in terms):
            never = sum(min(coefficient, 0) for _, coefficient in terms) - 1
            add_row(model, terms, max(slack, never))
    unit = unit_of(program.objective)
    total = sum(map(abs, (*program.objective.choices.values(), *program.objective.pairs.values())))
    unit *= 1 + total // (unit * FLOAT_LIMIT // 4)
    terms = _terms(program.objective, unit, choices, pairs)
    model.minimize(sum(coefficient * literal for literal, coefficient in terms))
    return model, choices, unit


def _literals(
    model: cp_model.CpModel, part: Slice
) -> tuple[dict[Choice, cp_model.IntVar], dict[Pair, cp_model.IntVar]]:
    """Add a literal per choice, exactly one per parameter, one per pair, and the slice's rules."""
    choices: dict[Choice, cp_model.IntVar] = {}
    for k, options in enumerate(part.options):
        mine = {(k, int(i)): model.new_bool_var(f"{k}={i}") for i in options}
        model.add_exactly_one(mine.values())
        choices |= mine
    if part.rows is not None:
        indices = [model.new_int_var(0, int(options[-1]), "") for options in part.options]
        for k, options in enumerate(part.options):
            model.add(indices[k] == sum(i * choices[k, i] for i in options.tolist()))
        model.add_allowed_assignments(indices, part.rows)
    for absent in part.excluded:
        model.add_bool_or(~choices[choice] for choice in absent)
    for choice, others in part.needs:
        model.add_bool_or(~choices[choice], *(choices[other] for other in others))
    pairs: dict[Pair, cp_model.IntVar] = {}
    for pair in part.pairs:
        first, second = (choices[choice] for choice in pair)
        both = pairs[pair] = model.new_bool_var(f"{pair}")
        model.add_implication(both, first)
        model.add_implication(both, second)
        model.add_bool_or(~first, ~second, both)
    return choices, pairs


def _terms(
    form: LinearForm,
    unit: int,
    choices: Mapping[Choice, cp_model.IntVar],
    pairs: Mapping[Pair, cp_model.IntVar],
) -> list[tuple[cp_model.IntVar, int]]:
    """Return the terms of a form in whole units."""
    alone = [(choices[choice], c // unit) for choice, c in form.choices.items()]
    return alone + [(pairs[pair], c // unit) for pair, c in form.pairs.items()]


def _run(solver: cp_model.CpSolver, model: cp_model.CpModel, stop: Event) -> int:
    """Return CP-SAT's status at the end of a search, or soon after `stop` is set.

    Its own handler of SIGINT runs inside of the search, where it may wait forever for a lock that
    the search holds, and leaves a process that the next signal kills. With the search in a thread
    Python handles signals.
    """
    solver.parameters.catch_sigint_signal = False
    search = in_thread(partial(solver.solve, model))
    try:
        while not wait([search], timeout=0.1).done:
            if stop.is_set():
                solver.stop_search()
    finally:
        # Another signal may have raised. A search that has not begun yet knows of no stop.
        while not search.done():
            solver.stop_search()
            wait([search], timeout=0.1)
    return int(search.result())


def add_row(
    model: cp_model.CpModel, terms: Sequence[tuple[cp_model.IntVar, int]], limit: int
) -> None:
    """Add sum of coefficient * literal <= limit, split in two where coefficients are large.

    Presolve of ortools 9.15 adds up a row's coefficients in 32 bits (or-tools issue 5293) and may
    prove a wrong optimum. With c = high * base + low and limit split alike, the row holds if and
    only if some carry >= 0 has sum(low) <= limit_low + base * carry and sum(high) + carry <=
    limit_high; both rows are short, and nothing is rounded.
    """
    if sum(abs(coefficient) for _, coefficient in terms) < ROW_LIMIT:
        model.add(sum(coefficient * literal for literal, coefficient in terms) <= limit)
        return
    base = 1 << (30 - len(terms).bit_length())
    carry = model.new_int_var(0, len(terms), "carry")
    low = [(literal, coefficient % base) for literal, coefficient in terms]
    high = [(literal, coefficient // base) for literal, coefficient in terms]
    add_row(model, [*low, (carry, -base)], limit % base)
    add_row(model, [*high, (carry, 1)], limit // base)
