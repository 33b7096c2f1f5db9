"""The page of a comparison over draws, and its section on the page of a comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from opsearch.analysis.draws import OURS
from opsearch.analysis.equal_cost import is_defined
from opsearch.report.svg import inline
from opsearch.report.templates import templates

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from opsearch.analysis.draws import DrawTables

_METRICS = {"rel_avg": ("Rel. Avg., %", 1), "kl": ("KL, nats", 3)}


def draws_page(model: str, found: DrawTables, figure: Figure, text: str) -> str:
    """Return the HTML of the tables of `opsearch.analysis.draws`; all text is escaped.

    Args:
        model: Name of the model.
        found: The tables.
        figure: Their figure.
        text: Description of the figure.
    """
    drawn = inline(figure, "draws", "Quality of each method on every draw, by budget")
    template = templates().get_template("draws.html")
    return template.render(model=model, text=text, figure=drawn, drawn=draws_section(found))


def draws_section(found: DrawTables) -> dict[str, Any]:
    """Return what the table over draws shows: methods at each budget, with formatted cells."""
    table = found.methods
    names = [name for name in _METRICS if name == "kl" or is_defined(table)]
    columns = [_METRICS[name][0] for name in names]
    parts = [
        {"budget": budget, "rows": [_row(row, names) for row in rows.to_dict("records")]}
        for budget, rows in table.groupby("budget", sort=False)
    ]
    return {
        "draws": int(found.draws["draw"].nunique()),
        "items": int(table["items"].iloc[0]),
        "columns": [f"{name}{end}" for name in columns for end in ("", ": draws", ": difference")],
        "budgets": parts,
        "ours": OURS,
    }


def _row(row: dict[Any, Any], names: list[str]) -> dict[str, Any]:
    """Return for each metric the mean, the spread over draws, and the difference from ours."""
    cells: list[tuple[str, bool]] = []
    for name in names:
        mean, low, high = (_number(row, name, key) for key in ("", "_low", "_high"))
        lowest, highest, sd = (_number(row, name, key) for key in ("_lowest", "_highest", "_sd"))
        keys = ("_difference", "_difference_low", "_difference_high")
        gap, gap_low, gap_high = (_number(row, name, key) for key in keys)
        difference = "" if row["method"] == OURS else f"{gap} ({gap_low} to {gap_high})"
        cells += [
            (f"{mean} ({low} to {high})", False),
            (f"{lowest} to {highest}, sd {sd}", False),
            (difference, bool(row[f"{name}_certain"])),
        ]
    return {"method": row["method"], "draws": row["draws"], "cells": cells}


def _number(row: dict[Any, Any], name: str, key: str) -> str:
    value = row[f"{name}{key}"]
    return "-" if np.isnan(value) else f"{value:.{_METRICS[name][1]}f}"
