"""How methods compare at equal cost, in words."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from opsearch.analysis.equal_cost import is_defined


def describe(table: pd.DataFrame) -> str:
    """For each budget the best method, and those that are equal within its interval, in words."""
    if not is_defined(table):
        return _describe_divergences(table)
    rows = [Row(*row) for row in table[list(Row.__annotations__)].to_numpy().tolist()]
    sentences = [f"Rel. Avg. over {rows[0].items} items, with 95 % intervals."]
    for budget in dict.fromkeys(row.budget for row in rows):
        here = [row for row in rows if row.budget == budget]
        best = max(here, key=lambda row: row.rel_avg)
        said = f"At {budget} {best.method} keeps most: {best.interval}"
        if equal := [row.method for row in here if row is not best and row.rel_avg >= best.low]:
            said += f"; within that interval: {', '.join(equal)}"
        sentences.append(f"{said}.")
    return " ".join(sentences)


def _describe_divergences(table: pd.DataFrame) -> str:
    """Why there is no Rel. Avg., and for each budget the method that is nearest to the original."""
    sentences = [
        f"The original answers none of the {table['items'].iloc[0]} items as the data does, so "
        "that Rel. Avg. is not defined; write answers in the data as the model words them."
    ]
    for budget, rows in table.groupby("budget", sort=False):
        kl, method = min(zip(rows["kl"], rows["method"], strict=True))
        sentences.append(f"At {budget} {method} has the lowest KL: {kl:.3f} nats.")
    return " ".join(sentences)


@dataclass(frozen=True)
class Row:
    """What `describe` needs of a row of the table."""

    budget: str
    method: str
    rel_avg: float
    low: float
    high: float
    items: int

    @property
    def interval(self) -> str:
        return f"{self.rel_avg:.1f} % ({self.low:.1f} to {self.high:.1f})"
