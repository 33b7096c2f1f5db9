"""The exact Pareto front of a space too large to list, by epsilon-constraint.

The best value within a budget, at the lowest cost that has it, is a point of the front; the next
one costs at least one unit less. Costs are integers, so that nothing lies between.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from opsearch.problem import Problem
from opsearch.solution import Limit, Status
from opsearch.solvers.cpsat import CpSat

_TIME = 30.0  # deterministic, for one point


def walked_front(problem: Problem, most: int) -> tuple[pd.DataFrame, bool]:
    """By rising cost at most `most` points below the problem's budget, and whether these are all.

    Columns: policy, cost (exact, over all samples), its mean per sample and share of the stock
    model's, value, proved.
    """
    constraint = problem.constraints[0]
    rows: list[dict[str, Any]] = []
    limit, ended = constraint.limit, False
    while len(rows) < most:
        asked = replace(problem, constraints=(replace(constraint, limit=limit),))
        solution = CpSat().solve(asked, limit=Limit(deterministic_time=_TIME))
        if solution.index is None or solution.policy is None:
            # A solver that stopped without a policy has not said that there are no others.
            ended = solution.status is Status.INFEASIBLE
            break
        cost = constraint.cost(solution.index)
        rows.append(
            {
                "policy": solution.policy.name,
                f"{constraint.name}_per_sample": cost / constraint.samples,
                "share": cost / constraint.stock,
                "value": solution.value,
                "cost": cost,
                "proved": solution.status is Status.OPTIMAL and not solution.note,
            }
        )
        limit = cost - 1
    table = pd.DataFrame(rows[::-1])
    everything = ended and bool(rows) and bool(table["proved"].all())
    return table, everything
