"""Fit a linear selector to the losses and costs of policies on samples.

Loss and cost of each policy are regressed on the features of the request (ridge regression). A
request gets the policy of least predicted loss plus price times predicted cost; the price is the
smallest one with which the samples keep within the budget. So a sample counts by what each policy
loses there, and none needs a label.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsearch.adaptive.linear import LinearSelector
from opsearch.adaptive.table import HIGHEST_PRICE, Table, Values, lowest_price

_RIDGE = 0.3  # squared weights of standardized features, over the squared error of a sample
_RAISE = 1.01  # of a price, until a selector of rounded weights keeps the limit, too


class Fit(NamedTuple):
    """A fitted selector.

    Attributes:
        selector: The selector.
        price: What the cost of the original is worth, in units of the loss.
    """

    selector: LinearSelector
    price: float


@dataclass(frozen=True, eq=False)
class Regression:
    """Loss and cost of K policies as linear functions of D features.

    Attributes:
        loss: Bias and weights of the losses, float64[1 + D, K].
        cost: Bias and weights of the costs, float64[1 + D, K].
    """

    loss: Values
    cost: Values

    @classmethod
    def of(cls, table: Table) -> Regression:
        """Regress the losses and costs of a table on its features."""
        features = np.asarray(table.features, np.float64)
        mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
        given = np.hstack([np.ones((len(features), 1)), (features - mean) / scale])
        penalty = _RIDGE * len(given) * np.eye(given.shape[1])
        penalty[0, 0] = 0
        wanted = np.hstack([table.loss, table.cost])
        both = np.linalg.solve(given.T @ given + penalty, given.T @ wanted)
        both[1:] /= scale[:, None]
        both[0] -= mean @ both[1:]
        policies = table.loss.shape[1]
        return cls(both[:, :policies], both[:, policies:])

    def among(self, policies: Sequence[int]) -> Regression:
        """Return the functions of some policies."""
        return Regression(self.loss[:, list(policies)], self.cost[:, list(policies)])

    def predicted(self, features: NDArray[np.float32]) -> tuple[Values, Values]:
        """Return loss and cost of each policy by features float32[S, D], float64[S, K] each."""
        given = features.astype(np.float64)
        loss, cost = (each[0] + given @ each[1:] for each in (self.loss, self.cost))
        return loss, cost

    def selector(self, price: float, reads: str) -> LinearSelector:
        """Return the selector of the policy of least loss plus price times cost."""
        scores = -(self.loss + price * self.cost).astype(np.float32)
        return LinearSelector(scores[1:].T, scores[0], reads)


def fit_selector(table: Table, limit: float, regression: Regression | None = None) -> Fit:
    """Return the selector whose mean cost is within a limit, at the smallest price.

    Args:
        table: What the policies do on the samples; one of them is within the limit by itself.
        limit: Largest mean cost, as a share of the original's.
        regression: The regression of these policies; None: it is computed.
    """
    regression = regression or Regression.of(table)
    loss, cost = regression.predicted(table.features)
    price = lowest_price(lambda price: table.of((loss + price * cost).argmin(axis=1)).cost, limit)
    while price <= HIGHEST_PRICE:
        selector = regression.selector(price, table.reads)
        if table.of(selector.scores(table.features).argmax(axis=1)).cost <= limit:
            return Fit(selector, price)
        price = _RAISE * price + 1e-9
    return Fit(_cheapest(table), HIGHEST_PRICE)


def _cheapest(table: Table) -> LinearSelector:
    """Return the selector of the policy of least mean cost for every request."""
    policies, width = table.loss.shape[1], table.features.shape[1]
    bias = np.zeros(policies, np.float32)
    bias[table.cost.mean(axis=0).argmin()] = 1
    return LinearSelector(np.zeros((policies, width), np.float32), bias, table.reads)
