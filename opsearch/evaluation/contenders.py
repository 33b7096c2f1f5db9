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
from opsearch.costs.base import Cost, stock_cost
from opsearch.errors import OpsearchError, shortened
from opsearch.evaluation.reducers import REDUCERS, Reduction
from opsearch.formatting import format_duration
from opsearch.measure.counted import CountedMeasure
from opsearch.measure.engine import Engine, SampleMeasure
from opsearch.models.families import family_for
from opsearch.objectives.additive import Additive
from opsearch.objectives.joint import Joint
from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.objectives.rounding import lazy_joint, rounded
from opsearch.policy.baseline import EVALUATIONS as MEASURED
from opsearch.policy.baseline import Baseline, Fits, PolicyMaker, candidates, with_evaluations
from opsearch.policy.builders import identity
from opsearch.policy.finer import finer_shares
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec, parse_ranker
from opsearch.problem.budget import Budget, total_cost
from opsearch.problem.constraint import Constraint, check_budget, feasible_points
from opsearch.problem.objective import KL_QUANTUM, PROXIES, Measure, Objective, Table
from opsearch.problem.objective_factory import ObjectiveFactory
from opsearch.problem.problem import Problem
from opsearch.problem.solution import reraise_interrupt
from opsearch.problem.spaces.base import Space
from opsearch.progress import Progress
from opsearch.rankers import make_ranker
from opsearch.runs.prepare import Prepared
from opsearch.runs.setup import SearchSettings, check_nested, make_constraints, make_cost
from opsearch.runs.verify import EVALUATIONS, PROPOSAL, verify
from opsearch.solvers.grid import Grid
from opsearch.solvers.ortools import CpSat

# Percent of the original's cost; smaller differences count as equal cost.
_EQUAL_COST_POINTS = 2
REFINED = "refined"
_EACH = 8  # policies to verify per round if the run has no number
MethodKey = tuple[str, str]
"""Key of a policy in a comparison: (budget, method)."""


_READINGS = {"dop": "dop(kv=leaves)"}
"""Spaces whose name has one reading in a comparison, whatever that of the run."""


def with_readings(spaces: Sequence[str]) -> list[str]:
    """Return the spaces, and beside `dop` its other reading."""
    both = (("dop", "dop(kv=stays)") if name == "dop" else (name,) for name in spaces)
    return list(dict.fromkeys(name for names in both for name in names))


@dataclass(frozen=True)
class Task:
    """A space to search.

    Attributes:
        name: Name of the space in the comparison.
        settings: The run's settings in this space.
        objectives: Objectives to minimize.
        limits: The constraints of each budget, by the budget's text.
    """

    name: str
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
    text = _READINGS.get(name, name)
    settings = run.in_space(text, ranker, run.space_settings.stages)
    nested = ranker.inside or make_ranker(ranker).nested
    if settings.space.only_objective is None and settings.space.most_counts > 1 and not nested:
        settings = run.in_space(text, ranker, 1)
        check_nested(settings.space, ranker)  # stages do not change every space
        progress.say(
            f"space {name} drops tokens at one layer only, because ranker "
            f"{shortened(ranker)} is not nested"
        )
    space = settings.space
    if space.only_objective is not None:
        raise OpsearchError(
            f"space {space.name!r} is already compared as baseline FitPrune; remove "
            f"--space {space.name}"
        )
    sizes = [sample.size for sample in prepared.calibration]
    limits = {
        budget.text: make_constraints([budget], prepared.shape, space, sizes, prepared.table)
        for budget in budgets
    }
    for constraints in limits.values():
        check_budget(space, constraints)
    if not space.listed:
        chosen = prepared.choice.objective
        proxy = chosen if chosen.form in PROXIES else Additive.from_settings(run.proxy)
        return Task(name, settings, (proxy,), limits)
    estimate = replace(prepared.effort_estimate, space=space)
    seconds = estimate.seconds(estimate.of(space.points[_within_any(space, limits)]))
    additive = Additive.from_settings(run.proxy)
    proxies: tuple[ObjectiveFactory, ...] = (additive,) if space.parameters_act_alone else ()
    if seconds <= run.effort or not space.layer_columns:
        return Task(name, settings, (*proxies, Joint()), limits)
    progress.say(
        f"{name} joint is measured from coarse to fine, because measuring all feasible policies "
        f"takes about {format_duration(seconds)}, more than --effort {run.effort:g}"
    )
    return Task(name, settings, (*proxies, CoarseJoint()), limits)


def search(
    task: Task, prepared: Prepared, engine: Engine, progress: Progress
) -> dict[MethodKey, Policy]:
    """Search the best policy of a space for each budget and objective, by (budget, method).

    Method `refined` has the best policy of true measurements with shares that use up the budget.
    """
    with progress.stage(f"searching {task.name}", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)
        measure = SampleMeasure(engine, prepared.calibration, tick)
        if not task.space.listed:
            return _proposed(task, prepared, measure, floor)
        return _listed(task, prepared, measure, floor)


def _listed(
    task: Task, prepared: Prepared, measure: SampleMeasure, floor: float
) -> dict[MethodKey, Policy]:
    """Return the optimum of each objective at each budget."""
    found = {}
    for factory in task.objectives:
        counted = CountedMeasure(measure)
        for text, objective in _objectives(factory, task, counted).items():
            problem = Problem(task.space, rounded(objective, floor), task.limits[text])
            solution = Grid().solve(problem)
            assert solution.policy is not None  # check_budget() raises otherwise
            joint = isinstance(objective, Table)
            evaluations = solution.evaluations if joint else counted.evaluations
            policy = with_evaluations(solution.policy, evaluations)
            found[text, f"{task.name} {factory.name}"] = policy
            if joint:
                starts = [policy, *_best_by_layer(problem)]
                fits = _within(problem.constraints, prepared)
                found[text, f"{task.name} {REFINED}"] = _refined(starts, fits, measure, floor)
    return found


