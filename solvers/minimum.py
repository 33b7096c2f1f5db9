"""The lowest value of a linear form over several slices, with a proof or a bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import Event
from typing import Protocol

from opsearch.solution import Status
from opsearch.solvers.decompose import Slice
from opsearch.solvers.forms import FormOf, Linear
from opsearch.solvers.program import Answer, minimise

Row = tuple[FormOf, int]  # a form and its limit


class Minimiser(Protocol):
    """Solves the programs of slices."""

    def minimise(
        self,
        part: Slice,
        objective: Linear,
        rows: Sequence[tuple[Linear, int]],
        start: tuple[int, ...] | None,
        share: float,
    ) -> Answer:
        """The row of a slice with the least objective where each form keeps its limit.

        start: a row to begin with, if one is known; share: of the time left that it may take.
        """


@dataclass
class Clock:
    """The seed of every program, the deterministic time left for them (None: no limit).

    stop: ends the program that runs, and all that follow.
    """

    seed: int
    left: float | None
    stop: Event

    def minimise(
        self,
        part: Slice,
        objective: Linear,
        rows: Sequence[tuple[Linear, int]],
        start: tuple[int, ...] | None,
        share: float,
    ) -> Answer:
        """Solve one program and take its time off."""
        if self.stop.is_set() or (self.left is not None and self.left <= 0):
            return Answer(Status.UNKNOWN, None, None, 0.0)
        time = None if self.left is None else share * self.left
        answer = minimise(
            part, objective, rows, seed=self.seed, stop=self.stop, time=time, start=start
        )
        if self.left is not None:
            self.left -= answer.time
        return answer


@dataclass(frozen=True)
class Found:
    """The lowest value found, its row of value indices, and the slices that reach it.

    bound: no row is below it, None when every slice is proved to have no row at all.
    """

    value: int | None
    row: tuple[int, ...] | None
    bound: int | None
    ties: tuple[Slice, ...]

    @property
    def proved(self) -> bool:
        """Whether no row has a lower value."""
        return self.value is not None and self.value == self.bound


def lowest(
    programs: Minimiser,
    slices: Sequence[Slice],
    objective: FormOf,
    rows: Sequence[Row],
    start: tuple[int, ...] | None = None,
) -> Found:
    """Minimise `objective` over the rows of all slices that keep the limits.

    Slices come in the order of what they can reach at best, that of `start`, a row that keeps the
    limits, first; those that cannot reach the best value so far are skipped, the others are asked
    only for rows that do. Those that are no single points share the time that is left equally.
    """
    forms = [(objective(part), part) for part in slices]
    best, row, reached = None, None, []
    for form, part in forms:
        if start is not None and part.holds(start):
            best, row, reached = form.at(start), start, [(form.at(start), part)]
    queue = sorted(
        forms, key=lambda entry: (row is None or not entry[1].holds(row), entry[0].floor)
    )
    bounds: list[int] = []
    for done, (form, part) in enumerate(queue):
        if best is not None and form.floor > best:
            bounds.append(form.floor)
            continue
        limits = [(make(part), limit) for make, limit in rows]
        if best is not None:
            limits.append((form, best))
        known = row if row is not None and part.holds(row) else None
        waiting = sum(other.has_choices for _, other in queue[done:])
        answer = programs.minimise(part, form, limits, known, 1 / max(waiting, 1))
        if answer.row is not None:
            value = form.at(answer.row)
            reached.append((value, part))
            if best is None or value < best:
                best, row = value, answer.row
        if answer.status is not Status.INFEASIBLE:
            bounds.append(form.floor if answer.bound is None else max(form.floor, answer.bound))
    ties = tuple({id(part): part for value, part in reached if value == best}.values())
    return Found(best, row, min(bounds, default=None), ties)
