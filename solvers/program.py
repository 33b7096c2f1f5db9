"""The CP-SAT program of one slice: a boolean per choice, rows over them, one linear objective."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import wait
from dataclasses import dataclass
from functools import partial
from math import gcd
from threading import Event
from typing import TYPE_CHECKING

from opsearch.problem import Choice, Pair
from opsearch.solution import Status
from opsearch.solvers.decompose import Slice
from opsearch.solvers.forms import Linear
from opsearch.solvers.interrupts import in_thread
from opsearch.solvers.scaling import ROW_LIMIT

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

STATUS_MAP = {
    0: Status.UNKNOWN,
    1: Status.ERROR,
    2: Status.FEASIBLE,
    3: Status.INFEASIBLE,
    4: Status.OPTIMAL,
}


class ProgramError(Exception):
    """CP-SAT refused a program, or its answer contradicts the problem."""


@dataclass(frozen=True)
class Answer:
    """How a program ended: the row of value indices found, and a bound on the objective."""

    status: Status
    row: tuple[int, ...] | None
    bound: int | None
    time: float


def minimise(
    part: Slice,
    objective: Linear,
    rows: Iterable[tuple[Linear, int]],
    *,
    seed: int,
    stop: Event,
    time: float | None = None,
    start: tuple[int, ...] | None = None,
) -> Answer:
    """The row of a slice with the least objective among those where each form keeps its limit.

    time: CP-SAT's deterministic time, None for no limit; stop: ends the search, which keeps what it
    has found; start: a row to begin with. Raises ProgramError for a refused program.
    """
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    choices, pairs = _literals(model, part)
    for form, limit in rows:
        unit, terms = _terms(form, choices, pairs)
        slack = (limit - form.constant) // unit
        # A limit that always holds may be too large for CP-SAT, one that never does too small.
        if slack < sum(max(coefficient, 0) for _, coefficient in terms):
            never = sum(min(coefficient, 0) for _, coefficient in terms) - 1
            add_row(model, terms, max(slack, never))
    unit, terms = _terms(objective, choices, pairs)
    literals, coefficients = [literal for literal, _ in terms], [c for _, c in terms]
    model.minimize(cp_model.LinearExpr.weighted_sum(literals, coefficients))
    if start is not None:
        for (k, i), literal in choices.items():
            model.add_hint(literal, start[k] == i)
    solver = cp_model.CpSolver()
    # One worker with a seed is reproducible, and level 2 is what lets it close a knapsack. The gap
    # is relative to integers: without the 0.0 it would stop early at small objectives.
    solver.parameters.num_workers = 1
    solver.parameters.random_seed = seed % ROW_LIMIT
    solver.parameters.linearization_level = 2
    solver.parameters.absolute_gap_limit = 0.0
    solver.parameters.relative_gap_limit = 0.0
    if time is not None:
        solver.parameters.max_deterministic_time = time
    status = STATUS_MAP[_run(solver, model, stop)]
    if status is Status.ERROR:
        raise ProgramError(f"CP-SAT refused the program: {model.validate()}")
    row = bound = None
    # Values may be read only when there is a solution: otherwise they are arbitrary, no error.
    if status in (Status.OPTIMAL, Status.FEASIBLE):
        row = tuple(
            next(int(i) for i in options if solver.boolean_value(choices[k, int(i)]))
            for k, options in enumerate(part.options)
        )
        bound = objective.constant + unit * round(solver.best_objective_bound)
    return Answer(status, row, bound, solver.deterministic_time)


def _run(solver: cp_model.CpSolver, model: cp_model.CpModel, stop: Event) -> int:
    """CP-SAT's status at the end of a search, or soon after `stop` is set.

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


def _literals(
    model: cp_model.CpModel, part: Slice
) -> tuple[dict[Choice, cp_model.IntVar], dict[Pair, cp_model.IntVar]]:
    """A literal per choice, exactly one per parameter, and one per pair that has an effect."""
    choices: dict[Choice, cp_model.IntVar] = {}
    for k, options in enumerate(part.options):
        mine = {(k, int(i)): model.new_bool_var(f"{k}={i}") for i in options}
        model.add_exactly_one(mine.values())
        choices |= mine
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
    for choice, along in part.bundles():
        together = sum(pairs[pair] for pair in along.pairs)
        model.add(together <= choices[choice])
        model.add(together >= choices[choice] - sum(choices[other] for other in along.others))
    return choices, pairs


def _terms(
    form: Linear,
    choices: Mapping[Choice, cp_model.IntVar],
    pairs: Mapping[Pair, cp_model.IntVar],
) -> tuple[int, list[tuple[cp_model.IntVar, int]]]:
    """The greatest common divisor of a form's coefficients, and its literals in units of it."""
    unit = gcd(*form.choices.values(), *form.pairs.values()) or 1
    singles = [(choices[choice], c // unit) for choice, c in form.choices.items()]
    return unit, singles + [(pairs[pair], c // unit) for pair, c in form.pairs.items()]
