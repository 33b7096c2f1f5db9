"""Figure and description of the loss of policies away from where they were searched."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from opsearch.analysis.choice import reported_budget
from opsearch.analysis.style import COLOURS, panels
from opsearch.analysis.transfer import ALL, HALVES, JOINT

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LOSS = "KL above the own optimum's, nats"


def draw(table: pd.DataFrame) -> Figure:
    """Draw the matrix of sources and targets at one budget, and each target's losses by source."""
    budget = reported_budget(table["budget"])
    shown = table[(table["budget"] == budget) & (table["by"] == JOINT)]
    targets = len(shown["target"].unique())
    width, height = max(9.0, 4.6 + 0.62 * targets), max(3.6, 2.4 + 0.3 * targets)
    figure, (matrix, losses) = panels(width, height, 2)
    _draw_matrix(figure, matrix, shown)
    _draw_losses(losses, shown)
    matrix.set_title(f"within {budget} % of the FLOPs", fontsize=9)
    for axes in (matrix, losses):
        axes.tick_params(axis="x", rotation=90)
        for text in (*axes.get_xticklabels(), *axes.get_yticklabels()):
            text.set_parse_math(False)  # names come from data and may contain "$"
    return figure


def _draw_matrix(figure: Figure, axes: Axes, shown: pd.DataFrame) -> None:
    from matplotlib.colors import PowerNorm

    sources, targets = list(shown["source"].unique()), list(shown["target"].unique())
    values = shown.pivot(index="source", columns="target", values="split_loss")
    cells = values.loc[sources, targets].to_numpy()
    top = max(float(cells.max()), 0.1)
    # The square root resolves small losses; negative ones count as zero.
    norm = PowerNorm(0.5, 0, top, clip=True)
    mesh = axes.pcolormesh(cells, cmap="Oranges", norm=norm, edgecolors="face", linewidth=0.2)
    for (row, column), value in zip(
        ((r, c) for r in range(len(sources)) for c in range(len(targets))), cells.flat, strict=True
    ):
        if sources[row] != targets[column]:
            colour = "white" if norm(value) > 0.75 else "#333333"
            text = f"{value:.1f}".replace("-0.0", "0.0")
            axes.text(
                column + 0.5, row + 0.5, text, ha="center", va="center", size=6.5, color=colour
            )
    axes.set_xticks([i + 0.5 for i in range(len(targets))], targets, size=8)
    axes.set_yticks([i + 0.5 for i in range(len(sources))], sources, size=8)
    axes.invert_yaxis()
    axes.grid(False)
    axes.set_xlabel("applied to")
    axes.set_ylabel("searched on")
    ticks = [tick for tick in (0, 0.1, 0.5, 1, 2, 4, 8) if tick < top]
    figure.colorbar(mesh, ax=axes, label=LOSS, pad=0.02, ticks=ticks, format="%g")


def _draw_losses(axes: Axes, shown: pd.DataFrame) -> None:
    """Draw a dot per source for each target, and an interval for all families or for each run."""
    targets = list(shown["target"].unique())
    position = {name: i for i, name in enumerate(targets)}
    away = shown[shown["source"] != shown["target"]]
    single, overall = away[away["source"] != ALL], away[away["source"] == ALL]
    axes.axhline(0, color="black", linewidth=0.8)
    if not overall.empty:
        axes.plot(
            single["target"].map(position),
            single["split_loss"],
            linestyle="none",
            marker="o",
            markersize=3.5,
            fillstyle="none",
            color=COLOURS[0],
            label="searched on another one of these",
        )
    bars, source = (single, "another one") if overall.empty else (overall, "all")
    spread = [bars["split_loss"] - bars["split_low"], bars["split_high"] - bars["split_loss"]]
    axes.errorbar(
        bars["target"].map(position),
        bars["split_loss"],
        yerr=spread,
        linestyle="none",
        marker="s",
        markersize=4,
        color=COLOURS[1],
        elinewidth=1,
        capsize=2,
        label=f"searched on {source}, middle 95 % of halves",
    )
    axes.set_xticks(range(len(targets)), targets, size=8)
    axes.set_yscale("symlog", linthresh=0.1, linscale=0.4)
    ticks = [-1, -0.1, 0, 0.1, 0.3, 1, 3, 10]
    low, high = axes.get_ylim()
    shown_ticks = [tick for tick in ticks if low <= tick <= high]
    axes.set_yticks(shown_ticks, [f"{tick:g}" for tick in shown_ticks])
    axes.minorticks_off()
    axes.set_ylabel(LOSS)
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))


def describe(table: pd.DataFrame) -> str:
    """Describe the loss of policies from elsewhere at each budget, and its extremes at one."""
    table, proxy = table[table["by"] == JOINT], table[table["by"] != JOINT]
    away = table[table["source"] != table["target"]]
    sizes = table.loc[table["target"] != ALL, "samples"]
    counted = " to ".join(str(size) for size in sorted({sizes.min(), sizes.max()}))
    text = [
        "Loss: KL of a policy that was searched elsewhere above that of the target's own optimum "
        "within the same cost, both chosen on one half of the samples and judged on the other "
        f"({HALVES} halves; {counted} samples per target). The own optimum of few samples "
        "fits these and no others, so that a loss can be below zero."
    ]
    single = away[(away["source"] != ALL) & (away["target"] != ALL)]
    for budget, rows in single.groupby("budget"):
        sentence = f"At {budget} % a policy searched elsewhere loses on average {_loss(rows)}"
        overall = away[(away["source"] == ALL) & (away["budget"] == budget)]
        if len(overall):
            sentence += f", one searched on all {_loss(overall)}"
        text.append(f"{sentence}.")
    budget = reported_budget(table["budget"])
    rows = single[single["budget"] == budget]
    by_target = rows.groupby("target", sort=False)["split_loss"].mean()
    by_source = rows.groupby("source", sort=False)["split_loss"].mean()
    worst = rows.iloc[int(rows["split_loss"].argmax())]
    text.append(
        f"At {budget} % the largest loss is {worst['split_loss']:.2f} nats "
        f"({worst['split_low']:.2f} to {worst['split_high']:.2f}), searched on {worst['source']} "
        f"and applied to {worst['target']}."
    )
    if len(by_source) > 2:
        text.append(
            f"{by_source.idxmin()} is the best one to search on ({by_source.min():.2f} nats lost "
            f"on average elsewhere), {by_source.idxmax()} the worst ({by_source.max():.2f}); "
            f"{by_target.idxmax()} suffers most from policies of others ({by_target.max():.2f}), "
            f"{by_target.idxmin()} least ({by_target.min():.2f})."
        )
    text.append(_by_proxy(proxy[(proxy["budget"] == budget) & (proxy["source"] != ALL)]))
    return " ".join(text)


def _by_proxy(rows: pd.DataFrame) -> str:
    """Describe the loss of choices by the additive proxy, of other sources and of the target."""
    elsewhere = rows[(rows["source"] != rows["target"]) & (rows["target"] != ALL)]
    return (
        "Chosen by the sum of individual divergences (additive) instead, a policy searched "
        f"elsewhere loses {_loss(elsewhere)}, and the target's own "
        f"{_loss(rows[rows['source'] == rows['target']])}."
    )


def _loss(rows: pd.DataFrame) -> str:
    nats, points = rows["split_loss"].mean(), 100 * rows["split_top1"].mean()
    return f"{nats:.3f} nats ({points:.1f} points of agreement in the first token)"
