"""Methods of a comparison: the best policies of several spaces, and the baselines.

Each method uses as much of a budget as it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsearch import registry
from opsearch.costs.base import Cost
from opsearch.errors import OpsearchError
from opsearch.evaluation.baselines import shortv_in_order
from opsearch.evaluation.reducers import REDUCERS, Reduction, reduction_cost
from opsearch.formatting import format_duration
from opsearch.measure.engine import Engine, SampleMeasure
from opsearch.models.families import family_for
from opsearch.objectives.additive import Additive
from opsearch.objectives.joint import Joint
from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.objectives.rounding import lazy_joint, rounded
from opsearch.policy.baseline import Baseline, candidates
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec, parse_ranker
from opsearch.problem.budget import Budget, total_cost
from opsearch.problem.constraint import Constraint, check_budget, feasible_points
from opsearch.problem.objective import Measure, Objective
from opsearch.problem.objective_factory import ObjectiveFactory
from opsearch.problem.problem import Problem
from opsearch.problem.solution import reraise_interrupt
from opsearch.problem.spaces.base import Space
from opsearch.progress import Progress
from opsearch.rankers import make_ranker
from opsearch.runs.prepare import Prepared
from opsearch.runs.setup import SearchSettings, check_nested, make_constraints, make_cost
from opsearch.runs.verify import EVALUATIONS, PROPOSAL, PROXIES, verify
from opsearch.solvers.grid import Grid
from opsearch.solvers.ortools import CpSat

# Percent of the original's cost; smaller differences count as equal cost.
_EQUAL_COST_POINTS = 2
_EACH = 8  # policies to verify per round if the run has no number
MethodKey = tuple[str, str]
"""Key of a policy in a comparison: (budget, method)."""


@dataclass(frozen=True)
class Task:
    """A space to search.

    Attributes:
        settings: The run's settings in this space.
        objectives: Objectives to minimize.
        limits: The constraints of each budget, by the budget's text.
    """

    settings: SearchSettings
    objectives: tuple[ObjectiveFactory, ...]
    limits: dict[str, tuple[Constraint, ...]]

    @property
    def space(self) -> Space:
        """Space of the task."""
        return self.settings.space


def search_task(
    name: str, budgets: Sequence[Budget], prepared: Prepared, progress: Progress
) -> Task:
    """Return a space with its budgets and its objectives, joint in full or from coarse to fine."""
    run = prepared.settings
    given = run.space_settings.ranker or prepared.ranker
    factory = registry.lookup("spaces", registry.split_spec("spaces", name)[0])
    ranker = given if factory.ranks_inside else prepared.ranker
    if ranker != given:
        progress.say(
            f"space {name} uses ranker {prepared.ranker}, because {given} works inside the decoder"
        )
    settings = run.in_space(name, ranker, run.space_settings.stages)
    nested = ranker.inside or make_ranker(ranker).nested
    if settings.space.only_objective is None and settings.space.most_counts > 1 and not nested:
        settings = run.in_space(name, ranker, 1)
        check_nested(settings.space, ranker)  # stages do not change every space
        progress.say(
            f"space {name} drops tokens at one layer only, because ranker {ranker} is not nested"
        )
    space = settings.space
    if space.only_objective is not None:
        raise OpsearchError(
            f"space {space.name!r} is already compared as baseline FitPrune; remove "
            f"--space {space.name}"
        )
    pairs = [sample.shape for sample in prepared.calibration]
    limits = {
        budget.text: make_constraints([budget], prepared.shape, space, pairs, prepared.table)
        for budget in budgets
    }
    for constraints in limits.values():
        check_budget(space, constraints)
    if not space.listed:
        chosen = prepared.choice.objective
        proxy = chosen if chosen.form in PROXIES else Additive.from_settings(run.proxy)
        return Task(settings, (proxy,), limits)
    estimate = replace(prepared.effort_estimate, space=space)
    seconds = estimate.seconds(estimate.of(space.points[_within_any(space, limits)]))
    additive = Additive.from_settings(run.proxy)
    proxies: tuple[ObjectiveFactory, ...] = (additive,) if space.parameters_act_alone else ()
    if seconds <= run.effort or not space.layer_columns:
        return Task(settings, (*proxies, Joint()), limits)
    progress.say(
        f"{name} joint is measured from coarse to fine, because measuring all feasible policies "
        f"takes about {format_duration(seconds)}, more than --effort {run.effort:g}"
    )
    return Task(settings, (*proxies, CoarseJoint()), limits)


def search(
    task: Task, prepared: Prepared, engine: Engine, progress: Progress
) -> dict[MethodKey, Policy]:
    """Search the best policy of a space for each budget and objective, by (budget, method)."""
    with progress.stage(f"searching {task.space.name}", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)
        measure = SampleMeasure(engine, prepared.calibration, tick)
        if not task.space.listed:
            return _proposed(task, measure, floor)
        return _listed(task, measure, floor)


def _listed(task: Task, measure: Measure, floor: float) -> dict[MethodKey, Policy]:
    """Return the optimum of each objective at each budget."""
    found = {}
    for factory in task.objectives:
        for text, objective in _objectives(factory, task, measure).items():
            problem = Problem(task.space, rounded(objective, floor), task.limits[text])
            solution = Grid().solve(problem)
            assert solution.policy is not None  # check_budget() raises otherwise
            found[text, f"{task.space.name} {factory.name}"] = solution.policy
    return found


def _proposed(task: Task, measure: Measure, floor: float) -> dict[MethodKey, Policy]:
    """Search a space too large to list: the optimum of its proxy, and the verified optimum."""
    nowhere = np.zeros(0, bool)
    joint = lazy_joint(task.space, measure, floor)
    settings, found = task.settings, {}
    for factory in task.objectives:
        proxy = rounded(factory.make(task.space, measure, nowhere), floor)
        for text, limits in task.limits.items():
            problem = Problem(task.space, proxy, limits)
            first = reraise_interrupt(CpSat().solve(problem, seed=settings.seed, limit=PROPOSAL))
            best = verify(
                problem,
                CpSat(),
                joint,
                each=settings.verify or _EACH,
                evaluations=settings.evaluations or EVALUATIONS,
                seed=settings.seed,
            )
            assert first.policy is not None  # check_budget() raises otherwise
            assert best.policy is not None
            found[text, f"{task.space.name} {factory.name}"] = first.policy
            found[text, f"{task.space.name} verified"] = best.policy
    return found


def _objectives(factory: ObjectiveFactory, task: Task, measure: Measure) -> dict[str, Objective]:
    """Return the objective of each budget, one object for all if it does not depend on it."""
    masks = {text: feasible_points(task.space, limit) for text, limit in task.limits.items()}
    if factory.per_budget:
        return {text: factory.make(task.space, measure, mask) for text, mask in masks.items()}
    everything = _within_any(task.space, task.limits)
    return dict.fromkeys(masks, factory.make(task.space, measure, everything))


def _within_any(space: Space, limits: Mapping[str, Sequence[Constraint]]) -> NDArray[np.bool_]:
    """Return which points of a listed space are within any of the budgets, bool[P]."""
    masks = [feasible_points(space, constraints) for constraints in limits.values()]
    return np.asarray(np.logical_or.reduce(masks))


def budget_limit(budget: Budget, prepared: Prepared) -> tuple[Cost, int, int]:
    """Return a budget's cost, its limit and the original's cost over all calibration samples."""
    cost = make_cost(budget.cost, prepared.shape, prepared.table)
    pairs = [sample.shape for sample in prepared.calibration]
    stock = total_cost(cost, identity(prepared.shape.layers), pairs)
    return cost, budget.limit(stock, len(pairs)), stock


def fitted_baselines(
    budget: Budget,
    prepared: Prepared,
    frozen_first: Sequence[int],
    further: Sequence[RankerSpec],
    progress: Progress,
) -> dict[MethodKey, Policy]:
    """Return the baselines that meet a budget, and print the minimum cost of the others.

    Args:
        budget: The budget, of which each baseline uses as much as it can.
        prepared: The search.
        frozen_first: Layers in ShortV's order.
        further: Rankers that are also compared as methods.
        progress: Prints the messages.
    """
    cost, limit, stock = budget_limit(budget, prepared)
    pairs = [sample.shape for sample in prepared.calibration]

    def fits(policy: Policy) -> bool:
        return total_cost(cost, policy, pairs) <= limit

    def missed(label: str, cheapest: Policy) -> None:
        share = 100 * total_cost(cost, cheapest, pairs) / stock
        progress.say(
            f"{label} is not compared at {budget.text}, because its cheapest policy takes "
            f"{share:.4g}% of {cost.name}"
        )

    found = candidates(
        prepared.shape.layers,
        prepared.ranker,
        fits,
        usable=prepared.usable_rankers,
        nested=prepared.nested,
        further=further,
        measured={"ShortV": shortv_in_order(frozen_first)},
        missed=missed,
    )
    return {(budget.text, label): policies[0] for label, policies in found.items()}


def parse_rankers(texts: Sequence[str], model_config: Any) -> tuple[RankerSpec, ...]:
    """Parse the rankers of --ranker.

    Raises:
        PolicyError: A text is not a ranker.
        ModelError: The model cannot compute a ranker.
    """
    specs = tuple(map(parse_ranker, texts))
    for spec in specs:
        family_for(model_config.model_type).check_needs(model_config, make_ranker(spec).needs)
    return specs


def print_unsupported_baselines(
    model_config: Any, present: Sequence[RankerSpec], progress: Progress
) -> None:
    """Print why each baseline is absent whose ranker the model does not support."""
    family, names = family_for(model_config.model_type), {spec.name for spec in present}
    unsupported = family.unsupported_rankers(model_config)
    for label, method in registry.registered("baselines").items():
        if method.ranker in unsupported and method.ranker not in names:
            progress.say(f"{label} is not compared: {unsupported[method.ranker]}")


def say_unused_budget(
    methods: Mapping[MethodKey, Policy | Reduction],
    budgets: Sequence[Budget],
    prepared: Prepared,
    progress: Progress,
) -> None:
    """Print each method that is more than 2 points below its budget, with its cost and reason."""
    pairs = [sample.shape for sample in prepared.calibration]
    reasons = {
        name: method.granularity for name, method in registry.registered("baselines").items()
    }
    reasons |= {name: reducer.granularity for name, reducer in REDUCERS.items()}
    for budget in budgets:
        cost, limit, stock = budget_limit(budget, prepared)
        for (text, method), found in methods.items():
            if text != budget.text:
                continue
            if isinstance(found, Reduction):
                spent = reduction_cost(cost, found.n_visual, prepared.calibration)
            else:
                spent = total_cost(cost, found, pairs)
            if 100 * (min(limit, stock) - spent) > _EQUAL_COST_POINTS * stock:
                reason = reasons.get(method, Baseline.granularity)
                share = f"{100 * spent / stock:.1f}% of {cost.name}"
                progress.say(f"{method} uses only {share} at budget {text}: {reason}")
