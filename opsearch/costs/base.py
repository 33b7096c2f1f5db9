"""Protocol of costs."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.policy.counts import Counts, Pools
from opsearch.policy.policy import Policy


class Cost(Protocol):
    """Cost of the prefill of one sample."""

    @property
    def name(self) -> str:
        """Key of the cost."""

    @property
    def unit(self) -> str:
        """Unit of the returned integers."""

    def of(
        self, counts: Counts, n_visual: int, n_other: int, pools: Pools | None = None
    ) -> NDArray[np.int64]:
        """Return the costs of policies on one sample.

        Args:
            counts: Resolved counts as policies define them, int64[..., L, 3].
            n_visual: Visual tokens of the sample.
            n_other: Other tokens of the sample, which are never pruned.
            pools: Candidates of rankers inside the decoder (Policy.pools). The operations of these
                rankers are not part of the cost.

        Returns:
            int64[...].
        """

    def stock(self, n_visual: int, n_other: int) -> int:
        """Return the cost of the original model on a sample."""


def policy_cost(cost: Cost, policy: Policy, n_visual: int, n_other: int) -> int:
    """Return the cost of one policy on one sample, without its rankers."""
    counts, pools = policy.resolve(n_visual), policy.pools(n_visual)
    return int(cost.of(counts, n_visual, n_other, pools))
