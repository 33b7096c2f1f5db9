"""What a run can know before any weights are loaded: samples, space, costs and budgets."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from opsearch.budget import Budget, constraint
from opsearch.config import RunConfig
from opsearch.costs import COSTS
from opsearch.costs.shape import Shape
from opsearch.errors import OpsearchError
from opsearch.measure.samples import Sample, encode
from opsearch.policy import RankerSpec
from opsearch.problem import Constraint, check_budget
from opsearch.progress import Stages
from opsearch.rankers import make_ranker
from opsearch.registry import lookup
from opsearch.runtime.adapters import adapter_for
from opsearch.runtime.load import load_config, load_processor
from opsearch.spaces import N_V_8, N_V_16, SPACES, Space
from opsearch.tasks.embedded import embedded
from opsearch.tasks.item import Item
from opsearch.tasks.jsonl import load_jsonl


@dataclass(frozen=True)
class Prepared:
    """A search that is fully stated, but for the measurements."""

    model_type: str
    shape: Shape
    processor: Any
    ranker: RankerSpec
    calibration: list[Sample]
    heldout: list[Sample]
    space: Space
    constraints: tuple[Constraint, ...]


def prepare(config: RunConfig, stages: Stages) -> Prepared:
    """Load data and processor, state the space and the budgets.

    Raises InfeasibleBudgetError with the achievable range, UnknownNameError, DataError or
    ModelError.
    """
    model_config = load_config(config.model)
    shape = Shape.from_config(model_config)
    ranker = run_ranker(config, model_config.model_type)
    space = make_space(config, shape.layers, ranker)
    budgets = parse_budgets(config.budget)
    processor = load_processor(config.model)
    calibration, heldout = load_items(config)
    with stages.stage("encoding samples") as tick:
        total = len(calibration) + len(heldout)
        encoded = encode(
            [*calibration, *heldout], processor, model_config, lambda done: tick(done, total)
        )
    samples, rest = encoded[: len(calibration)], encoded[len(calibration) :]
    constraints = make_constraints(budgets, shape, space, [s.shape for s in samples])
    check_budget(space, constraints)
    return Prepared(
        model_config.model_type, shape, processor, ranker, samples, rest, space, constraints
    )


def run_ranker(config: RunConfig, model_type: str) -> RankerSpec:
    """The ranker of a run: the one it names or the family's; its name is checked here."""
    default = adapter_for(model_type).ranker
    spec = RankerSpec(config.ranker) if config.ranker else default
    make_ranker(spec)
    return spec


def make_space(config: RunConfig, layers: int, ranker: RankerSpec) -> Space:
    """The space that a run searches."""
    named = {"16": N_V_16, "8": N_V_8}
    n_v = named[config.n_v] if isinstance(config.n_v, str) else tuple(map(Fraction, config.n_v))
    factory = lookup("spaces", config.space, SPACES)
    reading = {"kv": config.kv} if config.space == "dop" else {}
    space: Space = factory(layers, n_v=n_v, ranker=ranker, **reading)
    return space


def parse_budgets(texts: Sequence[str]) -> list[Budget]:
    """The budgets of a run; OpsearchError when two limit the same cost."""
    budgets = [Budget.parse(text) for text in texts]
    costs = [budget.cost for budget in budgets]
    twice = sorted({cost for cost in costs if costs.count(cost) > 1})
    if twice:
        raise OpsearchError(f"{twice[0]} has more than one budget ({', '.join(texts)}); give one")
    return budgets


def make_constraints(
    budgets: Sequence[Budget], shape: Shape, space: Space, pairs: Sequence[tuple[int, int]]
) -> tuple[Constraint, ...]:
    """The budgets as limits over samples of these (visual, other) token numbers."""
    return tuple(
        constraint(b, lookup("costs", b.cost, COSTS)(shape), space, pairs) for b in budgets
    )


def load_items(config: RunConfig) -> tuple[list[Item], list[Item]]:
    """Calibration and held-out items, disjoint.

    The embedded tasks have a split for each; a file is shuffled by the seed and cut.
    """
    if config.data is None:
        heldout = embedded("held-out", config.heldout, config.seed) if config.heldout else []
        return embedded("calibration", config.samples, config.seed), heldout
    items = load_jsonl(config.data)
    random.Random(config.seed).shuffle(items)
    rest = items[config.samples :]
    return items[: config.samples], rest[: config.heldout]
