"""Stochastic gradient descent on the share of tokens in each operation, within a budget.

All shares move at once along the part of the gradient that keeps the cost, scaled as by Adam
(Kingma and Ba, 2015), and are then brought back to the budget. Each step sees a few samples only,
so that their number costs little and many can be used: that is what keeps a search
from fitting a policy to its calibration samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from opsearch.policy.counts import Shares

Gradient = Callable[[Shares, float, Sequence[int]], tuple[NDArray[np.float64], Shares]]
"""Returns the divergence of samples, float64[n], and the gradient of their mean, float64[L, 3], for
shares, a width (see `opsearch.measure.relaxed.gradient`) and the indices of the samples."""

_MEAN, _SQUARE = 0.8, 0.95  # decay of the means of gradients and of their squares
_BISECTIONS = 30


@dataclass(frozen=True)
class Budgeted:
    """Shares within a budget.

    Attributes:
        spent: Returns each cost of shares over its limit, float64[C]; up to 1 is within the budget.
        prices: Of each cost, that of an operation's whole share over that of the dearest one,
            float64[C, L, 3]; 0 where it costs nothing.
        least: Lowest share of each operation, float64[L, 3]; None: 0.
    """

    spent: Callable[[Shares], NDArray[np.float64]]
    prices: NDArray[np.float64]
    least: Shares | None = None

    def nearest(self, shares: Shares) -> Shares:
        """Shift shares along the prices, up or down, until the budget is used."""
        shares = self._shifted(shares, self._tightest(shares))
        while (spent := self.spent(shares)).max() > 1:  # by another cost, so that they only fall
            lowered = self._shifted(shares, int(spent.argmax()))
            if np.array_equal(lowered, shares):
                break  # not even the least shares are within the budget
            shares = lowered
        return shares

    def price(self, shares: Shares) -> Shares:
        """Return the prices, for directions, in the cost that limits these shares.

        Operations that cost nothing count as the dearest, which damps the gain per unit of cost.
        """
        price = self.prices[self._tightest(shares)]
        return np.where(price > 0, price, 1.0)

    def _tightest(self, shares: Shares) -> int:
        return int(self.spent(shares).argmax())

    def _shifted(self, shares: Shares, cost: int) -> Shares:
        """Shift shares along the prices of one cost until its limit is reached."""
        price, least = self.prices[cost], 0.0 if self.least is None else self.least
        high = 1.0 / price[price > 0].min()
        low = -high
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            if self.spent(np.clip(shares - middle * price, least, 1))[cost] <= 1:
                high = middle
            else:
                low = middle
        shifted: Shares = np.clip(shares - high * price, least, 1)
        return shifted


@dataclass(frozen=True, eq=False)
class DescentState:
    """Everything on which the next steps of a descent depend.

    Attributes:
        step: Number of steps done.
        shares: The shares, float64[L, 3].
        mean: Decaying mean of the gradients.
        square: Decaying mean of their squares.
    """

    step: int
    shares: Shares
    mean: Shares
    square: Shares

    @classmethod
    def start(cls, shares: Shares) -> DescentState:
        """Return the state before the first step."""
        return cls(0, shares, np.zeros_like(shares), np.zeros_like(shares))


@dataclass(frozen=True, kw_only=True)
class RelaxedDescent:
    """Settings of a descent.

    Attributes:
        steps: Number of steps.
        batch: Samples per step.
        rate: Largest change of a share in the first step; it falls linearly to a fifth of it.
        widths: Width of the gates in the first and in the last step, falling geometrically.
    """

    steps: int
    batch: int = 32
    rate: float = 0.035
    widths: tuple[float, float] = (0.3, 0.05)

    def run(
        self,
        gradient: Gradient,
        budget: Budgeted,
        state: DescentState,
        samples: int,
        seed: int,
    ) -> Iterator[DescentState]:
        """Yield the state after each step that is left."""
        if not state.step:
            state = replace(state, shares=budget.nearest(state.shares))
        batches = islice(_batches(samples, self.batch, seed), state.step, self.steps)
        for batch in batches:
            state = self._stepped(gradient, budget, state, batch)
            yield state

    def _stepped(
        self, gradient: Gradient, budget: Budgeted, state: DescentState, batch: Sequence[int]
    ) -> DescentState:
        (first, last), done = self.widths, state.step / max(self.steps - 1, 1)
        _, slope = gradient(state.shares, first * (last / first) ** done, batch)
        slope = _along_budget(slope, state.shares, budget.price(state.shares))
        mean = _MEAN * state.mean + (1 - _MEAN) * slope
        square = _SQUARE * state.square + (1 - _SQUARE) * slope**2
        step = state.step + 1
        unbiased = mean / (1 - _MEAN**step)
        scale = np.sqrt(square / (1 - _SQUARE**step)) + 1e-8
        rate = self.rate * (1 - 0.8 * done)
        shares = budget.nearest(np.clip(state.shares - rate * unbiased / scale, 0, 1))
        return DescentState(step, shares, mean, square)


def _along_budget(slope: Shares, shares: Shares, prices: Shares) -> Shares:
    """Return the part of a gradient along which the cost stays the same.

    At an optimum every operation gains equally per unit of cost, and this part is zero. Operations
    at 0 or 1 that it would move further out stay where they are, and have no say in what the others
    gain: it is the projection of the gradient onto the directions that keep shares within 0 to 1.
    """
    most, least = np.where(shares <= 0, 0.0, np.inf), np.where(shares >= 1, 0.0, -np.inf)

    def along(gain: float) -> Shares:
        return np.clip(slope - gain * prices, least, most)

    low, high = (slope / prices).min(), (slope / prices).max()
    for _ in range(2 * _BISECTIONS):  # the cost of the direction falls with the gain
        middle = (low + high) / 2
        if (prices * along(middle)).sum() > 0:
            low = middle
        else:
            high = middle
    return along(high)


def _batches(samples: int, size: int, seed: int) -> Iterator[list[int]]:
    """Yield batches in which every sample occurs once before any occurs again."""
    draw = np.random.default_rng(seed)
    order: list[int] = []
    size = min(size, samples)
    while True:
        if len(order) < size:
            left, again = order, draw.permutation(samples).tolist()
            # Those left over come first now and last in the next round, so never twice in a batch.
            order = sorted(again, key=lambda sample: sample not in left) + left
        yield [order.pop() for _ in range(size)]
