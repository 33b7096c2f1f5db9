"""Ablation of a search: how the chosen policy depends on calibration and on settings."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import (
    Rows,
    additive,
    choose,
    common_budgets,
    draws,
    joint,
    ladder,
    reported_budget,
    whole,
    within,
)
from opsearch.analysis.measured import Array, Measured
from opsearch.analysis.style import COLOURS, DASHES, MARKERS, SYMLOG, legend, panels
from opsearch.errors import OpsearchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAMPLES, POINTS, DIVERGENCE = "calibration samples", "interpolation points", "divergence"
COUNTS = (5, 10, 20, 50, 100, 200)
MEASURED_POINTS = (3, 4, 5, 7, 9)
DIVERGENCES = ("kl", "reverse_kl", "js")
DRAWS = 200
EVALUATED = 1 / 4
"""Least share of the samples to evaluate on; a mean over fewer is too noisy."""


def within_run(run: Measured, budgets: Rows, seed: int) -> Iterator[pd.DataFrame]:
    """Yield a block of rows per level and objective, see `opsearch.analysis.ablation.table`."""
    samples, rows = len(run.items), ladder(run)
    sizes = within(run, rows, budgets)
    kl, top1 = run.tables["kl"][rows], run.tables["top1"][rows]
    for factor, level, count in _factor_levels(samples):
        drawn, rest = draws(samples, count, DRAWS, seed)
        for objective, values in _objectives(run, rows, drawn, factor, level):
            chosen = choose(values, sizes)
            chosen_kl = np.take_along_axis(kl @ rest, chosen, axis=0)
            low, high = interval(chosen_kl)
            agreed = np.take_along_axis(top1 @ rest, chosen, axis=0)
            yield pd.DataFrame(
                {
                    "factor": factor,
                    "level": level,
                    "objective": objective,
                    "budget": budgets,
                    "kl": chosen_kl.mean(axis=1),
                    "low": low,
                    "high": high,
                    "top1": agreed.mean(axis=1),
                    "draws": DRAWS,
                }
            )


def _factor_levels(samples: int) -> Iterator[tuple[str, str, int]]:
    """Yield factor, level, and the number of samples to select on."""
    for count in COUNTS:
        if samples - count >= EVALUATED * samples:
            yield SAMPLES, str(count), count
    for points in (*MEASURED_POINTS, "all"):
        yield POINTS, str(points), samples // 2
    for divergence in DIVERGENCES:
        yield DIVERGENCE, divergence, samples // 2


def _objectives(
    run: Measured, rows: Rows, drawn: Array, factor: str, level: str
) -> Iterator[tuple[str, Array]]:
    """Yield name and values of each objective that selects at a level.

    The joint objective does not interpolate.
    """
    divergence = level if factor == DIVERGENCE else "kl"
    points = int(level) if factor == POINTS and level != "all" else None
    yield "additive", additive(run, rows, drawn, divergence, points)
    if factor != POINTS:
        yield "joint", joint(run, rows, drawn, divergence)


SETTINGS = (
    "model", "dtype", "attention", "data", "samples", "seed", "space", "kv", "stages", "n_v",
    "ranker", "positions",
)  # fmt: skip
"""Settings of a run on which its measurements depend."""


def between_runs(runs: Sequence[Measured], budgets: Rows, seed: int) -> Iterator[pd.DataFrame]:
    """Yield blocks of rows that compare each further run with the first.

    The columns are described in `opsearch.analysis.ablation.table`.

    Raises:
        OpsearchError: A run has the same settings as the first.
    """
    base, *others = runs
    seen: set[str] = set()
    for run in others:
        differ = [s for s in SETTINGS if run.settings.get(s) != base.settings.get(s)]
        if not differ:
            raise OpsearchError(
                f"{run.label} has the same settings as {base.label}; an ablation needs runs that "
                f"differ in one of {', '.join(SETTINGS)}"
            )
        factor = " + ".join(differ)
        for member in (run,) if factor in seen else (base, run):
            level = " + ".join(str(member.settings.get(s)) for s in differ)
            for objective in ("additive", "joint"):
                block = _evaluated_choices(member, base, objective, budgets, seed)
                yield block.assign(factor=factor, level=level, objective=objective)
        seen.add(factor)


def _evaluated_choices(
    run: Measured, base: Measured, objective: str, budgets: Rows, seed: int
) -> pd.DataFrame:
    """Tabulate the choices of a run on its own samples, and the difference to those of `base`."""
    kl, top1 = _chosen(run, objective, budgets)
    redrawn = resamples(len(run.items), seed)
    low, high = interval(kl @ redrawn)
    columns = {"budget": budgets, "kl": kl.mean(axis=1), "low": low, "high": high}
    block = pd.DataFrame(columns | {"top1": top1.mean(axis=1), "draws": 1})
    if run.items != base.items:
        return block
    paired = kl - _chosen(base, objective, budgets)[0]
    low, high = interval(paired @ redrawn)
    return block.assign(difference=paired.mean(axis=1), difference_low=low, difference_high=high)


def _chosen(run: Measured, objective: str, budgets: Rows) -> tuple[Array, Array]:
    """Return KL and top1 of the policy chosen at each budget, on every sample, [K, S] each."""
    rows = ladder(run)
    values = (joint if objective == "joint" else additive)(run, rows, whole(len(run.items)))
    at = rows[choose(values, within(run, rows, budgets))[:, 0]]
    return run.tables["kl"][at], run.tables["top1"][at]


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
        run with the interval of the paired differences, for runs over the same samples.

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
        axes.set_yscale("symlog", **SYMLOG)
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
            f"Across {of_samples['budget'].nunique()} budgets, the joint's choice is better than "
            f"the proxy's on new samples at {', '.join(wins)} calibration samples."
        )
    return " ".join(text)


def _level_text(row: dict[Hashable, Any]) -> str:
    text = f"{row['level']} {row['kl']:.3f} ({row['low']:.3f} to {row['high']:.3f})"
    if row["difference_low"] < row["difference_high"]:
        text += (
            f", that is {row['difference']:+.3f} ({row['difference_low']:+.3f} to "
            f"{row['difference_high']:+.3f}) against the first run on the same samples"
        )
    return text
