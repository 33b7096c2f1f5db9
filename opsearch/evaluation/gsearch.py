"""Search after G-Search: the fewest tokens layer by layer, from the first layer to the last.

After its description (arXiv 2412.00556): the essential tokens are the first ones of a ranking, and
no layer needs more than the layer before. Each layer therefore keeps the smallest share, for itself
and for all layers after it, that causes no loss. Here a loss is more than a bound added to the mean
KL. The bound is the lowest one, found by bisection, with which the policy is within a budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from opsearch.measure.counted import CountedMeasure
from opsearch.policy.baseline import EVALUATIONS, Fits, largest_ratio
from opsearch.policy.builders import curve
from opsearch.policy.policy import Policy
from opsearch.policy.ranker import RankerSpec

_ALL = 1000  # shares are in thousandths
_STEP = 32  # smallest difference of shares that is tested
_WIDTH = 0.005  # of the last interval of bounds, relative to the KL of equal shares


@dataclass(frozen=True)
class GSearch:
    """Drops of tokens, layer by layer, that each add at most a bound to the divergence.

    Attributes:
        layers: Number of layers.
        ranker: Nested ranker before the decoder.
        fits: Return whether a policy is within the budget; the one without visual tokens is.
        measure: Measures on the calibration samples.
        evaluations: Maximum number of policies to measure.
    """

    layers: int
    ranker: RankerSpec
    fits: Fits
    measure: CountedMeasure
    evaluations: int

    def solve(self) -> Policy:
        """Return the policy of the lowest bound within the budget, at worst one of equal shares."""
        equal = self._filled([])
        assert equal is not None  # it may have no visual tokens
        found, low, high = equal, 0.0, self._divergence(equal)
        width = _WIDTH * high
        while high - low > width and not self._spent:
            bound = (low + high) / 2
            reached = self._within(bound)
            if reached is None:
                low = bound
            else:
                found, high = min(found, reached, key=self._divergence), bound
        shares = " ".join(str(int(_ALL * kv)) for _, kv, _ in found.counts)
        provenance = {EVALUATIONS: self.measure.evaluations}
        return replace(found, name=f"gsearch({shares})", provenance=provenance)

    @property
    def _spent(self) -> bool:
        return self.measure.evaluations >= self.evaluations

    def _divergence(self, policy: Policy) -> float:
        return float(self.measure([policy]).mean())

    def _within(self, bound: float) -> Policy | None:
        """Return the policy that reaches the budget by drops within the bound; None if none does.

        The last drop takes only as many tokens as the budget requires.
        """
        kept: list[int] = []
        while len(kept) < self.layers and (filled := self._filled(kept)) is not None:
            enough = int(_ALL * filled.counts[-1][0])
            least = self._least(kept, enough, bound)
            if self._spent:
                return None
            if least == enough:
                return filled
            kept.append(least)
        return None

    def _least(self, kept: Sequence[int], enough: int, bound: float) -> int:
        """Return the least share, from `enough` to that of the layer before, within the bound.

        It is found by doubled steps down, and then by halves.
        """
        high, low, step = kept[-1] if kept else _ALL, enough, _STEP
        most = bound + self._divergence(self._policy(kept, high))
        while not self._spent and high - low > (0 if step else _STEP):
            share = max(high - step, low) if step else (high + low) // 2
            if self._divergence(self._policy(kept, share)) <= most:
                high, step = share, 2 * step
            else:
                low, step = share, 0
        return high

    def _filled(self, kept: Sequence[int]) -> Policy | None:
        """Return the policy whose other layers keep the largest share within the budget, if any."""

        def make(layers: int, ratio: Fraction, ranker: RankerSpec) -> Policy:
            return self._policy(kept, min([int(_ALL * ratio), *kept]))

        return largest_ratio(make, self.layers, self.ranker, 0, self.fits)

    def _policy(self, kept: Sequence[int], share: int) -> Policy:
        """Return the policy of these shares in the first layers and one share in all others."""
        shares = [*kept, *[share] * (self.layers - len(kept))]
        return curve(self.layers, [Fraction(each, _ALL) for each in shares], self.ranker)