def _within(constraints: Sequence[Constraint], prepared: Prepared) -> Fits:
    """Return the function that says whether a policy is within these limits."""
    sizes = [sample.size for sample in prepared.calibration]
    limits = [(make_cost(c.name, prepared.shape, prepared.table), c.limit) for c in constraints]
    return lambda policy: all(total_cost(cost, policy, sizes) <= limit for cost, limit in limits)


def _best_by_layer(problem: Problem) -> list[Policy]:
    """Return the best measured policy for each value of the first parameter that is a layer."""
    columns = problem.space.layer_columns
    if not columns:
        return []
    assert isinstance(problem.objective, Table)
    values = problem.objective.values
    known = np.flatnonzero(problem.feasible & ~np.isnan(values))
    layers = problem.space.points[known, columns[0]]
    groups = (known[layers == layer] for layer in np.unique(layers))
    best = (int(group[np.argmin(values[group])]) for group in groups)
    return [problem.space.decode(problem.space.row(index)) for index in best]


def _refined(starts: Sequence[Policy], fits: Fits, measure: SampleMeasure, floor: float) -> Policy:
    """Return the first policy or, if its KL is lower, one with finer shares.

    Args:
        starts: Policies whose shares are raised, first the best one with its evaluations.
        fits: Return whether a policy is within the budget.
        measure: Measures on the calibration samples.
        floor: Nats; smaller differences are ties.
    """
    finer = [policy for start in dict.fromkeys(starts) for policy in finer_shares(start, fits)]
    counted = CountedMeasure(measure)
    everything = [starts[0], *dict.fromkeys(finer)]
    ties = np.rint(counted(everything).mean(axis=1) / max(floor, KL_QUANTUM))
    evaluations = starts[0].provenance[MEASURED] + counted.evaluations - 1
    return with_evaluations(everything[int(np.argmin(ties))], evaluations)


def _proposed(
    task: Task, prepared: Prepared, measure: SampleMeasure, floor: float
) -> dict[MethodKey, Policy]:
    """Search a space too large to list: the optimum of its proxy, and the verified optimum."""
    nowhere = np.zeros(0, bool)
    joint = lazy_joint(task.space, measure, floor)
    settings, found = task.settings, {}
    for factory in task.objectives:
        counted = CountedMeasure(measure)
        proxy = rounded(factory.make(task.space, counted, nowhere), floor)
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
            proposed = with_evaluations(first.policy, counted.evaluations)
            verified = with_evaluations(best.policy, counted.evaluations + best.evaluations)
            found[text, f"{task.name} {factory.name}"] = proposed
            found[text, f"{task.name} verified"] = verified
            fits = _within(limits, prepared)
            found[text, f"{task.name} {REFINED}"] = _refined([verified], fits, measure, floor)
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
    sizes = [sample.size for sample in prepared.calibration]
    stock = total_cost(cost, identity(prepared.shape.layers), sizes)
    return cost, budget.limit(stock, len(sizes)), stock


def within_budget(budget: Budget, prepared: Prepared) -> Fits:
    """Return the function that says whether a policy is within a budget."""
    cost, limit, _ = budget_limit(budget, prepared)
    sizes = [sample.size for sample in prepared.calibration]
    return lambda policy: total_cost(cost, policy, sizes) <= limit


def baseline_candidates(
    budget: Budget,
    prepared: Prepared,
    measured: Mapping[str, PolicyMaker],
    further: Sequence[RankerSpec],
    progress: Progress,
) -> dict[MethodKey, list[Policy]]:
    """Return the candidates of the baselines at a budget, and print what the others cost at least.

    Args:
        budget: The budget, of which each candidate uses as much as it can.
        prepared: The search.
        measured: Makers of baselines that depend on measurements, by label.
        further: Rankers that are also compared as methods.
        progress: Prints the messages.
    """
    cost, _, stock = budget_limit(budget, prepared)
    sizes = [sample.size for sample in prepared.calibration]

    def missed(label: str, cheapest: Policy) -> None:
        share = 100 * total_cost(cost, cheapest, sizes) / stock
        progress.say(
            f"{label} is not compared at {budget.text}, because its cheapest policy takes "
            f"{share:.4g}% of {cost.name}"
        )

    found = candidates(
        prepared.shape.layers,
        prepared.ranker,
        within_budget(budget, prepared),
        usable=prepared.usable_rankers,
        nested=prepared.nested,
        further=further,
        measured=measured,
        missed=missed,
    )
    return {(budget.text, label): policies for label, policies in found.items()}


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
    sizes = [sample.size for sample in prepared.calibration]
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
                others = [sample.n_other for sample in prepared.calibration]
                spent = stock_cost(cost, found.sizes(others))
            else:
                spent = total_cost(cost, found, sizes)
            if 100 * (min(limit, stock) - spent) > _EQUAL_COST_POINTS * stock:
                reason = reasons.get(method, Baseline.granularity)
                share = f"{100 * spent / stock:.1f}% of {cost.name}"
                progress.say(f"{method} uses only {share} at budget {text}: {reason}")
