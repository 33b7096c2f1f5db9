"""Draw concepts.svg: `python docs/concepts.py RUN`, RUN with the policies.csv of analyze rank."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from opsearch.analysis.style import COLOURS, panels
from opsearch.policy.builders import depth

SIDE, LAYERS, KEPT = 6, 12, 15
POLICY = depth(LAYERS, 7, 12, 6, "21/50")  # the optimum of `depth` at 30 % in benchmarks.md
ROLES = {"q": "q: they attend", "kv": "kv: they are read", "mlp": "mlp: they pass the MLP"}


def main() -> None:
    figure, (ranking, policy, search) = panels(10.5, 3.4, 3)
    draw_ranking(ranking)
    draw_policy(policy)
    draw_search(search, pd.read_csv(Path(sys.argv[1]) / "policies.csv"))
    figure.savefig(Path(__file__).with_suffix(".svg"))


def draw_ranking(axes: Axes) -> None:
    """Draw patches with their rank, the kept ones coloured."""
    ranks = np.random.default_rng(3).permutation(SIDE * SIDE).reshape(SIDE, SIDE)
    for (row, column), rank in np.ndenumerate(ranks):
        kept = rank < KEPT
        colour = COLOURS[0] if kept else "#cccccc"
        axes.bar(column, 0.92, 0.92, SIDE - 1 - row, color=colour, alpha=1 if kept else 0.5)
        axes.text(
            column,
            SIDE - 0.54 - row,
            str(rank + 1),
            ha="center",
            va="center",
            size=8,
            color="white" if kept else "#555555",
        )
    axes.set_title("1. A ranker orders the visual tokens", size=10)
    bare(axes)


def draw_policy(axes: Axes) -> None:
    """Draw the tokens that each operation processes: a bar per layer, a lane per module."""
    counts = POLICY.executed(100).T / 100
    for lane, (label, shares) in enumerate(zip(ROLES.values(), counts, strict=True)):
        bottom = 2.6 - 1.3 * lane
        axes.bar(range(LAYERS), np.ones(LAYERS), 0.85, bottom, color="#cccccc", alpha=0.35)
        axes.bar(range(LAYERS), shares, 0.85, bottom, color=COLOURS[lane])
        axes.text(-0.5, bottom + 1.05, label, size=8.5)
    axes.set_title("2. A policy counts them by layer and module", size=10)
    bare(axes)
    axes.set_xticks(range(LAYERS))
    axes.set_xlabel("decoder layer")


def draw_search(axes: Axes, policies: pd.DataFrame) -> None:
    """Draw every policy by cost and divergence, the front and a budget."""
    share, kl = 100 * policies["share"].to_numpy(), policies["joint"].to_numpy()
    front = np.minimum.accumulate(kl)
    budget = 30
    axes.scatter(share, kl, s=4, color="#999999", lw=0, alpha=0.7)
    axes.step(share, front, where="post", color=COLOURS[0], linewidth=1.8)
    axes.axvline(budget, color=COLOURS[1], linestyle="--", linewidth=1.2)
    best = front[share <= budget][-1]
    axes.plot(share[kl == best][0], best, "o", color=COLOURS[1], markersize=7)
    axes.text(budget + 0.7, axes.get_ylim()[1] * 0.95, "budget", color=COLOURS[1], size=9)
    axes.set_xlabel("FLOPs, % of the original's")
    axes.set_ylabel("KL to the original, nats")
    axes.set_title("3. Search: the best policy within a budget", size=10)


def bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])
    axes.grid(False)
    axes.spines[:].set_visible(False)


if __name__ == "__main__":
    main()
