"""Policies that one ranking serves, and their tries as far as memory allows them to be one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from opsearch.costs.shape import Shape
from opsearch.measure.keys import Keyed
from opsearch.measure.nodes import Ints
from opsearch.measure.schedules import Schedules
from opsearch.measure.trie import ONE, Layout, Size, Trie
from opsearch.measure.work import held_elements
from opsearch.rankers import Ranker
from opsearch.runtime.ranking import policy_ranker
from opsearch.turns import Schedule, before_decoder


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
    """Policies that one ranking before the decoder serves.

    ranker: None where the order of visual tokens before the decoder does not matter.
    """

    ranker: Ranker | None
    schedules: Schedules
    _tries: dict[tuple[int, int, bool], Trie] = field(default_factory=dict)

    def parts(self, layout: Layout, room: Room) -> Iterator[tuple[Schedules, Trie]]:
        """As few parts of the policies as fit for one sample, by halving, with their tries."""
        return self._parts(0, len(self.schedules.policies), layout, room)

    def _parts(
        self, start: int, stop: int, layout: Layout, room: Room
    ) -> Iterator[tuple[Schedules, Trie]]:
        key = (start, stop, layout.inner > 0)
        part = self.schedules.part(slice(start, stop))
        if key not in self._tries:  # many layouts ask for the same ones
            self._tries[key] = part.trie(layout.inner > 0)
        trie = self._tries[key]
        if stop - start == 1 or room.holds(held_elements(trie, layout, room.shape), ONE):
            yield part, trie
            return
        middle = (start + stop) // 2
        yield from self._parts(start, middle, layout, room)
        yield from self._parts(middle, stop, layout, room)


def families(policies: Sequence[Keyed], n_visual: int) -> list[Family]:
    """The policies by the order in which they rank `n_visual` visual tokens before the decoder.

    Those that rank inside it too are apart, as with them questions on one image share nothing.
    Raises PolicyError for a ranker that cannot serve its policy.
    """
    rankers: dict[Hashable, Ranker | None] = {}
    groups: dict[tuple[bool, Hashable], list[tuple[Keyed, Schedule]]] = {}
    for keyed in policies:
        found = keyed.policy.schedule(n_visual)
        alike = (keyed.policy.rankers, found.kept)
        if alike not in rankers:
            rankers[alike] = policy_ranker(keyed.policy)
        ranker = rankers[alike] if found.kept else None
        # One that is not nested ranks anew for every number of tokens.
        spec = before_decoder(keyed.policy)
        order = None if ranker is None else (spec, ranker.nested or found.kept)
        groups.setdefault((bool(found.turns), order), []).append((keyed, found))
        rankers.setdefault(order, ranker)
    for inside in (True, False):
        # Where the order does not matter, any will do.
        indifferent = groups.pop((inside, None), [])
        there = [key for key in groups if key[0] == inside] or ([] if inside else list(groups))
        if indifferent:
            groups.setdefault(there[0] if there else (inside, None), []).extend(indifferent)
    return [
        Family(rankers.get(order), Schedules.of(members)) for (_, order), members in groups.items()
    ]
