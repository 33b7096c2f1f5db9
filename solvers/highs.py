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

from opsearch.problem import Choice, Form, Pair, Problem
from opsearch.solution import Limit, Solution, Status, solved
from opsearch.solvers.decompose import Slice
from opsearch.solvers.forms import Linear
from opsearch.solvers.interrupts import in_thread
from opsearch.solvers.program import Answer, ProgramError
from opsearch.solvers.separable import solve_separable

if TYPE_CHECKING:
    from scipy.optimize import LinearConstraint

_SCALE = 1e6
_TRIES = 50
_OPTIMAL, _INFEASIBLE = 0, 2


@dataclass(frozen=True)
class Highs:
    """The programs of `ortools`, solved by HiGHS; a check of it, proved within float tolerances.

    It is deterministic, needs no seed, and stops at no limit.
    """

    name: ClassVar[str] = "scipy"
    exact: ClassVar[bool] = True
    forms: ClassVar[frozenset[Form]] = frozenset({"separable", "pairwise"})

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The best point; ties go to lower cost, then to the first row."""
        search = partial(solve_separable, problem, _Programs(), self.name, "HiGHS")
        return solved(self, problem, seed, "scipy", search)


class _Programs:
    """Solves the program of one slice."""

    def minimise(
        self,
        part: Slice,
        objective: Linear,
        rows: Sequence[tuple[Linear, int]],
        start: tuple[int, ...] | None,
        share: float,
    ) -> Answer:
        """The row of a slice with the least objective among those where each form keeps its limit.

        It begins with no row and takes all the time it needs. Raises ProgramError when HiGHS ends
        with neither an optimum nor a proof that there is none.
        """
        from scipy.optimize import Bounds, milp

        column = _columns(part)
        costs, scale = _scaled(objective, column)
        limits = [_structure(part, column), *(_limit(*row, column) for row in rows)]
        for _ in range(_TRIES):
            program = partial(
                milp,
                costs,
                integrality=np.ones(len(column), np.int64),
                bounds=Bounds(0, 1),
                constraints=limits,
                options={"mip_rel_gap": 0.0},
            )
            result = in_thread(program).result()  # Ctrl-C ends the waiting, not HiGHS
            if result.status == _INFEASIBLE:
                return Answer(Status.INFEASIBLE, None, None, 0.0)
            if result.status != _OPTIMAL or result.x is None:
                raise ProgramError(f"HiGHS ended without an answer: {result.message}")
            row = tuple(
                int(options[np.argmax(result.x[[column[k, int(i)] for i in options]])])
                for k, options in enumerate(part.options)
            )
            if all(form.at(row) <= limit for form, limit in rows):
                value = objective.at(row)
                lowest = ceil(result.mip_dual_bound / scale - 0.5) + objective.constant
                return Answer(Status.OPTIMAL, row, min(lowest, value), 0.0)
            limits.append(_without(row, column))
        raise ProgramError(f"HiGHS gave {_TRIES} answers that exceed a limit")


Columns = dict[Choice | Pair, int]


def _columns(part: Slice) -> Columns:
    """The place of every choice and of every pair that has an effect."""
    choices = [(k, int(i)) for k, options in enumerate(part.options) for i in options]
    keys: list[Choice | Pair] = [*choices, *part.pairs]
    return {key: place for place, key in enumerate(keys)}


def _scaled(form: Linear, column: Columns) -> tuple[NDArray[np.float64], float]:
    """The coefficients of a form without its constant, and the factor they were scaled by."""
    row = np.zeros(len(column))
    for choice, coefficient in form.choices.items():
        row[column[choice]] = coefficient
    for pair, coefficient in form.pairs.items():
        row[column[pair]] = coefficient
    scale = _SCALE / max(float(np.abs(row).max(initial=0.0)), 1.0)
    return row * scale, scale


def _limit(form: Linear, limit: int, column: Columns) -> LinearConstraint:
    from scipy.optimize import LinearConstraint

    row, scale = _scaled(form, column)
    return LinearConstraint(row, -np.inf, (limit - form.constant) * scale)


def _structure(part: Slice, column: Columns) -> LinearConstraint:
    """One value per parameter, no excluded combination, and a pair where both its choices hold."""
    from scipy.optimize import LinearConstraint
    from scipy.sparse import coo_array

    entries: list[tuple[int, int, float]] = []
    limits: list[tuple[float, float]] = []

    def add(row: dict[int, float], low: float, high: float) -> None:
        entries.extend((len(limits), place, coefficient) for place, coefficient in row.items())
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
    for choice, bundle in part.bundles():
        together = {column[pair]: 1.0 for pair in bundle.pairs} | {column[choice]: -1.0}
        add(together, -np.inf, 0)
        add(together | {column[other]: 1.0 for other in bundle.others}, 0, np.inf)
    rows, columns, coefficients = zip(*entries, strict=True)
    matrix = coo_array((coefficients, (rows, columns)), (len(limits), len(column)))
    low, high = np.array(limits).T
    return LinearConstraint(matrix, low, high)


def _without(row: Sequence[int], column: Columns) -> LinearConstraint:
    """Forbids one row of value indices."""
    from scipy.optimize import LinearConstraint

    taken = np.zeros(len(column))
    taken[[column[k, i] for k, i in enumerate(row)]] = 1.0
    return LinearConstraint(taken, -np.inf, len(row) - 1)
