"""Heat map of a policy: layers across, q / kv / mlp down, the share of tokens as colour."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from rich.text import Text

from opsearch.errors import OpsearchError, one_line
from opsearch.files import write_atomic
from opsearch.policy.counts import MODULES
from opsearch.policy.policy import Policy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_REFERENCE_TOKENS = 10_000
_LABEL = "kv".rjust(4) + " "  # before the blocks of a module
_BLOCKS = " ▁▂▃▄▅▆▇█"


def shares(policy: Policy, n_visual: int | None = None) -> NDArray[np.float64]:
    """Return the share of the visual tokens that each operation executes, float64[3, L].

    Args:
        policy: The policy.
        n_visual: Visual tokens of the sample to resolve for; by default a number large enough to
            make rounding invisible.
    """
    total = n_visual or _REFERENCE_TOKENS
    return policy.executed(total).T / total


def draw_terminal(policy: Policy, n_visual: int | None = None, width: int | None = None) -> Text:
    """Draw the heat map in characters: the height of a block is the share, a dot is zero.

    Args:
        policy: The policy.
        n_visual: Visual tokens of the sample to resolve for, as for `shares`.
        width: Width to draw in, where layers stand without space between them if need be; None:
            any.
    """
    table = shares(policy, n_visual)
    text = Text()
    fits = width is None or len(_LABEL) + 2 * policy.num_layers + len(" mean 100%") <= width
    space = " " if fits else ""
    for name, row in zip(MODULES, table, strict=True):
        text.append(f"{name:>4} ")
        for share in row:
            level = int(np.ceil(share * (len(_BLOCKS) - 1)))
            text.append(_BLOCKS[level] if level else "·", style="blue" if level else "dim")
            text.append(space)
        text.append(f" mean {100 * row.mean():.0f}%\n")
    marks = "".join(f"{layer:<10}" for layer in range(0, policy.num_layers, 5 if fits else 10))
    ruler = f"layer {marks}" if fits else f"{'':{len(_LABEL)}}{marks}"
    end = len(_LABEL) + (1 + fits) * policy.num_layers + 4
    text.append(ruler[:end].rstrip(), style="dim")
    return text


def save_heatmap(policy: Policy, path: Path, n_visual: int | None = None) -> Path:
    """Write the heat map in the format of the file's suffix and return `path`.

    Raises:
        OpsearchError: The suffix is unknown.
    """
    if path.suffix not in (".svg", ".png", ".pdf"):
        raise OpsearchError(f"figure {path} is of an unknown kind; name it .svg, .png or .pdf")
    figure = draw_heatmap(policy, n_visual)
    return write_atomic(path, lambda file: figure.savefig(file, dpi=150))


def draw_heatmap(policy: Policy, n_visual: int | None = None) -> Figure:
    """Draw the heat map as a figure, with shares written into the cells."""
    from matplotlib.figure import Figure

    table = shares(policy, n_visual)
    layers = table.shape[1]
    figure = Figure(figsize=(max(4.5, 0.42 * layers + 1.6), 2.3), layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(table, cmap="Blues", vmin=0, vmax=1, aspect="auto")
    for (module, layer), share in np.ndenumerate(table):
        colour = "white" if share > 0.6 else "#333333"
        label = "" if share == 0 else f"{100 * share:.0f}"
        axes.text(layer, module, label, ha="center", va="center", fontsize=7, color=colour)
    axes.set_yticks(range(3), MODULES)
    axes.set_xticks(range(0, layers, 1 if layers <= 16 else 4))
    axes.set_xticks(np.arange(-0.5, layers), minor=True)
    axes.set_yticks(np.arange(-0.5, 3), minor=True)
    axes.grid(which="minor", color="white", linewidth=1.5)
    axes.tick_params(which="both", length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("decoder layer")
    axes.set_title(one_line(policy.name), fontsize=9, loc="left", parse_math=False)
    bar = figure.colorbar(image, ax=axes, pad=0.02, ticks=[0, 0.5, 1])
    bar.ax.set_yticklabels(["0 %", "50 %", "100 %"], fontsize=7)
    bar.outline.set_visible(False)
    return figure
