"""Comparisons in the layout of papers: methods down, families across, a block per budget."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from opsearch.analysis import equal_cost
from opsearch.analysis.equal_cost import Comparison
from opsearch.analysis.measured import Array

ORIGINAL = "original"
BEFORE = ("run", "budget", "method", "cost, %")
AFTER = ("Rel. Avg.", "low", "high")
"""Columns before and after the families."""


def table(comparison: Comparison, run: str) -> pd.DataFrame:
    """Tabulate the original, then each budget and method; all numbers are in %.

    `cost` is relative to the stock model's; a column per family holds the accuracy, which for
    lmms-eval's tasks is the mean of scores between 0 and 1; `Rel. Avg.` has its 95 % interval in
    `low` and `high` and is nan where the original answers nothing correctly. A family with the name
    of another column is put in quotes.
    """
    first = [run, "100%", ORIGINAL, 100.0]
    relative = 100.0 if comparison.original.any() else np.nan
    rows = [[*first, *_by_family(comparison, comparison.original), relative, np.nan, np.nan]]
    found = equal_cost.table(comparison)
    for entry, row in zip(comparison.entries, found.to_dict("records"), strict=True):
        named = [run, entry.budget, entry.method, 100 * entry.share]
        averages = [row["rel_avg"], row["low"], row["high"]]
        rows.append([*named, *_by_family(comparison, entry.scores), *averages])
    taken = (*BEFORE, *AFTER)
    families = [f"'{name}'" if name in taken else name for name in _families(comparison)]
    return pd.DataFrame(rows, columns=[*BEFORE, *families, *AFTER])


def markdown(frame: pd.DataFrame) -> str:
    """Format the table of one run as Markdown; the best pruned method of each block is bold."""
    families = [str(name) for name in frame.columns[len(BEFORE) : -len(AFTER)]]
    shown = [*families, AFTER[0]]
    lines = [f"{frame['run'].iloc[0]}: accuracy in %, Rel. Avg. in % with its 95 % interval", ""]
    lines += [_line(["method", "cost, %", *shown]), _line(["---"] * (2 + len(shown)))]
    for budget, block in frame.groupby("budget", sort=False):
        pruned = block["method"] != ORIGINAL
        if pruned.any():
            lines.append(_line([f"*within {budget}*", *[""] * (1 + len(shown))]))
        best = block[shown].round(1).max().to_dict() if pruned.any() else {}
        for row in block.to_dict("records"):
            cells = [_cell(row, name, best.get(name)) for name in shown]
            lines.append(_line([str(row["method"]), f"{row['cost, %']:.1f}", *cells]))
    return "\n".join(lines)


def _families(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(comparison.families))


def _by_family(comparison: Comparison, scores: Array) -> list[float]:
    family = np.array(comparison.families)
    return [100 * float(scores[family == name].mean()) for name in _families(comparison)]


def _cell(row: dict[Hashable, Any], name: str, best: float | None) -> str:
    if np.isnan(row[name]):
        return "-"
    text = f"{row[name]:.1f}"
    if round(row[name], 1) == best:
        text = f"**{text}**"
    if name == AFTER[0] and not np.isnan(row["low"]):
        text += f" ({row['low']:.1f}-{row['high']:.1f})"
    return text


def _line(cells: list[str]) -> str:
    """Format a row of Markdown, with "|" in names escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
