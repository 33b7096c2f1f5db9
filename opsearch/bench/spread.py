"""Spread of a measured quantity: its median and quartiles."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Spread:
    """Median of repeated measurements between their quartiles.

    Attributes:
        low: Lower quartile.
        median: Median.
        high: Upper quartile.
    """

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Return the spread of at least one value."""
        return cls(*(float(q) for q in np.quantile(values, (0.25, 0.5, 0.75))))

    def row(self, scale: float = 1.0) -> list[float]:
        """Return [low, median, high] times `scale`, to five digits."""
        return [float(f"{scale * each:.5g}") for each in (self.low, self.median, self.high)]
