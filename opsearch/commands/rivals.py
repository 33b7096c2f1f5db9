"""Loss of other search methods against the optimum, at equal numbers of evaluations.

An evaluation is one policy measured on all samples. The additive proxy needs one for each value of
each parameter; optuna may evaluate as many policies. Values are read from the measured joint table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from opsearch.analysis.choice import common_budgets, whole
from opsearch.analysis.measured import Measured
from opsearch.problem.objective import KL_DECIMALS, Blackbox, Separable, Table
from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, reraise_interrupt
from opsearch.solvers.grid import Grid
from opsearch.solvers.optuna import Tpe
from opsearch.solvers.ortools import CpSat
from opsearch.solvers.threshold import Threshold

SEEDS = 20


def table(measured: Measured, seeds: int = SEEDS) -> pd.DataFrame:
    """Tabulate the loss of every method at every completely measured budget.

    Args:
        measured: The measurements of a run.
        seeds: Number of optuna runs.

    Returns:
        One row per budget and method: `evaluations` (policies measured), `kl` (joint KL of the
        chosen policy in nats, for optuna the mean over seeds), `loss` (kl above the optimum),
        `low` and `high` (smallest and largest loss over seeds), `policy` (empty for optuna). A
        method that finds no policy has no row.

    Raises:
        OpsearchError: No budget was measured completely.
    """
    rows = [
        {"budget": int(percent), **row}
        for percent in common_budgets([measured])
        for row in _at(measured, int(percent), seeds)
    ]
    return pd.DataFrame(rows)


def _at(measured: Measured, percent: int, seeds: int) -> Iterator[dict[str, Any]]:
    """Yield one row per method at one budget, the optimum first."""
    quantum, even = measured.quantum, whole(len(measured.items))[:, 0]
    values = np.rint(measured.tables["kl"] @ even / quantum) * quantum
    limit = replace(measured.flops, limit=percent * measured.flops.stock // 100)
    truth = Table("joint", "nats", values, quantum)
    problem = Problem(measured.space, truth, (limit,))
    terms = (np.round(alone @ even, KL_DECIMALS) for alone in measured.alone["kl"])
    proxy = replace(
        problem, objective=Separable("additive", "nats", measured.space, tuple(terms), quantum)
    )
    best = Grid().solve(problem)
    alone = sum(len(parameter.values) for parameter in measured.space.parameters)
    chosen = {
        "optimum": ([best], best.evaluations),
        "additive, ortools": ([reraise_interrupt(CpSat().solve(proxy))], alone),
        "additive, threshold": ([Threshold().solve(proxy)], alone),
    }

    def evaluate(indices: Sequence[int]) -> NDArray[np.float64]:
        return values[list(indices)]

    blackbox = replace(problem, objective=Blackbox("joint", "nats", evaluate, quantum))
    solutions = [Tpe().solve(blackbox, seed=seed, limit=Limit(alone)) for seed in range(seeds)]
    chosen["optuna"] = solutions, alone
    for method, (solutions, evaluations) in chosen.items():
        found = np.array([values[s.index] for s in solutions if s.index is not None])
        if not len(found):
            continue
        loss = found - values[best.index]
        yield {
            "method": method,
            "evaluations": evaluations,
            "kl": found.mean(),
            "loss": loss.mean(),
            "low": loss.min(),
            "high": loss.max(),
            "policy": _named(solutions[0].policy) if len(solutions) == 1 else "",
        }


def describe(found: pd.DataFrame) -> str:
    """Format the losses as a Markdown table with budgets as columns."""
    budgets = list(dict.fromkeys(found["budget"]))
    lines = [
        "| KL above the optimum, nats | evaluations | "
        + " | ".join(f"{budget}%" for budget in budgets)
        + " |",
        "|---|" + "---|" * (len(budgets) + 1),
    ]
    for method, rows in found.groupby("method", sort=False):
        at = {row["budget"]: _cell(row) for row in rows.to_dict("records")}
        cells = [at.get(budget, "-") for budget in budgets]
        counts = sorted(set(rows["evaluations"]))
        counted = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        lines.append(f"| {method} | {counted} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(row: Mapping[Any, Any]) -> str:
    """Format a loss, with its range over seeds; for the optimum its KL."""
    if row["method"] == "optimum":
        return f"(at {row['kl']:.3f})"
    spread = f" ({row['low']:.3f} to {row['high']:.3f})" if row["low"] < row["high"] else ""
    return f"{row['loss']:.3f}{spread}"


def _named(policy: Any) -> str:
    return "" if policy is None else str(policy.name)
