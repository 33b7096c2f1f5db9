"""Methods over several draws of the calibration samples: mean, spread, interval, differences.

A method makes its choices anew on each draw, and all choices answer the same test samples. The
interval is that of a nested bootstrap: draws are resampled, and within them test samples. Because
the test samples of all draws are the same ones, so are their resamples, for all draws and methods
(the pigeonhole bootstrap: Owen, Annals of Applied Statistics 1, 2007). Samples resampled for each
draw by itself would average out over the draws, and the interval be too narrow.

A difference is certain if its interval excludes zero and it has the same sign in all draws.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import draw_weights
from opsearch.analysis.equal_cost import Comparison, defined_interval, is_defined, item_draws
from opsearch.analysis.measured import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

OURS = "opsearch"
"""The method from which the others differ: the answer of the run's own settings."""
_METRICS = ("rel_avg", "kl")
_Values = dict[tuple[str, str], dict[int, Array]]


@dataclass(frozen=True, eq=False)
class DrawTables:
    """Tables of a comparison over draws.

    Attributes:
        methods: One row per budget and method. For Rel. Avg. in % and for KL in nats: mean over
            draws, standard deviation, lowest and highest draw, interval, difference from `OURS`
            with its interval, and whether that is certain.
        draws: One row per draw, budget and method.
    """

    methods: pd.DataFrame
    draws: pd.DataFrame


def tables(comparisons: Sequence[Comparison], seed: int = 0) -> DrawTables:
    """Tabulate a comparison over draws.

    Args:
        comparisons: The comparison of each draw, on the same test samples; at least 2.
        seed: Seed of the bootstrap.
    """
    weights = _item_weights(comparisons[0].families, seed)
    found = {
        "rel_avg": _by_method(comparisons, weights, _relative),
        "kl": _by_method(comparisons, weights, _divergence),
    }
    each = _each_draw(comparisons, found)
    rows = []
    for (budget, method), every in each.groupby(["budget", "method"], sort=False):
        key = str(budget), str(method)
        row: dict[str, Any] = {"budget": key[0], "method": key[1], "draws": len(every)}
        row |= {name: float(every[name].mean()) for name in ("share", "kl_calibration")}
        for name in _METRICS:
            row |= _summary(name, found[name][key], seed)
            ours = found[name].get((key[0], OURS), {}) if method != OURS else {}
            row |= _difference(name, found[name][key], ours, len(comparisons), seed)
        rows.append(row | {"items": len(comparisons[0].families)})
    methods = pd.DataFrame(rows)
    ours_first = methods["method"].ne(OURS).rename("other")
    order = methods.assign(other=ours_first, at=methods.groupby("budget", sort=False).ngroup())
    index = order.sort_values(["at", "other"], kind="stable").index
    return DrawTables(methods.loc[index].reset_index(drop=True), each)


def _item_weights(families: Sequence[str], seed: int) -> Array:
    """Return how often each test sample occurs: once, then in every resample, float64[1 + B, T]."""
    drawn = item_draws(families, seed)
    return np.stack([np.bincount(row, minlength=len(families)) for row in drawn]).astype(float)


def _by_method(comparisons: Sequence[Comparison], weights: Array, value: Any) -> _Values:
    """Return the values of a method in every resample by draw, float64[1 + B] each."""
    found: _Values = {}
    for draw, comparison in enumerate(comparisons):
        values = value(comparison, weights)
        for entry, column in zip(comparison.entries, values.T, strict=True):
            found.setdefault((entry.budget, entry.method), {})[draw] = column
    return found


def _divergence(comparison: Comparison, weights: Array) -> Array:
    """Return the mean KL of every entry in nats, float64[1 + B, entries]."""
    kl = np.stack([entry.kl for entry in comparison.entries], axis=1)
    return np.asarray(weights @ kl / weights.shape[1])


