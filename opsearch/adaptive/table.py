"""What policies do on samples, and what choices among them come to."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf, sqrt
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsearch.adaptive import DEFAULT_SELECTOR
from opsearch.formatting import screen_repr

Values = NDArray[np.float64]
Choice = NDArray[np.int64]

_BISECTIONS = 50
HIGHEST_PRICE = 2.0**20
"""Largest price of the whole original's cost, in units of the loss."""


class Outcome(NamedTuple):
    """What one policy per sample comes to.

    Attributes:
        loss: Mean loss.
        cost: Mean cost, as a share of the original's.
    """

    loss: float
    cost: float


@dataclass(frozen=True, eq=False)
class Table:
    """What K policies do on S samples.

    Attributes:
        features: Features of the samples, float32[S, F].
        loss: Loss of each policy, float64[S, K].
        cost: Cost of each policy over the mean cost of the original, float64[S, K].
        reads: Selector that made the features, as typed.
    """

    features: NDArray[np.float32]
    loss: Values
    cost: Values
    reads: str = DEFAULT_SELECTOR

    __repr__ = screen_repr

    def of(self, chosen: Choice) -> Outcome:
        """Return what the choice of a policy for each sample comes to."""
        rows = np.arange(len(chosen))
        return Outcome(float(self.loss[rows, chosen].mean()), float(self.cost[rows, chosen].mean()))

    def among(self, policies: Sequence[int]) -> Table:
        """Return the table of some policies."""
        columns = list(policies)
        return replace(self, loss=self.loss[:, columns], cost=self.cost[:, columns])

    def on(self, samples: NDArray[np.bool_]) -> Table:
        """Return the table of some samples."""
        return Table(self.features[samples], self.loss[samples], self.cost[samples], self.reads)


@dataclass(frozen=True, eq=False)
class Part:
    """S samples and what K policies do on them.

    Attributes:
        table: Bounded divergences and costs, for the choice.
        kl: KL in nats, float64[S, K].
        kinds: Kind of each question.
        scores: Scores of the answers, 0 to 1, float64[S, K]; None: there are no answers.
    """

    table: Table
    kl: Values
    kinds: tuple[str, ...]
    scores: Values | None = None

    __repr__ = screen_repr


def lowest_price(total: Callable[[float], float], limit: float) -> float:
    """Return the smallest price at which a total cost is within a limit; inf if none is.

    Args:
        total: Total cost of what is chosen at a price; it falls as the price rises.
        limit: Largest total cost.
    """
    if total(0.0) <= limit:
        return 0.0
    if total(HIGHEST_PRICE) > limit:
        return inf
    low, high = 0.0, HIGHEST_PRICE
    for _ in range(_BISECTIONS):
        middle = sqrt(low * high) if low else high / 16
        if total(middle) <= limit:
            high = middle
        else:
            low = middle
    return high


class BestChoice(NamedTuple):
    """A policy for each row, and how good any choice could be.

    Attributes:
        chosen: Number of the policy of each row, int64[G].
        bound: No choice within the limit has a smaller summed loss.
    """

    chosen: Choice
    bound: float


def best_choice(loss: Values, cost: Values, limit: float) -> BestChoice:
    """Return a policy for each row such that the summed loss is least within a summed cost.

    Each row takes the policy of least loss plus price times cost, for one price. No choice within
    what this one costs has a smaller loss; a limit between two prices is not used up. The bound is
    that of the Lagrangian at this price.

    Args:
        loss: Summed loss of each policy on each sample, or group of samples, float64[G, K].
        cost: Summed cost, float64[G, K].
        limit: Largest total cost; that of the cheapest policies if it is below.
    """
    rows = np.arange(len(loss))

    def at(price: float) -> Choice:
        chosen: Choice = (loss + price * cost).argmin(axis=1)
        return chosen

    price = lowest_price(lambda price: float(cost[rows, at(price)].sum()), limit)
    chosen = at(min(price, HIGHEST_PRICE))
    spent, lost = (float(values[rows, chosen].sum()) for values in (cost, loss))
    unused = price * (limit - spent) if price <= HIGHEST_PRICE else 0.0
    return BestChoice(chosen, lost - unused)
