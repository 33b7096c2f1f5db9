"""GSOP's greedy search: prune one operation after another, the least harmful first.

After its description (arXiv 2507.02909 v1), with KL instead of accuracy. First, bisection finds the
suffixes of the decoder that can be pruned at almost no divergence. Then every remaining operation
is scored by the divergence of pruning it from the current policy, and operations are pruned in that
order. When the divergence has grown by one stride since the scores were measured, the last step is
taken back and all operations are scored again. One order serves all budgets: the answer is its
first policy within the budget.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from opsearch.errors import OpsearchError
from opsearch.policy.counts import KV, MLP, Q
from opsearch.problem.objective import Form
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, evaluations_within, solved
from opsearch.problem.spaces.base import PerOperation, Space, unpruned
from opsearch.solvers.evaluated import EvaluatedPoints, point_within

_EVALUATIONS = 1000
_STRIDES = 15  # of GSOP's released policies
_LOSSLESS = 0.01  # of the divergence of pruning everything
_SUFFIXES = ((Q, KV, MLP), (Q, MLP), (Q,))
_LAST = (0, KV)  # GSOP never prunes it; here it comes last
_AHEAD = 8  # policies evaluated together


@dataclass(frozen=True)
class Greedy:
    """Pruning of one value of one parameter at a time; n_v takes part like an operation.

    When evaluations are spent before the end, the order of the last scores is followed.
    """

    name: ClassVar[str] = "greedy"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"blackbox"})
    takes_start: ClassVar[bool] = False

    def require(self, space: Space) -> None:
        """Raise OpsearchError for a space without a choice per operation."""
        require_operations(space)

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """Return the first policy of the order within the budget; the seed has no effect.

        Raises:
            OpsearchError: The space has no parameter per operation.
        """

        def search() -> Solution:
            space = require_operations(problem.space)
            return self._first_within(problem, space, evaluations_within(limit, _EVALUATIONS))

        return solved(self, problem, seed, "numpy", search)

    def _first_within(self, problem: Problem, space: PerOperation, evaluations: int) -> Solution:
        """Follow the order up to the budget; one evaluation is reserved for the answer."""
        evaluated = EvaluatedPoints(problem, evaluations - 1)
        order = _Order(space, evaluated)
        place, point = "no point of the order", point_within(problem)
        for steps, reached in enumerate(order.points()):
            if problem.within(reached):
                place, point = f"step {steps} of the order", reached
                break
        evaluated.limit = evaluations
        if point is None:
            return evaluated.solution(None, self.name, "no point is within all budgets")
        evaluated.evaluate([point])
        note = (
            f"{place}, operations scored {order.scorings} times, "
            f"{len(evaluated.values)} points evaluated"
        )
        return evaluated.solution(
            point if evaluated.value(point) < np.inf else None, self.name, note
        )


def require_operations(space: Space) -> PerOperation:
    """Return the space as one with a choice per operation; OpsearchError for any other."""
    if space.per_operation is None:
        raise OpsearchError(
            f"solver {Greedy.name!r} prunes operation by operation, but space {space.name!r} has "
            "no parameter for each; use --space layers or operations, or --solver local"
        )
    return space.per_operation


class _Order:
    """The order in which a space is pruned, from the original model to the text alone."""

    def __init__(self, space: PerOperation, evaluated: EvaluatedPoints) -> None:
        self.space, self.evaluated = space, evaluated
        self.scorings = 0
        self.scores: dict[int, float] = {}

    def points(self) -> Iterator[int]:
        """Yield points that each prune more than the one before, whatever the budget.

        The scores that decide the order are evaluated on the way.
        """
        at = self.space.index_of(unpruned(self.space))
        nothing = self.space.index_of([0] * len(self.space.parameters))
        self.evaluated.evaluate([at, nothing])
        yield at
        for shorter in self._suffixes(at, _LOSSLESS * self.evaluated.value(nothing)):
            if shorter != at:
                at = shorter
                yield at
        while steps := self._scored(at):
            limit = self.evaluated.value(at) + self.evaluated.value(nothing) / _STRIDES
            for number, point in enumerate(self._chain(at, steps)):
                if number and self.evaluated.value(point) > limit and not self.evaluated.spent:
                    break
                at = point
                yield at

    def _suffixes(self, at: int, most: float) -> Iterator[int]:
        """Yield points with growing suffixes pruned whose divergence is at most `most`."""
        for level in range(len(self.space.levels) - 1):
            for modules in _SUFFIXES:
                low, high = 0, self.space.num_layers
                while low < high:
                    layer = (low + high) // 2
                    point = self._cut(at, layer, modules, level)
                    self.evaluated.evaluate([point])
                    harmful = not self.evaluated.value(point) <= most < np.inf
                    low, high = (layer + 1, high) if harmful else (low, layer)
                at = self._cut(at, low, modules, level)
                yield at

    def _cut(self, at: int, first: int, modules: Sequence[int], level: int) -> int:
        """Return the point with modules at `level` or below from layer `first` on."""
        row = list(self.space.row(at))
        for k, (layer, module) in enumerate(self.space.operations):
            if layer >= first and module in modules:
                row[k] = min(row[k], max(level - self.space.lowest(layer, module), 0))
        return self.space.index_of(row)

    def _scored(self, at: int) -> list[int]:
        """Return the parameters that can be lowered, the least harmful first."""
        last = self.space.operations.index(_LAST)
        lower = {k: self._lower(at, k) for k, place in enumerate(self.space.row(at)) if place}
        # The only kv that reads a kept operation stays, so that its step leads to the same point.
        able = [k for k, point in lower.items() if point != at]
        able = [k for k in able if k != last] or able
        if not self.evaluated.spent:
            self.scorings += 1
            points = {k: lower[k] for k in able}
            self.evaluated.evaluate(points.values())
            known = {k: point for k, point in points.items() if point in self.evaluated.values}
            self.scores |= {k: self.evaluated.value(point) for k, point in known.items()}
        return sorted(able, key=lambda k: (self.scores.get(k, np.inf), k))

    def _chain(self, at: int, order: Sequence[int]) -> Iterator[int]:
        """Yield the points after one step of each parameter in this order, evaluated in batches."""
        chain = []
        for k in order:
            if self.space.row(at)[k]:
                at = self._lower(at, k)
                chain.append(at)
        for first in range(0, len(chain), _AHEAD):
            part = chain[first : first + _AHEAD]
            self.evaluated.evaluate(part)
            yield from part

    def _lower(self, at: int, k: int) -> int:
        row = list(self.space.row(at))
        row[k] -= 1
        return self.space.index_of(row)
