"""Pareto fronts: points that no other point beats in both cost and value."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.costs.exact import Integers, ratios
from opsearch.files import write_atomic
from opsearch.problem.constraint import Constraint
from opsearch.problem.spaces.base import Space

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def front(costs: Integers, values: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return the indices of the exact Pareto front by rising cost.

    Points with value nan are ignored. Of points with equal cost and value, the first one is taken.

    Args:
        costs: Costs, exact integers [P].
        values: Values, float64[P].
    """
    known = np.flatnonzero(~np.isnan(values))
    order = known[np.lexsort((known, values[known], costs[known]))]
    best = np.minimum.accumulate(values[order])
    improves = np.ones(len(order), bool)
    improves[1:] = best[1:] < best[:-1]
    return order[improves]


def front_table(space: Space, constraint: Constraint, values: NDArray[np.float64]) -> pd.DataFrame:
    """Return the front as a table: parameters, cost per sample, shares of stock, value."""
    rows = front(constraint.listed, values)
    table = pd.DataFrame(
        {
            parameter.name: [str(parameter.values[i]) for i in space.points[rows, k]]
            for k, parameter in enumerate(space.parameters)
        }
    )
    table[f"{constraint.name}_per_sample"] = ratios(constraint.listed[rows], constraint.samples)
    table["share"] = constraint.shares[rows]
    for name, shares in constraint.other_shares(constraint.listed[rows].tolist()).items():
        table[name] = shares
    table["value"] = values[rows]
    return table


def save_front_figure(
    table: pd.DataFrame, constraint: Constraint, objective: str, unit: str, path: Path
) -> Path:
    """Save a figure of the front with the budget as a line, and return `path`."""
    figure = draw_front(table, constraint, objective, unit)
    return write_atomic(path, lambda file: figure.savefig(file))


def draw_front(table: pd.DataFrame, constraint: Constraint, objective: str, unit: str) -> Figure:
    """Draw the objective over the share of the stock model's cost."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    share = 100 * table["share"].to_numpy()
    axes.step(share, table["value"].to_numpy(), where="post", color="#2166ac", linewidth=1.6)
    axes.plot(share, table["value"].to_numpy(), "o", color="#2166ac", markersize=3)
    budget = 100 * constraint.limit / constraint.stock
    axes.axvline(budget, color="#b2182b", linestyle="--", linewidth=1.2)
    axes.annotate(
        f"budget {budget:.3g} %",
        (budget, axes.get_ylim()[1]),
        xytext=(4, -12),
        textcoords="offset points",
        color="#b2182b",
    )
    axes.set_xlabel(f"cost in {constraint.unit}, % of the stock model")
    axes.set_ylabel(f"{objective} objective, {unit}")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure
