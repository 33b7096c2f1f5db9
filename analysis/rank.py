"""Ranking quality of the additive proxy, measured against the true joint divergence."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.choice import (
    BUDGETS,
    Rows,
    additive,
    choose,
    draws,
    joint,
    ladder,
    missing,
    whole,
    within,
)
from opsearch.analysis.measured import Array, Measured
from opsearch.analysis.style import COLOURS, DASHES, SYMLOG, panels
from opsearch.errors import OpsearchError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_RANK_RESAMPLES = 200
HALVES = 400
TOP = 10
REGRETS = (
    ("on the samples both chose on, 95 % bootstrap", "regret", "low", "high"),
    ("on other samples, middle 95 % of halves", "split_regret", "split_low", "split_high"),
)
"""Labels of both regrets in the figure, and their columns."""


def grades(measured: Measured, rows: Rows, sizes: Rows, seed: int) -> pd.DataFrame:
    """Tabulate the rank statistics over the policies of each budget, the first sizes[k] of `rows`.

    The columns are described in `opsearch.analysis.rank.table`.
    """
    from scipy.stats import kendalltau

    samples = len(measured.items)
    # The last column holds all samples, the others are bootstrap resamples.
    weights = np.hstack([resamples(samples, seed, _RANK_RESAMPLES), whole(samples)])
    proxies, joints = additive(measured, rows, weights), joint(measured, rows, weights)
    records = []
    for size in sizes:
        proxy, true = proxies[:size, -1], joints[:size, -1]
        spearman = rank_correlation(proxies[:size], joints[:size])
        known = spearman[:-1][~np.isnan(spearman[:-1])]
        low, high = interval(known) if len(known) else (np.nan, np.nan)
        varied = not np.isnan(spearman[-1])
        records.append(
            {
                "spearman": spearman[-1],
                "spearman_low": low,
                "spearman_high": high,
                "kendall": float(kendalltau(proxy, true).statistic) if varied else np.nan,
                "top10": overlap(proxy, true, TOP),
                "top1pct": overlap(proxy, true, -(-size // 100)),
            }
        )
    return pd.DataFrame(records)


def rank_correlation(first: Array, second: Array) -> Array:
    """Return Spearman's correlation of each pair of columns [N, W]; nan for a constant column."""
    from scipy.stats import rankdata

    a, b = (rankdata(x, axis=0) - (len(x) + 1) / 2 for x in (first, second))
    scale = np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    undefined = np.full(len(scale), np.nan)
    return np.asarray(np.divide((a * b).sum(axis=0), scale, out=undefined, where=scale > 0))


def overlap(proxy: Array, joint: Array, k: int) -> float:
    """Return the share of the k lowest that both have in common, nan unless k is below the length.

    Ties are broken by position.
    """
    if k >= len(proxy):
        return np.nan
    best_proxy, best_joint = (np.argsort(v, kind="stable")[:k] for v in (proxy, joint))
    return len(np.intersect1d(best_proxy, best_joint)) / k


def regret(measured: Measured, rows: Rows, sizes: Rows, seed: int = 0) -> pd.DataFrame:
    """Tabulate the regret: a row per budget, whose policies are the first sizes[k] of `rows`.

    The sizes are positive and non-decreasing. The columns are described in
    `opsearch.analysis.rank.table`.
    """
    return pd.concat(
        [_measured(measured, rows, sizes, seed), _split(measured, rows, sizes, seed)], axis=1
    )


