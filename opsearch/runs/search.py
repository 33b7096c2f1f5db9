"""Search: measure the objective, solve, and return the problem with its solution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np

from opsearch.errors import OpsearchError
from opsearch.objectives.additive import Additive
from opsearch.objectives.rounding import lazy_joint, rounded
from opsearch.policy.counts import KV
from opsearch.problem.constraint import Constraint, feasible_points
from opsearch.problem.objective import Measure, Pairwise, SubsetMeasure
from opsearch.problem.objective_factory import Raceable
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Solution, Solver, confirmed, reraise_interrupt
from opsearch.problem.spaces.base import PerOperation
from opsearch.runs.choose import SearchChoice
from opsearch.runs.finer_grid import unsearched_shares
from opsearch.runs.setup import SearchSettings
from opsearch.runs.verify import EVALUATIONS, verify
from opsearch.solvers.grid import Grid
from opsearch.solvers.ortools import CpSat


def search(
    choice: SearchChoice,
    settings: SearchSettings,
    constraints: Sequence[Constraint],
    measure: Measure,
    floor: float,
) -> tuple[Problem, Solution]:
    """Measure the objective and solve.

    Args:
        choice: Objective and solver.
        settings: The search.
        constraints: Its budgets over the calibration samples.
        measure: Measures policies on the calibration samples.
        floor: Nats; divergences that differ by less are ties to the solver.

    Returns:
        The problem with its objective, and the solution.

    Raises:
        OpsearchError: The solver ends without a policy.
    """
    space = settings.space
    feasible = feasible_points(space, constraints) if space.listed else np.zeros(0, bool)
    factory = choice.objective
    if choice.races and isinstance(factory, Raceable) and isinstance(measure, SubsetMeasure):
        factory = factory.raced(floor)
    objective = rounded(factory.make(space, measure, feasible), floor)
    problem = Problem(space, objective, tuple(constraints))
    solver = choice.solver
    if solver.takes_start and objective.form == "blackbox":
        begin = initial_points(problem, measure, Additive.from_settings(settings.proxy), floor)
        solver = _started(solver, begin)
    if settings.verify:
        joint = lazy_joint(space, measure, floor)
        solution = verify(
            problem,
            solver,
            joint,
            each=settings.verify,
            evaluations=settings.evaluations or EVALUATIONS,
            seed=settings.seed,
        )
        problem = replace(problem, objective=joint)
    else:
        limit = Limit(evaluations=settings.evaluations)
        solution = confirmed(problem, solver.solve(problem, seed=settings.seed, limit=limit))
    if isinstance(objective, Pairwise):
        solution = replace(solution, note="; ".join(_pair_notes(objective, solution)))
    if solution.policy is None:
        raise OpsearchError(f"{solver.name}: {solution.note or solution.status.sentence}")
    notes = [solution.note, unsearched_shares(problem, solution)]
    return problem, replace(solution, note="; ".join(filter(None, notes)))


def _started(solver: Solver, points: Sequence[int]) -> Solver:
    """Return a solver with further initial points, after those that it was given."""
    given: tuple[int, ...] = solver.start or ()  # type: ignore[attr-defined]  # `require_start`
    start = tuple(dict.fromkeys((*given, *points)))
    return replace(solver, start=start)  # type: ignore[type-var]


def _pair_notes(objective: Pairwise, solution: Solution) -> list[str]:
    """Return the solver's note, how much pairs interact, and where the proxy cannot be right."""
    notes = [solution.note] if solution.note else []
    notes.append(f"interactions are {objective.interaction_share:.0%} of what pairs cost alone")
    if solution.objective == objective.name and solution.value is not None and solution.value < 0:
        notes.append(
            "a divergence cannot be below zero: the savings of many pairs add up in the proxy; "
            "--verify 8 measures what the proxy proposes"
        )
    return notes


def initial_points(
    problem: Problem, measure: Measure, additive: Additive, floor: float
) -> tuple[int, ...]:
    """Return start points within the budget: the optimum of the proxy, then plain points.

    They are empty if the space has no individual divergences.

    Args:
        problem: The problem of the search.
        measure: Measures policies on the calibration samples.
        additive: The proxy.
        floor: Nats; smaller differences are ties.
    """
    space = problem.space
    if not space.parameters_act_alone or not problem.solvable:
        return ()
    proxy = rounded(additive.make(space, measure, np.zeros(0, bool)), floor)
    solver = Grid() if space.listed else CpSat()
    found = reraise_interrupt(solver.solve(replace(problem, objective=proxy))).index
    operations = space.per_operation
    plain = plain_points(problem, operations) if operations is not None else ()
    return (*(() if found is None else (found,)), *plain)


def plain_points(problem: Problem, space: PerOperation) -> tuple[int, ...]:
    """Return, for each layer, the most expensive policy that ends all operations but reading there.

    Policies are within the budget. Before the layer every token passes every operation. From it on
    the others are as high as the budget allows: at `layers` the share of all tokens, at
    `operations`, for each group, up to which layer that group attends and passes MLPs. They need no
    proxy, which says little where so much is pruned at once.
    """
    found = []
    most, layers = len(space.levels) - 1, range(space.num_layers + 1)
    for group, full in product(range(1, most) or (most,), layers):
        ends = layers[full:] if group < most else (full,)
        points = [
            _plain(space, full, group, end, share)
            for end in ends
            for share in range(len(space.shares))
        ]
        within = [point for point in points if problem.within(point)]
        if within:
            found.append(max(within, key=lambda point: (problem.constraints[0].cost(point), point)))
    return tuple(dict.fromkeys(found))


def _plain(space: PerOperation, full: int, group: int, end: int, share: int) -> int:
    """Return the point with the highest level before layer `full`, and that of a group after it.

    From `end` on only the group's keys and values are left.
    """
    row = []
    for layer, module in space.operations:
        level = len(space.levels) - 1
        if layer >= full:
            level = group if layer < end or module == KV else 0
        row.append(max(level - space.lowest(layer, module), 0))
    return space.index_of([*row, share])
