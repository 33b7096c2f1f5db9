"""Several runs compared: cost, true divergence and accuracy of the policy that each chose."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from opsearch.analysis.style import legend, line_style, panels
from opsearch.errors import OpsearchError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAME = ("model", "dtype", "data", "samples", "heldout", "seed", "positions", "answer_tokens")
"""Settings that must agree for runs to be evaluated on the same samples by the same model."""
_KL, _REL = "KL held-out", "Rel. Avg., %"


@dataclass(frozen=True, eq=False)
class Outcome:
    """Results of a run.

    Attributes:
        label: Name of the run.
        record: Its record of the solution, as in solution.json.
        comparison: Its final table.
    """

    label: str
    record: Mapping[str, Any]
    comparison: pd.DataFrame


def table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """Tabulate the runs: space, search, budget, share of the stock model's FLOPs in %, objective.

    `search` includes the ranker where runs have several; `evaluations` counts the policies that a
    blackbox search evaluated; `kl_calibration` and `kl_heldout` are those of the chosen policy, in
    nats; `rel_avg` is in %.

    Raises:
        OpsearchError: The runs were not evaluated alike.
    """
    first = outcomes[0]
    for outcome in outcomes:
        for name in SAME:
            # Records of earlier versions lack settings that had one value only.
            here, there = (each.record["settings"].get(name) for each in (outcome, first))
            if here != there:
                raise OpsearchError(
                    f"{outcome.label} has {name} {here}, {first.label} has {there}: their "
                    "results cannot be compared; give runs that differ only in space, "
                    "ranker, objective, solver or budget"
                )
    found = pd.DataFrame([_row(outcome) for outcome in outcomes])
    if found["ranker"].nunique() > 1:
        found["search"] += ", " + found["ranker"]
    order = ["space", "search", "share"]
    return found.sort_values(order, kind="stable", ignore_index=True)


def _row(outcome: Outcome) -> dict[str, Any]:
    record, chosen = outcome.record, outcome.comparison["opsearch"]
    return {
        "run": outcome.label,
        "space": record["space"],
        "ranker": record["settings"]["ranker"],
        "search": _search(record),
        "budget": " ".join(record["budget"]),
        "share": chosen["% of stock"],
        "value": record["value"],
        "proved": record["status"] == "optimal",
        "evaluations": record["evaluations"],
        "kl_calibration": chosen["KL calibration"],
        "kl_heldout": chosen.get(_KL),
        "rel_avg": chosen.get(_REL),
    }


def _search(record: Mapping[str, Any]) -> str:
    """Describe a run's search: objective, verification, and a solver without proof."""
    settings = record["settings"]
    words = [settings["objective"]]
    if settings["verify"]:
        words.append("verified")
    elif record["status"] != "optimal":
        words.append(record["solver"])
    return ", ".join(words)


def draw(found: pd.DataFrame) -> Figure:
    """Draw a panel per space, a line per search; grey: the lowest divergence of all runs."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    spaces = list(dict.fromkeys(found["space"]))
    searches = list(dict.fromkeys(found["search"]))
    column = "kl_heldout" if found["kl_heldout"].notna().all() else "kl_calibration"
    figure, every = panels(2.4 * len(spaces) + 1.8, 3.4, len(spaces))
    lowest = found.loc[found.groupby("budget")[column].idxmin()].sort_values("share")
    for axes in every[1:]:
        axes.sharey(every[0])
        axes.tick_params(labelleft=False)
    for axes, space in zip(every, spaces, strict=True):
        axes.plot(lowest["share"], lowest[column], color="0.75", linewidth=5, zorder=1)
        for i, search in enumerate(searches):
            rows = found[(found["space"] == space) & (found["search"] == search)]
            axes.plot(rows["share"], rows[column], label=search, **line_style(i))
        axes.set_title(space, fontsize=10)
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_minor_locator(NullLocator())
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    split = "held-out" if column == "kl_heldout" else "calibration"
    every[0].set_ylabel(f"KL on {split} samples, nats")
    figure.supxlabel("FLOPs, % of the stock model", fontsize=10)
    legend(figure, every[0])
    return figure


def describe(found: pd.DataFrame) -> str:
    """Describe the run with the lowest true divergence at each budget."""
    sentences = [
        f"{len(found)} runs with equal model, data and metrics." if len(found) > 1 else "1 run."
    ]
    for budget, rows in found.groupby("budget", sort=False):
        best = min(rows.to_dict("records"), key=lambda row: row["kl_calibration"])
        sentences.append(
            f"Within {budget} {best['space']} ({best['search']}) comes closest to the original: "
            f"{best['kl_calibration']:.3f} nats on calibration samples{_evaluated(best)}."
        )
    return " ".join(sentences)


def _evaluated(row: Mapping[Hashable, Any]) -> str:
    """Format the KL on held-out samples and Rel. Avg., where known."""
    words = "" if pd.isna(row["kl_heldout"]) else f", {row['kl_heldout']:.3f} on held-out samples"
    return words if pd.isna(row["rel_avg"]) else f"{words}, Rel. Avg. {row['rel_avg']:.1f} %"
