"""Methods at equal cost: the share of its work that is left against Rel. Avg., with intervals.

Rel. Avg. is the mean over families of a method's accuracy relative to the original model's.
Intervals are percentiles of a bootstrap that draws the items of each family anew, the same items
for every method and the original, so that differences between methods are paired.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[np.float64]
RESAMPLES = 2000
_FEW = 5
_COLOURS = ("#0072b2", "#56b4e9", "#d55e00", "#e69f00")
_MARKERS = "osD^vPX*"


@dataclass(frozen=True, eq=False)
class Entry:
    """A method's policy at a budget.

    cost: mean FLOPs per calibration sample; share: of the stock model's. kl_calibration: float64[S]
    per calibration sample; kl, scores: float64[T] per judged item, KL in nats and score in [0, 1].
    """

    budget: str
    method: str
    policy: str
    cost: float
    share: float
    kl_calibration: Array
    kl: Array
    scores: Array


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods at several budgets, judged on the same items; `original` are the original's scores.

    unit: that of the entries' cost.
    """

    unit: str
    families: tuple[str, ...]
    original: Array
    entries: tuple[Entry, ...]


def table(comparison: Comparison, seed: int = 0) -> pd.DataFrame:
    """A tidy row per budget and method: cost, mean KL, accuracy, Rel. Avg. in %, its interval."""
    draws = _draws(comparison, seed)
    rows = []
    for entry in comparison.entries:
        rel = _relative(comparison, entry.scores, draws)
        low, high = np.nanpercentile(rel[1:], [2.5, 97.5])
        rows.append(
            {
                "budget": entry.budget,
                "method": entry.method,
                "policy": entry.policy,
                "cost": entry.cost,
                "share": entry.share,
                "kl_calibration": float(entry.kl_calibration.mean()),
                "kl": float(entry.kl.mean()),
                "accuracy": _accuracy(comparison, entry.scores),
                "rel_avg": float(rel[0]),
                "low": float(low),
                "high": float(high),
                "items": len(entry.scores),
            }
        )
    return pd.DataFrame(rows)


def differences(comparison: Comparison, method: str, other: str, seed: int = 0) -> pd.DataFrame:
    """How much higher `method` is than `other` at each budget: Rel. Avg. and KL, with intervals.

    One row per budget at which both stand; Rel. Avg. in percentage points, KL in nats.
    """
    draws = _draws(comparison, seed)
    found = {(entry.budget, entry.method): entry for entry in comparison.entries}
    rows = []
    for budget in dict.fromkeys(entry.budget for entry in comparison.entries):
        pair = found.get((budget, method)), found.get((budget, other))
        if pair[0] is None or pair[1] is None:
            continue
        rel = [_relative(comparison, entry.scores, draws) for entry in pair if entry]
        gap = pair[0].kl - pair[1].kl
        kl = np.array([gap.mean(), *(gap[rows].mean() for rows in draws[1:])])
        row: dict[str, float | str] = {"budget": budget, "method": method, "other": other}
        for name, values in (("rel_avg", rel[0] - rel[1]), ("kl", kl)):
            low, high = np.nanpercentile(values[1:], [2.5, 97.5])
            row |= {name: float(values[0]), f"{name}_low": float(low), f"{name}_high": float(high)}
        rows.append(row)
    return pd.DataFrame(rows)


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


def _is_searched(method: str) -> bool:
    return method.endswith((" additive", " joint"))


def _scale(amount: float) -> tuple[float, str]:
    """The SI prefix for an amount, with its factor."""
    return next(((f, p) for f, p in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if amount >= f), (1, ""))


def _accuracy(comparison: Comparison, scores: Array) -> float:
    """Mean over families of the mean score, as in the table of a run."""
    family = np.array(comparison.families)
    return float(np.mean([scores[family == name].mean() for name in set(comparison.families)]))


def _draws(comparison: Comparison, seed: int) -> NDArray[np.int64]:
    """Items as they are, then resampled, int64[1 + RESAMPLES, T].

    Within each family, but all together where one has less than 5: its few would hardly vary.
    """
    family = np.array(comparison.families)
    draws = np.tile(np.arange(len(family)), (1 + RESAMPLES, 1))
    random = np.random.default_rng(seed)
    if min(map(comparison.families.count, comparison.families)) < _FEW:
        draws[1:] = random.integers(0, len(family), (RESAMPLES, len(family)))
        return draws
    for name in dict.fromkeys(comparison.families):
        members = np.flatnonzero(family == name)
        draws[1:, members] = random.choice(members, (RESAMPLES, len(members)))
    return draws


def _relative(comparison: Comparison, scores: Array, draws: NDArray[np.int64]) -> Array:
    """Rel. Avg. in % for every draw; a family in which the original scores 0 is left out."""
    family = np.array(comparison.families)
    ratios = []
    for name in dict.fromkeys(comparison.families):
        drawn = draws[:, family == name]
        original = comparison.original[drawn].mean(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(np.where(original > 0, scores[drawn].mean(axis=1) / original, np.nan))
    known = ~np.isnan(ratios)
    with np.errstate(invalid="ignore"):  # a draw in which the original is never right says nothing
        return np.asarray(100 * np.nansum(ratios, axis=0) / known.sum(axis=0))
