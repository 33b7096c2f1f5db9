"""Measurement plans: which passes run on which samples, with their FLOPs, from shapes alone.

A chunk is one pass: policies that share a ranking, on samples of one layout. A batch takes as many
samples as memory allows. Policies are split only if one sample's states do not fit, because
policies in different passes share no states.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from opsearch.costs.flops import Flops
from opsearch.costs.shape import Shape
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.flops import elements_of_rows, held_elements, layer_flops, tree_rows
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.measure.planning.requests import KeyedPolicy
from opsearch.measure.sweep.policy_tables import PolicyTables, Schedules
from opsearch.measure.sweep.trie import ONE, Ints, Layout, Size, Trie
from opsearch.policy.schedule import Schedule, before_decoder
from opsearch.rankers.base import Ranker
from opsearch.rankers.of_policy import policy_ranker

if TYPE_CHECKING:
    from torch import Tensor

    from opsearch.models.encoding import Sample

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


@dataclass(frozen=True, eq=False)
class Chunk:
    """One pass over the layers: policies that share a ranking, on samples of one layout.

    Attributes:
        ranker: Ranker before the decoder, None if the order of visual tokens does not matter.
        schedules: The policies.
        trie: Their trie.
        batch: The samples.
    """

    ranker: Ranker | None
    schedules: Schedules
    trie: Trie
    batch: SampleBatch

    @property
    def policies(self) -> tuple[KeyedPolicy, ...]:
        """The policies with their keys."""
        return self.schedules.policies

    @property
    def samples(self) -> tuple[Sample, ...]:
        """The samples, questions on one image adjacent."""
        return self.batch.samples

    @property
    def layout(self) -> Layout:
        """Token layout of the longest sample."""
        return self.batch.layout

    @property
    def affinity(self) -> tuple[str, ...]:
        """Digests of the samples, on which a worker keeps the original's outputs."""
        return tuple(sample.digest for sample in self.samples)

    @property
    def content(self) -> str:
        """Description for error messages."""
        return f"{len(self.policies)} policies on {len(self.samples)} samples"

    @property
    def pairs(self) -> int:
        """Number of measurements."""
        return len(self.policies) * len(self.samples)

    def layer_flops(self, shape: Shape) -> list[int]:
        """Return the FLOPs (convention `exact`) of each layer of the pass."""
        return list(layer_flops(self.trie, self.layout, shape, self.batch.size))

    def with_images_split(self, rank: Tensor) -> Chunk:
        """Return the chunk with images shared only by samples of equal `rank` int64[B, S]."""
        return replace(self, batch=self.batch.with_images_split(rank))

    def halves(self) -> list[Chunk]:
        """Split the chunk in two, by samples if possible, else by policies.

        Returns:
            Two chunks, or the chunk itself if it has one policy on one sample.
        """
        middle = len(self.samples) // 2
        if middle:
            parts = (self.batch.part(0, middle), self.batch.part(middle, len(self.samples)))
            return [replace(self, batch=part) for part in parts]
        middle = len(self.policies) // 2
        slices = [slice(0, middle), slice(middle, None)] if middle else [slice(None)]
        return [self._with_policies(subset) for subset in slices]

    def _with_policies(self, subset: slice) -> Chunk:
        part = self.schedules.part(subset)
        return replace(self, schedules=part, trie=part.trie(self.layout.coupled))


@dataclass(frozen=True)
class MeasurementPlan:
    """The chunks of one call in order.

    Attributes:
        chunks: The chunks.
        shape: Shape of the decoder.
    """

    chunks: tuple[Chunk, ...]
    shape: Shape

    @property
    def pairs(self) -> int:
        """Number of measurements (policy and sample)."""
        return sum(chunk.pairs for chunk in self.chunks)

    @property
    def nodes(self) -> int:
        """Node states after all layers, summed over samples (text) and images (visual)."""
        return sum(chunk.trie.nodes(chunk.batch.size) for chunk in self.chunks)

    @property
    def flops(self) -> int:
        """FLOPs (convention `exact`) of all passes, without the original's own forwards."""
        return sum(sum(chunk.layer_flops(self.shape)) for chunk in self.chunks)

    @property
    def forwards(self) -> float:
        """FLOPs of all passes in forwards of the original, mean per sample."""
        stock = Flops(self.shape).stock
        original = {
            sample.digest: stock(sample.n_visual, chunk.layout.head + tail)
            for chunk in self.chunks
            for sample, tail in zip(chunk.samples, chunk.batch.tails, strict=True)
        }
        once = sum(original.values())
        return self.flops / once if once else 0.0


def make_chunks(
    policies: Sequence[KeyedPolicy],
    n_visual: int,
    batches: Iterable[SampleBatch],
    memory: MemoryBudget,
) -> Iterator[Chunk]:
    """Yield chunks that measure all policies on all samples of these batches.

    Args:
        policies: The policies.
        n_visual: Visual tokens of every sample.
        batches: The samples.
        memory: Limit on the states of a pass.
    """
    groups = ranking_groups(policies, n_visual)
    for batch in batches:
        layout = batch.layout
        parts = [(group, *part) for group in groups for part in group.parts(layout, memory)]
        held = [held_elements(trie, layout, memory.shape) for _, _, trie in parts]
        for fitted in fitting_batches(batch, held, memory):
            for group, part, trie in parts:
                for run_batch in fitted.unshared() if trie.rankers else [fitted]:
                    yield Chunk(group.ranker, part, trie, run_batch)


def fitting_batches(
    batch: SampleBatch, held: Sequence[Ints], memory: MemoryBudget
) -> Iterator[SampleBatch]:
    """Split a batch into as few parts as fit in memory, each of at least one sample.

    Args:
        batch: The samples.
        held: Elements that each pass holds per sample and per image, int64[L + 1, 2] each.
        memory: Limit on the states of a pass.
    """
    start, images_seen = 0, set[int]()
    for index, image in enumerate(batch.images):
        size = Size(index + 1 - start, len(images_seen) + (image not in images_seen))
        if index > start and not all(memory.holds(elements, size) for elements in held):
            yield batch.part(start, index)
            start, images_seen = index, set()
        images_seen.add(image)
    yield batch.part(start, len(batch.images))
