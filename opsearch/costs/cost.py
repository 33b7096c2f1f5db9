"""What every cost of a policy looks like."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from opsearch.policy import Counts, Policy, Pools


class Cost(Protocol):
    """Maps the counts of a policy on one sample to an exact integer in `unit`."""

    @property
    def name(self) -> str: ...
    @property
    def unit(self) -> str: ...

    def of(
        self, counts: Counts, n_visual: int, n_other: int, pools: Pools | None = None
    ) -> NDArray[np.int64]:
        """Cost of resolved as-defined counts int64[..., L, 3], int64[...].

        n_visual, n_other: the sample's visual tokens and all its others, which are never pruned.
        pools: of rankers inside the decoder (Policy.pools), whose own work is no part of the cost.
        """

    def stock(self, n_visual: int, n_other: int) -> int:
        """Cost of the original model on the same sample."""


def policy_cost(cost: Cost, policy: Policy, n_visual: int, n_other: int) -> int:
    """Cost of one policy on one sample; what its rankers take is no part of it."""
    counts, pools = policy.resolve(n_visual), policy.pools(n_visual)
    return int(cost.of(counts, n_visual, n_other, pools))
