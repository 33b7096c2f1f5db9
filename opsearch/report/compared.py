"""The page of a comparison: figure, a table per budget, scores by family, policies."""

from __future__ import annotations

from collections.abc import Hashable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from opsearch.analysis.equal_cost import is_defined
from opsearch.formatting import format_amount
from opsearch.report.drawn import draws_section
from opsearch.report.svg import inline
from opsearch.report.templates import templates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from opsearch.analysis.draws import DrawTables


def comparison_page(
    model: str,
    table: pd.DataFrame,
    families: pd.DataFrame,
    figure: Figure,
    text: str,
    over_draws: DrawTables | None = None,
) -> str:
    """Return the HTML of the tables of `opsearch.analysis.equal_cost`; all text is escaped.

    Args:
        model: Name of the model.
        table: Methods at each budget.
        families: Scores by family.
        figure: The figure of the comparison.
        text: Description of the figure.
        over_draws: The same methods over draws of the calibration samples; None if not compared.
    """
    budgets = [
        {
            "budget": budget,
            "rows": _rows(rows),
            "families": _families(families[families["budget"] == budget]),
        }
        for budget, rows in table.groupby("budget", sort=False)
    ]
    drawn = inline(figure, "compared", "Quality of each method by share of the original's cost")
    return (
        templates()
        .get_template("compared.html")
        .render(
            model=model,
            text=text,
            figure=drawn,
            items=int(table["items"].iloc[0]),
            methods=table["method"].nunique(),
            defined=is_defined(table),
            timed="prefill_ms" in table,
            budgets=budgets,
            drawn=None if over_draws is None else draws_section(over_draws),
        )
    )


def _rows(table: pd.DataFrame) -> list[dict[str, object]]:
    """Return one row per method: name, policy, formatted cells and the best of them."""
    best = {
        "Rel. Avg., %": table["rel_avg"].max(),
        "accuracy, %": table["accuracy"].max(),
        "KL": table["kl"].min(),
    }
    found = []
    for row in table.to_dict("records"):
        values = {"Rel. Avg., %": row["rel_avg"], "accuracy, %": row["accuracy"], "KL": row["kl"]}
        cells = {
            "FLOPs, %": f"{100 * row['share']:.2f}",
            **_whole(row),
            "papers' MACs, %": f"{100 * row['macs_share']:.2f}",
            "KV cache": f"{format_amount(row['kv_bytes'], 'B')}, {100 * row['kv_share']:.1f} %",
            "measured": "-" if pd.isna(row["evaluations"]) else f"{row['evaluations']:,.0f}",
            "KL": f"{row['kl']:.3f}",
            "Rel. Avg., %": "-" if np.isnan(row["rel_avg"]) else _interval(row),
            "accuracy, %": f"{100 * row['accuracy']:.1f}",
        }
        if "prefill_ms" in row:
            timed = not np.isnan(row["prefill_ms"])
            time = f"{row['prefill_ms']:.3g} of {row['original_ms']:.3g}"
            cells["prefill, ms"] = time if timed else "-"
            cells["including ranking, ms"] = f"{row['ranking_ms']:.3g}" if timed else "-"
        named = {"method": row["method"], "policy": _with_setting(row), "cells": cells}
        found.append({**named, "best": [name for name in values if values[name] == best[name]]})
    return found


def _whole(row: dict[Hashable, Any]) -> dict[str, str]:
    """Return the share of the whole prefill, nothing for a comparison that has none."""
    share = row.get("prefill_share")
    if share is None:
        return {}
    return {"with vision, %": "-" if np.isnan(share) else f"{100 * share:.2f}"}


def _with_setting(row: dict[Hashable, Any]) -> str:
    return f"{row['policy']}, {row['setting']} chosen" if row["setting"] else str(row["policy"])


def _interval(row: dict[Hashable, Any]) -> str:
    return f"{row['rel_avg']:.1f} ({row['low']:.1f} to {row['high']:.1f})"


def _families(table: pd.DataFrame) -> dict[str, dict[str, str]]:
    """Return scores in % by family, with a column for the original and one per method."""
    families, methods = list(table["family"].unique()), list(table["method"].unique())
    scores = table.pivot(index="family", columns="method", values="score")
    scores = scores.reindex(index=families, columns=methods)
    scores.insert(0, "original", table.groupby("family", sort=False)["original"].first())
    return {
        str(family): {str(method): f"{100 * value:.0f}" for method, value in row.items()}
        for family, row in scores.to_dict("index").items()
    }
