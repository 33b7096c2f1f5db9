"""A cost to set budgets on: `--budget 60%acme-rows`, or `--budget 0.2krows`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.problem import MLP, Candidates, CostLabel, CostSettings, Counts, live


@dataclass(frozen=True)
class Rows:
    """Rows that pass through an MLP, summed over layers.

    The contract is `opsearch.problem.Cost`. A cost is an exact integer.

    Attributes:
        layers: Layers of the decoder.
    """

    layers: int

    name: ClassVar[str] = "acme-rows"
    unit: ClassVar[str] = "rows"
    label: ClassVar[CostLabel] = CostLabel("MLP rows, mean", "MLP rows, %", words="MLP rows")
    timed: ClassVar[bool] = False

    @classmethod
    def from_settings(cls, settings: CostSettings) -> Rows:
        """Return the cost for a decoder."""
        return cls(settings.shape.layers)

    def of(
        self, counts: Counts, n_visual: int, n_other: int, candidates: Candidates | None = None
    ) -> NDArray[np.int64]:
        """Return the rows of policies on one sample, int64[...], of counts int64[..., L, 3].

        Rows that no later layer reads are not computed, unless nothing at all is pruned: then the
        original runs as it is.
        """
        rows = (live(counts, candidates)[..., MLP] + n_other).sum(axis=-1)
        pruned = (counts < n_visual).any(axis=(-2, -1))
        return np.where(pruned, rows, self.stock(n_visual, n_other))

    def stock(self, n_visual: int, n_other: int) -> int:
        """Return the rows of the original model on a sample."""
        return self.layers * (n_visual + n_other)
