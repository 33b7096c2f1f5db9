"""From settings to a space, its objective and its budgets; loads neither models nor data."""

from __future__ import annotations

import os
from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from opsearch.costs import COSTS
from opsearch.costs.base import Cost
from opsearch.costs.latency import Latency, LatencyTable
from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError
from opsearch.measure.planning.memory import on_gpu
from opsearch.objectives import OBJECTIVES, Maker
from opsearch.objectives.additive import Additive
from opsearch.objectives.pairwise import MeasuredPairs
from opsearch.policy.counts import MODULES
from opsearch.policy.ranker import RankerSpec
from opsearch.problem.budget import Budget, constraint
from opsearch.problem.constraint import Constraint
from opsearch.problem.spaces import SPACES
from opsearch.problem.spaces.base import N_V_8, N_V_16, Space
from opsearch.problem.spaces.operations import PER_OPERATION
from opsearch.problem.spaces.recipes import RecipeSpace
from opsearch.rankers import DECODER_RANKERS, RANKERS, make_ranker
from opsearch.registry import lookup
from opsearch.runs.config import RunConfig

# FLOPs per second that `--effort` counts with: round figures and no stopwatch, so that the same
# command on the same machine always chooses the same objective.
_PER_CORE = 15e9
_PER_GPU = 100e12


def make_space(config: RunConfig, layers: int, ranker: RankerSpec) -> Space:
    """The space that a run searches; OpsearchError where its ranker cannot serve it."""
    named = {"16": N_V_16, "8": N_V_8}
    n_v = named[config.n_v] if isinstance(config.n_v, str) else tuple(map(Fraction, config.n_v))
    factory = lookup("spaces", config.space, SPACES)
    if config.keep and config.space not in PER_OPERATION:
        raise OpsearchError(
            f"--keep {config.keep} needs a space with a choice per operation, not "
            f"{config.space!r}; add --space layers, or take keep out of the options or run.yaml"
        )
    if config.tie and config.space != "layers":
        raise OpsearchError(
            f"--tie {config.tie} needs a bit for q and one for kv in each layer, which space "
            f"{config.space!r} has not; add --space layers, or take tie out of the options or "
            "run.yaml"
        )
    if factory is RecipeSpace:  # with shares and a ranker of its own
        return RecipeSpace(layers)
    kept = parse_kept(config.keep, layers) if config.keep else ()
    options: dict[str, dict[str, Any]] = {
        "dop": {"kv": config.kv},
        "stages": {"stages": config.stages},
        "layers": {"kept": kept, "tied": config.tie is not None},
        "operations": {"kept": kept},
    }
    if ranker.name in DECODER_RANKERS:
        if config.space != "stages":
            raise OpsearchError(
                f"ranker {ranker} acts inside the decoder, where policies of space {config.space} "
                f"rank nothing; add --space stages, or use one of {', '.join(RANKERS)}"
            )
    elif config.space == "stages" and config.stages > 1 and not make_ranker(ranker).nested:
        raise OpsearchError(
            f"ranker {ranker} gives another order for each count, but policies of space stages "
            f"keep up to {config.stages} different ones; use --stages 1, or a nested ranker such "
            "as cls, divprune or random"
        )
    space: Space = factory(layers, n_v=n_v, ranker=ranker, **options.get(config.space, {}))
    return space


def parse_kept(text: str, layers: int) -> frozenset[tuple[int, int]]:
    """The (layer, module) pairs of `0,1:mlp`: all of layer 0, and the MLP of layer 1.

    Raises OpsearchError for what is no layer or module of the decoder.
    """
    kept = set()
    for part in text.split(","):
        layer, _, module = part.strip().partition(":")
        if not layer.isdecimal() or int(layer) >= layers or module not in ("", *MODULES):
            raise OpsearchError(
                f"--keep {text}: {part.strip()!r} is no operation; write a layer from 0 to "
                f"{layers - 1}, or one with {', '.join(MODULES)}, e.g. --keep 0,1:mlp"
            )
        modules = [MODULES.index(module)] if module else range(len(MODULES))
        kept |= {(int(layer), place) for place in modules}
    return frozenset(kept)


def parse_budgets(texts: Sequence[str]) -> list[Budget]:
    """The budgets of a run; OpsearchError for an unknown cost, and when two limit the same."""
    budgets = [Budget.parse(text) for text in texts]
    costs = [budget.cost for budget in budgets]
    for cost in costs:
        lookup("costs", cost, COSTS)
    twice = sorted({cost for cost in costs if costs.count(cost) > 1})
    if twice:
        raise OpsearchError(f"{twice[0]} has more than one budget ({', '.join(texts)}); give one")
    return budgets


def limits_time(texts: Sequence[str]) -> bool:
    """Whether one of the budgets is of time, so that a latency table is needed."""
    return any(Budget.parse(text).cost == "latency" for text in texts)


def make_cost(name: str, shape: Shape, table: LatencyTable | None = None) -> Cost:
    """The cost of this name; table: what `latency` adds up, OpsearchError where it is missing."""
    if name == "latency":
        return Latency(shape, table)
    return lookup("costs", name, COSTS)(shape)


def make_maker(name: str, config: RunConfig) -> Maker:
    """What makes the objective of this name from measurements, with the run's options."""
    if name == "additive":
        return Additive(config.points)
    if name == "pairwise":
        return MeasuredPairs(config.pairs, config.seed)
    maker: Maker = lookup("objectives", name, OBJECTIVES)()
    return maker


def make_constraints(
    budgets: Sequence[Budget],
    shape: Shape,
    space: Space,
    pairs: Sequence[tuple[int, int]],
    table: LatencyTable | None = None,
) -> tuple[Constraint, ...]:
    """The budgets as limits over samples of these (visual, other) token numbers."""
    costs = (make_cost(budget.cost, shape, table) for budget in budgets)
    return tuple(
        constraint(budget, cost, space, pairs) for budget, cost in zip(budgets, costs, strict=True)
    )


def nominal_speed(device: str) -> float:
    """FLOPs per second that estimates of time count with."""
    return _PER_GPU if on_gpu(device) else _PER_CORE * (os.cpu_count() or 1)
