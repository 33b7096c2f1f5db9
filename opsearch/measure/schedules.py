"""What policies do to samples of equally many visual tokens: the tables that make a trie."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from opsearch.measure.keys import Keyed
from opsearch.measure.nodes import Ints
from opsearch.measure.tables import Tables
from opsearch.measure.trie import Trie
from opsearch.policy import Counts
from opsearch.turns import Schedule, Turns


@dataclass(frozen=True, eq=False)
class Schedules:
    """P policies in the order of what they do layer by layer, so that neighbours share most.

    counts: live, int64[P, L, 3]; turns: their rankers inside the decoder, None without any; kept:
    int64[P], the most tokens that each chooses by the order from before the decoder, but not all.
    """

    policies: tuple[Keyed, ...]
    counts: Counts
    turns: Turns | None
    kept: Ints

    @classmethod
    def of(cls, members: Sequence[tuple[Keyed, Schedule]]) -> Schedules:
        """Policies with their schedules, at least one."""
        counts = np.stack([found.live for _, found in members])
        turns = Turns.of([found.turns for _, found in members], counts.shape[1])
        kept = np.array([max(found.kept, default=0) for _, found in members])
        order = Tables(counts, turns).order()
        keyed = tuple(members[i][0] for i in order)
        return cls(keyed, counts[order], turns.part(order) if turns else None, kept[order])

    @property
    def tables(self) -> Tables:
        """What they do, without who they are."""
        return Tables(self.counts, self.turns)

    def part(self, cut: slice) -> Schedules:
        """Some of the policies."""
        turns = self.turns.part(cut) if self.turns else None
        return replace(
            self,
            policies=self.policies[cut],
            counts=self.counts[cut],
            turns=turns,
            kept=self.kept[cut],
        )

    def trie(self, coupled: bool) -> Trie:
        """Their trie; coupled: some text stands between visual tokens."""
        return self.tables.trie(coupled)
