"""Gradient descent on the shares of a space: its plan, its budget, and the nearest points."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import Cost, SampleSize, image_cost
from opsearch.errors import OpsearchError
from opsearch.policy.counts import MODULES, Shares
from opsearch.problem.problem import Problem
from opsearch.problem.spaces.base import Operation
from opsearch.problem.spaces.operations import OperationSpace
from opsearch.runs.effort import EffortEstimate, nominal_speed
from opsearch.solvers.relaxed import Budgeted, RelaxedDescent

START = (0.6, 0.9, 0.15)
"""Shares of q, kv and mlp in all layers before the first step: keys first, so that all tokens
remain readable, and MLPs, which cost most, last."""
_WORK = 0.5  # of a step, in forwards of the original at the nominal speed, per sample
_STEPS, _BATCH = (40, 400), (8, 32)  # fewest and most
_PASSES = 50  # most steps that see a sample: more fit the policy to the few samples there are
_TRIED = 8  # shares that may be raised where dearer ones before them do not fit
_COMPARED = 4  # one of so many calibration samples is kept from the descent
_FEWEST = 32  # samples of which a part is kept; fewer are all used for both


def seen_samples(samples: int) -> int:
    """Return the number of first samples that a descent sees; the others compare its points."""
    return samples - samples // _COMPARED if samples >= _FEWEST else samples


@dataclass(frozen=True)
class DescentPlan:
    """Steps of a descent within an effort.

    Attributes:
        descent: The descent.
        seconds: Its estimated time.
    """

    descent: RelaxedDescent
    seconds: float


def plan_descent(estimate: EffortEstimate, effort: float) -> DescentPlan:
    """Return the longest descent within `effort` seconds, or the shortest one.

    Args:
        estimate: Shapes of the samples, the device, and the number of searches to share the effort.
        effort: Seconds.

    Raises:
        OpsearchError: The effort is not the default one and too short; names the seconds it needs.
    """
    stock = estimate.constraints[0]
    forward, samples = estimate.forward_flops, seen_samples(stock.samples)
    sample = estimate.parts * _WORK * forward / nominal_speed(estimate.device)
    (fewest, most), (small, large) = _STEPS, _BATCH
    small, large = min(small, samples), min(large, samples)
    batch = int(np.clip(effort / (2 * fewest * sample), small, large))
    most = max(min(most, _PASSES * samples // batch), fewest)
    steps = int(np.clip(effort / (batch * sample), fewest, most))
    needed = small * fewest * sample
    if needed > effort and effort != estimate.default_effort:
        raise OpsearchError(
            f"--effort {effort:g} is too short for one round: {fewest} steps of {small} samples "
            f"take about {ceil(needed)} s here; give --effort {ceil(needed)}, or a space such as "
            "--space tokens"
        )
    seconds = steps * batch * sample / estimate.parts
    return DescentPlan(RelaxedDescent(steps=steps, batch=batch), seconds)


def budget_of_shares(
    costs: Sequence[tuple[Cost, float]],
    layers: int,
    size: SampleSize,
    kept: Collection[Operation] = (),
) -> Budgeted:
    """Return a budget for shares, counted on a sample of mean size.

    Args:
        costs: Each cost, and its limit as a share of the original's.
        layers: Number of decoder layers.
        size: Sizes of the sample.
        kept: Operations that are never pruned.
    """
    n_visual, n_other = size.n_visual, size.n_other
    images = [image_cost(cost, [size]) for cost, _ in costs]
    limits = [
        limit * (cost.stock(n_visual, n_other) + of_images)
        for (cost, limit), of_images in zip(costs, images, strict=True)
    ]

    def used(shares: Shares) -> NDArray[np.float64]:
        counts = np.rint(shares * n_visual).astype(np.int64)
        shares_of_limits = [
            (int(cost.of(counts, n_visual, n_other, None)) + of_images) / limit
            for (cost, _), of_images, limit in zip(costs, images, limits, strict=True)
        ]
        return np.array(shares_of_limits)

    half = np.full((layers, len(MODULES)), 0.5)
    prices = np.zeros((len(costs), *half.shape))
    for at in np.ndindex(*half.shape):
        raised = half.copy()
        raised[at] = 1.0
        prices[:, *at] = np.maximum(used(raised) - used(half), 0)
    least = np.zeros_like(half)
    for operation in kept:
        least[operation] = 1.0
    return Budgeted(used, prices / prices.max(axis=(1, 2), keepdims=True), least)


def nearest_point(problem: Problem, shares: Shares) -> int:
    """Return a point within the budgets whose shares are about the given ones.

    Shares are rounded down, and then up again, those that lost most first, as far as the budget
    allows. If they are over the budget even when rounded down, they are lowered, those that lost
    least first.
    """
    space = problem.space
    assert isinstance(space, OperationSpace)
    steps = len(space.levels) - 1
    wanted = np.array([shares[at] * steps for at in space.operations])
    lowest = np.array([space.lowest(*at) for at in space.operations])
    row = np.maximum(np.floor(wanted + 1e-9).astype(int), lowest) - lowest

    def point(of: NDArray[np.int64]) -> int:
        return space.index_of([*of.tolist(), 0])

    while not problem.within(point(row)):
        lost = np.where(row > 0, wanted - lowest - row, np.inf)
        if not np.isfinite(lost).any():
            break
        row[int(lost.argmin())] -= 1

    def raised(chosen: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        higher: NDArray[np.int64] = row.copy()
        higher[chosen] += 1
        return higher

    order = np.argsort(-(wanted - lowest - row), kind="stable")
    order = order[row[order] + lowest[order] < steps]
    low, high = 0, len(order)  # each check counts the cost of all samples
    while low < high:
        middle = (low + high + 1) // 2
        fits = problem.within(point(raised(order[:middle])))
        low, high = (middle, high) if fits else (low, middle - 1)
    row = raised(order[:low])
    for at in order[low : low + _TRIED]:
        if problem.within(point(raised([at]))):
            row = raised([at])
    return point(row)
