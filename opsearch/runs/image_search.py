"""The image settings of a run: a search at each of them, and the best of their answers.

Divergences are measured from the original at full size, and budgets are shares of its cost there,
whatever the images of a policy are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

import numpy as np
import pandas as pd

from opsearch.costs.base import at_full_size, total_image_flops
from opsearch.costs.flops import Flops
from opsearch.data.item import Item
from opsearch.errors import InfeasibleBudgetError
from opsearch.formatting import counted
from opsearch.models.image_settings import encode_at, setting_for
from opsearch.policy.builders import identity
from opsearch.policy.images import ImageSetting
from opsearch.policy.policy import Policy
from opsearch.problem.budget import total_cost
from opsearch.problem.constraint import Constraint, explain_infeasible, some_point_within
from opsearch.problem.objective import in_quanta
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Solution
from opsearch.progress import Progress
from opsearch.runs.prepare import (
    Encoded,
    Limits,
    Prepared,
    Settled,
    encode_items,
    limits_of,
    stated,
)
from opsearch.runs.setup import SearchSettings, make_objective, make_solver


def states(
    settled: Settled,
    processor: Any,
    items: tuple[Sequence[Item], Sequence[Item]],
    progress: Progress,
    if_answered: int,
) -> list[Prepared]:
    """Return the search at each image setting that the budgets allow, from the largest images on.

    The searches share the effort of the run. What is left open is chosen for the first one.

    Args:
        settled: The settings of the run.
        processor: The model's processor.
        items: The calibration items, and the held-out ones.
        progress: Shows progress, and why settings are left out.
        if_answered: Number of stages that run only if all held-out samples have answers.

    Raises:
        InfeasibleBudgetError: No policy at any setting keeps to the budgets.
        OpsearchError: A setting, the data or the model cannot be used.
    """
    full = encode_items(settled, processor, items, progress, if_answered)
    several = len(settled.settings.images) > 1
    space, allowed = settled.settings.space, list[tuple[Encoded, Limits]]()
    error = "no setting of --images can be had with these samples; give larger shares"
    for encoded in _encoded(settled, processor, full, progress):
        limits = limits_of(settled, encoded, progress)
        if some_point_within(space, limits.constraints):
            allowed.append((encoded, limits))
            continue
        error = explain_infeasible(space, limits.constraints)
        if several:
            progress.say(_left_out(share_of(encoded), _too_dear(limits.constraints)))
            progress.total -= stages_of(settled.settings)
    if not allowed:
        raise InfeasibleBudgetError(error)
    found = list[Prepared]()
    for encoded, limits in allowed:
        found.append(stated(settled, processor, encoded, limits, progress, len(allowed)))
        settled = _as_chosen(settled, found[0])
    return found


def share_of(encoded: Encoded | Prepared) -> Fraction:
    """Return the share of the processor's own tokens for which images were encoded."""
    return Fraction(1) if encoded.images is None else encoded.images.share


def stages_of(settings: SearchSettings) -> int:
    """Return the number of stages of the search at one image setting, without the encoding."""
    return 1 + settings.space.parameters_act_alone


def _left_out(share: Fraction, reason: str) -> str:
    return f"images at {share} of the visual tokens are left out: {reason}"


def _too_dear(constraints: Sequence[Constraint]) -> str:
    """Say which budgets no policy keeps to."""
    lowest = [(c, c.cost(c.cheapest)) for c in constraints]
    above = [
        f"the cheapest policy takes {c.describe(cost)} of {c.name}, above the budget of "
        f"{c.describe(c.limit)}"
        for c, cost in lowest
        if cost > c.limit
    ]
    return "; ".join(above) or "no policy keeps to all budgets at once"


def _encoded(settled: Settled, processor: Any, full: Encoded, progress: Progress) -> list[Encoded]:
    """Return the samples at each image setting that the processor has."""
    found = list[Encoded]()
    for share in settled.settings.images:
        if share == 1:
            found.append(full)
            continue
        setting = setting_for(share, full.calibration, processor, settled.model_config)
        used = [each.images.attributes for each in found if each.images]
        if setting is None or setting.attributes in used:
            reason = "the processor leaves more" if setting is None else "they equal larger ones"
            progress.say(_left_out(share, reason))
            progress.total -= 1 + stages_of(settled.settings)
        else:
            found.append(_encoded_at(setting, full, processor, settled.model_config, progress))
    return found


