"""Transfer of policies: loss of a policy that was searched on another family, model or data.

Families of one run are compared, or several runs that measured the same policies: of two models,
or of two data sets. Only stored divergences are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import (
    Rows,
    additive,
    choose,
    common_budgets,
    joint,
    ladder,
    reported_budget,
    within,
)
from opsearch.analysis.measured import ALL, Array, Measured
from opsearch.analysis.rank import point_name
from opsearch.analysis.style import COLOURS, SYMLOG, panels, whiskers
from opsearch.errors import OpsearchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

JOINT = "joint"
CHOSEN_BY = {JOINT: joint, "additive": additive}
"""Objectives by which a source chooses; the optimum of a target is by the joint one."""
HALVES = 200
LOSS = "KL above the own optimum's, nats"
FEWEST = 4
"""Least number of samples of a family."""


@dataclass(frozen=True, eq=False)
class SampleGroup:
    """Samples on which a policy is chosen and evaluated.

    Attributes:
        label: Name of the group.
        run: The run that measured it.
        samples: The run's samples that belong to the group, bool[S].
        halves: Samples of the run to choose on in each of W draws, bool[S, W].
    """

    label: str
    run: Measured
    samples: NDArray[np.bool_]
    halves: NDArray[np.bool_]

    def whole(self) -> Array:
        """Return the weights of all samples, [S, 1]."""
        return _weights(self.samples[:, None])

    def chosen(self) -> Array:
        """Return the weights of the samples to choose on in each draw, [S, W]."""
        return _weights(self.halves & self.samples[:, None])

    def left(self) -> Array:
        """Return the weights of the samples to evaluate on in each draw, [S, W]."""
        return _weights(~self.halves & self.samples[:, None])


def table(runs: Sequence[Measured], seed: int = 0) -> pd.DataFrame:
    """Tabulate the loss per source, target, choosing objective and budget.

    `source` is where the policy was searched, `target` where it is applied: families of one run and
    all of them together, or several runs. Both choose within the same cost, the source by its joint
    or additive divergences (`by`), the target by its joint ones.

    Returns:
        `budget` in % of the target's stock FLOPs; `samples` of the target; `policy`, `own`: the
        choices of source and target on all their samples; `kl`, `own_kl`: mean KL of both on the
        target's samples in nats; `loss`: their difference, with its 95 % bootstrap interval over
        samples in `low` and `high`. `split_*`: both choose on a random half of their samples and
        are evaluated on the target's other half, mean over 200 halves, so that the target's own
        choice has no advantage: loss in KL with the middle 95 % of the halves, and `split_top1`,
        the loss in the share of samples whose first answer token equals the original's.

    Raises:
        OpsearchError: There is one group only, the runs measured different policies, or no budget
            was measured completely.
    """
    groups = _groups(runs, seed)
    budgets = common_budgets(runs)
    return pd.concat(
        [block for run in runs for block in _applied_to(run, groups, budgets, seed)],
        ignore_index=True,
    )


def _groups(runs: Sequence[Measured], seed: int) -> list[SampleGroup]:
    first, *others = runs
    if others:
        for run in others:
            _check_same_space(first, run)
        labels = _labels(runs)
        everything = [np.ones(len(run.items), bool) for run in runs]
        parts = zip(labels, runs, everything, strict=True)
        return [SampleGroup(*part, _halves(part[1], seed)) for part in parts]
    family, halves = np.array(first.families), _halves(first, seed)
    names = [
        name
        for name in dict.fromkeys(first.families)
        if name != ALL and (family == name).sum() >= FEWEST
    ]
    if len(names) < 2:
        raise OpsearchError(
            f"{first.label} has {len(names)} families of questions with at least {FEWEST} samples "
            "and transfer needs two; name families in the data, measure more --samples, or analyze "
            "two runs together"
        )
    whole = SampleGroup(ALL, first, np.ones(len(family), bool), halves)
    return [*(SampleGroup(name, first, family == name, halves) for name in names), whole]


def _check_same_space(first: Measured, other: Measured) -> None:
    if first.space.parameters != other.space.parameters:
        raise OpsearchError(
            f"{other.label} searched {_described(other)} and {first.label} {_described(first)}; "
            "run both with the same --space and --n-v, on models of equally many layers"
        )


def _described(run: Measured) -> str:
    sizes = ", ".join(f"{len(p.values)} values of {p.name}" for p in run.space.parameters)
    return f"{run.space.name} ({sizes})"


def _labels(runs: Sequence[Measured]) -> list[str]:
    """Return the names of the runs' folders, numbered where two are equal."""
    names = [run.label for run in runs]
    return [n if names.count(n) == 1 else f"{n} ({i})" for i, n in enumerate(names, 1)]


