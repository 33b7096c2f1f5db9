"""Partition of the policies of a pass into parts whose states fit in memory for one sample.

Thousands of parts are tested at once, as the trees of one trie. A part holds at least as much as
any subset of its policies, so a sample of the policies is enough to rule out most parts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.shape import Shape
from opsearch.measure.nodes import Ints
from opsearch.measure.room import MemoryBudget
from opsearch.measure.tables import PolicyTables
from opsearch.measure.trie import ONE, Layout, Trie
from opsearch.measure.work import elements_of_rows, tree_rows

_STRIDES = (64, 8, 1)  # test every 64th policy of a part first
# Policies of the parts that share a trie; a larger part has one of its own.
_POLICIES_PER_TRIE = 16_384


@dataclass(frozen=True, eq=False)
class PolicyPartition:
    """Splits of policies into contiguous ranges.

    Attributes:
        tables: The policies, sorted so that neighbours share most states.
    """

    tables: PolicyTables
    _tree_rows: dict[tuple[range, bool], Ints] = field(default_factory=dict)

    def fitting_parts(self, layout: Layout, memory: MemoryBudget) -> list[range]:
        """Return ranges that fit for one sample, by halving; a single policy always fits."""
        pending, fitting = [range(len(self.tables.counts))], []
        while pending:
            fits = self._fit(pending, layout, memory)
            fitting += [part for part, fit in zip(pending, fits, strict=True) if fit]
            halved = [part for part, fit in zip(pending, fits, strict=True) if not fit]
            middles = [len(part) // 2 for part in halved]
            pairs = ((part[:at], part[at:]) for part, at in zip(halved, middles, strict=True))
            pending = [half for pair in pairs for half in pair]
        return sorted(fitting, key=lambda part: part.start)

    def elements(self, parts: Sequence[range], layout: Layout, shape: Shape) -> Ints:
        """Return the elements held per sample and image by a pass per part, int64[L + 1, T, 2]."""
        coupled = layout.coupled
        # Tree rows do not depend on the layout.
        unknown = [part for part in parts if (part, coupled) not in self._tree_rows]
        for block, trie in self.forests(unknown, coupled):
            for part, rows in zip(block, np.moveaxis(tree_rows(trie), 1, 0), strict=True):
                self._tree_rows[part, coupled] = rows
        rows = np.stack([self._tree_rows[part, coupled] for part in parts], axis=1)
        return elements_of_rows(rows, layout, shape, self.tables.rerankings is not None)

    def forests(
        self, parts: Sequence[range], coupled: bool
    ) -> Iterator[tuple[Sequence[range], Trie]]:
        """Yield blocks of parts, each with a trie in which every part is a tree."""
        before = np.cumsum([0, *map(len, parts)])[:-1] // _POLICIES_PER_TRIE
        for start, stop in zip(*_run_bounds(before), strict=True):
            block = parts[start:stop]
            policies = np.concatenate([np.arange(p.start, p.stop, p.step) for p in block])
            roots = np.repeat(np.arange(len(block)), [len(part) for part in block])
            yield block, self.tables.part(policies).trie(coupled, roots)

    def _fit(
        self, parts: Sequence[range], layout: Layout, memory: MemoryBudget
    ) -> NDArray[np.bool_]:
        fits = np.ones(len(parts), np.bool_)
        for stride in _STRIDES:
            unsure = [i for i in np.flatnonzero(fits).tolist() if len(parts[i]) > 1]
            if unsure:
                sampled = [parts[i][::stride] for i in unsure]
                fits[unsure] = memory.holds(self.elements(sampled, layout, memory.shape), ONE)
        return fits


def _run_bounds(numbers: Ints) -> tuple[Ints, Ints]:
    """Return start and stop of each run of equal numbers."""
    edges = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
    return edges[:-1], edges[1:]