def _encoded_at(
    setting: ImageSetting, full: Encoded, processor: Any, config: Any, progress: Progress
) -> Encoded:
    both, samples = [*full.calibration, *full.heldout], len(full.calibration)
    with progress.stage(f"encoding {counted(len(both), 'sample')} at {setting}") as tick:

        def done(number: int) -> None:
            tick(number, len(both))

        small = encode_at(setting, both, processor, config, done)
    return Encoded(small[:samples], small[samples:], setting)


def _as_chosen(settled: Settled, first: Prepared) -> Settled:
    """Return the settings with what the first search chose."""
    settings, config = settled.settings, first.config
    objective = settings.objective or make_objective(str(config.objective), settings.proxy)
    solver = settings.solver or make_solver(str(config.solver))
    return replace(
        settled, config=config, settings=replace(settings, objective=objective, solver=solver)
    )


@dataclass(frozen=True)
class Answer:
    """The answer of the search at one image setting.

    Attributes:
        prepared: The search.
        problem: Its problem.
        solution: Its solution, with a policy.
        measured: Number of policies that were measured for it.
        kl: Mean KL of the policy on all calibration samples, from the original at full size.
    """

    prepared: Prepared
    problem: Problem
    solution: Solution
    measured: int
    kl: float

    @property
    def policy(self) -> Policy:
        """The policy, with the image setting."""
        assert self.solution.policy is not None  # a search raises where it finds none
        return replace(self.solution.policy, images=self.prepared.images)


def best_of(answers: Sequence[Answer], floor: float) -> Answer:
    """Return the answer of the least divergence, among ties the one of the lowest cost.

    It says that it was chosen, and the policies measured for all count as measured for it.

    Args:
        answers: The answers.
        floor: Nats; divergences that differ by less are ties.
    """
    quanta = in_quanta(np.array([answer.kl for answer in answers]), floor).tolist()

    def rank(number: int) -> tuple[float, int]:
        first = answers[number].problem.constraints[0].name
        return quanta[number], answers[number].solution.costs[first]

    best = answers[min(range(len(answers)), key=rank)]
    solution = replace(best.solution, policy=best.policy)
    notes = [f"images at {share_of(best.prepared)} of the visual tokens", solution.note]
    if len(answers) > 1:
        notes[0] += f", the least KL of {len(answers)} settings"
    if len(answers) > 1 or best.prepared.images is not None:
        solution = replace(solution, note="; ".join(filter(None, notes)))
    return replace(best, solution=solution, measured=sum(answer.measured for answer in answers))


def table_of(answers: Sequence[Answer]) -> pd.DataFrame:
    """Return a line for each image setting, in percent of the original at full size.

    The columns are `images` (the share asked for), `setting`, `tokens, %`, `tower, %`,
    `decoder, %`, `whole, %` and `KL`; those of the tower are nan where its FLOPs are not known.
    """
    return pd.DataFrame([_line(answer) for answer in answers])


def _line(answer: Answer) -> dict[str, Any]:
    prepared = answer.prepared
    sizes = [sample.size for sample in prepared.calibration]
    full, flops = at_full_size(sizes), Flops(prepared.shape)
    decoder = total_cost(flops, answer.policy, sizes)
    stock = total_cost(flops, identity(prepared.shape.layers), full)
    tower, of_stock = (total_image_flops(each) for each in (sizes, full))
    tokens = sum(size.n_visual for size in sizes) / sum(size.n_visual for size in full)
    attributes = () if prepared.images is None else prepared.images.attributes
    line = {
        "images": str(share_of(prepared)),
        "setting": " ".join(f"{name}={value}" for name, value in attributes),
        "tokens, %": 100 * tokens,
        "tower, %": np.nan,
        "decoder, %": 100 * decoder / stock,
        "whole, %": np.nan,
        "KL": answer.kl,
    }
    if tower is not None and of_stock:
        line["tower, %"] = 100 * tower / of_stock
        line["whole, %"] = 100 * (tower + decoder) / (of_stock + stock)
    return line
