"""The exact Pareto front of a space too large to list, by epsilon-constraint.

The best value within a budget, at the lowest cost that has it, is a point of the front; the next
one costs at least one unit less. Costs are integers, so that nothing lies between.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pandas as pd

from opsearch.problem.problem import Problem
from opsearch.problem.solution import Limit, Status, undisturbed
from opsearch.solvers.ortools_cpsat import CpSat

_TIME = 30.0  # deterministic, for one point


def walked_front(problem: Problem, most: int) -> tuple[pd.DataFrame, bool]:
    """By rising cost at most `most` points below the problem's budget, and whether these are all.

    Columns: those of `front_row`.
    """
    constraint = problem.constraints[0]
    rows: list[dict[str, Any]] = []
    limit, ended = constraint.limit, False
    while len(rows) < most:
        asked = replace(problem, constraints=(replace(constraint, limit=limit),))
        solution = undisturbed(CpSat().solve(asked, limit=Limit(deterministic_time=_TIME)))
        if solution.index is None:
            # A solver that stopped without a policy has not said that there are no others.
            ended = solution.status is Status.INFEASIBLE
            break
        proved = solution.status is Status.OPTIMAL and not solution.note
        rows.append(front_row(problem, solution.index, proved))
        limit = rows[-1]["cost"] - 1
    table = pd.DataFrame(rows[::-1])
    everything = ended and bool(rows) and bool(table["proved"].all())
    return table, everything


def front_row(problem: Problem, index: int, proved: bool) -> dict[str, Any]:
    """A point of a front: its policy's name, value, exact cost over all samples, that per sample
    and as a share of the stock model's, and whether it is proved.
    """
    constraint = problem.constraints[0]
    cost = constraint.cost(index)
    return {
        "policy": problem.space.decode(problem.space.row(index)).name,
        f"{constraint.name}_per_sample": cost / constraint.samples,
        "share": cost / constraint.stock,
        "value": problem.objective.value(index),
        "cost": cost,
        "proved": proved,
    }
