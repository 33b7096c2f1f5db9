"""Partition of policies: those that share a ranking, in parts whose states fit in memory.

Policies are split only if the states of one sample do not fit, because policies in different passes
share no states.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.shape import Shape
from opsearch.measure.layout import ONE, Ints, Layout
from opsearch.measure.planning.flops import elements_of_rows, tree_rows
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.measure.planning.policy_tables import PolicyTables, Schedules
from opsearch.measure.planning.requests import KeyedPolicy
from opsearch.measure.planning.trie import Trie
from opsearch.policy.schedule import Schedule, before_decoder
from opsearch.rankers.base import Ranker
from opsearch.rankers.of_policy import policy_ranker

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
        groups.setdefault((bool(schedule.rerankings), order), []).append((keyed, schedule))
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
