"""Policies that the additive proxy and the joint divergence choose on many sets of samples.

A set of samples is a column of weights [S] that sum to 1; a table [P, S] times W such columns
holds the mean of every policy on every set, [P, W]. Values are whole multiples of
`Measured.quantum`, as solvers see them, so that ties are the same here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from opsearch.analysis.measured import Array, Measured
from opsearch.costs.exact import integers
from opsearch.errors import OpsearchError
from opsearch.objectives.additive import Additive, interpolated
from opsearch.problem.constraint import by_cost

Rows = NDArray[np.int64]
BUDGETS = (15, 20, 30, 50)
"""Budgets that are compared, marked and described, in % of the stock model's FLOPs."""


def ladder(measured: Measured) -> Rows:
    """Return the points by rising cost up to the first with an unmeasured sample, int64[N].

    The policies within a budget are then a prefix of the result, and the first of equal values is
    the one that solvers choose: lower cost, then the lexicographically smaller index row.
    """
    order = by_cost(measured.space.points, measured.flops.listed)
    known = (measured.complete & ~np.isnan(measured.proxy()).any(axis=1))[order]
    return order if known.all() else order[: known.argmin()]


def within(measured: Measured, rows: Rows, percents: Rows) -> Rows:
    """Count the leading `rows` within each budget, given in % of the stock cost, int64[K]."""
    limits = [int(percent) * int(measured.flops.stock) // 100 for percent in percents]
    return np.searchsorted(measured.flops.listed[rows], integers(limits), side="right")


def missing(measured: Measured, rows: Rows, percents: Rows) -> Rows:
    """Count the policies within each budget that are not among `rows`, int64[K]."""
    everything = np.argsort(measured.flops.listed, kind="stable")
    return within(measured, everything, percents) - within(measured, rows, percents)


def common_budgets(runs: Sequence[Measured]) -> Rows:
    """Return the budgets of `BUDGETS` that every run measured completely.

    Raises:
        OpsearchError: There is none.
    """
    percents = np.array(BUDGETS)
    common = np.ones(len(BUDGETS), bool)
    for run in runs:
        rows = ladder(run)
        common &= (within(run, rows, percents) > 0) & (missing(run, rows, percents) == 0)
    if not common.any():
        raise OpsearchError(
            f"no budget of {', '.join(map(str, BUDGETS))} % was measured completely in "
            f"{', '.join(run.label for run in runs)}; run the search with --objective joint, "
            "--complete and one of these budgets"
        )
    return percents[common]


def reported_budget(budgets: Iterable[int]) -> int:
    """Return the budget to report in text: 30 %, or the nearest one."""
    return min(budgets, key=lambda percent: abs(percent - 30))


def joint(measured: Measured, rows: Rows, weights: Array, divergence: str = "kl") -> Array:
    """Return the true divergence of each row on each set of samples, in quanta [N, W]."""
    return np.asarray(np.rint(measured.tables[divergence][rows] @ weights / measured.quantum))


def additive(
    measured: Measured,
    rows: Rows,
    weights: Array,
    divergence: str = "kl",
    points: int | None = None,
) -> Array:
    """Return the additive proxy of each row on each set of samples, in quanta [N, W].

    Args:
        measured: The run.
        rows: Points of its space, int64[N].
        weights: Sets of samples, float64[S, W].
        divergence: Name of the divergence.
        points: Values measured per parameter, between which the rest is interpolated; None for all.
    """
    total = np.zeros((len(rows), weights.shape[1]))
    for k, parameter in enumerate(measured.space.parameters):
        at = list(Additive(points).measured(parameter))
        means = measured.alone[divergence][k][at] @ weights
        term = np.rint(interpolated(parameter, at, means) / measured.quantum)
        total += term[measured.space.points[rows, k]]
    return total


def choose(values: Array, sizes: Rows) -> Rows:
    """Return the first minimum among the first sizes[k] rows of every column, int64[K, W].

    Args:
        values: One column per set of samples, float64[N, W].
        sizes: Rows within each budget, non-decreasing, int64[K].
    """
    columns = np.arange(values.shape[1])
    lowest = np.full(len(columns), np.inf)
    best = np.zeros(len(columns), np.int64)
    chosen = np.empty((len(sizes), len(columns)), np.int64)
    start = 0
    for k, end in enumerate(sizes):
        if end > start:
            found = start + values[start:end].argmin(axis=0)
            best = np.where(values[found, columns] < lowest, found, best)
            lowest = values[best, columns]
            start = end
        chosen[k] = best
    return chosen


def draws(samples: int, drawn: int, count: int, seed: int = 0) -> tuple[Array, Array]:
    """Draw sets of samples to select on, and the complements to evaluate on.

    Args:
        samples: Number of samples S.
        drawn: Size of a set, drawn without replacement.
        count: Number of sets W.
        seed: Seed of the draws.

    Returns:
        Weights of the drawn samples and of the remaining ones, float64[S, W] each.

    Raises:
        OpsearchError: Either set would be empty.
    """
    if not 0 < drawn < samples:
        raise OpsearchError(
            f"{samples} samples cannot be split into {drawn} to choose on and others to judge on; "
            "measure more with `opsearch run --samples`"
        )
    random = np.random.default_rng(seed)
    inside = random.permuted(np.tile(np.arange(samples) < drawn, (count, 1)), axis=1).T
    return inside / drawn, ~inside / (samples - drawn)


def whole(samples: int) -> Array:
    """Return the weights of all samples together, [S, 1]."""
    return np.full((samples, 1), 1 / samples)
