"""Local search: move to a better neighbour until there is none.

A neighbour differs by one step, one parameter one value up or down, or by a swap, one up and
another down, which keeps the budget used. Some steps cost as much as many others: n_v, the share of
tokens, changes the cost of every operation. Such a step is balanced by several: first the steps
down that lose least for what they save, until the budget is met, then the steps up that gain most
for what they cost, as far as they fit. Neighbours are evaluated in the order of the summed effects
of their steps, each of which was measured alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar

from opsearch.problem.objective import Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, evaluations_within, solved
from opsearch.problem.spaces.base import Space, unpruned
from opsearch.solvers.evaluated import EvaluatedPoints, point_within

_EVALUATIONS = 1000
_BATCH = 32  # neighbours evaluated together: enough to share work, few enough to follow a good one
Step = tuple[int, int]  # a parameter, and +1 or -1 of its value's index


@dataclass(frozen=True)
class Local:
    """Descent from the best start point to a local optimum, or until evaluations are spent.

    A point over budget may be evaluated for the effect of its step, but is never the answer. A
    longer run extends a shorter one; an interrupted run is repeated over the cache of measurements.

    Attributes:
        start: Indices of points; those over budget are brought within it. If empty, the cheapest
            point of each cost. If none can be brought within it, any point that is.
    """

    name: ClassVar[str] = "local"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"blackbox"})
    takes_start: ClassVar[bool] = True

    start: tuple[int, ...] = ()

    def require(self, space: Space) -> None:
        """Accept any space."""

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the best evaluated point; nothing is random, the seed is only recorded."""

        def search() -> Solution:
            found = _Descent(problem, evaluations_within(limit, _EVALUATIONS))
            return found.run(self.start or _ends(problem), self.name)

        return solved(self, problem, seed, "numpy", search)


class _Descent:
    """The state of one search.

    Attributes:
        evaluated: The points evaluated so far.
        effects: The change in value by each step where it was last measured alone.
    """

    def __init__(self, problem: Problem, evaluations: int) -> None:
        self.problem, self.evaluated = problem, EvaluatedPoints(problem, evaluations)
        self.effects: dict[Step, float] = {}

    def run(self, start: Iterable[int], solver: str) -> Solution:
        """Descend from the best start point."""
        within = (_brought_within(self.problem, point) for point in start)
        begun = [point for point in within if point is not None]
        if not begun and (other := point_within(self.problem)) is not None:
            begun = [other]
        self.evaluated.evaluate(begun)
        at, moves = self.evaluated.best(), 0
        while at is not None and (better := self._better(at)) is not None:
            at, moves = better, moves + 1
        ended = (
            "until the evaluations were used up" if self.evaluated.spent else "to a local optimum"
        )
        note = f"{moves} moves {ended}, {len(self.evaluated.values)} points evaluated"
        if at is None:
            note = "no start point is within all budgets and has a value; raise --budget"
        return self.evaluated.solution(at, solver, note)

    def _better(self, at: int) -> int | None:
        """Return a better neighbour; None where there is none, or evaluations are spent."""
        steps = _steps(self.problem, at)
        self._measure(at, [step for step in steps if step not in self.effects])
        # Effects measured elsewhere mostly still say which neighbours to begin with.
        if (found := self._look(at, batches=1)) is not None:
            return found
        self._measure(at, steps)
        return self._look(at)

    def _measure(self, at: int, steps: Sequence[Step]) -> None:
        """Measure the effect of each step alone at a point."""
        points = [_after(self.problem, at, [step]) for step in steps]
        self.evaluated.evaluate(points)
        for step, point in zip(steps, points, strict=True):
            self.effects[step] = self.evaluated.value(point) - self.evaluated.value(at)

    def _look(self, at: int, batches: int | None = None) -> int | None:
        """Return the best neighbour of the first batch that holds a better one."""
        promise = dict(self._neighbours(at))
        known = [point for point in promise if point in self.evaluated.values]
        new = sorted(promise.keys() - set(known), key=lambda point: (promise[point], point))
        parts = [new[first : first + _BATCH] for first in range(0, len(new), _BATCH)]
        for part in [known, *parts[:batches]]:
            self.evaluated.evaluate(part)
            best = min([at, *part], key=self.evaluated.key)
            if best != at:
                return best
        return None

    def _neighbours(self, at: int) -> Iterator[tuple[int, float]]:
        """Yield points within the budget and the summed effects of their steps."""
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
        """Return a step, the steps down that bring it within the budget, and improving steps up."""
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
        """Return the effect of a step per unit of cost."""
        if not self.problem.constraints:
            return self.effects[step]
        cost = self.problem.constraints[0].cost
        return self.effects[step] / max(abs(cost(_after(self.problem, at, [step])) - cost(at)), 1)


def _steps(problem: Problem, at: int) -> list[Step]:
    """Return the steps, one value up or down, that lead to another policy."""
    row = problem.space.row(at)
    steps = [
        (k, way)
        for k, parameter in enumerate(problem.space.parameters)
        for way in (-1, 1)
        if 0 <= row[k] + way < len(parameter.values)
    ]
    return [step for step in steps if _after(problem, at, [step]) != at]


def _after(problem: Problem, at: int, steps: Iterable[Step]) -> int:
    """Return the point that steps lead to."""
    row = list(problem.space.row(at))
    for k, way in steps:
        row[k] += way
    return problem.space.index_of(row)


def _brought_within(problem: Problem, at: int) -> int | None:
    """Return a point within all budgets, by steps that each reduce the excess; None if stuck."""

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
    """Return the cheapest point of each cost; without costs the point that prunes nothing."""
    if problem.constraints:
        return [constraint.cheapest for constraint in problem.constraints]
    return [problem.space.index_of(unpruned(problem.space))]
