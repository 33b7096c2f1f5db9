"""Which policy the additive proxy and the joint divergence choose, on many sets of samples.

A set of samples is a column of weights [S] that sum to 1; a table [P, S] times W such columns
holds the mean of every policy on every set, [P, W]. Values are whole multiples of
`Measured.quantum`, as solvers see them, so that ties are ties here too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from opsearch.analysis.measured import Array, Measured
from opsearch.errors import OpsearchError
from opsearch.objectives.additive import Additive, interpolated

Rows = NDArray[np.int64]
BUDGETS = (15, 20, 30, 50)
"""Per cent of the stock model's FLOPs, at which runs and families are held against each other."""


def ladder(measured: Measured) -> Rows:
    """Points by rising cost up to the first whose joint or proxy lacks a sample, int64[N].

    The policies within a budget are then the first so many, and of equal values the first is the
    one that solvers take: lower cost, then the lexicographically smaller index row.
    """
    order = np.lexsort((*measured.space.points.T[::-1], measured.flops.listed))
    known = (measured.complete & ~np.isnan(measured.proxy()).any(axis=1))[order]
    return order if known.all() else order[: known.argmin()]


def within(measured: Measured, rows: Rows, percents: Rows) -> Rows:
    """How many of the first `rows` keep within each budget in per cent of stock, int64[K]."""
    # Python's integers: a hundredfold of the stock cost of many samples is beyond 64 bits.
    limits = [int(percent) * int(measured.flops.stock) // 100 for percent in percents]
    return np.searchsorted(measured.flops.listed[rows], limits, side="right")


def missing(measured: Measured, rows: Rows, percents: Rows) -> Rows:
    """How many policies within each budget are not among `rows`, int64[K]."""
    everything = np.argsort(measured.flops.listed, kind="stable")
    return within(measured, everything, percents) - within(measured, rows, percents)


def common_budgets(runs: Sequence[Measured]) -> Rows:
    """Those of `BUDGETS` that every run measured completely; OpsearchError without any."""
    percents = np.array(BUDGETS)
    common = np.ones(len(BUDGETS), bool)
    for run in runs:
        rows = ladder(run)
        common &= (within(run, rows, percents) > 0) & (missing(run, rows, percents) == 0)
    if not common.any():
        raise OpsearchError(
            f"no budget of {', '.join(map(str, BUDGETS))} % was measured completely in "
            f"{', '.join(run.label for run in runs)}; run the search with --objective joint and "
            "one of these budgets"
        )
    return percents[common]


def told(budgets: Iterable[int]) -> int:
    """The budget to tell in words: 30 %, or the one nearest to it."""
    return min(budgets, key=lambda percent: abs(percent - 30))


def joint(measured: Measured, rows: Rows, weights: Array, divergence: str = "kl") -> Array:
    """The true divergence of each row on each set of samples, quanta [N, W]."""
    return np.asarray(np.rint(measured.tables[divergence][rows] @ weights / measured.quantum))


def additive(
    measured: Measured,
    rows: Rows,
    weights: Array,
    divergence: str = "kl",
    points: int | None = None,
) -> Array:
    """The additive proxy of each row on each set of samples, quanta [N, W].

    points: values measured per parameter, the rest interpolated between them; None = all.
    """
    total = np.zeros((len(rows), weights.shape[1]))
    for k, parameter in enumerate(measured.space.parameters):
        at = list(Additive(points).measured(parameter))
        means = measured.alone[divergence][k][at] @ weights
        term = np.rint(interpolated(parameter, at, means) / measured.quantum)
        total += term[measured.space.points[rows, k]]
    return total


def choose(values: Array, sizes: Rows) -> Rows:
    """The first lowest of the first sizes[k] rows in every column, int64[K, W]; sizes rise."""
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
    """Weights of `count` sets drawn without replacement and of the samples they leave, [S, W] each.

    Raises OpsearchError when nothing would be drawn or left.
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
    """The weights of all samples together, [S, 1]."""
    return np.full((samples, 1), 1 / samples)
