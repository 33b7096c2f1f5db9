"""Measurements of a run over its space, as arrays: the input of every analysis."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from opsearch.problem.constraint import Constraint
from opsearch.problem.objective import KL_QUANTUM
from opsearch.problem.spaces.base import Space

Array = NDArray[np.float64]
ALL = "all"
"""All samples together; also the family of questions without one."""


@dataclass(frozen=True, eq=False)
class Measured:
    """Divergences of the policies of a space on the calibration samples of a run.

    Attributes:
        label: Name of the run in figures.
        settings: Settings in which runs may differ (space, kv, ranker, positions, ...).
        space: The space of P points; P is 0 if it is too large to list.
        flops: Cost of every point.
        items: Id of each of S samples.
        families: Family of each sample.
        tables: By divergence ("kl", "reverse_kl", "js", "top1"): every point on every sample,
            float64[P, S], nan where not measured, here and below.
        alone: By divergence, per parameter of the space: that parameter at each of its V values
            with all else unpruned, float64[V, S]. "taylor" holds the gradients of the gates that
            they close, if the run took them.
        quantum: Unit of the values that solvers see, in nats.
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
        """Points that were measured on every sample, bool[P]."""
        return np.asarray(~np.isnan(self.tables["kl"]).any(axis=1))

    @property
    def share(self) -> Array:
        """Cost of every point relative to the stock model, float64[P]."""
        return self.flops.shares

    def proxy(self, divergence: str = "kl") -> Array:
        """Return the additive proxy (DOP, 2507.02909), every point and sample, float64[P, S]."""
        columns = zip(self.alone[divergence], self.space.points.T, strict=True)
        return np.asarray(np.sum([term[column] for term, column in columns], axis=0))
