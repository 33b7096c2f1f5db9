"""Integer programming with HiGHS (scipy): a second opinion on what CP-SAT proves.

HiGHS computes in floats with tolerances of 1e-6, whatever the coefficients: every form is scaled so
that its largest coefficient is 1e6, and every answer is checked in integers. One that breaks a
limit after all is forbidden by a row of its own, and the program is solved again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.problem.objective import Choice, Form, Pair
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Status, solved
from opsearch.problem.spaces.base import Space
from opsearch.solvers.integer.minimum import Answer, Program, ProgramError, unit_of
from opsearch.solvers.integer.slices import LinearForm, Slice
from opsearch.solvers.integer.solve import solve_integer_program
from opsearch.solvers.interrupts import in_thread

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint

_SCALE = 1e6
_TOLERANCE = 1e-6  # of HiGHS, in a scaled objective
_TRIES = 50
_OPTIMAL, _INFEASIBLE = 0, 2


Columns = dict[Choice | Pair | int, int]
"""The column of each variable: those of choices and pairs, and by number those of listed rows."""


@dataclass(frozen=True)
class Highs:
    """The programs of `ortools`, solved by HiGHS, which proves them within float tolerances.

    It is deterministic, needs no seed, and stops at no limit.
    """

    name: ClassVar[str] = "scipy"
    exact: ClassVar[bool] = True
    forms: ClassVar[frozenset[Form]] = frozenset({"separable", "pairwise"})
    takes_start: ClassVar[bool] = False

    def require(self, space: Space) -> None:
        """Accept any space."""

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the best point; ties go to lower cost, then to the first row."""
        search = partial(solve_integer_program, problem, _HighsPrograms(), self.name, "HiGHS")
        return solved(self, problem, seed, "scipy", search)


class _HighsPrograms:
    """Solves programs one by one."""

    def minimise(self, program: Program, start: tuple[int, ...] | None, share: float) -> Answer:
        """Solve one program, without a start and in all the time that it needs.

        Raises:
            ProgramError: HiGHS ended with neither an optimum nor a proof that there is none.
        """
        from scipy.optimize import Bounds, milp

        part, objective = program.part, program.objective
        column = _columns(part)
        costs, scale = _scaled(objective, column)
        rows = [_structure(part, column), *(_limit(*row, column) for row in program.limits)]
        for _ in range(_TRIES):
            call = partial(
                milp,
                costs,
                integrality=np.array([not isinstance(key, int) for key in column], np.int64),
                bounds=Bounds(0, 1),
                constraints=rows,
                options={"mip_rel_gap": 0.0},
            )
            result = in_thread(call).result()  # Ctrl-C ends the waiting, not HiGHS
            if result.status == _INFEASIBLE:
                return Answer(Status.INFEASIBLE)
            if result.status != _OPTIMAL or result.x is None:
                raise ProgramError(f"HiGHS ended without an answer: {result.message}")
            row = tuple(
                int(options[np.argmax(result.x[[column[k, int(i)] for i in options]])])
                for k, options in enumerate(part.options)
            )
            if all(form.at(row) <= limit for form, limit in program.limits):
                value = objective.at(row)
                bound = _bound(objective, result.mip_dual_bound / scale, _TOLERANCE / scale)
                return Answer(Status.OPTIMAL, row, min(bound, value))
            rows.append(_without(row, column))
        raise ProgramError(f"HiGHS gave {_TRIES} answers that exceed a limit")


def _columns(part: Slice) -> Columns:
    choices = [(k, int(i)) for k, options in enumerate(part.options) for i in options]
    listed = range(0 if part.rows is None else len(part.rows))
    return {key: column for column, key in enumerate([*choices, *part.pairs, *listed])}


def _scaled(form: LinearForm, column: Columns) -> tuple[NDArray[np.float64], float]:
    """Return the coefficients of a form, scaled, without its constant, and the scale."""
    row = np.zeros(len(column))
    for choice, coefficient in form.choices.items():
        row[column[choice]] = coefficient
    for pair, coefficient in form.pairs.items():
        row[column[pair]] = coefficient
    scale = _SCALE / max(float(np.abs(row).max(initial=0.0)), 1.0)
    return row * scale, scale


def _bound(form: LinearForm, found: float, error: float) -> int:
    """Return the lower bound on a form that HiGHS proves for the sum without its constant.

    Values are whole multiples of a unit. Where they are too large for HiGHS to tell neighbours
    apart, the bound is lower by what it may have missed.
    """
    unit = unit_of(form)
    missed = max(0.5, 2 * error / unit)
    return unit * ceil(found / unit - missed) + form.constant


def _limit(form: LinearForm, limit: int, column: Columns) -> LinearConstraint:
    from scipy.optimize import LinearConstraint

    row, scale = _scaled(form, column)
    return LinearConstraint(row, -np.inf, (limit - form.constant) * scale)


def _structure(part: Slice, column: Columns) -> LinearConstraint:
    """Return the rules of a slice.

    Each parameter has one value, and no combination is excluded. A pair holds where both its
    choices do. A choice holds where one of the listed rows that have it does.
    """
    from scipy.optimize import LinearConstraint
    from scipy.sparse import coo_array

    entries: list[tuple[int, int, float]] = []
    limits: list[tuple[float, float]] = []

    def add(row: dict[int, float], low: float, high: float) -> None:
        entries.extend(
            (len(limits), position, coefficient) for position, coefficient in row.items()
        )
        limits.append((low, high))

    for k, options in enumerate(part.options):
        add({column[k, int(i)]: 1.0 for i in options}, 1, 1)
    for absent in part.excluded:
        add({column[choice]: 1.0 for choice in absent}, -np.inf, len(absent) - 1)
    for choice, others in part.needs:
        add({column[choice]: 1.0, **{column[other]: -1.0 for other in others}}, -np.inf, 0)
    for pair in part.pairs:
        both, first, second = column[pair], column[pair[0]], column[pair[1]]
        add({both: 1.0, first: -1.0}, -np.inf, 0)
        add({both: 1.0, second: -1.0}, -np.inf, 0)
        add({both: -1.0, first: 1.0, second: 1.0}, -np.inf, 1)
    if part.rows is not None:
        for k, options in enumerate(part.options):
            for i in options.tolist():
                having = np.flatnonzero(part.rows[:, k] == i).tolist()
                add({column[k, i]: -1.0, **{column[row]: 1.0 for row in having}}, 0, 0)
    rows, columns, coefficients = zip(*entries, strict=True)
    matrix = coo_array((coefficients, (rows, columns)), (len(limits), len(column)))
    low, high = np.array(limits).T
    return LinearConstraint(matrix, low, high)


def _without(row: Sequence[int], column: Columns) -> LinearConstraint:
    """Return the constraint that forbids one row of value indices."""
    from scipy.optimize import LinearConstraint

    taken = np.zeros(len(column))
    taken[[column[k, i] for k, i in enumerate(row)]] = 1.0
    return LinearConstraint(taken, -np.inf, len(row) - 1)