def _measured(measured: Measured, rows: Rows, sizes: Rows, seed: int) -> pd.DataFrame:
    """Tabulate the choices on all samples, with bootstrap intervals."""
    samples = len(measured.items)
    proxy, true = (c[:, 0] for c in _choices(measured, rows, sizes, whole(samples)))
    values = joint(measured, rows, whole(samples))[:, 0] * measured.quantum
    kl, top1 = measured.tables["kl"][rows], measured.tables["top1"][rows]
    redrawn = resamples(samples, seed)
    # The two choices are fixed; only the samples of the evaluation are resampled.
    low, high = interval((kl[proxy] - kl[true]) @ redrawn)
    top1_low, top1_high = interval((top1[true] - top1[proxy]) @ redrawn)
    # The choices are made anew on each resample.
    proxy_again, true_again = _choices(measured, rows, sizes, redrawn)
    return pd.DataFrame(
        {
            "proxy_policy": [point_name(measured, rows[i]) for i in proxy],
            "joint_policy": [point_name(measured, rows[i]) for i in true],
            "proxy_kl": values[proxy],
            "joint_kl": values[true],
            "regret": values[proxy] - values[true],
            "low": low,
            "high": high,
            "proxy_top1": top1[proxy].mean(axis=1),
            "joint_top1": top1[true].mean(axis=1),
            "regret_top1": (top1[true] - top1[proxy]).mean(axis=1),
            "top1_low": top1_low,
            "top1_high": top1_high,
            "same": (proxy_again == true_again).mean(axis=1),
        }
    )