def _halves(run: Measured, seed: int) -> NDArray[np.bool_]:
    """Draw half of every family in each column, bool[S, HALVES].

    Runs over the same samples draw the same halves.
    """
    random = np.random.default_rng(seed)
    family = np.array(run.families)
    drawn = np.empty((len(family), HALVES), bool)
    for name in dict.fromkeys(run.families):
        members = np.flatnonzero(family == name)
        first = np.arange(len(members)) < len(members) // 2
        drawn[members] = random.permuted(np.tile(first, (HALVES, 1)), axis=1).T
    return drawn


def _weights(members: NDArray[np.bool_]) -> Array:
    return np.asarray(members / members.sum(axis=0))


def _applied_to(
    run: Measured, groups: Sequence[SampleGroup], budgets: Rows, seed: int
) -> Iterator[pd.DataFrame]:
    """Yield the blocks of the table whose targets are groups of `run`."""
    rows = ladder(run)
    sizes = within(run, rows, budgets)
    rows = rows[: sizes[-1]]
    for group in groups:
        if not group.run.complete[rows].all():
            raise OpsearchError(
                f"{group.label} did not measure every policy within {budgets[-1]} % of the FLOPs "
                f"of {run.label}; run its search with --complete and a larger "
                "--budget"
            )
    choices = {by: [_choices(by, group, rows, sizes) for group in groups] for by in CHOSEN_BY}
    for target, (own, own_halves) in zip(groups, choices[JOINT], strict=True):
        if target.run is not run:
            continue
        left = target.left()[target.samples]
        kl, top1 = (run.tables[name][rows][:, target.samples] for name in ("kl", "top1"))
        evaluated = kl @ left, top1 @ left
        for by, source, chosen, chosen_halves in _all_choices(groups, choices):
            columns: dict[str, Any] = {
                "source": source.label,
                "target": target.label,
                "by": by,
                "budget": budgets,
                "policy": [point_name(run, row) for row in rows[chosen]],
                "own": [point_name(run, row) for row in rows[own]],
            }
            columns |= _measured(kl, chosen, own, seed)
            columns |= _split(*evaluated, chosen_halves, own_halves)
            yield pd.DataFrame(columns)


def _choices(by: str, group: SampleGroup, rows: Rows, sizes: Rows) -> tuple[Rows, Rows]:
    """Return a group's choices within each budget, on all samples [K] and on each half [K, W]."""
    whole, halves = (
        choose(CHOSEN_BY[by](group.run, rows, weights), sizes)
        for weights in (group.whole(), group.chosen())
    )
    return whole[:, 0], halves


def _all_choices(
    groups: Sequence[SampleGroup], choices: Mapping[str, Sequence[tuple[Rows, Rows]]]
) -> Iterator[tuple[str, SampleGroup, Rows, Rows]]:
    """Yield every choosing objective and group with its choices, see `_choices`."""
    for by, found in choices.items():
        for group, (whole, halves) in zip(groups, found, strict=True):
            yield by, group, whole, halves


def _measured(kl: Array, chosen: Rows, own: Rows, seed: int) -> dict[str, Any]:
    """Compare both choices, rows of kl [N, S], on the target's samples."""
    loss = kl[chosen] - kl[own]
    low, high = interval(loss @ resamples(kl.shape[1], seed))
    return {
        "samples": kl.shape[1],
        "kl": kl[chosen].mean(axis=1),
        "own_kl": kl[own].mean(axis=1),
        "loss": loss.mean(axis=1),
        "low": low,
        "high": high,
    }


def _split(kl: Array, top1: Array, chosen: Rows, own: Rows) -> dict[str, Array]:
    """Compare choices of halves [K, W] by means over each draw's other half, kl, top1 [N, W]."""
    loss = np.take_along_axis(kl, chosen, axis=0) - np.take_along_axis(kl, own, axis=0)
    agreed = np.take_along_axis(top1, own, axis=0) - np.take_along_axis(top1, chosen, axis=0)
    low, high = interval(loss)
    return {
        "split_loss": loss.mean(axis=1),
        "split_low": low,
        "split_high": high,
        "split_top1": agreed.mean(axis=1),
    }


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
    spread = whiskers(bars["split_loss"], bars["split_low"], bars["split_high"])
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
    axes.set_yscale("symlog", **SYMLOG)
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
        f"({HALVES} halves; {counted} samples per target). The target's own optimum "
        "overfits if it has few samples, so a loss can be below zero."
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
            f"{by_source.idxmin()} is the best source ({by_source.min():.2f} nats lost on average "
            f"on other targets), {by_source.idxmax()} the worst ({by_source.max():.2f}); "
            f"{by_target.idxmax()} loses most with policies of others ({by_target.max():.2f}), "
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
