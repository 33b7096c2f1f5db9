"""Local search: from good points on, the best neighbour as long as there is a better one.

Neighbours have one parameter one value up or down, or one up and another down, so that the budget
stays used. Where one step does not pay for another (a share of all tokens costs as much as many
operations), the steps of least loss for what they save, or of most gain for what they cost, follow
until the budget fits. Of so many neighbours those are evaluated first for which the effects of
their steps, each measured alone, promise most.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from opsearch.problem.objective import Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, solved
from opsearch.solvers.evaluated import EvaluatedPoints

_EVALUATIONS = 1000
_BATCH = 32  # neighbours evaluated together: enough to share work, few enough to follow a good one
Step = tuple[int, int]  # a parameter, and +1 or -1 of its value's index


@dataclass(frozen=True)
class Local:
    """Goes from the best of its start points to a local optimum, or until evaluations are spent.

    start: points (indices), those over budget are brought within it; none: a cheapest point. A
    point over budget may be evaluated for what its step does, but is never the answer. A longer run
    extends a shorter one; an interrupted run is repeated over the cache of the measurements.
    """

    name: ClassVar[str] = "local"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"blackbox"})

    start: tuple[int, ...] = ()

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The best point among those evaluated; nothing is drawn, the seed is only recorded."""

        def search() -> Solution:
            evaluations = limit.evaluations if limit else None
            found = _Search(problem, _EVALUATIONS if evaluations is None else evaluations)
            return found.run(self.start or _ends(problem), self.name)

        return solved(self, problem, seed, "numpy", search)


class _Search:
    """One search; `effects`: what each step changed where it was last measured alone."""

    def __init__(self, problem: Problem, evaluations: int) -> None:
        self.problem, self.asked = problem, EvaluatedPoints(problem, evaluations)
        self.effects: dict[Step, float] = {}

    def run(self, start: Iterable[int], solver: str) -> Solution:
        """Descend from the best start point."""
        within = (_brought_within(self.problem, point) for point in start)
        self.asked.evaluate(point for point in within if point is not None)
        at, moves = self.asked.best(), 0
        while at is not None and (better := self._better(at)) is not None:
            at, moves = better, moves + 1
        ended = "until evaluations were spent" if self.asked.spent else "to a local optimum"
        note = f"{moves} moves {ended}, {len(self.asked.values)} points evaluated"
        if at is None:
            note = "no start point is within all budgets and has a value"
        return self.asked.solution(at, solver, note)

    def _better(self, at: int) -> int | None:
        """A better neighbour; None where there is none, or evaluations are spent."""
        steps = _steps(self.problem, at)
        self._measure(at, [step for step in steps if step not in self.effects])
        # Effects measured elsewhere mostly still say which neighbours to begin with.
        if (found := self._look(at, batches=1)) is not None:
            return found
        self._measure(at, steps)
        return self._look(at)

    def _measure(self, at: int, steps: Sequence[Step]) -> None:
        """What each step alone changes here."""
        points = [_after(self.problem, at, [step]) for step in steps]
        self.asked.evaluate(points)
        for step, point in zip(steps, points, strict=True):
            self.effects[step] = self.asked.value(point) - self.asked.value(at)

    def _look(self, at: int, batches: int | None = None) -> int | None:
        """The best of the first neighbours among which there is a better one."""
        promise = dict(self._neighbours(at))
        known = [point for point in promise if point in self.asked.values]
        new = sorted(promise.keys() - set(known), key=lambda point: (promise[point], point))
        parts = [new[first : first + _BATCH] for first in range(0, len(new), _BATCH)]
        for part in [known, *parts[:batches]]:
            self.asked.evaluate(part)
            best = min([at, *part], key=self.asked.key)
            if best != at:
                return best
        return None

    def _neighbours(self, at: int) -> Iterator[tuple[int, float]]:
        """Points within the budget, and the change in value that their steps promise."""
        steps = _steps(self.problem, at)
        ups, downs = [s for s in steps if s[1] > 0], [s for s in steps if s[1] < 0]
        ways = [[step] for step in steps]
        ways += [[up, down] for up, down in product(ups, downs) if up[0] != down[0]]
        rate = {step: self._rate(at, step) for step in steps}
        downs.sort(key=lambda step: (rate[step], step))
        ups.sort(key=lambda step: (rate[step], step))
        ways += [self._balanced(at, step, ups, downs) for step in steps]
        for way in ways:
            point = _after(self.problem, at, way)
            if point != at and self.problem.within(point):
                yield point, sum(self.effects[step] for step in way)

    def _balanced(
        self, at: int, first: Step, ups: Sequence[Step], downs: Sequence[Step]
    ) -> list[Step]:
        """The step, the downs that it needs to be within the budget, the good ups that fit."""
        way = [first]
        for down in downs:
            if self.problem.within(_after(self.problem, at, way)):
                break
            if down[0] != first[0]:
                way.append(down)
        taken = {step[0] for step in way}
        for up in ups:
            fits = up[0] not in taken and self.effects[up] < 0
            if fits and self.problem.within(_after(self.problem, at, [*way, up])):
                way.append(up)
        return way

    def _rate(self, at: int, step: Step) -> float:
        """The effect of a step for what it changes in cost."""
        if not self.problem.constraints:
            return self.effects[step]
        cost = self.problem.constraints[0].cost
        return self.effects[step] / max(abs(cost(_after(self.problem, at, [step])) - cost(at)), 1)


def _steps(problem: Problem, at: int) -> list[Step]:
    """One value up or down for each parameter, where that is another policy."""
    row = problem.space.row(at)
    steps = [
        (k, way)
        for k, parameter in enumerate(problem.space.parameters)
        for way in (-1, 1)
        if 0 <= row[k] + way < len(parameter.values)
    ]
    return [step for step in steps if _after(problem, at, [step]) != at]


def _after(problem: Problem, at: int, steps: Iterable[Step]) -> int:
    """The point that these steps lead to."""
    row = list(problem.space.row(at))
    for k, way in steps:
        row[k] += way
    return problem.space.index_of(row)


def _brought_within(problem: Problem, at: int) -> int | None:
    """A point within all budgets, by steps that exceed them less and less; None where that ends."""

    def excess(point: int) -> float:
        over = (max(c.cost(point) - c.limit, 0) / max(abs(c.limit), 1) for c in problem.constraints)
        return sum(over)

    while not problem.within(at):
        best = min(
            (_after(problem, at, [step]) for step in _steps(problem, at)),
            key=lambda point: (excess(point), point),
            default=at,
        )
        if excess(best) >= excess(at):
            return None
        at = best
    return at


def _ends(problem: Problem) -> list[int]:
    """The cheapest point of each cost; without costs that which prunes nothing."""
    if problem.constraints:
        return [constraint.cheapest for constraint in problem.constraints]
    space = problem.space
    return [space.index_of([len(parameter.values) - 1 for parameter in space.parameters])]
