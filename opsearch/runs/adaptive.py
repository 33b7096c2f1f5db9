"""The budgets whose policies a set is chosen from, and what each policy costs on each sample."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.base import Cost, budget_suffix, stock_cost
from opsearch.errors import OpsearchError, echo
from opsearch.models.encoding import Sample
from opsearch.policy.builders import vtw
from opsearch.policy.policy import Policy
from opsearch.problem.budget import Budget, total_cost
from opsearch.runs.prepare import Prepared
from opsearch.runs.setup import make_cost

_FACTORS = tuple(map(Fraction, ("3/5", "2/3", "4/5", "5/4", "3/2", "2")))
"""Other budgets over that of the run: hard questions get more, and easy ones pay for it."""
_MOST = Fraction(9, 10)  # of the original, which is a policy of every set to choose from
_PER_CENT = 100


def other_budgets(prepared: Prepared) -> list[Budget]:
    """Return the budgets of further searches, from low to high.

    Those that text alone exceeds are moved halfway between it and the run's budget, once.

    Raises:
        OpsearchError: The run has several budgets, or one that is no share of the original's cost.
    """
    own = one_share(prepared.settings.budgets)
    floor = _floor(prepared)
    found = []
    for factor in _FACTORS:
        share = own.amount * factor
        if share <= floor:
            share = (floor + own.amount) / 2
        percent = round(share * _PER_CENT, 1)
        if floor < share < _MOST and share != own.amount:
            found.append(Budget.parse(f"{float(percent):g}%{budget_suffix(own.cost)}"))
    by_text = {budget.text: budget for budget in found}
    return sorted(by_text.values(), key=lambda budget: budget.amount)


def one_share(budgets: Sequence[Budget]) -> Budget:
    """Return the budget of a run whose policy may be mixed with those of other budgets.

    Raises:
        OpsearchError: There are several, or it is no share of the original's cost.
    """
    if len(budgets) > 1 or not budgets[0].relative:
        texts = " and ".join(echo(budget.text) for budget in budgets)
        raise OpsearchError(
            f"the run has budget {texts}, but policies of several budgets are mixed, which takes "
            "one share of the original's cost; search with e.g. --budget 30% first"
        )
    return budgets[0]


def _floor(prepared: Prepared) -> Fraction:
    """Return the share of the original's cost that no policy of the run's budget can save."""
    cost = _cost(prepared)
    sizes = [sample.size for sample in prepared.calibration]
    text = total_cost(cost, vtw(prepared.shape.layers, 0), sizes)
    return Fraction(text, stock_cost(cost, sizes))


def sample_costs(
    prepared: Prepared, policies: Sequence[Policy], samples: Sequence[Sample]
) -> NDArray[np.float64]:
    """Return the cost of each policy on each sample over the original's mean, float64[S, K]."""
    cost = _cost(prepared)
    if not samples:
        return np.zeros((0, len(policies)))
    sizes = [sample.size for sample in samples]
    of_size = {
        size: [total_cost(cost, policy, [size]) for policy in policies] for size in set(sizes)
    }
    mean = stock_cost(cost, sizes) / len(sizes)
    return np.array([of_size[size] for size in sizes], np.float64) / mean


def _cost(prepared: Prepared) -> Cost:
    (budget,) = prepared.settings.budgets
    return make_cost(budget.cost, prepared.shape, prepared.table)
