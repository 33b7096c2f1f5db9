"""Into which parts memory cuts the policies of a pass: halves, until each fits for one sample.

Thousands of parts are weighed at once, as the trees of one trie. What a part holds is no less than
what some of its policies hold, so that few of them tell of most parts that these are too large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.shape import Shape
from opsearch.measure.nodes import Ints
from opsearch.measure.room import Room
from opsearch.measure.tables import Tables
from opsearch.measure.trie import ONE, Layout, Trie
from opsearch.measure.work import held, tree_rows

_SIEVE = (64, 8, 1)  # of a part's policies first each 64th is weighed
# Policies of the parts that are weighed together; a larger part is weighed alone.
_AT_ONCE = 16_384


@dataclass(frozen=True, eq=False)
class Cuts:
    """Policies in an order in which neighbours share most, and how they can be cut.

    Parts are ranges of their places.
    """

    tables: Tables
    _rows: dict[tuple[range, bool], Ints] = field(default_factory=dict)

    def fitting(self, layout: Layout, room: Room) -> list[range]:
        """As few parts as fit for one sample, by halving; a single policy always does."""
        waiting, found = [range(len(self.tables.counts))], []
        while waiting:
            fits = self._fit(waiting, layout, room)
            found += [part for part, fit in zip(waiting, fits, strict=True) if fit]
            halved = [part for part, fit in zip(waiting, fits, strict=True) if not fit]
            middles = [len(part) // 2 for part in halved]
            pairs = ((part[:at], part[at:]) for part, at in zip(halved, middles, strict=True))
            waiting = [half for pair in pairs for half in pair]
        return sorted(found, key=lambda part: part.start)

    def held(self, parts: Sequence[range], layout: Layout, shape: Shape) -> Ints:
        """Numbers held per sample and per image by a pass for each part, int64[L + 1, T, 2]."""
        coupled = layout.inner > 0
        # Layouts differ, the rows that they hold do not.
        unknown = [part for part in parts if (part, coupled) not in self._rows]
        for block, trie in self.forests(unknown, coupled):
            for part, rows in zip(block, np.moveaxis(tree_rows(trie), 1, 0), strict=True):
                self._rows[part, coupled] = rows
        rows = np.stack([self._rows[part, coupled] for part in parts], axis=1)
        return held(rows, layout, shape, self.tables.turns is not None)

    def forests(
        self, parts: Sequence[range], coupled: bool
    ) -> Iterator[tuple[Sequence[range], Trie]]:
        """The parts in blocks with a trie of each, in which a part is a tree."""
        before = np.cumsum([0, *map(len, parts)])[:-1] // _AT_ONCE
        for start, stop in zip(*_runs(before), strict=True):
            block = parts[start:stop]
            policies = np.concatenate([np.arange(p.start, p.stop, p.step) for p in block])
            roots = np.repeat(np.arange(len(block)), [len(part) for part in block])
            yield block, self.tables.part(policies).trie(coupled, roots)

    def _fit(self, parts: Sequence[range], layout: Layout, room: Room) -> NDArray[np.bool_]:
        fits = np.ones(len(parts), np.bool_)
        for every in _SIEVE:
            left = [i for i in np.flatnonzero(fits).tolist() if len(parts[i]) > 1]
            if left:
                some = [parts[i][::every] for i in left]
                fits[left] = room.holds(self.held(some, layout, room.shape), ONE)
        return fits


def _runs(numbers: Ints) -> tuple[Ints, Ints]:
    """Where runs of equal numbers start and stop."""
    edges = np.flatnonzero(np.diff(numbers, prepend=-1, append=-1))
    return edges[:-1], edges[1:]
