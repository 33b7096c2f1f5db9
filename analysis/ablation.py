"""What the search's choice depends on: how it was calibrated and with which settings."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from opsearch.analysis.calibration import SAMPLES, within_run
from opsearch.analysis.choice import common_budgets, told
from opsearch.analysis.measured import Measured
from opsearch.analysis.settings import between_runs
from opsearch.analysis.style import COLOURS, DASHES, MARKERS, legend, panels

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = [
    "factor", "level", "objective", "budget", "kl", "low", "high", "top1", "draws", "difference",
    "difference_low", "difference_high",
]  # fmt: skip


def table(runs: Sequence[Measured], seed: int = 0) -> pd.DataFrame:
    """A row per factor, level, objective (additive or joint) and budget (% of stock FLOPs).

    kl, top1: of the chosen policy, in nats and as share of samples whose first answer token is the
    original's. Three factors vary within the first run: on how many calibration samples it is
    chosen, between how many interpolation points per parameter (additive only; DOP measures few
    and interpolates) and which divergence chooses (judged is always KL). The policy is chosen on
    samples drawn without replacement (half of them for the last two factors) and judged on those
    left: kl is the mean over `draws`, low and high enclose the middle 95 % of the draws, which is
    what another seed could give, with the luck of the samples left to judge on.
    Every further run is a level of a factor that is named by the settings that tell it from the
    first run. Each is judged on all its samples, on which it was chosen, with a 95 % bootstrap
    interval; over the same items, difference is its KL minus the first run's, with the interval of
    the paired differences. With other answer positions the KL itself is another quantity.
    Budgets are 15, 20, 30 and 50 %, as far as all runs measured them completely; OpsearchError
    without any.
    """
    budgets = common_budgets(runs)
    blocks = [*within_run(runs[0], budgets, seed), *between_runs(runs, budgets, seed)]
    return pd.concat(blocks, ignore_index=True).reindex(columns=COLUMNS)


def draw(table: pd.DataFrame) -> Figure:
    """A panel per factor; a line per budget and objective, with the interval of each level."""
    factors = table["factor"].unique()
    columns = min(len(factors), 3)
    rows = -(-len(factors) // columns)
    figure, every = panels(3.2 * columns + 1.8, 3.2 * rows, columns, rows)
    for axes in every[len(factors) :]:
        axes.set_visible(False)
    budgets = table["budget"].unique()
    for axes, factor in zip(every, factors, strict=False):
        of_factor = table[table["factor"] == factor]
        levels = of_factor["level"].unique()
        for i, budget in enumerate(budgets):
            for j, objective in enumerate(("additive", "joint")):
                line = of_factor[
                    (of_factor["budget"] == budget) & (of_factor["objective"] == objective)
                ]
                # Side by side within a level, so that intervals do not hide each other.
                aside = 0.07 * (2 * i + j + 0.5 - len(budgets))
                places = [list(levels).index(level) + aside for level in line["level"]]
                axes.vlines(places, line["low"], line["high"], color=COLOURS[i], linewidth=0.8)
                axes.plot(
                    places,
                    line["kl"],
                    color=COLOURS[i],
                    linestyle=DASHES[1 - j],
                    marker=MARKERS[i],
                    fillstyle=("none", "full")[j],
                    markersize=5,
                    linewidth=1.2,
                    label=f"{budget} %, {objective}",
                )
        axes.set_xticks(range(len(levels)), levels)
        axes.set_xlim(-0.6, len(levels) - 0.4)
        axes.set_title(factor, fontsize=10)
        for text in (*axes.get_xticklabels(), axes.title):
            text.set_parse_math(False)  # levels may be paths, in which a $ is a $
        axes.set_yscale("symlog", linthresh=0.1, linscale=0.4)
        axes.set_ylim(bottom=0)
        ticks = [0, 0.1, 0.3, 1, 3, 10]
        axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    for axes in every[::columns]:
        axes.set_ylabel("KL of the chosen policy, nats")
    legend(figure, every[0])
    return figure


def describe(table: pd.DataFrame) -> str:
    """Each factor's levels at one budget, and at how many budgets the joint's choice is better."""
    budget = told(table["budget"])
    text = [
        f"KL in nats of the policy chosen within {budget} % of the stock model's FLOPs. Choices "
        "from one run are judged on samples that they were not made on; brackets enclose the "
        "middle 95 % of the draws, or the 95 % bootstrap interval where runs are compared."
    ]
    for factor, of_factor in table.groupby("factor", sort=False):
        for objective, rows in of_factor[of_factor["budget"] == budget].groupby("objective"):
            levels = [_level(row) for row in rows.to_dict("records")]
            text.append(f"{str(factor).capitalize()}, {objective}: {'; '.join(levels)}.")
    of_samples = table[table["factor"] == SAMPLES]
    wins = []
    for level, rows in of_samples.groupby("level", sort=False):
        additive, joint = (rows[rows["objective"] == name]["kl"] for name in ("additive", "joint"))
        wins.append(f"{(joint.to_numpy() < additive.to_numpy()).sum()} with {level}")
    if wins:
        text.append(
            f"Of {of_samples['budget'].nunique()} budgets, the joint's choice is better than the "
            f"proxy's on new samples at {', '.join(wins)} calibration samples."
        )
    return " ".join(text)


def _level(row: dict[Hashable, Any]) -> str:
    text = f"{row['level']} {row['kl']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    if row["difference_low"] < row["difference_high"]:
        text += (
            f", that is {row['difference']:+.3f} ({row['difference_low']:+.3f} to "
            f"{row['difference_high']:+.3f}) against the first run on the same items"
        )
    return text
