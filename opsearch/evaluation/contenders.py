"""Who takes part in a comparison: the best policies of several spaces, and the baselines.

Every one of them spends each budget as well as it can.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import Cost
from opsearch.errors import OpsearchError
from opsearch.evaluation.baselines import baselines
from opsearch.evaluation.reducers import Reduction, reduction_cost
from opsearch.formatting import format_duration
from opsearch.measure.engine import Engine
from opsearch.models.families import family_for
from opsearch.objectives import Maker
from opsearch.objectives.additive import Additive
from opsearch.objectives.joint import Joint
from opsearch.objectives.joint_coarse import CoarseJoint
from opsearch.objectives.rounding import lazy_joint, with_ties
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec, parse_ranker
from opsearch.problem.budget import total_cost
from opsearch.problem.constraint import Constraint, check_budget, feasible_points
from opsearch.problem.objective import Measure, Objective
from opsearch.problem.problem import Problem
from opsearch.problem.solution import undisturbed
from opsearch.problem.spaces.base import Space
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.progress import Stages
from opsearch.rankers import DECODER_RANKERS, make_ranker
from opsearch.runs.config import RunConfig
from opsearch.runs.prepare import Prepared
from opsearch.runs.setup import make_constraints, make_cost, make_maker, make_space, parse_budgets
from opsearch.runs.verify import EVALUATIONS, PROPOSAL, verify
from opsearch.solvers.grid import Grid
from opsearch.solvers.ortools_cpsat import CpSat

SPACES = ("dop", "depth", "stages")
_EACH = 8  # policies that are verified at a time where the run says no number
Place = tuple[str, str]
"""Budget and method: where a policy stands in the comparison."""


@dataclass(frozen=True)
class Task:
    """A space to search: by which objectives, and within which limits for each budget."""

    space: Space
    makers: tuple[Maker, ...]
    limits: dict[str, tuple[Constraint, ...]]


def search_task(name: str, budgets: Sequence[str], prepared: Prepared, stages: Stages) -> Task:
    """A space with its budgets, and with joint as it can be afforded."""
    given = parse_ranker(str(prepared.config.ranker))
    ranker = given if name == "stages" else prepared.ranker
    nested = ranker.name in DECODER_RANKERS or make_ranker(ranker).nested
    drops = prepared.config.stages if nested else 1
    if ranker != given:
        stages.say(f"{name} is ranked by {prepared.ranker}: {given} acts inside the decoder")
    if name == "stages" and drops < prepared.config.stages:
        stages.say(f"stages drops tokens once: ranker {ranker} orders for one count alone")
    if name == RecipeSpace.name:
        raise OpsearchError("space 'recipes' takes part as the baseline FitPrune; leave it out")
    config = prepared.config.over(name).model_copy(update={"stages": drops})
    pairs = [sample.shape for sample in prepared.calibration]
    space = make_space(config, prepared.shape.layers, ranker)
    limits = {
        text: make_constraints(parse_budgets([text]), prepared.shape, space, pairs, prepared.table)
        for text in budgets
    }
    for constraints in limits.values():
        check_budget(space, constraints)
    if not space.listed:
        proxy = "pairwise" if config.objective == "pairwise" else "additive"
        return Task(space, (make_maker(proxy, config),), limits)
    planned = replace(prepared.planned, space=space)
    seconds = planned.seconds(planned.of(space.points[_within_any(space, limits)]))
    makers: tuple[Maker, ...] = (Additive(config.points),) if space.parameters_act_alone else ()
    if seconds <= config.effort:
        return Task(space, (*makers, Joint()), limits)
    stages.say(
        f"{name} joint from coarse to fine: measuring every feasible policy would take about "
        f"{format_duration(seconds)}, more than --effort {config.effort:g}"
    )
    return Task(space, (*makers, CoarseJoint()), limits)


def search(task: Task, prepared: Prepared, engine: Engine, stages: Stages) -> dict[Place, Policy]:
    """The best policy of a space for each budget and objective, by (budget, method)."""
    with stages.stage(f"searching {task.space.name}", "FLOPs") as tick:
        floor = engine.noise_floor(prepared.calibration, tick)

        def measure(policies: Sequence[Policy]) -> NDArray[np.float64]:
            return engine.measure(policies, prepared.calibration, tick)

        if not task.space.listed:
            return _proposed(task, prepared.config, measure, floor)
        return _listed(task, measure, floor)


def _listed(task: Task, measure: Measure, floor: float) -> dict[Place, Policy]:
    """The optimum of each objective at each budget."""
    found = {}
    for maker in task.makers:
        for text, objective in _objectives(maker, task, measure).items():
            problem = Problem(task.space, with_ties(objective, floor), task.limits[text])
            solution = Grid().solve(problem)
            assert solution.policy is not None  # check_budget() raises otherwise
            found[text, f"{task.space.name} {maker.name}"] = solution.policy
    return found


def _proposed(task: Task, config: RunConfig, measure: Measure, floor: float) -> dict[Place, Policy]:
    """In a space too large to list, what its proxy chooses, and what joint makes of that."""
    nowhere = np.zeros(0, bool)
    joint = lazy_joint(task.space, measure, floor)
    effort = {"each": config.verify or _EACH, "evaluations": config.evaluations or EVALUATIONS}
    found = {}
    for maker in task.makers:
        proxy = with_ties(maker.make(task.space, measure, nowhere), floor)
        for text, limits in task.limits.items():
            problem = Problem(task.space, proxy, limits)
            first = undisturbed(CpSat().solve(problem, seed=config.seed, limit=PROPOSAL))
            best = verify(problem, CpSat(), joint, **effort, seed=config.seed)
            assert first.policy is not None  # check_budget() raises otherwise
            assert best.policy is not None
            found[text, f"{task.space.name} {maker.name}"] = first.policy
            found[text, f"{task.space.name} verified"] = best.policy
    return found


def _objectives(maker: Maker, task: Task, measure: Measure) -> dict[str, Objective]:
    """One for each budget; from coarse to fine ends elsewhere for each, all else serves all."""
    masks = {text: feasible_points(task.space, limit) for text, limit in task.limits.items()}
    if isinstance(maker, CoarseJoint):
        return {text: maker.make(task.space, measure, mask) for text, mask in masks.items()}
    everything = _within_any(task.space, task.limits)
    return dict.fromkeys(masks, maker.make(task.space, measure, everything))


def _within_any(space: Space, limits: Mapping[str, Sequence[Constraint]]) -> NDArray[np.bool_]:
    """The points of a listed space that one table for all budgets has to hold."""
    masks = [feasible_points(space, constraints) for constraints in limits.values()]
    return np.asarray(np.logical_or.reduce(masks))


def budget_limit(text: str, prepared: Prepared) -> tuple[Cost, int, int]:
    """A budget's cost, and of all calibration samples together its limit and the original's."""
    (budget,) = parse_budgets([text])
    cost = make_cost(budget.cost, prepared.shape, prepared.table)
    pairs = [sample.shape for sample in prepared.calibration]
    stock = total_cost(cost, identity(prepared.shape.layers), pairs)
    return cost, budget.limit(stock, len(pairs)), stock


def fitted_baselines(
    text: str,
    prepared: Prepared,
    frozen_first: Sequence[int],
    further: Sequence[RankerSpec],
    stages: Stages,
) -> dict[Place, Policy]:
    """The baselines that meet a budget; of others it is said what they take at least.

    frozen_first, further: as `opsearch.evaluation.baselines.baselines` takes them.
    """
    cost, limit, stock = budget_limit(text, prepared)
    pairs = [sample.shape for sample in prepared.calibration]

    def fits(policy: Policy) -> bool:
        return total_cost(cost, policy, pairs) <= limit

    def missed(label: str, cheapest: Policy) -> None:
        share = 100 * total_cost(cost, cheapest, pairs) / stock
        stages.say(
            f"{label} is not compared at {text}: it takes {share:.4g}% of {cost.name} at least"
        )

    usable = (*prepared.usable_rankers, *DECODER_RANKERS)
    given = prepared.shape.layers, prepared.ranker, fits, usable
    found = baselines(*given, frozen_first, missed, further)
    return {(text, label): policy for label, policy in found.items()}


def asked_rankers(texts: Sequence[str], model_config: Any) -> tuple[RankerSpec, ...]:
    """Those asked for by name; PolicyError or ModelError for one that the model cannot serve."""
    specs = tuple(map(parse_ranker, texts))
    for spec in specs:
        family_for(model_config.model_type).check_needs(model_config, make_ranker(spec).needs)
    return specs


def say_left_out(model_config: Any, present: Sequence[RankerSpec], stages: Stages) -> None:
    """Say why each built-in ranker that the model cannot serve is missing, unless it is present."""
    names = {spec.name for spec in present}
    for name, reason in (
        family_for(model_config.model_type).unsupported_rankers(model_config).items()
    ):
        if name not in names:
            stages.say(f"tokens {name} is not compared: {reason}")


POINTS = 2  # of the stock model's cost in %, below which rows still count as equal
_REASONS = {
    "VTW": "its layers are whole",
    "ShortV": "its layers are whole",
    "GSOP": "it prunes whole operations",
    "SparseVLM": "its first drop can keep no more than all tokens",
    "pool": "its grids have whole rows and columns",
    "resize": "its pictures have whole rows and columns of tokens",
}
_OTHERWISE = "no step of its knob is nearer"


def say_unspent(
    methods: Mapping[Place, Policy | Reduction], prepared: Prepared, stages: Stages
) -> None:
    """Say of each method that is more than 2 points below its budget what it takes, and why."""
    pairs = [sample.shape for sample in prepared.calibration]
    for (text, method), found in methods.items():
        cost, limit, stock = budget_limit(text, prepared)
        if isinstance(found, Reduction):
            spent = reduction_cost(cost, found.n_visual, prepared.calibration)
        else:
            spent = total_cost(cost, found, pairs)
        if 100 * (min(limit, stock) - spent) > POINTS * stock:
            reason = _REASONS.get(method, _OTHERWISE)
            share = f"{100 * spent / stock:.1f}% of {cost.name}"
            stages.say(f"{method} takes {share} at {text}: {reason}")
