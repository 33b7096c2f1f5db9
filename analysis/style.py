"""Shared style of figures: black text, transparent background, lines distinct in greyscale.

The background is transparent, so that a figure fits a light and a dark page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colour-blind safe palette, without black and without yellow, which is invisible on
# white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
SYMLOG = {"linthresh": 0.1, "linscale": 0.4}
"""Scale of KL in nats: linear up to 0.1, logarithmic above."""
_LONGEST_NAME = 24


def panels(width: float, height: float, columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """Make a figure with a grid of panels; width and height are in inches."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    figure.patch.set_alpha(0)
    every: list[Axes] = list(np.ravel(figure.subplots(rows, columns, squeeze=False)))
    for axes in every:
        axes.patch.set_alpha(0)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color="black", alpha=0.15, linewidth=0.6)
        axes.set_axisbelow(True)
    return figure, every


def line_style(i: int) -> dict[str, Any]:
    """Return the style of line i; marker and dash alone distinguish 15 lines."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i // len(MARKERS) % len(DASHES)],
    }


def whiskers(value: pd.Series, low: pd.Series, high: pd.Series) -> list[pd.Series]:
    """Return the lengths of error bars below and above values, from the ends of intervals.

    A mean may lie outside of its interval, e.g. where it stems from a few large values. The bar
    then ends at the mean.
    """
    return [(value - low).clip(lower=0), (high - value).clip(lower=0)]


def legend(figure: Figure, axes: Axes, columns: int = 1) -> None:
    """Add a legend of one panel's lines to the right of all panels."""
    handles, labels = axes.get_legend_handles_labels()
    box = figure.legend(
        handles,
        labels,
        loc="outside right center",
        ncols=columns,
        frameon=False,
        fontsize=8,
        handlelength=3.2,
    )
    for text in box.get_texts():
        # Names come from data: "$" is no formula, and a long name would squeeze the panels.
        text.set_parse_math(False)
        name = text.get_text()
        text.set_text(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}...")
