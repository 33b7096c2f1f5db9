"""`opsearch run --dry-run`: what a run would measure and for how long, without any weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console

from opsearch.config import RunConfig
from opsearch.costs.shape import SHAPES, VISUAL_TOKENS, Shape
from opsearch.errors import UnknownNameError
from opsearch.infeasible import check_budget
from opsearch.measure.estimate import Estimate, estimate
from opsearch.measure.trie import Layout, Size
from opsearch.objectives.additive import Additive, alone
from opsearch.objectives.pairwise import MeasuredPairs, together
from opsearch.prepare import prepare
from opsearch.problem import Constraint, feasible_points
from opsearch.problem_setup import (
    joint_seconds,
    limits_time,
    make_constraints,
    make_space,
    nominal_speed,
    parse_budgets,
)
from opsearch.progress import Stages
from opsearch.rankers.spec import parse_ranker
from opsearch.runtime.load import DTYPES
from opsearch.search import Choice, choose
from opsearch.spaces import Space

# Of a usual prompt of a 7B model: a system prompt before the image, a question behind it.
_HEAD, _TAIL = 35, 30


@dataclass(frozen=True)
class DryRun:
    """The work of each objective; seconds: at the nominal speed that --effort counts with.

    feasible: the number of policies within the budget, None where they are too many to list.
    chosen: which objective the run would take, and why.
    """

    space: Space
    constraint: Constraint
    feasible: int | None
    estimates: dict[str, Estimate]
    seconds: dict[str, float]
    itemsize: int
    chosen: str


def dry_run(config: RunConfig, shape_name: str | None, console: Console) -> DryRun:
    """Plan the run of `config`, on its own samples, or for a checkpoint of a known shape.

    With a shape's name nothing is loaded: all samples have a usual image of that checkpoint, each
    another one, 35 tokens before it and 30 behind.
    """
    if shape_name is None:
        prepared = prepare(config, Stages(console, 1 + limits_time(config.budget)))
        parts = prepared.space, prepared.constraints, prepared.layouts, prepared.shape
        return _plan(config, *parts, prepared.choice)
    if shape_name not in SHAPES:
        raise UnknownNameError("shape", shape_name, list(SHAPES))
    shape, n_visual = SHAPES[shape_name], VISUAL_TOKENS[shape_name]
    space = make_space(config, shape.layers, parse_ranker(config.ranker or "cls"))
    pairs = [(n_visual, _HEAD + _TAIL)] * config.samples
    constraints = make_constraints(parse_budgets(config.budget), shape, space, pairs)
    check_budget(space, constraints)
    tail = _TAIL + config.positions - 1
    layout = Layout(n_visual, _HEAD, tail, 0, config.positions)
    layouts = {layout: Size(config.samples, images=config.samples)}
    choice = choose(config, joint_seconds(space, constraints, shape, layouts, config), space)
    return _plan(config, space, constraints, layouts, shape, choice)


def _plan(
    config: RunConfig,
    space: Space,
    constraints: tuple[Constraint, ...],
    layouts: dict[Layout, Size],
    shape: Shape,
    choice: Choice,
) -> DryRun:
    feasible, points = None, {}
    if space.listed:
        mask = feasible_points(space, constraints)
        feasible, points = int(mask.sum()), {"joint": space.points[mask]}
    if space.parameters_act_alone:
        points["additive"] = _single(space, Additive(config.points))
    if choice.maker.name == "pairwise":
        pairs = MeasuredPairs(config.pairs, config.seed).choices(space)
        both = [together(space, pair) for pair in pairs]
        points["pairwise"] = np.array([*points["additive"].tolist(), *both])
    estimates = {name: estimate(space, rows, layouts, shape) for name, rows in points.items()}
    speed = nominal_speed(config.device)
    return DryRun(
        space,
        constraints[0],
        feasible,
        estimates,
        {name: found.flops / speed for name, found in estimates.items()},
        torch.empty(0, dtype=DTYPES[config.dtype]).element_size(),
        choice.reason or f"objective {choice.maker.name}, as asked for",
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
