"""Interactions of parameters: KL of pruning two of them minus the sum of the KL of each alone.

If an interaction is negative, the additive proxy counts a loss twice. If it is positive, one
parameter prunes what the other relies on, which no sum of individual divergences shows.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.measured import Array, Measured
from opsearch.analysis.style import panels
from opsearch.errors import OpsearchError, echo
from opsearch.objectives.additive import alone
from opsearch.problem.spaces.base import unpruned

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage


def table(measured: Measured, seed: int = 0) -> pd.DataFrame:
    """Tabulate the interactions: a row per pair of parameters and of values at which both prune.

    All else is unpruned. A pair of values is left out if both together are the same policy as one
    alone, because the other's operations are dead.

    Returns:
        `first`, `second` (names), `first_value`, `second_value`; `joint`: mean KL of both together
        in nats; `alone`: the sum of the mean KL of each alone; `interaction`: joint - alone, with
        its 95 % bootstrap interval over samples in `low` and `high`; `pairs`: number of such pairs
        of values, measured or not.

    Raises:
        OpsearchError: No pair was measured, or the space has one parameter only.
    """
    if len(measured.space.parameters) < 2:
        raise OpsearchError(
            f"{measured.label} is of space {echo(measured.space.name)}, whose one parameter has no "
            "other to interact with; use a run of space dop or depth"
        )
    weights = resamples(len(measured.items), seed)
    blocks = [
        _pair(measured, k, m, weights)
        for k, m in combinations(range(len(measured.space.parameters)), 2)
    ]
    rows = pd.concat(blocks, ignore_index=True)
    if rows.empty:
        raise OpsearchError(
            f"{measured.label} holds no pair of pruned parameters with all else unpruned; run its "
            "search with --objective joint --complete --budget 100%"
        )
    return rows


def _pair(measured: Measured, k: int, m: int, weights: Array) -> pd.DataFrame:
    space, kl = measured.space, measured.tables["kl"]
    top = unpruned(space)
    single = {axis: [space.index_of(row) for row in alone(space, axis)] for axis in (k, m)}
    cells, points, pairs = [], [], 0
    for i, j in np.ndindex(top[k], top[m]):
        point = list(top)
        point[k], point[m] = i, j
        row = space.index_of(point)
        if row not in (single[k][i], single[m][j]):
            pairs += 1
            if measured.complete[row]:
                cells.append((i, j))
                points.append(row)
    first, second = space.parameters[k], space.parameters[m]
    at = np.array(cells, np.int64).reshape(-1, 2)
    summed = measured.alone["kl"][k][at[:, 0]] + measured.alone["kl"][m][at[:, 1]]
    interaction = kl[points] - summed
    low, high = interval(interaction @ weights)
    return pd.DataFrame(
        {
            "first": first.name,
            "first_value": [float(first.values[i]) for i in at[:, 0]],
            "second": second.name,
            "second_value": [float(second.values[j]) for j in at[:, 1]],
            "joint": kl[points].mean(axis=1),
            "alone": summed.mean(axis=1),
            "interaction": interaction.mean(axis=1),
            "low": low,
            "high": high,
            "pairs": pairs,
        }
    )


def draw(table: pd.DataFrame) -> Figure:
    """Draw a panel per pair: red where the sum understates the loss, blue where it overstates it.

    Empty cells were not measured or are the policy of one parameter alone.
    """
    pairs = list(table.groupby(["first", "second"], sort=False))
    columns, lines = min(len(pairs), 3), -(-len(pairs) // 3)
    figure, every = panels(4.1 * columns + 0.8, 3.5 * lines, columns, lines)
    most = float(table["interaction"].abs().max()) or 1.0
    for axes, ((first, second), rows) in zip(every, pairs, strict=False):
        image = _draw_pair(axes, rows, most)
        axes.set_xlabel(str(second))
        axes.set_ylabel(str(first))
    for axes in every[len(pairs) :]:
        axes.set_visible(False)
    figure.colorbar(image, ax=every, label="joint KL minus the sum, nats", pad=0.02)
    return figure


def _draw_pair(axes: Axes, rows: pd.DataFrame, most: float) -> AxesImage:
    grid = rows.pivot(index="first_value", columns="second_value", values="interaction")
    image = axes.imshow(
        grid.to_numpy(), cmap="RdBu_r", vmin=-most, vmax=most, origin="lower", aspect="auto"
    )
    axes.set_xticks(range(grid.shape[1]), [f"{v:g}" for v in grid.columns], fontsize=7, rotation=90)
    axes.set_yticks(range(grid.shape[0]), [f"{v:g}" for v in grid.index], fontsize=7)
    axes.grid(visible=False)
    return image


def describe(table: pd.DataFrame) -> str:
    """Describe the size of interactions relative to individual losses, and the largest ones."""
    sentences = []
    for (first, second), rows in table.groupby(["first", "second"], sort=False):
        ratio = rows["interaction"].abs().sum() / rows["alone"].sum()
        sure = ((rows["low"] > 0) | (rows["high"] < 0)).mean()
        below = (rows["interaction"] < 0).mean()
        extreme = rows.iloc[int(rows["interaction"].abs().to_numpy().argmax())]
        sentences.append(
            f"{first} and {second}, {len(rows)} of {extreme['pairs']} pairs: interactions are "
            f"{ratio:.0%} of what both cost alone, {below:.0%} of them below zero (the sum "
            f"overstates), {sure:.0%} for certain on one side of zero; the largest is "
            f"{extreme['interaction']:+.2f} nats "
            f"({extreme['low']:+.2f} to {extreme['high']:+.2f}) at {first} "
            f"{extreme['first_value']:g}, {second} {extreme['second_value']:g}, where the joint KL "
            f"is {extreme['joint']:.2f}."
        )
    return " ".join(sentences)
