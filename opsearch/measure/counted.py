"""Number of distinct policies that a search measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from opsearch.measure.engine import SampleMeasure
from opsearch.policy.builders import identity
from opsearch.policy.policy import Policy
from opsearch.problem.objective import Masses
from opsearch.problem.spaces.point_policies import canonical_keys


@dataclass(frozen=True)
class CountedMeasure:
    """A measurement that counts the distinct policies it was called with.

    Policies are distinct if they differ on the sample with most visual tokens. The original, whose
    divergence is 0 by definition, does not count. Stored measurements count as well.

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
        most = max(sample.n_visual for sample in self.measure.samples)
        self.keys.update(canonical_keys(policies, most))
        if len(policies):
            self.keys.discard(identity(policies[0].num_layers).canonical(most))

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
