"""From what a run asks for to a solution: which objective, which solver, measure, solve."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from opsearch.errors import OpsearchError
from opsearch.objectives.additive import Additive
from opsearch.objectives.rounding import lazy_joint, with_ties
from opsearch.policy.counts import KV
from opsearch.problem.constraint import Constraint, feasible_points
from opsearch.problem.objective import Measure, Pairwise
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, undisturbed
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.operations import LayerSpace
from opsearch.runs.choose import Choice
from opsearch.runs.config import RunConfig
from opsearch.runs.verify import EVALUATIONS, verify
from opsearch.solvers.grid import Grid
from opsearch.solvers.local import Local
from opsearch.solvers.optuna_tpe import Tpe
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


def search(
    choice: Choice,
    space: Space,
    constraints: Sequence[Constraint],
    measure: Measure,
    config: RunConfig,
    floor: float,
) -> tuple[Problem, Solution]:
    """Measure the objective, solve, and return the problem with its solution.

    floor: nats; divergences that differ by less are ties to the solver.
    Raises OpsearchError when the solver ends without a policy.
    """
    feasible = feasible_points(space, constraints) if space.listed else np.zeros(0, bool)
    objective = with_ties(choice.maker.make(space, measure, feasible), floor)
    problem = Problem(space, objective, tuple(constraints))
    solver = choice.solver
    if isinstance(solver, Tpe | Local) and objective.form == "blackbox":
        begin = starts(problem, measure, Additive(config.points), floor)
        solver = replace(solver, start=begin)
    if config.verify:
        joint = lazy_joint(space, measure, floor)
        effort = {"each": config.verify, "evaluations": config.evaluations or EVALUATIONS}
        solution = verify(problem, solver, joint, **effort, seed=config.seed)
        problem = replace(problem, objective=joint)
    else:
        limit = Limit(evaluations=config.evaluations)
        solution = solver.solve(problem, seed=config.seed, limit=limit)
    if isinstance(objective, Pairwise):
        solution = replace(solution, note="; ".join(_told_of_pairs(objective, solution)))
    if solution.policy is None:
        raise OpsearchError(f"{solver.name}: {solution.note or solution.status.sentence}")
    return problem, solution


def _told_of_pairs(objective: Pairwise, solution: Solution) -> list[str]:
    """The solver's note, how much pairs interact, and where the proxy cannot be right."""
    told = [solution.note] if solution.note else []
    told.append(f"interactions are {objective.interaction_share:.0%} of what pairs cost alone")
    if solution.objective == objective.name and solution.value is not None and solution.value < 0:
        told.append(
            "below zero there is no divergence: what so many pairs spare adds up on paper only; "
            "--verify 8 measures what the proxy proposes"
        )
    return told
