"""`opsearch run --dry-run`: what a run would measure and for how long, without any weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from opsearch.costs.shape import SHAPES, VISUAL_TOKENS
from opsearch.errors import UnknownNameError
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.estimate import Estimate
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.measure.sweep.trie import Layout
from opsearch.objectives.additive import Additive, alone
from opsearch.objectives.pairwise import MeasuredPairs, together
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.constraint import Constraint, check_budget
from opsearch.problem.spaces.base import Space
from opsearch.progress import Progress
from opsearch.runs.choose import Choice, choose_planned
from opsearch.runs.config import RunConfig
from opsearch.runs.effort import CoarseWork, Planned, planned_memory
from opsearch.runs.setup import SearchSettings, check_nested, make_constraints, resolve

# Of a usual prompt of a 7B model: a system prompt before the image, a question behind it.
_HEAD, _TAIL = 35, 30


@dataclass(frozen=True)
class DryRun:
    """The work of each objective; seconds: at the nominal speed that --effort counts with.

    feasible: the number of policies within the budget, None where they are too many to list.
    coarse: joint from coarse to fine, None where all of joint is within --effort, or there is no
    such way. chosen: which objective the run would take, and why.
    """

    space: Space
    constraint: Constraint
    feasible: int | None
    estimates: dict[str, Estimate]
    seconds: dict[str, float]
    coarse: CoarseWork | None
    room: MemoryBudget
    chosen: str


def dry_run(config: RunConfig, shape_name: str | None, console: Console) -> DryRun:
    """Plan the run of `config`, on its own samples, or for a checkpoint of a known shape.

    With a shape's name nothing is loaded: all samples have a usual image of that checkpoint, each
    another one, 35 tokens before it and 30 behind.
    """
    if shape_name is None:
        from opsearch.runs.prepare import prepare, settle  # a known shape needs no torch

        settled = settle(config)
        prepared = prepare(settled, Progress(console, 1 + settled.settings.timed))
        return _plan(settled.settings, prepared.planned, prepared.choice)
    if shape_name not in SHAPES:
        raise UnknownNameError("shape", shape_name, list(SHAPES))
    shape, n_visual = SHAPES[shape_name], VISUAL_TOKENS[shape_name]
    settings = resolve(config, shape.layers, RankerSpec("cls"))
    if config.ranker:
        check_nested(settings.space, settings.space_settings.ranker)
    pairs = [(n_visual, _HEAD + _TAIL)] * config.samples
    constraints = make_constraints(settings.budgets, shape, settings.space, pairs)
    check_budget(settings.space, constraints)
    tail = _TAIL + settings.positions - 1
    layout = Layout(n_visual, _HEAD, tail, 0, settings.positions)
    batch = SampleBatch(layout, (), images=tuple(range(config.samples)))
    room = planned_memory(settings.model, settings.memory, shape)
    planned = Planned(settings.space, constraints, [batch], room, settings.model.device)
    return _plan(settings, planned, choose_planned(settings, planned))


def _plan(settings: SearchSettings, planned: Planned, choice: Choice) -> DryRun:
    space, feasible, estimates = planned.space, None, {}
    if space.listed:
        feasible, estimates["joint"] = int(planned.feasible.sum()), planned.joint
    if space.parameters_act_alone:
        single = _single(space, Additive.from_settings(settings.proxy))
        estimates["additive"] = planned.of(single)
        if choice.objective.name == MeasuredPairs.name:
            pairs = MeasuredPairs.from_settings(settings.proxy).choices(space)
            both = [together(space, pair) for pair in pairs]
            estimates["pairwise"] = planned.of(np.array([*single.tolist(), *both]))
    seconds = {name: planned.seconds(found) for name, found in estimates.items()}
    coarse = planned.coarse if planned.joint_seconds > settings.effort else None
    if coarse:
        seconds["coarse"] = planned.seconds(coarse)
    return DryRun(
        space=space,
        constraint=planned.constraints[0],
        feasible=feasible,
        estimates=estimates,
        seconds=seconds,
        coarse=coarse,
        room=planned.room,
        chosen=choice.reason or f"objective {choice.objective.name}, as given",
    )


def _single(space: Space, additive: Additive) -> NDArray[np.int64]:
    """The points that the additive proxy measures."""
    return np.array(
        [
            alone(space, k)[i]
            for k, parameter in enumerate(space.parameters)
            for i in additive.measured(parameter)
        ]
    )
