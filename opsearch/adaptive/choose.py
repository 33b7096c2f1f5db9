"""Choose a few of many policies, and the selector among them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb

import numpy as np

from opsearch.adaptive.fit import Regression, fit_selector
from opsearch.adaptive.linear import LinearSelector
from opsearch.adaptive.table import Choice, Table, Values
from opsearch.errors import InfeasibleBudgetError

_FOLDS = 4  # of samples: a part is judged by a fit to the others
_MOST_SETS = 250


@dataclass(frozen=True, eq=False)
class ChosenSet:
    """Some policies of a table.

    Attributes:
        policies: Their numbers.
        selector: Chooses among them.
        price: What the cost of the original is worth, in units of the loss.
        helps: Whether the set was better than one policy on samples that a fit did not see.
    """

    policies: tuple[int, ...]
    selector: LinearSelector
    price: float
    helps: bool = False

    def chosen(self, table: Table) -> Choice:
        """Return the number of the policy that each sample of a table gets."""
        chosen: Choice = np.array(self.policies)[self.selector.scores(table.features).argmax(1)]
        return chosen


def choose_set(table: Table, limit: float, most: int) -> ChosenSet:
    """Return at most `most` policies, and the selector of least mean loss within a mean cost.

    A set that does not gain more than the standard error on samples that its fit did not see is
    one policy, the best.

    Args:
        table: What the policies do on the samples.
        limit: Largest mean cost, as a share of the original's.
        most: Largest number of policies.

    Raises:
        InfeasibleBudgetError: No policy is within the limit.
    """
    means = table.cost.mean(axis=0)
    if means.min() > limit:
        raise InfeasibleBudgetError(
            f"the cheapest policy takes {100 * means.min():.4g}% of the original's cost, which is "
            f"over the budget of {100 * limit:.4g}%; give a larger one"
        )
    within = np.flatnonzero(means <= limit)
    single = int(within[table.loss.mean(axis=0)[within].argmin()])
    regression = Regression.of(table)
    alone = _fitted(table, (single,), limit, regression)
    best = _best_set(table, limit, most, regression)
    if len(best.policies) == 1:
        return alone
    gain = _gain_unseen(table, best.policies, single, limit)
    helps = gain.mean() > gain.std() / np.sqrt(len(gain))
    return replace(best, helps=True) if helps else alone


def _gain_unseen(table: Table, policies: tuple[int, ...], single: int, limit: float) -> Values:
    """Return what a set gains over one policy on each sample, float64[S], by fits without it.

    Costs that differ from those of the one policy count at the price of the fit.
    """
    rows = np.arange(len(table.loss))
    gain = np.zeros(len(rows))
    for fold in range(_FOLDS):
        unseen = rows % _FOLDS == fold
        seen = table.on(~unseen)
        found = _fitted(seen, policies, limit, Regression.of(seen))
        some = table.on(unseen)
        value = some.loss + found.price * some.cost
        gain[unseen] = value[:, single] - value[np.arange(len(value)), found.chosen(some)]
    return gain


def _fitted(
    table: Table, policies: tuple[int, ...], limit: float, regression: Regression
) -> ChosenSet:
    found = fit_selector(table.among(policies), limit, regression.among(policies))
    return ChosenSet(policies, *found)


def _best_set(table: Table, limit: float, most: int, regression: Regression) -> ChosenSet:
    """Return the set of policies whose fitted selector has the least mean loss.

    Of many policies, those that are missed least are left out one by one before all sets of the
    others are compared.
    """
    kept = tuple(range(table.loss.shape[1]))
    while comb(len(kept), min(most, len(kept))) > _MOST_SETS:
        without_one = [tuple(k for k in kept if k != out) for out in kept]
        kept = _best(table, limit, without_one, regression).policies
    return _best(table, limit, list(combinations(kept, min(most, len(kept)))), regression)


def _best(
    table: Table, limit: float, sets: Sequence[tuple[int, ...]], regression: Regression
) -> ChosenSet:
    """Return the set of least mean loss; one of its policies keeps the limit by itself."""
    means = table.cost.mean(axis=0)
    found = [
        _fitted(table, some, limit, regression) for some in sets if means[list(some)].min() <= limit
    ]
    return min(found, key=lambda each: table.of(each.chosen(table)).loss)
