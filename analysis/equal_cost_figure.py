"""How methods compare at equal cost, drawn."""

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
"""Objectives that end the names of searched methods, after the space."""


def draw(runs: Mapping[str, pd.DataFrame], unit: str) -> Figure:
    """Rel. Avg. over each cost that is known: a row of panels per run, a line for each method.

    KL where the original answers nothing right.
    """
    from opsearch.analysis.style import legend, panels

    known = [cost for cost in COSTS if any(_has(table, cost.column) for table in runs.values())]
    width, height = 2.4 + 3.6 * len(known), 4.2 * len(runs)
    figure, every = panels(width, height, len(known), len(runs))
    methods = list(dict.fromkeys(m for table in runs.values() for m in table["method"]))
    for place, (name, table) in enumerate(runs.items()):
        row = every[place * len(known) : (place + 1) * len(known)]
        for cost, axes in zip(known, row, strict=True):
            _draw_methods(axes, table, methods, cost)
            axes.set_xlabel(cost.label.format(unit=unit))
            axes.set_title(name if len(runs) > 1 else "", fontsize=9).set_parse_math(False)
        row[0].set_ylabel("Rel. Avg., %" if is_defined(table) else "KL, nats")
        _label_amounts(row[0], float((table["cost"] / table["share"]).iloc[0]), unit)
    _name_lines(every[0], methods)
    legend(figure, every[0])
    return figure


@dataclass(frozen=True)
class Cost:
    """A column of the table as an axis: times `factor`."""

    column: str
    factor: float
    label: str


COSTS = (
    Cost("share", 100, "{unit}, % of the stock model"),
    Cost("kv_bytes", 1e-6, "KV cache, MB per sample"),
    Cost("prefill_ms", 1, "prefill, ms"),
)


def _has(table: pd.DataFrame, column: str) -> bool:
    return column in table and bool(table[column].notna().any())


def _draw_methods(axes: Axes, table: pd.DataFrame, methods: Sequence[str], cost: Cost) -> None:
    """A line for each method of which this cost is known."""
    defined = is_defined(table)
    of_original, beside = (100, (4, -11)) if defined else (0, (4, 4))
    axes.axhline(of_original, color="black", linewidth=0.8)
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
            **_looks(method, methods),
        )
    place = (axes.get_xlim()[0], of_original)
    axes.annotate("original", place, xytext=beside, textcoords="offset points")


def _looks(method: str, methods: Sequence[str]) -> dict[str, Any]:
    """Searched methods in their space's colour, proxies broken and hollow; the others grey."""
    from opsearch.analysis.style import COLOURS, DASHES

    if not _is_searched(method):
        place = [name for name in methods if not _is_searched(name)].index(method)
        dashes = ("--", ":", "-.")[place % 3]
        looks = {"color": "#888888", "linestyle": dashes, "marker": _MARKERS[place % len(_MARKERS)]}
        return looks | {"markersize": 4, "linewidth": 0.8, "zorder": 2}
    spaces = list(dict.fromkeys(name.rsplit(" ", 1)[0] for name in methods if _is_searched(name)))
    space, objective = method.rsplit(" ", 1)
    place, proxy = spaces.index(space), objective in _PROXIES
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": _MARKERS[place % len(_MARKERS)],
        "markersize": 5,
        "fillstyle": "none" if proxy else "full",
        "linestyle": DASHES[1] if proxy else "-",
        "linewidth": 1.2 if proxy else 1.8,
        "zorder": 3,
    }


def _name_lines(axes: Axes, methods: Sequence[str]) -> None:
    """Lines without points that name every method, those too that a run lacks."""
    for method in sorted(methods, key=lambda name: not _is_searched(name)):
        axes.plot([], [], label=method, **_looks(method, methods))


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
    return method.rsplit(" ", 1)[-1] in (*_PROXIES, *_TRUE)


def _scale(amount: float) -> tuple[float, str]:
    """The SI prefix for an amount, with its factor."""
    return next(((f, p) for f, p in ((1e12, "T"), (1e9, "G"), (1e6, "M")) if amount >= f), (1, ""))
