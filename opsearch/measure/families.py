"""Policies that one ranking serves, and their tries as far as memory allows them to be one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from opsearch.costs.shape import Shape
from opsearch.measure.keys import Keyed
from opsearch.measure.trie import ONE, Ints, Layout, Size, Trie, build_trie
from opsearch.measure.work import held_elements
from opsearch.policy import Counts
from opsearch.rankers import Ranker
from opsearch.runtime.ranking import policy_ranker


@dataclass(frozen=True)
class Room:
    """What bounds a pass: bytes for its states, in a decoder of this shape and element size."""

    shape: Shape
    itemsize: int
    memory: int

    def holds(self, elements: Ints, size: Size) -> bool:
        """Whether a pass fits that holds so many numbers per sample and image (held_elements)."""
        return self.itemsize * int((elements @ np.array(size)).max()) <= self.memory


@dataclass(frozen=True, eq=False)
class Family:
    """Policies of one ranking in the order of their counts, so that neighbours share most.

    ranker: None where the order of visual tokens does not matter; counts: live, int64[P, L, 3].
    """

    ranker: Ranker | None
    policies: tuple[Keyed, ...]
    counts: Counts
    _tries: dict[tuple[int, int, bool], Trie] = field(default_factory=dict)

    def parts(self, layout: Layout, room: Room) -> Iterator[tuple[slice, Trie]]:
        """As few parts of the policies as fit for one sample, by halving, with their tries."""
        return self._parts(0, len(self.policies), layout, room)

    def _parts(
        self, start: int, stop: int, layout: Layout, room: Room
    ) -> Iterator[tuple[slice, Trie]]:
        key = (start, stop, layout.inner > 0)
        if key not in self._tries:  # many layouts ask for the same ones
            self._tries[key] = build_trie(self.counts[start:stop], layout.inner > 0)
        trie = self._tries[key]
        if stop - start == 1 or room.holds(held_elements(trie, layout, room.shape), ONE):
            yield slice(start, stop), trie
            return
        middle = (start + stop) // 2
        yield from self._parts(start, middle, layout, room)
        yield from self._parts(middle, stop, layout, room)


def families(policies: Sequence[Keyed], n_visual: int) -> list[Family]:
    """The policies by the order in which they rank `n_visual` visual tokens.

    One that ranks inside the decoder is a family of its own. Raises PolicyError for a ranker that
    cannot serve its policy.
    """
    rankers: dict[Hashable, Ranker | None] = {}
    groups: dict[Hashable, list[tuple[Keyed, Counts]]] = {}
    alone = []
    for keyed in policies:
        found = keyed.policy.schedule(n_visual)
        alike = (keyed.policy.rankers, found.kept)
        if alike not in rankers:
            rankers[alike] = policy_ranker(keyed.policy)
        ranker = rankers[alike]
        if found.turns:
            alone.append(_family(ranker, [(keyed, found.live)]))
            continue
        # One that is not nested ranks anew for every number of tokens.
        order = None if ranker is None else (keyed.policy.rankers[0], ranker.nested or found.kept)
        groups.setdefault(order, []).append((keyed, found.live))
        rankers.setdefault(order, ranker)
    # Where the order does not matter, any will do.
    indifferent = groups.pop(None, [])
    if groups:
        groups[next(iter(groups))] += indifferent
    elif indifferent:
        groups[None] = indifferent
    shared = [_family(rankers.get(order), members) for order, members in groups.items()]
    return [*shared, *alone]


def _family(ranker: Ranker | None, members: Sequence[tuple[Keyed, Counts]]) -> Family:
    counts = np.stack([each for _, each in members])
    order = np.lexsort(counts.reshape(len(counts), -1).T[::-1])
    return Family(ranker, tuple(members[i][0] for i in order), counts[order])