def _relative(comparison: Comparison, weights: Array) -> Array:
    """Return Rel. Avg. of every entry in %, as `equal_cost.table` does, float64[1 + B, entries]."""
    family = np.array(comparison.families)
    scores = np.stack([entry.scores for entry in comparison.entries], axis=1)
    total = np.zeros((len(weights), scores.shape[1]))
    known = np.zeros((len(weights), 1))
    for name in dict.fromkeys(comparison.families):
        members = family == name
        original = (weights[:, members] @ comparison.original[members])[:, None]
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = weights[:, members] @ scores[members] / original
        total += np.where(original > 0, ratio, 0)
        known += original > 0
    with np.errstate(invalid="ignore"):  # nan where the original is never right
        return np.asarray(100 * total / known)


def _each_draw(comparisons: Sequence[Comparison], found: Mapping[str, _Values]) -> pd.DataFrame:
    rows = [
        {
            "draw": draw,
            "budget": entry.budget,
            "method": entry.method,
            "policy": entry.policy,
            "share": entry.share,
            "kl_calibration": float(entry.kl_calibration.mean()),
            **{name: float(found[name][entry.budget, entry.method][draw][0]) for name in _METRICS},
        }
        for draw, comparison in enumerate(comparisons)
        for entry in comparison.entries
    ]
    return pd.DataFrame(rows)


def _summary(name: str, by_draw: Mapping[int, Array], seed: int) -> dict[str, float]:
    """Return mean, spread and interval of a method that some draws may lack."""
    values = np.array(list(by_draw.values()))
    each = values[:, 0]
    low, high = nested_interval(values, seed)
    return {
        name: float(each.mean()),
        f"{name}_sd": float(each.std(ddof=1)) if len(each) > 1 else np.nan,
        f"{name}_lowest": float(each.min()),
        f"{name}_highest": float(each.max()),
        f"{name}_low": low,
        f"{name}_high": high,
    }


def _difference(
    name: str, by_draw: Mapping[int, Array], ours: Mapping[int, Array], draws: int, seed: int
) -> dict[str, float | bool]:
    """Return by how much a method exceeds ours in the draws that have both, and if for certain."""
    common = [draw for draw in by_draw if draw in ours]
    values = np.array([by_draw[draw] - ours[draw] for draw in common])
    low, high = nested_interval(values, seed)
    each = values[:, 0] if common else np.array([np.nan])
    certain = len(common) == draws and is_certain(each, low, high)
    return {
        f"{name}_difference": float(each.mean()),
        f"{name}_difference_low": low,
        f"{name}_difference_high": high,
        f"{name}_certain": certain,
    }


def nested_interval(values: Array, seed: int = 0) -> tuple[float, float]:
    """Return the 95 % interval of a mean over draws and test samples; nan for less than two draws.

    A replicate is the mean over draws on resampled test samples, shifted by what resampled draws
    add to the mean on all test samples. The draws' deviations are those on all test samples,
    because the noise of a resample would count twice in them.

    Args:
        values: Values of each draw on all test samples, then on every resample of them, the same
            for all draws, float64[D, 1 + B].
        seed: Seed by which draws are resampled.
    """
    if len(values) < 2:
        return np.nan, np.nan
    each, resampled = values[:, 0], values[:, 1:].mean(axis=0)
    # Another seed than that of the test samples: both are drawn by themselves.
    of_draws = each @ draw_weights(len(each), seed + 1, len(resampled)) - each.mean()
    return defined_interval(resampled + of_draws)


def is_certain(each: Array, low: float, high: float) -> bool:
    """Return whether a difference is certain, given its value in each draw and its interval."""
    same = bool((each > 0).all() or (each < 0).all())
    return same and bool(low > 0 or high < 0)


