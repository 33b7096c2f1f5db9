"""Description of methods at equal cost."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from opsearch.analysis.equal_cost import is_defined


def describe(table: pd.DataFrame) -> str:
    """Describe the best method at each budget, and the methods within its interval."""
    if not is_defined(table):
        return _describe_divergences(table)
    rows = [_MethodRow(*row) for row in table[list(_MethodRow.__annotations__)].to_numpy().tolist()]
    sentences = [f"Rel. Avg. over {rows[0].items} items, with 95 % intervals."]
    for budget in dict.fromkeys(row.budget for row in rows):
        at_budget = [row for row in rows if row.budget == budget]
        best = max(at_budget, key=lambda row: row.rel_avg)
        sentence = f"At {budget} {best.method} keeps most: {best.interval}"
        if equal := [
            row.method for row in at_budget if row is not best and row.rel_avg >= best.low
        ]:
            sentence += f"; within that interval: {', '.join(equal)}"
        sentences.append(f"{sentence}.")
    return " ".join(sentences)


def _describe_divergences(table: pd.DataFrame) -> str:
    """Describe why Rel. Avg. is undefined, and the method with the lowest KL at each budget."""
    sentences = [
        f"The original answers none of the {table['items'].iloc[0]} items as the data does, so "
        "that Rel. Avg. is not defined; write answers in the data as the model words them."
    ]
    for budget, rows in table.groupby("budget", sort=False):
        kl, method = min(zip(rows["kl"], rows["method"], strict=True))
        sentences.append(f"At {budget} {method} has the lowest KL: {kl:.3f} nats.")
    return " ".join(sentences)


@dataclass(frozen=True)
class _MethodRow:
    """The columns of a row that `describe` uses."""

    budget: str
    method: str
    rel_avg: float
    low: float
    high: float
    items: int

    @property
    def interval(self) -> str:
        """Rel. Avg. with its interval, formatted."""
        return f"{self.rel_avg:.1f} % ({self.low:.1f} to {self.high:.1f})"
