"""Groups of policies that share a ranking, with their tries."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from opsearch.measure.cuts import PolicyPartition
from opsearch.measure.keys import KeyedPolicy
from opsearch.measure.room import MemoryBudget
from opsearch.measure.schedules import Schedules
from opsearch.measure.trie import Layout, Trie
from opsearch.policy.schedule import Schedule, before_decoder
from opsearch.rankers.base import Ranker
from opsearch.runtime.ranking import policy_ranker


@dataclass(frozen=True, eq=False)
class RankingGroup:
    """Policies that share one ranking before the decoder.

    Attributes:
        ranker: The ranker, None if the order of visual tokens before the decoder does not matter.
        schedules: The policies.
    """

    ranker: Ranker | None
    schedules: Schedules
    _tries: dict[tuple[range, bool], Trie] = field(default_factory=dict)

    @cached_property
    def partition(self) -> PolicyPartition:
        """Splits of the policies to fit memory."""
        return PolicyPartition(self.schedules.tables)

    def parts(self, layout: Layout, memory: MemoryBudget) -> Iterator[tuple[Schedules, Trie]]:
        """Yield parts of the policies that each fit for one sample, with their tries.

        The policies are halved until every part fits.
        """
        for policy_range in self.partition.fitting_parts(layout, memory):
            part = self.schedules.part(slice(policy_range.start, policy_range.stop))
            key = (policy_range, layout.coupled)
            if key not in self._tries:  # layouts with equal parts share their tries
                self._tries[key] = part.trie(layout.coupled)
            yield part, self._tries[key]


def ranking_groups(policies: Sequence[KeyedPolicy], n_visual: int) -> list[RankingGroup]:
    """Group policies by their order of `n_visual` visual tokens before the decoder.

    Policies that also rank inside the decoder form groups of their own, because their samples share
    no images.

    Raises:
        PolicyError: A ranker cannot serve its policy.
    """
    rankers: dict[Hashable, Ranker | None] = {}
    groups: dict[tuple[bool, Hashable], list[tuple[KeyedPolicy, Schedule]]] = {}
    for keyed in policies:
        schedule = keyed.policy.schedule(n_visual)
        ranking = (keyed.policy.rankers, schedule.kept)
        if ranking not in rankers:
            rankers[ranking] = policy_ranker(keyed.policy)
        ranker = rankers[ranking] if schedule.kept else None
        # A ranker that is not nested gives another order for every number of tokens.
        spec = before_decoder(keyed.policy)
        order = None if ranker is None else (spec, ranker.nested or schedule.kept)
        groups.setdefault((bool(schedule.turns), order), []).append((keyed, schedule))
        rankers.setdefault(order, ranker)
    for in_decoder in (True, False):
        # Policies for which the order does not matter join the first group.
        any_order = groups.pop((in_decoder, None), [])
        candidates = [key for key in groups if key[0] == in_decoder]
        if not candidates and not in_decoder:
            candidates = list(groups)
        if any_order:
            first = candidates[0] if candidates else (in_decoder, None)
            groups.setdefault(first, []).extend(any_order)
    return [
        RankingGroup(rankers.get(order), Schedules.from_members(members))
        for (_, order), members in groups.items()
    ]
