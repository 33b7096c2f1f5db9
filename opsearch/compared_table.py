"""What `opsearch compare` prints: how good each method is at each budget, and what it costs."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from rich.console import Console
from rich.table import Table

from opsearch.analysis.equal_cost import is_defined


def print_compared(frame: pd.DataFrame, console: Console) -> None:
    """Methods down and budgets across: Rel. Avg. in % with its interval, then KL and FLOPs."""
    rows = frame.to_dict("records")
    if is_defined(frame):
        kept = [f"{row['rel_avg']:.1f} ({row['low']:.0f}-{row['high']:.0f})" for row in rows]
        console.print(_by_budget("Rel. Avg., %", frame, kept))
    spent = [f"{row['kl']:.3f}, {100 * row['share']:.1f}" for row in rows]
    console.print(_by_budget("KL, nats; FLOPs, %", frame, spent))


def _by_budget(title: str, frame: pd.DataFrame, cells: Sequence[str]) -> Table:
    """A cell for each row of the frame, methods down and budgets across; a dash where none is."""
    budgets = list(dict.fromkeys(frame["budget"]))
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column(title)
    for budget in budgets:
        table.add_column(budget, justify="right")
    at = dict(zip(zip(frame["method"], frame["budget"], strict=True), cells, strict=True))
    for method in dict.fromkeys(frame["method"]):
        table.add_row(method, *(at.get((method, budget), "-") for budget in budgets))
    return table
