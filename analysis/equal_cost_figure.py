"""Figure of methods at equal cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from opsearch.analysis.equal_cost import is_defined

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MARKERS = "osD^vPX*h<>pd8"
_PROXIES, _TRUE = ("additive", "pairwise"), ("joint", "verified")
"""Objectives: the last word of the names of searched methods, after the space."""


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
    defined = is_defined(table)
    original, offset = (100, (4, -11)) if defined else (0, (4, 4))
    axes.axhline(original, color="black", linewidth=0.8)
    if not _has(table, cost.column):
        axes.set_visible(False)
        return
    for method in methods:
        rows = table[(table["method"] == method) & table[cost.column].notna()]
        rows = rows.sort_values(cost.column)
        spread = [rows["rel_avg"] - rows["low"], rows["high"] - rows["rel_avg"]]
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
    i, proxy = spaces.index(space), objective in _PROXIES
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
    return method.rsplit(" ", 1)[-1] in (*_PROXIES, *_TRUE)


def _si_prefix(amount: float) -> tuple[float, str]:
    """Return the factor and SI prefix of an amount."""
    return next(((f, p) for f, p in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if amount >= f), (1, ""))
