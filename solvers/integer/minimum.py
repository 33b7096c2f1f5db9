"""The lowest value over several slices, with a proof or a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import Protocol

from opsearch.problem.solution import Status
from opsearch.solvers.integer.slices import LinearForm, Slice


class ProgramError(Exception):
    """A library refused a program, or its answer contradicts the problem."""


@dataclass(frozen=True)
class Program:
    """Minimise a linear form over the rows of a slice within limits.

    Attributes:
        part: The slice.
        objective: The form to minimise.
        limits: Forms, and the highest value that each may have.
    """

    part: Slice
    objective: LinearForm
    limits: tuple[tuple[LinearForm, int], ...] = ()


@dataclass(frozen=True)
class Answer:
    """The answer of a library to a program.

    Attributes:
        status: OPTIMAL, FEASIBLE, INFEASIBLE or UNKNOWN.
        row: The value indices of the best row found.
        bound: A lower bound on the objective.
    """

    status: Status
    row: tuple[int, ...] | None = None
    bound: int | None = None


def unit_of(form: LinearForm) -> int:
    """Return the greatest common divisor of a form's coefficients; 1 if it has none."""
    return gcd(*form.choices.values(), *form.pairs.values()) or 1


class Minimiser(Protocol):
    """A library that solves programs."""

    def minimise(self, program: Program, start: tuple[int, ...] | None, share: float) -> Answer:
        """Solve a program.

        Args:
            program: The program.
            start: A row to begin with, if one is known.
            share: The share of the time left that the program may take.

        Raises:
            ProgramError: The library refused the program.
        """


@dataclass(frozen=True)
class Minimum:
    """The lowest value found over all slices.

    Attributes:
        value: That value; None where no row was found.
        row: Its value indices.
        bound: A lower bound on the value of every row; None when there is provably no row at all.
        ties: The programs whose slices reach the value.
    """

    value: int | None
    row: tuple[int, ...] | None
    bound: int | None
    ties: tuple[Program, ...]

    @property
    def proved(self) -> bool:
        """True if no row has a lower value."""
        return self.value is not None and self.value == self.bound


def lowest(
    minimiser: Minimiser, programs: Sequence[Program], start: tuple[int, ...] | None = None
) -> Minimum:
    """Return the lowest objective of several programs.

    The program that holds `start` comes first, the others follow in the order of their lower
    bounds. One whose lower bound exceeds the best value so far is skipped, the others must reach
    that value. Programs with a choice to make share the time that is left equally.

    Args:
        minimiser: The library that solves each program.
        programs: One per slice.
        start: A row that keeps all limits of the program that holds it, to begin with.
    """
    best, row = None, start
    reached: dict[int, Program] = {}
    bounds: list[int] = []
    queue = sorted(programs, key=lambda each: (not each.part.holds(start), each.objective.floor))
    if start is not None:
        best, reached = queue[0].objective.at(start), {0: queue[0]}
    for position, program in enumerate(queue):
        form = program.objective
        if best is not None and form.floor > best:
            bounds.append(form.floor)
            continue
        limits = program.limits if best is None else (*program.limits, (form, best))
        known = row if program.part.holds(row) else None
        waiting = sum(other.part.has_choices for other in queue[position:])
        answer = minimiser.minimise(replace(program, limits=limits), known, 1 / max(waiting, 1))
        if answer.row is not None:
            value = form.at(answer.row)
            if best is None or value < best:
                best, row, reached = value, answer.row, {}
            reached[position] = program
        if answer.status is not Status.INFEASIBLE:
            bounds.append(form.floor if answer.bound is None else max(form.floor, answer.bound))
    return Minimum(best, row, min(bounds, default=None), tuple(reached.values()))
