"""Methods at equal cost: share of the stock cost against Rel. Avg., with intervals.

Rel. Avg. is the mean over families of a method's accuracy relative to the original model's. It is
nan where the original answers nothing correctly. Intervals are percentiles of a bootstrap over the
samples of each family, with the same resamples for every method and the original, so that
differences between methods are paired.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch import registry
from opsearch.analysis.measured import Array

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RESAMPLES = 2000
_FEWEST = 5
_MARKERS = "osD^vPX*h<>pd8"
_TRUE = ("joint", "verified", "refined")
"""The last word of the names of methods that were searched by true measurements."""


@dataclass(frozen=True, eq=False)
class MethodScores:
    """Costs, divergences and scores of a method at a budget.

    Attributes:
        budget: Budget as the user wrote it.
        method: Name of the method.
        policy: Name of the policy.
        cost: Mean FLOPs per calibration sample.
        share: `cost` relative to the stock model's.
        kl_calibration: KL per calibration sample in nats, float64[S].
        kl: KL per evaluated sample in nats, float64[T].
        scores: Score per evaluated sample in [0, 1], float64[T].
        cut: Number of answers that were cut at their maximum length.
        further: Other costs and times, as columns of the table.
        setting: Setting of the method's knobs that was chosen on the calibration samples.
        evaluations: Policies measured on them to choose this one; None: not recorded.
    """

    budget: str
    method: str
    policy: str
    cost: float
    share: float
    kl_calibration: Array
    kl: Array
    scores: Array
    cut: int = 0
    further: Mapping[str, float] = field(default_factory=dict)
    setting: str = ""
    evaluations: int | None = None


@dataclass(frozen=True, eq=False)
class Comparison:
    """Methods at several budgets, evaluated on the same samples.

    Attributes:
        unit: Unit of the entries' cost.
        families: Family of each sample.
        original: Scores of the original model per sample, float64[T].
        entries: One per budget and method.
        original_cut: Number of the original's answers that were cut at their maximum length.
    """

    unit: str
    families: tuple[str, ...]
    original: Array
    entries: tuple[MethodScores, ...]
    original_cut: int = 0


def table(comparison: Comparison, seed: int = 0) -> pd.DataFrame:
    """Tabulate cost, mean KL, accuracy and Rel. Avg. in % per budget and method."""
    draws = item_draws(comparison.families, seed)
    rows = []
    for entry in comparison.entries:
        rel = _relative(comparison, entry.scores, draws)
        low, high = defined_interval(rel[1:])
        rows.append(
            {
                "budget": entry.budget,
                "method": entry.method,
                "policy": entry.policy,
                "setting": entry.setting,
                "evaluations": entry.evaluations,
                "cost": entry.cost,
                "share": entry.share,
                **entry.further,
                "kl_calibration": float(entry.kl_calibration.mean()),
                "kl": float(entry.kl.mean()),
                "accuracy": _accuracy(comparison, entry.scores),
                "rel_avg": float(rel[0]),
                "low": low,
                "high": high,
                "items": len(entry.scores),
                "cut": entry.cut,
                "original_cut": comparison.original_cut,
            }
        )
    return pd.DataFrame(rows)


def is_defined(table: pd.DataFrame) -> bool:
    """Return whether Rel. Avg. is defined: the original answers something correctly."""
    return bool(table["rel_avg"].notna().any())


def by_family(comparison: Comparison) -> pd.DataFrame:
    """Tabulate mean scores per budget, method and family, with those of the original."""
    family = np.array(comparison.families)
    rows = [
        {
            "budget": entry.budget,
            "method": entry.method,
            "family": name,
            "score": float(entry.scores[family == name].mean()),
            "original": float(comparison.original[family == name].mean()),
        }
        for entry in comparison.entries
        for name in dict.fromkeys(comparison.families)
    ]
    return pd.DataFrame(rows)


def differences(comparison: Comparison, method: str, other: str, seed: int = 0) -> pd.DataFrame:
    """Tabulate by how much `method` exceeds `other` in Rel. Avg. and KL, with paired intervals.

    Rel. Avg. is in percentage points, KL in nats. There is one row per budget that has both
    methods.
    """
    draws = item_draws(comparison.families, seed)
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
            low, high = defined_interval(values[1:])
            row |= {name: float(values[0]), f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def defined_interval(draws: Array) -> tuple[float, float]:
    """Return the middle 95 % of the defined draws; nan where there is none."""
    if np.isnan(draws).all():
        return np.nan, np.nan
    low, high = np.nanpercentile(draws, [2.5, 97.5])
    return float(low), float(high)


def _accuracy(comparison: Comparison, scores: Array) -> float:
    """Return the mean over families of the mean score, as in the table of a run."""
    family = np.array(comparison.families)
    return float(np.mean([scores[family == name].mean() for name in set(comparison.families)]))


def item_draws(families: Sequence[str], seed: int) -> NDArray[np.int64]:
    """Return the samples unchanged, then resampled, int64[1 + RESAMPLES, T].

    Resampling is within each family, or over all samples if a family has fewer than 5, which would
    hardly vary.
    """
    family = np.array(families)
    draws = np.tile(np.arange(len(family)), (1 + RESAMPLES, 1))
    random = np.random.default_rng(seed)
    if np.unique(family, return_counts=True)[1].min() < _FEWEST:
        draws[1:] = random.integers(0, len(family), (RESAMPLES, len(family)))
        return draws
    for name in dict.fromkeys(families):
        members = np.flatnonzero(family == name)
        draws[1:, members] = random.choice(members, (RESAMPLES, len(members)))
    return draws


def _relative(comparison: Comparison, scores: Array, draws: NDArray[np.int64]) -> Array:
    """Return Rel. Avg. in % of every draw, without families in which the original scores 0."""
    family = np.array(comparison.families)
    ratios = []
    for name in dict.fromkeys(comparison.families):
        drawn = draws[:, family == name]
        original = comparison.original[drawn].mean(axis=1)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratios.append(np.where(original > 0, scores[drawn].mean(axis=1) / original, np.nan))
    known = ~np.isnan(ratios)
    with np.errstate(invalid="ignore"):  # nan for a draw in which the original is never right
        return np.asarray(100 * np.nansum(ratios, axis=0) / known.sum(axis=0))


def draw(runs: Mapping[str, pd.DataFrame], unit: str) -> Figure:
    """Draw Rel. Avg. over each known cost: a row of panels per run, a line per method.

    KL takes the place of Rel. Avg. where the original answers nothing correctly.
    """
    from opsearch.analysis.style import legend, panels

    known = [cost for cost in COST_AXES if any(_has(table, cost.column) for table in runs.values())]
    width, height = 2.4 + 3.6 * len(known), 4.2 * len(runs)
    figure, every = panels(width, height, len(known), len(runs))
    methods = list(dict.fromkeys(m for table in runs.values() for m in table["method"]))
    for i, (name, table) in enumerate(runs.items()):
        row = every[i * len(known) : (i + 1) * len(known)]
        for cost, axes in zip(known, row, strict=True):
            _draw_methods(axes, table, methods, cost)
            axes.set_xlabel(cost.label.format(unit=unit))
            axes.set_title(name if len(runs) > 1 else "", fontsize=9).set_parse_math(False)
        row[0].set_ylabel("Rel. Avg., %" if is_defined(table) else "KL, nats")
        _add_amount_axis(row[0], float((table["cost"] / table["share"]).iloc[0]), unit)
    _add_legend_lines(every[0], methods)
    legend(figure, every[0])
    return figure


@dataclass(frozen=True)
class CostAxis:
    """A column of the table as an axis.

    Attributes:
        column: Name of the column.
        factor: Factor from the column to the unit of the axis.
        label: Label of the axis.
    """

    column: str
    factor: float
    label: str


COST_AXES = (
    CostAxis("share", 100, "{unit}, % of the stock model"),
    CostAxis("kv_bytes", 1e-6, "KV cache, MB per sample"),
    CostAxis("prefill_ms", 1, "prefill, ms"),
)


def _has(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())


def _draw_methods(axes: Axes, table: pd.DataFrame, methods: Sequence[str], cost: CostAxis) -> None:
    """Draw a line for each method with this cost."""
    from opsearch.analysis.style import whiskers

    defined = is_defined(table)
    original, offset = (100, (4, -11)) if defined else (0, (4, 4))
    axes.axhline(original, color="black", linewidth=0.8)
    if not _has(table, cost.column):
        axes.set_visible(False)
        return
    for method in methods:
        rows = table[(table["method"] == method) & table[cost.column].notna()]
        rows = rows.sort_values(cost.column)
        spread = whiskers(rows["rel_avg"], rows["low"], rows["high"])
        axes.errorbar(
            cost.factor * rows[cost.column],
            rows["rel_avg" if defined else "kl"],
            yerr=spread if defined and _is_searched(method) else None,
            elinewidth=0.8,
            capsize=2,
            **_line_style(method, methods),
        )
    label_at = (axes.get_xlim()[0], original)
    axes.annotate("original", label_at, xytext=offset, textcoords="offset points")


def _line_style(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Return the line style: searched methods coloured by space, proxies dashed, others grey."""
    from opsearch.analysis.style import COLOURS, DASHES

    if not _is_searched(method):
        i = [name for name in methods if not _is_searched(name)].index(method)
        dashes = ("--", ":", "-.")[i % 3]
        style = {"color": "#888888", "linestyle": dashes, "marker": _MARKERS[i % len(_MARKERS)]}
        return style | {"markersize": 4, "linewidth": 0.8, "zorder": 2}
    spaces = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in methods if _is_searched(name)))
    space, objective = method.rsplit(" ", 1)
    i, proxy = spaces.index(space), objective not in _TRUE
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": _MARKERS[i % len(_MARKERS)],
        "markersize": 5,
        "fillstyle": "none" if proxy else "full",
        "linestyle": DASHES[1] if proxy else "-",
        "linewidth": 1.2 if proxy else 1.8,
        "zorder": 3,
    }


