"""How figures of the analyses look: black text, nothing behind it, lines that differ in grey too.

The background is transparent, so that a figure can stand on a light and on a dark page.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's palette for all kinds of colour vision, without black and without the yellow that
# is not seen on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKERS = ("o", "s", "^", "D", "v")
DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1.2)))
_LONGEST_NAME = 24


def panels(width: float, height: float, columns: int, rows: int = 1) -> tuple[Figure, list[Axes]]:
    """A figure of panels in rows, sizes in inches."""
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
    """Looks of the i-th of many lines; marker and dash alone tell 15 of them apart."""
    return {
        "color": COLOURS[i % len(COLOURS)],
        "marker": MARKERS[i % len(MARKERS)],
        "linestyle": DASHES[i // len(MARKERS) % len(DASHES)],
    }


def legend(figure: Figure, axes: Axes, columns: int = 1) -> None:
    """The lines of one panel, named to the right of all panels."""
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
        # Names come from data: a dollar in them is not a formula, and a long one leaves no panel.
        text.set_parse_math(False)
        name = text.get_text()
        text.set_text(name if len(name) <= _LONGEST_NAME else f"{name[:_LONGEST_NAME]}...")