def draw(found: DrawTables) -> Figure:
    """Draw a panel per budget, a line per method: dots are draws, the bar is the interval.

    The mean is filled where the difference from ours is certain, and for ours. KL takes the place
    of Rel. Avg. where the original answers nothing correctly.
    """
    from opsearch.analysis.style import panels

    table = found.methods
    name = "rel_avg" if is_defined(table) else "kl"
    sign = -1 if name == "kl" else 1  # the best at the top
    means = sign * table.groupby("method", sort=False)[name].mean()
    methods = [OURS, *means.drop(OURS, errors="ignore").sort_values(ascending=False).index]
    budgets = list(dict.fromkeys(table["budget"]))
    height = 1.1 + 0.24 * len(methods)
    figure, every = panels(1.9 + 2.6 * len(budgets), height, len(budgets))
    for axes, budget in zip(every, budgets, strict=True):
        of_draws = found.draws[found.draws["budget"] == budget]
        for row in table[table["budget"] == budget].to_dict("records"):
            at, method = methods.index(row["method"]), row["method"]
            each = of_draws.loc[of_draws["method"] == method, name]
            _draw_method(axes, at, {str(key): value for key, value in row.items()}, each, name)
        axes.set_title(budget, fontsize=10).set_parse_math(False)
        axes.set_yticks(range(len(methods)), methods if axes is every[0] else [""] * len(methods))
        axes.set_ylim(len(methods) - 0.5, -0.5)
    figure.supxlabel("Rel. Avg., %" if name == "rel_avg" else "KL, nats", fontsize=10)
    return figure


def _draw_method(axes: Axes, at: int, row: Mapping[str, Any], each: pd.Series, name: str) -> None:
    """Draw the draws, the mean and the interval of a method."""
    from opsearch.analysis.style import COLOURS

    ours = row["method"] == OURS
    colour = COLOURS[0] if ours else "black"
    axes.plot([row[f"{name}_low"], row[f"{name}_high"]], [at, at], color=colour, linewidth=1.2)
    axes.plot(each, [at - 0.25] * len(each), "o", color=colour, alpha=0.35, markersize=3.5)
    fill = colour if ours or row[f"{name}_certain"] else "white"
    axes.plot(row[name], at, "D", color=colour, markerfacecolor=fill, markersize=5, zorder=3)


def describe(found: DrawTables) -> str:
    """Describe ours at each budget, and the methods that are better or worse for certain."""
    table = found.methods
    name = "rel_avg" if is_defined(table) else "kl"
    draws, items = found.draws["draw"].nunique(), table["items"].iloc[0]
    measure = "Rel. Avg." if name == "rel_avg" else "KL"
    sentences = [
        f"{measure} over {draws} draws of the calibration samples and {items} test samples, with "
        "95 % intervals over both."
    ]
    for budget, rows in table.groupby("budget", sort=False):
        sentences += _describe_budget(str(budget), rows, name)
    return " ".join(sentences)


def _describe_budget(budget: str, rows: pd.DataFrame, name: str) -> list[str]:
    """Describe ours, and the differences of the others from it."""
    ours, others = rows[rows["method"] == OURS], rows[rows["method"] != OURS]
    if ours.empty:
        return []
    certain = others[others[f"{name}_certain"]]
    higher = certain[f"{name}_difference"] > 0
    better, worse = (higher, ~higher) if name == "rel_avg" else (~higher, higher)
    words = f"At {budget} {OURS} has {mean_and_spread(ours.iloc[0].to_dict(), name)}"
    ahead = certain.loc[better, "method"]
    open_ = others.loc[~others[f"{name}_certain"], "method"]
    words += f"; certainly better: {', '.join(ahead)}" if len(ahead) else ""
    words += f"; certainly worse: {int(worse.sum())} of {len(others)} methods"
    words += f"; not certain: {', '.join(open_)}" if len(open_) else ""
    return [f"{words}."]


def mean_and_spread(row: Mapping[Any, Any], name: str) -> str:
    """Format the mean over draws, its interval, and the spread over draws."""
    digits, unit = (1, " %") if name == "rel_avg" else (3, " nats")
    keys = ("", "_low", "_high", "_lowest", "_highest", "_sd")
    mean, low, high, lowest, highest, deviation = (
        f"{row[f'{name}{key}']:.{digits}f}" for key in keys
    )
    return (
        f"{mean}{unit} ({low} to {high}; draws {lowest} to {highest}, standard deviation "
        f"{deviation})"
    )