def _split(measured: Measured, rows: Rows, sizes: Rows, seed: int) -> pd.DataFrame:
    """Tabulate choices made on a random half of the samples and evaluated on the other half."""
    samples = len(measured.items)
    half, rest = draws(samples, samples // 2, HALVES, seed)
    proxy, true = _choices(measured, rows, sizes, half)
    kl, top1 = measured.tables["kl"][rows] @ rest, measured.tables["top1"][rows] @ rest
    proxy_kl, joint_kl = (np.take_along_axis(kl, chosen, axis=0) for chosen in (proxy, true))
    proxy_top1, joint_top1 = (np.take_along_axis(top1, chosen, axis=0) for chosen in (proxy, true))
    low, high = interval(proxy_kl - joint_kl)
    return pd.DataFrame(
        {
            "split_proxy_kl": proxy_kl.mean(axis=1),
            "split_joint_kl": joint_kl.mean(axis=1),
            "split_regret": (proxy_kl - joint_kl).mean(axis=1),
            "split_low": low,
            "split_high": high,
            "split_regret_top1": (joint_top1 - proxy_top1).mean(axis=1),
        }
    )


def _choices(measured: Measured, rows: Rows, sizes: Rows, weights: Array) -> tuple[Rows, Rows]:
    """Return the choices of proxy and joint within each budget on each set of samples."""
    by_proxy = choose(additive(measured, rows, weights), sizes)
    return by_proxy, choose(joint(measured, rows, weights), sizes)


def point_name(measured: Measured, row: int) -> str:
    """Return the parameters of a point, e.g. "d_attn=10 d_mlp=7 n_v=7/10"."""
    pairs = zip(measured.space.parameters, measured.space.points[row], strict=True)
    return " ".join(f"{parameter.name}={parameter.values[i]}" for parameter, i in pairs)


def policies(measured: Measured) -> pd.DataFrame:
    """Tabulate the distinct policies by rising cost, up to the first that was not fully measured.

    `policy` holds its parameters; `share` is relative to the stock model's cost; `proxy` and
    `joint` are the mean KL in nats; `top1` is the share of samples whose first answer token equals
    the original's.
    """
    rows = ladder(measured)
    weights = whole(len(measured.items))
    return pd.DataFrame(
        {
            "policy": [point_name(measured, row) for row in rows],
            "share": measured.share[rows],
            "proxy": additive(measured, rows, weights)[:, 0] * measured.quantum,
            "joint": joint(measured, rows, weights)[:, 0] * measured.quantum,
            "top1": measured.tables["top1"][rows].mean(axis=1),
        }
    )


def table(measured: Measured, seed: int = 0) -> pd.DataFrame:
    """Tabulate rank statistics and regret: a row per distinct budget in % of the stock cost.

    A budget with unmeasured policies has no values beyond `missing`, as its optimum is not known.

    Returns:
        `budget`; `samples` of the run; `policies` within the budget; `missing`: those of them that
        were not measured on every sample. `spearman`, `kendall`: rank correlation of proxy and
        joint over these policies, Spearman's with its 95 % bootstrap interval over samples;
        `top10`, `top1pct`: overlap of the best 10 and of the best 1 %, nan where that is all.
        `proxy_*`, `joint_*`: the choice of each objective, its KL (nats) and top1, the share of
        samples whose first answer token equals the original's (accuracy without generating every
        answer). `regret`: KL of the proxy's choice minus that of the joint's; `regret_top1`: top1
        of the joint's choice minus that of the proxy's; `low`, `high`, `top1_low`, `top1_high`: 95
        % bootstrap intervals over samples for these two fixed choices. `same`: how often both
        choose the same policy on resampled calibration samples. `split_*`: each choice is made on a
        random half of the samples and evaluated on the other half, mean over 400 halves;
        `split_low`, `split_high`: the middle 95 % of the halves' regrets.

    Raises:
        OpsearchError: No budget was measured completely, or there is one sample only.
    """
    costs, stock = measured.flops.listed, measured.flops.stock
    cheapest, dearest = (-(-100 * int(end) // stock) for end in (costs.min(), costs.max()))
    percents = np.arange(cheapest, dearest + 1)
    rows = ladder(measured)
    sizes, absent = within(measured, rows, percents), missing(measured, rows, percents)
    known = absent == 0
    if not known.any():
        raise OpsearchError(
            f"{measured.label} holds no budget within which every policy was measured; run its "
            f"search with --objective joint --complete and a budget of at least {percents[0]}%"
        )
    counts = pd.DataFrame(
        {
            "budget": percents,
            "samples": len(measured.items),
            "policies": sizes + absent,
            "missing": absent,
        }
    )
    arguments = measured, rows, sizes[known], seed
    graded = pd.concat([grades(*arguments), regret(*arguments)], axis=1)
    return counts.join(graded.set_index(np.flatnonzero(known)))


def draw(policies: pd.DataFrame, table: pd.DataFrame) -> Figure:
    """Draw every policy's proxy against its joint KL, and the regret of the proxy's choices."""
    figure, (scatter, regrets) = panels(10.5, 4.3, 2)
    _draw_policies(figure, scatter, policies, table)
    known = table[table["missing"] == 0]
    for i, (label, value, low, high) in enumerate(REGRETS):
        budget, style = known["budget"], {"color": COLOURS[i], "linestyle": DASHES[i]}
        regrets.fill_between(budget, known[low], known[high], color=COLOURS[i], alpha=0.15, lw=0)
        for edge in (low, high):
            regrets.plot(budget, known[edge], linewidth=0.5, **style)
        regrets.plot(budget, known[value], linewidth=2, label=label, **style)
    regrets.axhline(0, color="black", linewidth=0.8)
    regrets.set_xlabel("budget, % of the stock model's FLOPs")
    regrets.set_ylabel("KL of the proxy's choice above the joint's, nats")
    regrets.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1))
    return figure


def _draw_policies(figure: Figure, axes: Axes, policies: pd.DataFrame, table: pd.DataFrame) -> None:
    """Draw the scatter; at some budgets a line connects the choices of proxy and joint."""
    share = 100 * policies["share"]
    dots = axes.scatter(policies["proxy"], policies["joint"], c=share, s=9, cmap="viridis", lw=0)
    top = 1.2 * policies[["proxy", "joint"]].to_numpy().max()
    axes.plot([0, top], [0, top], color="black", linewidth=0.8, linestyle=(0, (6, 3)))
    at = policies.set_index("policy")[["proxy", "joint"]]
    chosen = table[table["budget"].isin(BUDGETS) & (table["missing"] == 0)]
    proxy, joint = (at.loc[chosen[f"{name}_policy"]].to_numpy().T for name in ("proxy", "joint"))
    axes.plot([proxy[0], joint[0]], [proxy[1], joint[1]], color="black", linewidth=1)
    ring: dict[str, Any] = {"color": "black", "fillstyle": "none", "linestyle": "none"}
    axes.plot(*joint, marker="o", markersize=7, label="choice of the joint", **ring)
    axes.plot(*proxy, marker="s", markersize=11, label="choice of the proxy", **ring)
    for budget, x, y in zip(chosen["budget"], *joint, strict=True):
        axes.annotate(
            f"{budget} %",
            (x, y),
            xytext=(34, -26),
            textcoords="offset points",
            fontsize=8,
            arrowprops={"arrowstyle": "-", "linewidth": 0.6, "shrinkB": 5},
        )
    ticks = [tick for tick in (0, 0.1, 1, 10) if tick < top]
    axes.set_xscale("symlog", **SYMLOG)
    axes.set_yscale("symlog", **SYMLOG)
    axes.set(xlim=(0, top), ylim=(0, top))
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_yticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.set_xlabel("additive proxy, nats")
    axes.set_ylabel("joint KL, nats")
    axes.legend(frameon=False, fontsize=8, loc="upper left")
    figure.colorbar(dots, ax=axes, label="cost, % of the stock model's FLOPs", pad=0.02)


def describe(table: pd.DataFrame) -> str:
    """Describe the rank statistics, the regret on the samples of the choice, and on new samples."""
    known = table[table["missing"] == 0]
    left_out = table[table["missing"] > 0]
    last, worst = known.iloc[-1], known.iloc[int(known["regret"].argmax())]
    equal = known["proxy_policy"] == known["joint_policy"]
    text = []
    if last["policies"] > TOP:
        text.append(
            f"Over all {last['policies']} policies within {last['budget']} % of the stock model's "
            f"FLOPs, on {last['samples']} samples, the rankings by the additive proxy and the "
            f"joint KL correlate with Spearman {last['spearman']:.3f} (95 % interval "
            f"{last['spearman_low']:.3f} to "
            f"{last['spearman_high']:.3f}) and Kendall {last['kendall']:.3f}; of the best {TOP} "
            f"they share {last['top10']:.0%}, of the best 1 % {last['top1pct']:.0%}."
        )
    text.append(
        f"At {equal.sum()} of {len(known)} budgets both choose the same policy. The proxy's choice "
        f"is on average {known['regret'].mean():.3f} nats above the lowest KL, at worst "
        f"{worst['regret']:.3f} at {worst['budget']} % ({worst['low']:.3f} to "
        f"{worst['high']:.3f}). When the calibration samples are drawn anew, both choose the same "
        f"policy {known['same'].mean():.0%} of the time."
    )
    for row in known[known["budget"].isin(BUDGETS)].to_dict("records"):
        points, low, high = (100 * row[c] for c in ("regret_top1", "top1_low", "top1_high"))
        text.append(
            f"At {row['budget']} % the regret is {row['regret']:.3f} nats ({row['low']:.3f} to "
            f"{row['high']:.3f}) and {points:.1f} points ({low:.1f} to {high:.1f}) of agreement in "
            "the first token."
        )
    split = known["split_regret"]
    sure = (known["split_low"] > 0) | (known["split_high"] < 0)
    text.append(
        f"On samples that were not used for the choice (chosen on a random half, judged on the "
        f"other, {HALVES} halves) "
        f"the joint's choice has the lower mean KL at {(split > 0).sum()} of "
        f"{len(known)} budgets and the proxy's at {(split < 0).sum()}; at {sure.sum()} budgets the "
        f"middle 95 % of the halves lie on one side of zero. The mean over budgets of the proxy's "
        f"KL minus the joint's is {split.mean():+.3f} nats."
    )
    if len(left_out):
        text.append(
            f"Left out: {left_out['budget'].min()} to {left_out['budget'].max()} %, where up to "
            f"{left_out['missing'].max()} policies were not measured on every sample."
        )
    return " ".join(text)
