"""Number of distinct policies that a search measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from opsearch.measure.engine import SampleMeasure
from opsearch.models.encoding import Sample
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.problem.objective import Masses
from opsearch.problem.spaces.point_policies import canonical_keys


def distinct_keys(policies: Sequence[Policy], samples: Sequence[Sample]) -> set[str]:
    """Return the canonical keys of policies on the sample with most visual tokens.

    The original, whose divergence is 0 by definition, has none.
    """
    largest = max(samples, key=lambda sample: sample.n_visual)
    keys = set(canonical_keys(policies, largest.n_visual))
    if largest.original is None:
        keys -= {identity(each.num_layers).canonical(largest.n_visual) for each in policies[:1]}
    return keys


@dataclass(frozen=True)
class CountedMeasure:
    """A measurement that counts the distinct policies it was called with.

    Stored measurements count as well.

    Attributes:
        measure: Measures on the calibration samples.
        keys: Canonical keys of the policies.
    """

    measure: SampleMeasure
    keys: set[str] = field(default_factory=set)

    def __call__(self, policies: Sequence[Policy]) -> NDArray[np.float64]:
        """Return the KL of each policy on each sample in nats, float64[P, S]."""
        self._count(policies)
        return self.measure(policies)

    def on(self, policies: Sequence[Policy], samples: Sequence[int]) -> NDArray[np.float64]:
        """Return the KL of each policy on some samples, by their numbers, float64[P, s]."""
        self._count(policies)
        return self.measure.on(policies, samples)

    def _count(self, policies: Sequence[Policy]) -> None:
        self.keys.update(distinct_keys(policies, self.measure.samples))

    def received_attention(self) -> list[Masses]:
        """Return for each sample the attention that its visual tokens get, float32[L, 2, N]."""
        return self.measure.received_attention()

    def gate_gradients(self, policies: Sequence[Policy]) -> NDArray[np.float64]:
        """Return the gradient that each policy's closed gates have, float64[P, S]."""
        return self.measure.gate_gradients(policies)

    @property
    def evaluations(self) -> int:
        """Number of distinct policies."""
        return len(self.keys)
