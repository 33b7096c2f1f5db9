"""What a run measured over its space, as arrays: the input of every analysis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from opsearch.problem import KL_QUANTUM, Constraint
from opsearch.spaces import Space

Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Measured:
    """Divergences of the policies of a space on the calibration samples of a run.

    label: how figures name the run; settings: what may tell it from other runs (space, kv, ranker,
    positions, ...). items, families: of each sample, S of them. flops: the cost of every point.
    tables: by divergence ("kl", "reverse_kl", "js", "top1"), float64[P, S] of every point on every
    sample, nan where it was not measured. alone: by divergence, per parameter of the space
    float64[V, S]: that parameter at each of its values with all else unpruned. quantum: nats of
    which the solvers see multiples.
    """

    label: str
    settings: dict[str, str]
    space: Space
    flops: Constraint
    items: tuple[str, ...]
    families: tuple[str, ...]
    tables: dict[str, Array]
    alone: dict[str, tuple[Array, ...]]
    quantum: float = KL_QUANTUM

    @cached_property
    def complete(self) -> NDArray[np.bool_]:
        """Which points were measured on every sample, bool[P]."""
        return np.asarray(~np.isnan(self.tables["kl"]).any(axis=1))

    @property
    def share(self) -> Array:
        """Cost of every point as share of the stock model, float64[P]."""
        return self.flops.listed / self.flops.stock

    def proxy(self, divergence: str = "kl") -> Array:
        """The additive proxy of every point on every sample, float64[P, S] (DOP, 2507.02909)."""
        columns = zip(self.alone[divergence], self.space.points.T, strict=True)
        return np.asarray(np.sum([term[column] for term, column in columns], axis=0))
