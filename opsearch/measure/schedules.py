"""Policies with the tables of their operations, for one number of visual tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from opsearch.measure.keys import KeyedPolicy
from opsearch.measure.nodes import Ints
from opsearch.measure.tables import PolicyTables
from opsearch.measure.trie import Trie
from opsearch.policy.counts import Counts
from opsearch.policy.schedule import Schedule, Turns


@dataclass(frozen=True, eq=False)
class Schedules:
    """P policies sorted layer by layer, so that neighbours share most states.

    Attributes:
        policies: The policies with their keys.
        counts: Live counts, int64[P, L, 3].
        rerankings: Rerankings inside the decoder, None without any.
        kept: int64[P], the largest number of tokens below all that each policy keeps by the
            order from before the decoder.
    """

    policies: tuple[KeyedPolicy, ...]
    counts: Counts
    rerankings: Turns | None
    kept: Ints

    @classmethod
    def from_members(cls, members: Sequence[tuple[KeyedPolicy, Schedule]]) -> Schedules:
        """Sort policies with their schedules; there is at least one."""
        counts = np.stack([schedule.live for _, schedule in members])
        rerankings = Turns.of([schedule.turns for _, schedule in members], counts.shape[1])
        kept = np.array([max(schedule.kept, default=0) for _, schedule in members])
        order = PolicyTables(counts, rerankings).sorted_order()
        keyed = tuple(members[i][0] for i in order)
        return cls(
            keyed, counts[order], rerankings.part(order) if rerankings else None, kept[order]
        )

    @property
    def tables(self) -> PolicyTables:
        """The operations without the policies."""
        return PolicyTables(self.counts, self.rerankings)

    def part(self, subset: slice) -> Schedules:
        """Return some of the policies."""
        rerankings = self.rerankings.part(subset) if self.rerankings else None
        return replace(
            self,
            policies=self.policies[subset],
            counts=self.counts[subset],
            rerankings=rerankings,
            kept=self.kept[subset],
        )

    def trie(self, coupled: bool) -> Trie:
        """Build the trie of the policies; coupled: some text stands between visual tokens."""
        return self.tables.trie(coupled)
