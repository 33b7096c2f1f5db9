"""Measurement plans: which passes run on which samples, with their FLOPs, from shapes alone.

A chunk is one pass: policies that share a ranking, on samples of one layout. A batch takes as many
samples as memory allows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from opsearch.costs.flops import Flops
from opsearch.costs.shape import Shape
from opsearch.measure.layout import Ints, Layout, Size
from opsearch.measure.planning.batches import SampleBatch
from opsearch.measure.planning.flops import held_elements, layer_flops
from opsearch.measure.planning.memory import MemoryBudget
from opsearch.measure.planning.partition import ranking_groups
from opsearch.measure.planning.policy_tables import Schedules
from opsearch.measure.planning.requests import KeyedPolicy
from opsearch.measure.planning.trie import Trie
from opsearch.rankers.base import Ranker

if TYPE_CHECKING:
    from torch import Tensor

    from opsearch.models.encoding import Sample


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
