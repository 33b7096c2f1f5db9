"""Policies that one ranking serves, and their tries as far as memory allows them to be one."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from opsearch.measure.cuts import Cuts
from opsearch.measure.keys import Keyed
from opsearch.measure.room import Room
from opsearch.measure.schedules import Schedules
from opsearch.measure.trie import Layout, Trie
from opsearch.rankers import Ranker
from opsearch.runtime.ranking import policy_ranker
from opsearch.turns import Schedule, before_decoder


@dataclass(frozen=True, eq=False)
class Family:
    """Policies that one ranking before the decoder serves.

    ranker: None where the order of visual tokens before the decoder does not matter.
    """

    ranker: Ranker | None
    schedules: Schedules
    _tries: dict[tuple[range, bool], Trie] = field(default_factory=dict)

    @cached_property
    def cuts(self) -> Cuts:
        """How the policies can be cut."""
        return Cuts(self.schedules.tables)

    def parts(self, layout: Layout, room: Room) -> Iterator[tuple[Schedules, Trie]]:
        """As few parts of the policies as fit for one sample, by halving, with their tries."""
        for places in self.cuts.fitting(layout, room):
            part = self.schedules.part(slice(places.start, places.stop))
            key = (places, layout.inner > 0)
            if key not in self._tries:  # many layouts ask for the same ones
                self._tries[key] = part.trie(layout.inner > 0)
            yield part, self._tries[key]


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
