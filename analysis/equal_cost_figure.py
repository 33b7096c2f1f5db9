"""How methods compare at equal cost, drawn and in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00", "#009e73")
_MARKERS = "osD^vPX*h<>pd8"


def draw(table: pd.DataFrame, unit: str) -> Figure:
    """Rel. Avg. over the share of the stock model's cost, a line for each method."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.subplots()
    searched = [m for m in dict.fromkeys(table["method"]) if _is_searched(m)]
    others = [m for m in dict.fromkeys(table["method"]) if not _is_searched(m)]
    for place, method in enumerate([*searched, *others]):
        rows = table[table["method"] == method].sort_values("share")
        baseline = method in others
        colour = "#777777" if baseline else _COLOURS[place % len(_COLOURS)]
        spread = [rows["rel_avg"] - rows["low"], rows["high"] - rows["rel_avg"]]
        axes.errorbar(
            100 * rows["share"],
            rows["rel_avg"],
            yerr=spread,
            label=method,
            color=colour,
            marker=_MARKERS[place % len(_MARKERS)],
            markersize=5,
            linewidth=1.0 if baseline else 1.8,
            linestyle=("--", ":", "-.")[others.index(method) % 3] if baseline else "-",
            elinewidth=0.8,
            capsize=2,
            zorder=2 if baseline else 3,
        )
    axes.axhline(100, color="black", linewidth=0.8)
    axes.annotate(
        "original", (axes.get_xlim()[0], 100), xytext=(4, -11), textcoords="offset points"
    )
    _label_amounts(axes, float((table["cost"] / table["share"]).iloc[0]), unit)
    axes.set_xlabel(f"{unit}, % of the stock model")
    axes.set_ylabel("Rel. Avg., %")
    axes.grid(alpha=0.3)
    axes.spines["right"].set_visible(False)
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), frameon=False, fontsize=9)
    return figure


def _label_amounts(axes: Axes, stock: float, unit: str) -> None:
    """A second axis, above, in FLOPs per sample."""
    factor, prefix = _scale(stock)
    per_percent = stock / factor / 100

    def amount(percent: Any) -> Any:
        return percent * per_percent

    def percent(amount: Any) -> Any:
        return amount / per_percent

    upper = axes.secondary_xaxis("top", functions=(amount, percent))
    upper.set_xlabel(f"{prefix}{unit} per sample")


def _is_searched(method: str) -> bool:
    return method.endswith((" additive", " joint"))


def _scale(amount: float) -> tuple[float, str]:
    """The SI prefix for an amount, with its factor."""
    return next(((f, p) for f, p in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if amount >= f), (1, ""))


def describe(table: pd.DataFrame) -> str:
    """For each budget the best method, and those that are equal within its interval, in words."""
    rows = [Row(*row) for row in table[list(Row.__annotations__)].to_numpy().tolist()]
    sentences = [f"Rel. Avg. over {rows[0].items} items, with 95 % intervals."]
    for budget in dict.fromkeys(row.budget for row in rows):
        here = [row for row in rows if row.budget == budget]
        best = max(here, key=lambda row: row.rel_avg)
        said = f"At {budget} {best.method} keeps most: {best.interval}"
        if equal := [row.method for row in here if row is not best and row.rel_avg >= best.low]:
            said += f"; within that interval: {', '.join(equal)}"
        sentences.append(f"{said}.")
    return " ".join(sentences)


@dataclass(frozen=True)
class Row:
    """What `describe` needs of a row of the table."""

    budget: str
    method: str
    rel_avg: float
    low: float
    high: float
    items: int

    @property
    def interval(self) -> str:
        return f"{self.rel_avg:.1f} % ({self.low:.1f} to {self.high:.1f})"
