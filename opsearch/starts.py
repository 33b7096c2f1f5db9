"""Where a search on the true divergence begins: at the proxy's optimum, and at plain policies."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from opsearch.objectives.additive import Additive
from opsearch.objectives.rounding import with_ties
from opsearch.policy.counts import KV
from opsearch.problem.objective import Measure
from opsearch.problem.problem import Problem
from opsearch.problem.solution import undisturbed
from opsearch.problem.spaces.operations import LayerSpace
from opsearch.solvers.grid import Grid
from opsearch.solvers.ortools_cpsat import CpSat


def starts(problem: Problem, measure: Measure, additive: Additive, floor: float) -> tuple[int, ...]:
    """Points within the budget; none where the space has no individual divergences.

    floor: nats; divergences that differ by less are ties to the proxy's solver.
    """
    space = problem.space
    if not space.parameters_act_alone or not problem.solvable:
        return ()
    proxy = with_ties(additive.make(space, measure, np.zeros(0, bool)), floor)
    solver = Grid() if space.listed else CpSat()
    found = undisturbed(solver.solve(replace(problem, objective=proxy))).index
    plain = plain_points(problem, space) if isinstance(space, LayerSpace) else ()
    return (*(() if found is None else (found,)), *plain)


def plain_points(problem: Problem, space: LayerSpace) -> tuple[int, ...]:
    """Policies that end all operations but reading at some layer: for each layer the dearest.

    Before it every token passes every operation. From there on the others are as high as the budget
    allows: at `layers` the share of all tokens, at `operations` up to which layer the key group
    attends and passes MLPs. They need no proxy, which says little where so much is pruned at once.
    """
    found = []
    for full in range(space.num_layers + 1):
        ends = range(full, space.num_layers + 1) if len(space.levels) > 2 else (full,)
        points = [
            _plain(space, full, end, share) for end in ends for share in range(len(space.shares))
        ]
        within = [point for point in points if problem.within(point)]
        if within:
            found.append(max(within, key=lambda point: (problem.constraints[0].cost(point), point)))
    return tuple(dict.fromkeys(found))


def _plain(space: LayerSpace, full: int, end: int, share: int) -> int:
    """All levels before layer `full`, one less before `end`, then two less; kv at least one."""
    row = []
    for layer, module in space.operations:
        below = (layer >= full) + (layer >= end)
        level = max(len(space.levels) - 1 - below, int(module == KV))
        row.append(max(level - space.lowest(layer, module), 0))
    return space.index_of([*row, share])
