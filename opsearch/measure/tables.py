"""Tables of the operations of policies, sorted so that neighbours share most states."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.measure.nodes import Ints
from opsearch.measure.trie import Trie, build_trie
from opsearch.policy.counts import Counts
from opsearch.policy.schedule import Turns


@dataclass(frozen=True, eq=False)
class PolicyTables:
    """Operations of P policies, without the policies themselves.

    Attributes:
        counts: Live counts, int64[P, L, 3].
        rerankings: Rerankings inside the decoder, None without any.
    """

    counts: Counts
    rerankings: Turns | None

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
