"""FitPrune's criterion: the share of the original's attention that deleted tokens receive.

A recipe deletes a number of visual tokens in each layer. Its divergence is the largest share of any
layer's attention that tokens deleted up to this layer receive in the original, either of the
attention from question rows to visual tokens or of that from visual rows. For a bound, as many
tokens are deleted in each layer as the bound allows, per sample; the recipe is the mean of these
numbers over the samples. Source: FitPrune (AAAI 2025).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import floor
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from opsearch.errors import OpsearchError
from opsearch.policy.counts import resolve_fraction
from opsearch.problem.objective import Bounded, Form, Masses, Measure
from opsearch.problem.objective_factory import ObjectiveSettings
from opsearch.problem.spaces.base import Space

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Attention:
    """Largest share of a layer's attention that deleted tokens receive, as in FitPrune."""

    name: ClassVar[str] = "attention"
    progress_unit: ClassVar[str] = ""  # samples whose attention was read
    per_budget: ClassVar[bool] = False
    form: ClassVar[Form] = "bounded"

    @classmethod
    def from_settings(cls, settings: ObjectiveSettings) -> Attention:
        """Return the objective; it has no settings."""
        return cls()

    def require(self, space: Space) -> None:
        """Raise OpsearchError unless the space is that of FitPrune's recipes."""
        if space.only_objective != self.name:
            raise OpsearchError(
                f"objective 'attention' deletes tokens in each layer, which policies of space "
                f"{space.name!r} cannot; use --space recipes, or another --objective"
            )

    def make(self, space: Space, measure: Measure, feasible: Mask) -> Bounded:
        """Return the criterion over recipes from one pass of the original."""
        self.require(space)
        received = measure.received_attention()

        def within(bound: float) -> int:
            size = len(space.parameters[0].values)
            return space.index_of([nearest(share, size) for share in recipe(received, bound)])

        def evaluate(index: int) -> float:
            row = space.row(index)
            shares = [p.values[i] for p, i in zip(space.parameters, row, strict=True)]
            return float(np.mean([lost(masses, shares) for masses in received]))

        return Bounded(self.name, "of the attention", within, evaluate)


def nearest(share: Fraction, values: int) -> int:
    """Return the index of the nearest of `values` evenly spaced shares from 0 to 1."""
    return floor(share * (values - 1) + Fraction(1, 2))


def recipe(received: Sequence[Masses], bound: float) -> list[Fraction]:
    """Return the shares of tokens left after each layer for a bound.

    The mean number of deleted tokens is rounded down to whole tokens of the largest sample.

    Args:
        received: Attention of each sample, float[L, 2, N].
        bound: Bound on the criterion.
    """
    layers, most = len(received[0]), max(masses.shape[-1] for masses in received)
    deleted = [Fraction(0)] * layers
    for masses in received:
        for layer, count in enumerate(deletions(masses, bound)):
            deleted[layer] += Fraction(count * most, max(1, masses.shape[-1]))
    gone, shares = 0, []
    for total in deleted:
        gone += floor(total / len(received))
        shares.append(Fraction(most - gone, most))
    return shares


def deletions(masses: Masses, bound: float) -> list[int]:
    """Return the number of tokens of a sample, float[L, 2, N], that each layer deletes."""
    left = np.ones(masses.shape[-1], bool)
    counts = []
    for both in masses.astype(np.float64):
        gone = left.copy()
        for mass in both:
            gone &= _negligible(mass, left, mass.sum() * (1 - bound))
        left &= ~gone
        counts.append(int(gone.sum()))
    return counts


def _negligible(mass: NDArray[np.float64], left: Mask, needed: float) -> Mask:
    """Return a mask of the tokens with least mass, such that the others have `needed` in total.

    The last of these tokens is kept, as in the published search.
    """
    tokens = np.flatnonzero(left)
    order = tokens[np.argsort(mass[tokens], kind="stable")]
    # Mass that is left without the first one, two, ... tokens.
    others = np.append(np.cumsum(mass[order][::-1])[::-1][1:], 0.0)[: len(order)]
    found = np.zeros_like(left)
    found[order[: max(0, int((others >= needed).sum()) - 1)]] = True
    return found


def lost(masses: Masses, shares: Sequence[Fraction]) -> float:
    """Return the largest share of a layer's attention on deleted tokens of a sample.

    The ranker `fitprune` selects the tokens to delete.

    Args:
        masses: Attention of the sample, float[L, 2, N].
        shares: Shares of tokens left after each layer.
    """
    size = masses.shape[-1]
    order, worst = np.arange(size), 0.0
    for (cross, own), share in zip(masses.astype(np.float64), shares, strict=True):
        best = np.argsort(-(cross * own)[order], kind="stable")
        order = np.sort(order[best][: resolve_fraction(share, size)])
        for mass in (cross, own):
            if mass.sum() > 0:
                worst = max(worst, 1 - mass[order].sum() / mass.sum())
    return float(worst)
