"""`opsearch run --dry-run`: estimate the measurements of a run without loading weights."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from opsearch.costs.base import SampleSize
from opsearch.costs.checkpoints import known_image_flops
from opsearch.costs.shape import known_checkpoint
from opsearch.formatting import format_duration
from opsearch.measure.layout import Layout
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.estimate import Estimate
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.objectives.additive import Additive, alone
from opsearch.objectives.pairwise import MeasuredPairs, together
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.constraint import Constraint, check_budget
from opsearch.problem.spaces.base import Space
from opsearch.progress import Progress
from opsearch.runs.choose import SearchChoice, choose_by_estimate, with_effort
from opsearch.runs.config import RunConfig
from opsearch.runs.effort import CoarseWork, EffortEstimate, planned_memory
from opsearch.runs.relaxed import DescentPlan, plan_descent
from opsearch.runs.setup import SearchSettings, check_nested, make_constraints, resolve
from opsearch.solvers.gradient import GradientDescent
from opsearch.solvers.relaxed import RelaxedDescent

_TAIL = 30  # text tokens of a question, after the image; the others stand before it
_LONGER = (600.0, 3600.0)  # seconds of effort that a plan also names


@dataclass(frozen=True)
class DryRun:
    """Estimated work of each objective.

    Attributes:
        space: The space.
        constraint: The first budget.
        feasible: Number of policies within the budgets, None if the space cannot be listed.
        estimates: Estimates by objective.
        seconds: Durations by objective, at the nominal speed that --effort assumes; `raced` is the
            joint objective without policies that cannot be the best, `joint` with them.
        coarse: Joint objective from coarse to fine, None if racing or, with --complete, the whole
            table is within --effort, or the space has no coarse grid.
        memory: Memory for the states of a pass.
        device: The device that --device names.
        chosen: The objective that the run would use, with the reason.
        with_more: The same for longer efforts, by their seconds.
    """

    space: Space
    constraint: Constraint
    feasible: int | None
    estimates: dict[str, Estimate]
    seconds: dict[str, float]
    coarse: CoarseWork | None
    memory: MemoryBudget
    device: str
    chosen: str
    with_more: dict[float, str]


def dry_run(config: RunConfig, shape_name: str | None, console: Console) -> DryRun:
    """Estimate a run on its own samples, or for a checkpoint of a known shape.

    With a shape nothing is loaded: every sample has an image of its own and as many tokens as the
    checkpoint's typical prompt.

    Args:
        config: Settings of the run.
        shape_name: Name of a known shape; None: the run's own model and samples.
        console: Console for progress.

    Raises:
        OpsearchError: A setting, the model or the data cannot be used.
    """
    if shape_name is None:
        from opsearch.runs.prepare import prepare, settle  # a known shape needs no torch

        settled = settle(config)
        prepared = prepare(settled, Progress(console, 1 + settled.settings.timed))
        return _plan(prepared.settings, prepared.effort_estimate, prepared.choice)
    checkpoint = known_checkpoint(shape_name)
    shape, n_visual = checkpoint.shape, checkpoint.visual_tokens
    settings = resolve(config, shape.layers, RankerSpec("cls"))
    settings.require_full_size()
    if config.ranker:
        check_nested(settings.space, settings.space_settings.ranker)
    images = known_image_flops(checkpoint.hub_id)
    sizes = [SampleSize(n_visual, checkpoint.other_tokens, images)] * config.drawn_samples
    constraints = make_constraints(settings.budgets, shape, settings.space, sizes)
    check_budget(settings.space, constraints)
    tail = _TAIL + settings.positions - 1
    layout = Layout(n_visual, checkpoint.other_tokens - _TAIL, tail, 0, settings.positions)
    batch = SampleBatch(layout, (), images=tuple(range(config.drawn_samples)))
    memory = planned_memory(settings.model, settings.memory, shape)
    estimate = EffortEstimate(settings.space, constraints, [batch], memory, settings.model.device)
    settings = with_effort(settings, config.effort, estimate)
    return _plan(settings, estimate, choose_by_estimate(settings, estimate))


def _plan(settings: SearchSettings, estimate: EffortEstimate, choice: SearchChoice) -> DryRun:
    space, feasible, estimates = estimate.space, None, dict[str, Estimate]()
    if space.listed and not isinstance(choice.solver, GradientDescent):
        feasible, estimates["joint"] = int(estimate.feasible.sum()), estimate.joint
    if space.parameters_act_alone and not isinstance(choice.solver, GradientDescent):
        single = _single(space, Additive.from_settings(settings.proxy))
        estimates["additive"] = estimate.of(single)
        if choice.objective.name == MeasuredPairs.name:  # the pairs of others are not known
            pairs = MeasuredPairs.from_settings(settings.proxy).choices(space)
            both = [together(space, pair) for pair in pairs]
            estimates["pairwise"] = estimate.of(np.array([*single.tolist(), *both]))
    seconds = {name: estimate.seconds(found) for name, found in estimates.items()}
    if space.listed and not settings.complete:
        seconds["raced"] = estimate.raced_seconds
    needed = seconds.get("raced", estimate.joint_seconds)
    coarse = estimate.coarse if needed > settings.effort else None
    if coarse:
        seconds["coarse"] = estimate.seconds(coarse)
    return DryRun(
        space=space,
        constraint=estimate.constraints[0],
        feasible=feasible,
        estimates=estimates,
        seconds=seconds,
        coarse=coarse,
        memory=estimate.memory,
        device=estimate.device,
        chosen=_chosen(settings, estimate, choice),
        with_more=_with_more(settings, estimate, choice),
    )


def _chosen(settings: SearchSettings, estimate: EffortEstimate, choice: SearchChoice) -> str:
    """Describe what would be searched, and why."""
    chosen = choice.reason or f"objective {choice.objective.name}, as requested"
    if isinstance(choice.solver, GradientDescent):
        chosen = f"{chosen}, in {_described(plan_descent(estimate, settings.effort))}"
    return chosen


def _with_more(
    settings: SearchSettings, estimate: EffortEstimate, choice: SearchChoice
) -> dict[float, str]:
    """Return what longer efforts would search, where it is something else."""
    found, before = {}, _work(settings, estimate, choice)
    for effort in (each for each in _LONGER if each > settings.effort):
        longer = replace(settings, effort=effort)
        choice = choose_by_estimate(longer, estimate)
        work = _work(longer, estimate, choice)
        if work != before:
            found[effort], before = _chosen(longer, estimate, choice), work
    return found


def _work(
    settings: SearchSettings, estimate: EffortEstimate, choice: SearchChoice
) -> tuple[str, RelaxedDescent | None]:
    """Return the objective that is measured, and the descent if there is one."""
    by_gradient = isinstance(choice.solver, GradientDescent)
    descent = plan_descent(estimate, settings.effort).descent if by_gradient else None
    return choice.objective.name, descent


def _described(plan: DescentPlan) -> str:
    """Describe the steps of a descent."""
    steps, batch = plan.descent.steps, plan.descent.batch
    return (
        f"{steps} steps of {batch} samples that take about {format_duration(plan.seconds)}; a race "
        "of its policies against baselines follows"
    )


def _single(space: Space, additive: Additive) -> NDArray[np.int64]:
    """Return the indices of the points that the additive proxy measures."""
    return np.array(
        [
            alone(space, k)[i]
            for k, parameter in enumerate(space.parameters)
            for i in additive.measured(parameter)
        ]
    )
