"""Baselines that need measurements: two orders of operations, and searches of three papers."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from opsearch.evaluation.baselines import SEARCH_POLICIES
from opsearch.evaluation.contenders import within_budget
from opsearch.evaluation.gsearch import GSearch
from opsearch.measure.counted import CountedMeasure
from opsearch.measure.engine import Engine, SampleMeasure
from opsearch.objectives.attention import Attention
from opsearch.objectives.rounding import lazy_joint
from opsearch.policy.baseline import with_evaluations
from opsearch.policy.builders import shortv, skip
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import Budget
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit
from opsearch.problem.spaces.operations import operations_space
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.progress import Progress
from opsearch.runs.prepare import Prepared
from opsearch.runs.setup import make_constraints
from opsearch.solvers.bisection import Bisection
from opsearch.solvers.greedy import Greedy


def shortv_order(prepared: Prepared, engine: Engine, progress: Progress) -> list[int]:
    """Return the layers in the order in which ShortV freezes them: by KL of each frozen alone."""
    layers = prepared.shape.layers
    alone = [shortv(layers, {layer}) for layer in range(layers)]
    with progress.stage("freezing each layer alone", "FLOPs") as tick:
        divergence = engine.measure(alone, prepared.calibration, tick).mean(axis=1)
    order: list[int] = np.argsort(divergence, kind="stable").tolist()
    return order


def skipping_order(prepared: Prepared, engine: Engine, progress: Progress) -> list[tuple[int, str]]:
    """Return (layer, module) in the order in which operators are skipped: by KL of each alone."""
    layers = prepared.shape.layers
    operators = [(layer, module) for layer in range(layers) for module in ("q", "mlp")]
    alone = [skip(layers, {operator}) for operator in operators]
    with progress.stage("skipping each operator alone", "FLOPs") as tick:
        divergence = engine.measure(alone, prepared.calibration, tick).mean(axis=1)
    return [operators[i] for i in np.argsort(divergence, kind="stable")]


def gsop_policies(
    budgets: Sequence[Budget], prepared: Prepared, engine: Engine, progress: Progress
) -> dict[str, Policy]:
    """Return the first policy of GSOP's greedy pruning that is within each budget.

    Its token groups are ranked by [CLS], or evenly spaced for models without [CLS].
    """
    ranker = RankerSpec("cls" if "cls" in prepared.usable_rankers else "uniform")
    space = operations_space(prepared.shape.layers, ranker=ranker)
    limit = Limit(prepared.settings.evaluations or SEARCH_POLICIES)
    sizes = [sample.size for sample in prepared.calibration]
    with progress.stage("pruning operation by operation", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)
        measure = SampleMeasure(engine, prepared.calibration, tick)
        joint = lazy_joint(space, measure, floor)
        found = {}
        for budget in budgets:
            limits = make_constraints([budget], prepared.shape, space, sizes, prepared.table)
            solution = Greedy().solve(Problem(space, joint, limits), limit=limit)
            assert solution.policy is not None  # it contains the policy without visual tokens
            found[budget.text] = with_evaluations(solution.policy, solution.evaluations)
    return found


def gsearch_policies(
    budgets: Sequence[Budget], prepared: Prepared, engine: Engine, progress: Progress
) -> dict[str, Policy]:
    """Return G-Search's policy for each budget; none if the run's ranker is not nested."""
    found = {}
    with progress.stage("dropping tokens layer by layer", "FLOPs") as tick:
        for budget in budgets if prepared.nested else ():
            search = GSearch(
                prepared.shape.layers,
                prepared.ranker,
                within_budget(budget, prepared),
                CountedMeasure(SampleMeasure(engine, prepared.calibration, tick)),
                prepared.settings.evaluations or SEARCH_POLICIES,
            )
            found[budget.text] = search.solve()
    return found


def fitprune_policies(
    budgets: Sequence[Budget], prepared: Prepared, engine: Engine, progress: Progress
) -> dict[str, Policy]:
    """Return FitPrune's recipe for each budget, and print where its search finds none."""
    space = RecipeSpace(prepared.shape.layers)
    sizes = [sample.size for sample in prepared.calibration]
    with progress.stage("reading the original's attention") as tick:
        measure = SampleMeasure(engine, prepared.calibration, tick)
        criterion = Attention().make(space, measure, np.zeros(0, bool))
    found = {}
    for budget in budgets:
        limits = make_constraints([budget], prepared.shape, space, sizes, prepared.table)
        solution = Bisection().solve(Problem(space, criterion, limits))
        if solution.policy is None:
            progress.say(f"FitPrune is not compared at {budget.text}: {solution.note}")
        else:
            found[budget.text] = with_evaluations(solution.policy, 0)
    return found
