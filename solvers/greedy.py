"""GSOP's search on divergences: operation after operation in the order of what each costs alone.

From its description (arXiv 2507.02909 v1), with KL in place of accuracy. First the suffixes of the
decoder that nobody misses, by bisection. Then every remaining operation is scored on the policy so
far, and the least missed are pruned one after the other; when that has cost a stride since they
were scored, the last is taken back and all are scored again. One order serves all budgets: the
answer is its first policy within the budget.
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
from opsearch.problem.solution import Limit, Solution, solved
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.operations import LayerSpace
from opsearch.solvers.evaluated import EvaluatedPoints

_EVALUATIONS = 1000
_STRIDES = 15  # of GSOP's released policies
_LOSSLESS = 0.01  # of what pruning everything costs
_SUFFIXES = ((Q, KV, MLP), (Q, MLP), (Q,))
_LAST = (0, KV)  # GSOP never prunes it; here it comes last
_AHEAD = 8  # policies evaluated together


@dataclass(frozen=True)
class Greedy:
    """Prunes one value of one parameter at a time; n_v takes part like an operation.

    Where evaluations are spent early, the order of the last scores is followed to its end.
    """

    name: ClassVar[str] = "greedy"
    exact: ClassVar[bool] = False
    forms: ClassVar[frozenset[Form]] = frozenset({"blackbox"})

    def solve(self, problem: Problem, *, seed: int = 0, limit: Limit | None = None) -> Solution:
        """The first policy of the order within the budget; no seed is needed.

        Raises OpsearchError for a space without a choice per operation.
        """

        def search() -> Solution:
            space = problem.space
            require_operations(space)
            assert isinstance(space, LayerSpace)  # as required
            evaluations = limit.evaluations if limit else None
            return self._first_within(
                problem, space, _EVALUATIONS if evaluations is None else evaluations
            )

        return solved(self, problem, seed, "numpy", search)

    def _first_within(self, problem: Problem, space: LayerSpace, evaluations: int) -> Solution:
        """Follow the order up to the budget; one evaluation is kept for the answer."""
        asked = EvaluatedPoints(problem, evaluations - 1)
        order = _Order(space, asked)
        steps, point = next(
            (steps, point) for steps, point in enumerate(order.points()) if problem.within(point)
        )
        asked.limit = evaluations
        asked.evaluate([point])
        note = (
            f"step {steps} of the order, operations scored {order.scorings} times, "
            f"{len(asked.values)} points evaluated"
        )
        return asked.solution(point if asked.value(point) < np.inf else None, self.name, note)


def require_operations(space: Space) -> None:
    """Raise OpsearchError for a space without a choice per operation."""
    if not isinstance(space, LayerSpace):
        raise OpsearchError(
            f"solver {Greedy.name!r} prunes operation by operation, but space {space.name!r} has "
            "no parameter for each; use --space layers or operations, or --solver local"
        )


class _Order:
    """The order in which a space is pruned, from the original to the text alone."""

    def __init__(self, space: LayerSpace, asked: EvaluatedPoints) -> None:
        self.space, self.asked = space, asked
        self.scorings = 0
        self.scores: dict[int, float] = {}

    def points(self) -> Iterator[int]:
        """Points that each prune more than the one before; what they need is evaluated on the way.

        They do not depend on the budget.
        """
        at = self.space.index_of([len(p.values) - 1 for p in self.space.parameters])
        nothing = self.space.index_of([0] * len(self.space.parameters))
        self.asked.evaluate([at, nothing])
        yield at
        for shorter in self._suffixes(at, _LOSSLESS * self.asked.value(nothing)):
            if shorter != at:
                at = shorter
                yield at
        while steps := self._scored(at):
            limit = self.asked.value(at) + self.asked.value(nothing) / _STRIDES
            for number, point in enumerate(self._chain(at, steps)):
                if number and self.asked.value(point) > limit and not self.asked.spent:
                    break
                at = point
                yield at

    def _suffixes(self, at: int, most: float) -> Iterator[int]:
        """Points with ever more operations pruned from some layer on that cost at most `most`."""
        for level in range(len(self.space.levels) - 1):
            for modules in _SUFFIXES:
                low, high = 0, self.space.num_layers
                while low < high:
                    layer = (low + high) // 2
                    point = self._cut(at, layer, modules, level)
                    self.asked.evaluate([point])
                    missed = not self.asked.value(point) <= most < np.inf
                    low, high = (layer + 1, high) if missed else (low, layer)
                at = self._cut(at, low, modules, level)
                yield at

    def _cut(self, at: int, first: int, modules: Sequence[int], level: int) -> int:
        """The point with these modules at most at this level from a layer on."""
        row = list(self.space.row(at))
        for k, (layer, module) in enumerate(self.space.operations):
            if layer >= first and module in modules:
                row[k] = min(row[k], max(level - self.space.lowest(layer, module), 0))
        return self.space.index_of(row)

    def _scored(self, at: int) -> list[int]:
        """The parameters that can be lowered, that whose step costs least first."""
        last = self.space.operations.index(_LAST)
        lower = {k: self._lower(at, k) for k, place in enumerate(self.space.row(at)) if place}
        # A kv that alone reads what is kept stays, so that its step leads nowhere.
        able = [k for k, point in lower.items() if point != at]
        able = [k for k in able if k != last] or able
        if not self.asked.spent:
            self.scorings += 1
            points = {k: lower[k] for k in able}
            self.asked.evaluate(points.values())
            known = {k: point for k, point in points.items() if point in self.asked.values}
            self.scores |= {k: self.asked.value(point) for k, point in known.items()}
        return sorted(able, key=lambda k: (self.scores.get(k, np.inf), k))

    def _chain(self, at: int, order: Sequence[int]) -> Iterator[int]:
        """The points after one step of each parameter in this order, evaluated some at a time."""
        chain = []
        for k in order:
            if self.space.row(at)[k]:
                at = self._lower(at, k)
                chain.append(at)
        for first in range(0, len(chain), _AHEAD):
            part = chain[first : first + _AHEAD]
            self.asked.evaluate(part)
            yield from part

    def _lower(self, at: int, k: int) -> int:
        row = list(self.space.row(at))
        row[k] -= 1
        return self.space.index_of(row)
