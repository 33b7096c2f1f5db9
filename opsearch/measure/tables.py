"""What policies do layer by layer as tables, in an order in which neighbours share most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from opsearch.measure.nodes import Ints
from opsearch.measure.trie import Trie, build_trie
from opsearch.policy import Counts
from opsearch.turns import Turns


@dataclass(frozen=True, eq=False)
class Tables:
    """Live counts, int64[P, L, 3], and what rankers inside the decoder do, None for nothing."""

    counts: Counts
    turns: Turns | None

    def part(self, policies: slice | Ints) -> Tables:
        """Those of some of the policies."""
        return Tables(self.counts[policies], self.turns.part(policies) if self.turns else None)

    def order(self) -> Ints:
        """The policies in the order of what they do layer by layer."""
        return np.argsort(self._steps(), kind="stable")

    def distinct(self) -> Ints:
        """The same, of equal policies the first alone."""
        return np.unique(self._steps(), return_index=True)[1]

    def _steps(self) -> NDArray[np.void]:
        """All that each policy does as one value, in the order of which it is sorted."""
        columns = [self.counts]
        if self.turns is not None:
            columns.insert(0, self.turns.ranker[..., None] + 1)
        # Numbers whose highest byte comes first are in the order of their bytes.
        steps = np.concatenate(columns, axis=2).reshape(len(self.counts), -1).astype(">u4")
        return steps.view(f"V{steps.itemsize * steps.shape[1]}")[:, 0]

    def trie(self, coupled: bool, roots: Ints | None = None) -> Trie:
        """Their trie, or several; coupled: some text stands between visual tokens."""
        return build_trie(self.counts, coupled, self.turns, roots)
