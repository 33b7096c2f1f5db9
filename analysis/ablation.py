"""Ablation of a search: how the chosen policy depends on calibration and on settings."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from opsearch.analysis.calibration import SAMPLES, within_run
from opsearch.analysis.choice import common_budgets, reported_budget
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
    """Tabulate the ablation: a row per factor, level, objective (additive or joint) and budget.

    Three factors vary within the first run: the number of calibration samples, the number of
    interpolation points per parameter (additive only; DOP measures few points and interpolates) and
    the divergence that selects the policy (evaluation always uses KL). The policy is selected on
    samples drawn without replacement (half of them for the last two factors) and evaluated on the
    remaining ones.

    Every further run is a level of a factor that is named after the settings in which it differs
    from the first run. It is selected and evaluated on all its samples. If its answer positions
    differ from those of the first run, the two KL values are not comparable.

    Args:
        runs: The run to ablate, then the runs to compare with it.
        seed: Seed of the draws and of the bootstrap.

    Returns:
        The columns of `COLUMNS`. `budget` is in % of the stock FLOPs: 15, 20, 30 and 50 as far as
        all runs measured them completely. `kl` (nats) and `top1` (share of samples whose first
        answer token equals the original's) are those of the chosen policy, means over `draws`.
        `low` and `high` enclose the middle 95 % of the draws within one run, and are a 95 %
        bootstrap interval over samples between runs. `difference` is the KL minus that of the first
        run with the interval of the paired differences, for runs over the same items.

    Raises:
        OpsearchError: No budget was measured completely by all runs.
    """
    budgets = common_budgets(runs)
    blocks = [*within_run(runs[0], budgets, seed), *between_runs(runs, budgets, seed)]
    return pd.concat(blocks, ignore_index=True).reindex(columns=COLUMNS)


def draw(table: pd.DataFrame) -> Figure:
    """Draw a panel per factor: a line per budget and objective, with each level's interval."""
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
                # Offset within a level, so that intervals do not overlap.
                offset = 0.07 * (2 * i + j + 0.5 - len(budgets))
                x = [list(levels).index(level) + offset for level in line["level"]]
                axes.vlines(x, line["low"], line["high"], color=COLOURS[i], linewidth=0.8)
                axes.plot(
                    x,
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
            text.set_parse_math(False)  # a level may be a path that contains "$"
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
    """Describe each factor's levels at one budget, and where the joint objective chooses better."""
    budget = reported_budget(table["budget"])
    text = [
        f"KL in nats of the policy chosen within {budget} % of the stock model's FLOPs. Choices "
        "from one run are judged on samples that they were not made on; brackets enclose the "
        "middle 95 % of the draws, or the 95 % bootstrap interval where runs are compared."
    ]
    for factor, of_factor in table.groupby("factor", sort=False):
        for objective, rows in of_factor[of_factor["budget"] == budget].groupby("objective"):
            levels = [_level_text(row) for row in rows.to_dict("records")]
            text.append(f"{str(factor).capitalize()}, {objective}: {'; '.join(levels)}.")
    of_samples = table[table["factor"] == SAMPLES]
    wins = []
    for level, rows in of_samples.groupby("level", sort=False):
        proxy_kl, joint_kl = (
            rows[rows["objective"] == name]["kl"].to_numpy() for name in ("additive", "joint")
        )
        wins.append(f"{(joint_kl < proxy_kl).sum()} with {level}")
    if wins:
        text.append(
            f"Of {of_samples['budget'].nunique()} budgets, the joint's choice is better than the "
            f"proxy's on new samples at {', '.join(wins)} calibration samples."
        )
    return " ".join(text)


def _level_text(row: dict[Hashable, Any]) -> str:
    text = f"{row['level']} {row['kl']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    if row["difference_low"] < row["difference_high"]:
        text += (
            f", that is {row['difference']:+.3f} ({row['difference_low']:+.3f} to "
            f"{row['difference_high']:+.3f}) against the first run on the same items"
        )
    return text