def _add_legend_lines(axes: Axes, methods: Sequence[str]) -> None:
    """Add empty lines that name every method, including those that a run lacks."""
    for method in sorted(methods, key=lambda name: not _is_searched(name)):
        axes.plot([], [], label=method, **_line_style(method, methods))


def _add_amount_axis(axes: Axes, stock: float, unit: str) -> None:
    """Add a second axis on top, in FLOPs per sample."""
    factor, prefix = _si_prefix(stock)
    per_percent = stock / factor / 100

    def amount(percent: Any) -> Any:
        return percent * per_percent

    def percent(amount: Any) -> Any:
        return amount / per_percent

    upper = axes.secondary_xaxis("top", functions=(amount, percent))
    upper.set_xlabel(f"{prefix}{unit} per sample")


def _is_searched(method: str) -> bool:
    return method.rsplit(" ", 1)[-1] in (*registry.names("objectives"), *_TRUE)


def _si_prefix(amount: float) -> tuple[float, str]:
    """Return the factor and SI prefix of an amount."""
    return next(((f, p) for f, p in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if amount >= f), (1, ""))


def describe(table: pd.DataFrame) -> str:
    """Describe the best method at each budget, the methods within its interval, and cut answers."""
    kept = _describe_rel_avg(table) if is_defined(table) else _describe_divergences(table)
    original, most = int(table["original_cut"].max()), int(table["cut"].max())
    if not original and not most:
        return kept
    return (
        f"{kept} {original} of {table['items'].iloc[0]} answers of the original and up to {most} "
        "of another method were cut at their maximum length (--answer-tokens of `opsearch run`)."
    )


