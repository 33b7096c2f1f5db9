"""KL of each operation alone: one module of one layer is pruned, all else is not.

In spaces with one parameter per operation, these are the terms of the additive proxy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.curves import FREE
from opsearch.analysis.measured import Measured
from opsearch.analysis.style import panels
from opsearch.errors import OpsearchError
from opsearch.policy.counts import KV, MODULES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.collections import QuadMesh
    from matplotlib.colors import Normalize
    from matplotlib.figure import Figure

_DENSE = 0.6  # part of the colours from which on numbers are white
_WIDTHS = {"label": 1.3, "cell": 0.42, "bar": 1.1}


def table(measured: Measured, seed: int = 0) -> pd.DataFrame:
    """Tabulate the mean KL of each operation pruned alone: a row per operation and share left.

    Args:
        measured: A run over a space with one parameter per operation.
        seed: Seed of the bootstrap over samples.

    Returns:
        `layer`, `module`; `share`: share of the tokens that the operation still processes;
        `samples`; `kl` in nats with its 95 % bootstrap interval in `low` and `high`. Choices that
        were not measured on every sample are left out.

    Raises:
        OpsearchError: The space has no parameter per operation, or none was measured alone.
    """
    space = measured.space.per_operation
    if space is None:
        raise OpsearchError(
            f"{measured.label} is of space {measured.space.name!r}, whose parameters are not "
            "single operations; use `opsearch analyze curves`"
        )
    names = dict(enumerate(MODULES)) | ({KV: "q and kv"} if space.tied else {})
    weights = resamples(len(measured.items), seed)
    rows = []
    choices = zip(space.operations, space.parameters, measured.alone["kl"], strict=False)  # no n_v
    for (layer, module), parameter, divergences in choices:
        for share, kl in zip(parameter.values[:-1], divergences[:-1], strict=True):
            if not np.isnan(kl).any():
                low, high = interval(kl[None] @ weights)
                rows.append(
                    {
                        "layer": layer,
                        "module": names[module],
                        "share": float(share),
                        "samples": len(kl),
                        "kl": kl.mean(),
                        "low": low[0],
                        "high": high[0],
                    }
                )
    if not rows:
        raise OpsearchError(
            f"{measured.label} holds no operation that was pruned alone on every sample; a run "
            "with --space operations and the same model and data measures them"
        )
    return pd.DataFrame(rows)


def draw(table: pd.DataFrame) -> Figure:
    """Draw a heat map for each share that is left, layers across and modules down."""
    from matplotlib.colors import SymLogNorm

    layers, modules = int(table["layer"].max()) + 1, list(dict.fromkeys(table["module"]))
    shares = sorted(table["share"].unique())[:2]  # finer ones are in the table
    width = _WIDTHS["label"] + _WIDTHS["cell"] * layers + _WIDTHS["bar"]
    height = 0.5 + (0.75 + 0.32 * len(modules)) * len(shares)
    figure, every = panels(max(4.8, width), height, 1, len(shares))
    most = max(float(table["kl"].max()), FREE)
    norm = SymLogNorm(FREE, linscale=0.5, vmin=0, vmax=most)
    for axes, share in zip(every, shares, strict=True):
        grid = table[table["share"] == share].pivot(index="module", columns="layer", values="kl")
        cells = grid.reindex(index=modules, columns=range(layers)).to_numpy()
        mesh = _draw_cells(axes, cells, norm)
        axes.set_yticks(np.arange(len(modules)) + 0.5, modules, size=8)
        left = f"operation reduced to {100 * share:.3g} % of the visual tokens"
        axes.set_title("operation removed" if share == 0 else left, fontsize=9, loc="left")
    every[-1].set_xlabel("decoder layer", fontsize=9)
    ticks = [tick for tick in (0, FREE, 0.2, 1, 5) if tick < 0.8 * most]
    label = "KL alone, nats"
    figure.colorbar(mesh, ax=every, label=label, pad=0.02, ticks=[*ticks, most], format="%.3g")
    return figure


def _draw_cells(axes: Axes, cells: np.ndarray, norm: Normalize) -> QuadMesh:
    """Draw one heat map, with numbers in its cells; nan stays empty."""
    mesh = axes.pcolormesh(cells, cmap="Oranges", norm=norm, edgecolors="face", linewidth=0.2)
    for (row, column), value in np.ndenumerate(cells):
        if not np.isnan(value):
            # Cells have colours of their own in a light and a dark page, unlike black and white.
            colour = "#fefefe" if norm(value) > _DENSE else "#333333"
            text = f"{value:.2f}" if value < 10 else f"{value:.0f}"
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", size=6.5, color=colour
            )
    layers = [str(layer) for layer in range(cells.shape[1])]
    axes.set_xticks(np.arange(len(layers)) + 0.5, layers, size=7)
    axes.invert_yaxis()
    axes.grid(False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return mesh


def describe(table: pd.DataFrame) -> str:
    """Describe the most expensive operations, and how many are free, where no token is left."""
    lowest = table["share"].min()
    pruned = table[table["share"] == lowest]
    left = "pruned" if lowest == 0 else f"left with {100 * lowest:.3g} % of the visual tokens"
    highest = pruned.nlargest(3, "kl")
    named = [
        f"{row['module']} of layer {row['layer']} ({row['kl']:.2f}, 95 % interval "
        f"{row['low']:.2f} to {row['high']:.2f})"
        for row in highest.to_dict("records")
    ]
    free = int((pruned["kl"] <= FREE).sum())
    sentences = [
        f"Each operation alone is {left}, and all others run on all visual tokens; the KL is the "
        f"mean over {pruned['samples'].iloc[0]} calibration samples, in nats.",
        f"{free} of {len(pruned)} operations cost at most {FREE:g} nats alone; the most expensive "
        f"are {', '.join(named)}.",
        "Operations that are pruned together may cost more or less than the sum. Empty cells: "
        "operations whose result no layer reads, or which are never pruned.",
    ]
    return " ".join(sentences)
