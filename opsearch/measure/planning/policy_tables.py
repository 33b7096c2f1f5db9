"""Tables of the operations of policies, sorted so that neighbours share most states."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from opsearch.measure.layout import Ints
from opsearch.measure.planning.requests import KeyedPolicy
from opsearch.measure.planning.trie import Trie, build_trie
from opsearch.policy.counts import Counts
from opsearch.policy.schedule import RerankingTable, Schedule


@dataclass(frozen=True, eq=False)
class PolicyTables:
    """Operations of P policies, without the policies themselves.

    Attributes:
        counts: Live counts, int64[P, L, 3].
        rerankings: Rerankings inside the decoder, None without any.
    """

    counts: Counts
    rerankings: RerankingTable | None

    def part(self, policies: slice | Ints) -> PolicyTables:
        """Return the tables of some of the policies."""
        return PolicyTables(
            self.counts[policies], self.rerankings.part(policies) if self.rerankings else None
        )

    def sorted_order(self) -> Ints:
        """Return the indices that sort the policies layer by layer."""
        return np.argsort(self._sort_keys(), kind="stable")

    def distinct(self) -> Ints:
        """Return the indices of distinct policies, sorted likewise."""
        return np.unique(self._sort_keys(), return_index=True)[1]

    def _sort_keys(self) -> NDArray[np.void]:
        """Return all operations of each policy as one sortable value."""
        columns = [self.counts]
        if self.rerankings is not None:
            columns.insert(0, self.rerankings.ranker[..., None] + 1)
        # Big-endian numbers sort by their bytes.
        sort_keys = np.concatenate(columns, axis=2).reshape(len(self.counts), -1).astype(">u4")
        return sort_keys.view(f"V{sort_keys.itemsize * sort_keys.shape[1]}")[:, 0]

    def trie(self, coupled: bool, roots: Ints | None = None) -> Trie:
        """Build the trie of the policies (arguments as for `build_trie`)."""
        return build_trie(self.counts, coupled, self.rerankings, roots)


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
    rerankings: RerankingTable | None
    kept: Ints

    @classmethod
    def from_members(cls, members: Sequence[tuple[KeyedPolicy, Schedule]]) -> Schedules:
        """Sort policies with their schedules; there is at least one."""
        counts = np.stack([schedule.live for _, schedule in members])
        rerankings = RerankingTable.of(
            [schedule.rerankings for _, schedule in members], counts.shape[1]
        )
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