def _describe_rel_avg(table: pd.DataFrame) -> str:
    rows = [_MethodRow(*row) for row in table[list(_MethodRow.__annotations__)].to_numpy().tolist()]
    sentences = [f"Rel. Avg. over {rows[0].items} samples, with 95 % intervals."]
    for budget in dict.fromkeys(row.budget for row in rows):
        at_budget = [row for row in rows if row.budget == budget]
        best = max(at_budget, key=lambda row: row.rel_avg)
        sentence = f"At {budget} {best.method} keeps most: {best.interval}"
        if equal := [
            row.method for row in at_budget if row is not best and row.rel_avg >= best.low
        ]:
            sentence += f"; within that interval: {', '.join(equal)}"
        sentences.append(f"{sentence}.")
    return " ".join(sentences)


def _describe_divergences(table: pd.DataFrame) -> str:
    """Describe why Rel. Avg. is undefined, and the method with the lowest KL at each budget."""
    sentences = [
        f"The original answers none of the {table['items'].iloc[0]} samples correctly, so Rel. "
        "Avg. is undefined; write the answers in the data as the model words them."
    ]
    for budget, rows in table.groupby("budget", sort=False):
        kl, method = min(zip(rows["kl"], rows["method"], strict=True))
        sentences.append(f"At {budget} {method} has the lowest KL: {kl:.3f} nats.")
    return " ".join(sentences)


@dataclass(frozen=True)
class _MethodRow:
    """The columns of a row that `describe` uses.

    Attributes:
        budget: Text of the budget.
        method: Name of the method.
        rel_avg: Rel. Avg. in percent.
        low: Lower end of its interval.
        high: Upper end of its interval.
        items: Number of evaluated samples.
    """

    budget: str
    method: str
    rel_avg: float
    low: float
    high: float
    items: int

    @property
    def interval(self) -> str:
        """Rel. Avg. with its interval, formatted."""
        return f"{self.rel_avg:.1f} % ({self.low:.1f} to {self.high:.1f})"
