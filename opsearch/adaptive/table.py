"""What policies do on samples, and what choices among them come to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from opsearch.formatting import screen_repr

Values = NDArray[np.float64]
Choice = NDArray[np.int64]

_BISECTIONS = 50
_HIGHEST = 2.0**20  # price of the whole original, in units of the loss


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
        features: Features of the questions, float32[S, D].
        loss: Loss of each policy, float64[S, K].
        cost: Cost of each policy over the mean cost of the original, float64[S, K].
    """

    features: NDArray[np.float32]
    loss: Values
    cost: Values

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
        return Table(self.features[samples], self.loss[samples], self.cost[samples])


def best_choice(loss: Values, cost: Values, limit: float) -> Choice:
    """Return a policy for each row such that the summed loss is least within a summed cost.

    Each row takes the policy of least loss plus price times cost, for one price. No choice within
    what this one costs has a smaller loss; a limit between two prices is not used up.

    Args:
        loss: Summed loss of each policy on each sample, or group of samples, float64[G, K].
        cost: Summed cost, float64[G, K].
        limit: Largest total cost; that of the cheapest policies if it is below.
    """
    low, high = 0.0, _HIGHEST
    chosen: Choice = _at_price(loss, cost, 0.0)
    if _total(cost, chosen) <= limit:
        return chosen
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2 if low else high / 16
        if _total(cost, _at_price(loss, cost, middle)) <= limit:
            high = middle
        else:
            low = middle
    return _at_price(loss, cost, high)


def _at_price(loss: Values, cost: Values, price: float) -> Choice:
    chosen: Choice = (loss + price * cost).argmin(axis=1)
    return chosen


def _total(cost: Values, chosen: Choice) -> float:
    return float(cost[np.arange(len(chosen)), chosen].sum())
