"""Fit a linear selector to the losses and costs of policies on samples.

Loss and cost of each policy are regressed on the features of the question (ridge regression). A
question gets the policy of least predicted loss plus price times predicted cost; the price is the
smallest one with which the samples keep within the budget. So a sample counts by what each policy
loses there, and none needs a label.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from opsearch.adaptive.linear import LinearSelector
from opsearch.adaptive.table import Table, Values

_BISECTIONS = 50
_HIGHEST = 2.0**20  # price of the whole original, in units of the loss
_RIDGE = 1.0  # squared weights of standardized features, over the squared error of a sample


class Fit(NamedTuple):
    """A fitted selector.

    Attributes:
        selector: The selector.
        price: What the cost of the original is worth, in units of the loss.
    """

    selector: LinearSelector
    price: float


def fit_selector(table: Table, limit: float) -> Fit:
    """Return the selector whose mean cost is within a limit, at the smallest price.

    Args:
        table: What the policies do on the samples; one of them is within the limit by itself.
        limit: Largest mean cost, as a share of the original's.
    """
    features = np.asarray(table.features, np.float64)
    mean, scale = features.mean(axis=0), features.std(axis=0) + 1e-6
    loss, cost = _regressed((features - mean) / scale, table)
    low, high = 0.0, _HIGHEST
    best = _selector(loss, mean, scale)
    if _mean_cost(best, table) <= limit:
        return Fit(best, 0.0)
    best = _cheapest(table)
    for _ in range(_BISECTIONS):
        price = np.sqrt(low * high) if low else high / 16
        found = _selector(loss + price * cost, mean, scale)
        if _mean_cost(found, table) <= limit:
            best, high = found, price
        else:
            low = price
    return Fit(best, float(high))


def _regressed(features: Values, table: Table) -> tuple[Values, Values]:
    """Return bias and weights of each policy's loss and cost, [1 + D, K] each."""
    given = np.hstack([np.ones((len(features), 1)), features])
    penalty = _RIDGE * len(given) * np.eye(given.shape[1])
    penalty[0, 0] = 0
    both = np.linalg.solve(given.T @ given + penalty, given.T @ np.hstack([table.loss, table.cost]))
    policies = table.loss.shape[1]
    return both[:, :policies], both[:, policies:]


def _selector(predicted: Values, mean: Values, scale: Values) -> LinearSelector:
    """Return the selector of the policy of least prediction, [1 + D, K] of standard features."""
    weights = -predicted[1:].T / scale
    bias = -predicted[0] - weights @ mean
    return LinearSelector(weights.astype(np.float32), bias.astype(np.float32))


def _cheapest(table: Table) -> LinearSelector:
    """Return the selector of the policy of least mean cost for every question."""
    policies, width = table.loss.shape[1], table.features.shape[1]
    bias = np.zeros(policies, np.float32)
    bias[table.cost.mean(axis=0).argmin()] = 1
    return LinearSelector(np.zeros((policies, width), np.float32), bias)


def _mean_cost(selector: LinearSelector, table: Table) -> float:
    return table.of(selector.scores(table.features).argmax(axis=1)).cost
