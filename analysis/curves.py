"""Individual divergence of every parameter, per family of questions (DOP, Figure 4).

One parameter takes each of its values while all else is unpruned. Where a family's curve reaches
zero, the model needs no further visual computation of that kind for such questions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from opsearch.analysis.bootstrap import interval, resamples
from opsearch.analysis.measured import ALL, Measured
from opsearch.analysis.style import legend, line_style, panels
from opsearch.errors import OpsearchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FREE = 0.05
"""Pruning that costs less, in nats, is called free."""
MEANINGS = {
    "d_attn": "layers with visual tokens in attention",
    "d_q": "layers where visual tokens attend",
    "d_kv": "layers where visual tokens are read",
    "d_mlp": "layers with visual tokens in the MLP",
    "n_v": "share of visual tokens kept",
}


def table(measured: Measured, seed: int = 0) -> pd.DataFrame:
    """Tabulate the mean KL in nats: a row per parameter, value and family.

    `share` is the value over the parameter's largest; `samples` counts the samples of the mean;
    `low` and `high` are a 95 % bootstrap interval over samples, for family "all" only because a
    family has few samples. A sample that was not measured at every value of a parameter is left out
    of that parameter's curves.

    Raises:
        OpsearchError: No sample was measured at every value of a parameter.
    """
    blocks = []
    families = np.array(measured.families)
    for parameter, divergences in zip(measured.space.parameters, measured.alone["kl"], strict=True):
        known = ~np.isnan(divergences).any(axis=0)
        if not known.any():
            raise OpsearchError(
                f"no sample of {measured.label} was measured at each value of {parameter.name}; "
                "run its search again, which measures what is missing"
            )
        values = np.array([float(v) for v in parameter.values])
        low, high = interval(divergences[:, known] @ resamples(int(known.sum()), seed))
        for family in dict.fromkeys([ALL, *measured.families]):
            rows = known if family == ALL else known & (families == family)
            if rows.any():
                block = pd.DataFrame(
                    {
                        "parameter": parameter.name,
                        "value": values,
                        "share": values / values[-1],
                        "family": family,
                        "samples": int(rows.sum()),
                        "kl": divergences[:, rows].mean(axis=1),
                        "low": low if family == ALL else np.nan,
                        "high": high if family == ALL else np.nan,
                    }
                )
                blocks.append(block)
    return pd.concat(blocks, ignore_index=True)


def draw(table: pd.DataFrame) -> Figure:
    """Draw a panel per parameter: a thin line per family, the mean over all samples in bold."""
    from matplotlib.ticker import MaxNLocator

    parameters = table["parameter"].unique()
    families = [f for f in table["family"].unique() if f != ALL]
    figure, row = panels(3.1 * len(parameters) + 1.6, 3.6, len(parameters))
    for axes, parameter in zip(row, parameters, strict=True):
        curves = table[table["parameter"] == parameter]
        for i, family in enumerate(families):
            curve = curves[curves["family"] == family]
            axes.plot(
                curve["value"],
                curve["kl"],
                label=family,
                linewidth=0.9,
                markersize=3,
                **line_style(i),
            )
        mean = curves[curves["family"] == ALL]
        axes.fill_between(mean["value"], mean["low"], mean["high"], color="black", alpha=0.2, lw=0)
        axes.plot(mean["value"], mean["kl"], label="all, 95 % band", color="black", linewidth=2.4)
        dashes = (0, (6, 3))
        axes.axhline(
            FREE, color="black", linewidth=0.8, linestyle=dashes, label=f"{FREE:g} nat, free below"
        )
        # Linear up to FREE, where differences are negligible, and logarithmic above.
        axes.set_yscale("symlog", linthresh=FREE, linscale=0.5)
        axes.set_ylim(bottom=0)
        axes.set_yticks([0, FREE, 0.1, 1, 10], ["0", f"{FREE:g}", "0.1", "1", "10"])
        axes.tick_params(labelsize=8)
        if mean["value"].iloc[-1] > 1:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_title(parameter, fontsize=10)
        axes.set_xlabel(MEANINGS.get(parameter, "value"), fontsize=9)
    row[0].set_ylabel("KL to the original, nats")
    legend(figure, row[0])
    return figure


def free_from(curve: pd.DataFrame) -> float:
    """Return the smallest value of one family's curve from which on KL stays within FREE."""
    costly = np.flatnonzero(curve["kl"].to_numpy() > FREE)
    values = curve["value"].to_numpy()
    return float(values[min(costly[-1] + 1, len(values) - 1)] if len(costly) else values[0])


def describe(table: pd.DataFrame) -> str:
    """Describe where each parameter becomes free, for all samples and the extreme families."""
    families = table[table["family"] != ALL]
    sentences = [
        f"Each parameter is pruned alone. It is free from the value on at which the mean KL stays "
        f"within {FREE:g} nat."
    ]
    if len(families):
        fewest, most = families["samples"].min(), families["samples"].max()
        samples = f"{fewest}" if fewest == most else f"{fewest} to {most}"
        sentences.append(f"A family's curve is the mean of {samples} samples only.")
    for parameter, curves in table.groupby("parameter", sort=False):
        mean = curves[curves["family"] == ALL]
        worst, last = mean.iloc[0], mean["value"].iloc[-1]
        text = (
            f"{parameter} ({MEANINGS.get(str(parameter), 'value')}): at {worst['value']:g} the KL "
            f"over all {worst['samples']} samples is {worst['kl']:.2f} nats (95 % interval "
            f"{worst['low']:.2f} to {worst['high']:.2f}), from {free_from(mean):g} of {last:g} on "
            "it is free"
        )
        of_family = curves[curves["family"] != ALL].groupby("family", sort=False)
        if first := {str(family): free_from(curve) for family, curve in of_family}:
            text += f"; {_extreme(first, min, 'earliest')}; {_extreme(first, max, 'latest')}"
        sentences.append(text + ".")
    return " ".join(sentences)


def _extreme(first: dict[str, float], pick: Callable[[Iterable[float]], float], word: str) -> str:
    """Name the families whose value is lowest or highest, e.g. "latest from 10: count, word"."""
    value = pick(first.values())
    names = [name for name, v in first.items() if v == value]
    shown = names if len(names) <= 5 else [*names[:4], f"{len(names) - 4} more"]
    return f"{word} from {value:g}: {', '.join(shown)}"
